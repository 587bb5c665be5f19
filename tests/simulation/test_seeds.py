"""The simulated world of the suite: a fixed few hundred seeds, every regression, and proof that they get everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.coverage import SOMETIMES
from tests.simulation.running import Failure, many, one, shrunk
from tests.simulation.scenario import MODES, Mode, draw

#: Chunks of seconds each on a quiet machine; a busy one may take many times as long.
pytestmark = pytest.mark.timeout(900)
HERE = Path(__file__).parent
SEEDS, CHUNK = 170, 10
#: Where what is rare happens: a cast outlives its half minute in a buffer.
RARE: tuple[tuple[int, Mode], ...] = ((737, "liveness"),)
REGRESSIONS = [
    line.split("#")[0].split() for line in (HERE / "regressions.txt").read_text().splitlines() if line.split("#")[0].strip()
]


class Seeds:
    """Runs each chunk once, whichever test asks for it first."""

    def __init__(self) -> None:
        self._done: dict[int, list[Failure]] = {}
        self.sometimes: Counter[str] = Counter()

    def chunk(self, first: int) -> list[Failure]:
        if first not in self._done:
            report = many(range(first, first + CHUNK), MODES)
            self._done[first] = report.failures
            self.sometimes.update(report.sometimes)
        return self._done[first]


@pytest.fixture(scope="module")
def seeds() -> Seeds:
    return Seeds()


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_seed_breaks_an_invariant(seeds: Seeds, first: int) -> None:
    failures = seeds.chunk(first)
    assert not failures, "\n".join(line for failure in failures for line in failure.lines())


def test_everything_worth_happening_happens_somewhere(seeds: Seeds) -> None:
    """A world that never opens a breaker says nothing about breakers."""
    for first in range(0, SEEDS, CHUNK):
        seeds.chunk(first)
    for seed, mode in RARE:
        seeds.sometimes.update(one(draw(seed, mode)).sometimes)
    assert [what for what in SOMETIMES if not seeds.sometimes[what]] == []


@pytest.mark.parametrize(("seed", "mode"), REGRESSIONS, ids=" ".join)
def test_a_seed_that_once_failed_passes(seed: str, mode: str) -> None:
    outcome = one(draw(int(seed), mode))  # type: ignore[arg-type]
    assert outcome.violation is None, shrunk(outcome).lines()


_DIGESTS = """
from tests.simulation.running import one
from tests.simulation.scenario import MODES, draw
print([one(draw(seed, mode)).digest for seed in (1, 5, 9) for mode in MODES])
"""


def test_a_seed_is_one_history_whatever_the_hashes_are() -> None:
    """Nothing may depend on the order of a set: traces are equal in another process under another PYTHONHASHSEED."""
    said = {
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(HERE.parent.parent)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(said) == 1
    assert said == {f"{[one(draw(seed, mode)).digest for seed in (1, 5, 9) for mode in MODES]}\n"}
