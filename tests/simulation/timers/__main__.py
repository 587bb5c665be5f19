"""Many seeds of the world of timers: python -m tests.simulation.timers FIRST COUNT; the seeds that fail, and how many."""

from __future__ import annotations

import sys

from tests.simulation.timers.world import Broken, World


def main() -> int:
    first, count = (int(word) for word in sys.argv[1:3])
    failed = 0
    for seed in range(first, first + count):
        try:
            World(seed).run()
        except Broken as broken:
            failed += 1
            print(f"seed {seed}: {broken}", flush=True)
    print(f"{count - failed} seeds passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
