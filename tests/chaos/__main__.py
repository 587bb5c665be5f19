"""scripts/chaos: a storm over a real node for as long as one likes, and the verdict."""

from __future__ import annotations

import argparse
import sys

from tests.chaos.run import Outcome, chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the storm lasts (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="who is struck when (default: 1)")
    given = parser.parse_args()
    return _show(chaos(given.seconds, given.seed), given.seed)


def _show(outcome: Outcome, seed: int) -> int:
    print("struck:", ", ".join(f"{what} {times}" for what, times in sorted(outcome.struck.items())))
    print("facts:", ", ".join(f"{what} {times}" for what, times in outcome.verdict.facts.most_common()))
    print("calls:", ", ".join(f"{what} {times}" for what, times in outcome.verdict.outcomes.most_common()))
    problems = [*outcome.verdict.problems, *outcome.problems]
    for problem in problems[:50]:
        print(f"  {problem}")
    print(f"seed {seed}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
