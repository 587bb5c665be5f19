"""Looks for planted bugs: how many seeds does the world need to find each?

`planted.txt` remembers a seed for each bug, so that the suite need not search; when scenarios draw something new its seeds
are other ones, and `scripts/simulate --planted` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest import MonkeyPatch

from tests.simulation.planted import BUGS, Bug
from tests.simulation.running import one
from tests.simulation.scenario import MODES, Mode, draw
from tests.simulation.world import Outcome

KNOWN: Final = Path(__file__).parent / "planted.txt"
#: Seeds, in both modes, after which a bug counts as not found.
BOUND: Final = 200


@dataclass(frozen=True, slots=True)
class Find:
    """`outcome` None: not found in so many runs."""

    bug: Bug
    outcome: Outcome | None
    runs: int

    def __str__(self) -> str:
        if self.outcome is None:
            return f"    not found in {self.runs:3} runs  {self.bug.name}"
        violation = (self.outcome.violation or "").strip().splitlines()[-1]
        return f"{self.runs:4} runs  {self.bug.name}: {violation[:120]}"


def hunt(bug: Bug, seeds: Iterator[tuple[int, Mode]]) -> Find:
    """The first run in which an invariant breaks. The bug is in the machines only meanwhile."""
    runs = 0
    with MonkeyPatch.context() as patch:
        bug.plant(patch)
        for seed, mode in seeds:
            runs += 1
            outcome = one(draw(seed, mode))
            if outcome.violation is not None:
                return Find(bug, outcome, runs)
    return Find(bug, None, runs)


def known() -> dict[str, tuple[int, Mode]]:
    """The remembered seed of each bug."""
    found: dict[str, tuple[int, Mode]] = {}
    for line in KNOWN.read_text().splitlines():
        if line and not line.startswith("#"):
            seed, mode, name = line.split(" ", 2)
            found[name] = int(seed), next(each for each in MODES if each == mode)
    return found


def likely(bug: Bug) -> Iterator[tuple[int, Mode]]:
    """The remembered seed first, then one after the other."""
    remembered = known().get(bug.name)
    if remembered is not None:
        yield remembered
    yield from all_seeds()


def all_seeds() -> Iterator[tuple[int, Mode]]:
    return ((seed, mode) for seed in range(BOUND) for mode in MODES)


def hunt_all() -> Iterator[Find]:
    """Each bug from the first seed on; what is found is remembered."""
    lines = ["# A seed that finds each planted bug: written by scripts/simulate --planted"]
    for bug in BUGS:
        find = hunt(bug, all_seeds())
        yield find
        if find.outcome is not None:
            lines.append(f"{find.outcome.seed} {find.outcome.mode} {bug.name}")
    KNOWN.write_text("\n".join(lines) + "\n")
