"""The whole node: services meet each other's faults, no seed breaks an invariant, what only all together show is found."""

from __future__ import annotations

from collections import Counter

import pytest
from pytest import MonkeyPatch

from tests.simulation.planted_durable import Bug
from tests.simulation.scenario import DURABLE_KINDS, WHOLE_KINDS, Mode
from tests.simulation.whole.planted import BUGS
from tests.simulation.whole.world import WholeWorld, draw_whole

#: Seconds each on a quiet machine; a busy one may take many times as long.
pytestmark = pytest.mark.timeout(900)
#: Few, chosen so that everything happens in one of them: scripts/simulate --whole runs as many as there is time for.
RUNS: tuple[tuple[int, Mode], ...] = (
    (1, "safety"), (11, "liveness"), (17, "safety"), (25, "safety"), (32, "safety"), (35, "safety"),
    (40, "safety"), (45, "liveness"), (46, "safety"),
    (319, "liveness"),
)  # fmt: skip
SOMETIMES = (
    *(f"fault: {kind}" for kind in (*DURABLE_KINDS, *WHOLE_KINDS)),
    "... and something durable of its is on its way",
    "a child could not be asked",
    "a durable message is a dead letter",
    "a durable message is handled again",
    "a message takes effect in a state",
    "a question to the scheduler is put again",
    "a record of a timer finds no room",
    "a run goes on while its scheduler dies",
    "a run is asked for again while it is at hand",
    "a run is ended: died",
    "a run is ended: lost",
    "a run is given to one that is away by now",
    "a run is given, and the broker is dead by now",
    "a run is skipped: misfire",
    "a run is skipped: overlap",
    "a run that is asked for again is lost",
    "a save is refused: store_full",
    "a save is said again",
    "a state is found again",
    "a state is saved",
    "a store begins anew",
    "a submission is said again",
    "a timer is accepted",
    "a timer is taken back",
    "a timer sends what is durable, and there is no store",
    "a transaction takes place",
    "an agent is killed while it handles a run",
    "ended: files",
    "ended: health",
    "power fails while a timer's record is not synced",
    "the broker dies, and runs are under way",
    "the disk is full",
    "the scheduler dies while the store commits",
    "the scheduler dies, and runs go on",
    "the store refuses: store_full",
    "the timers of a name are gone with it",
    "told: health.healthy",
    "told: health.unhealthy",
)


def test_no_seed_breaks_an_invariant_and_everything_worth_happening_happens() -> None:
    sometimes: Counter[str] = Counter()
    for seed, mode in RUNS:
        outcome = WholeWorld(draw_whole(seed, mode)).run()
        assert outcome.violation is None, f"whole seed {seed} {mode}: {outcome.violation}"
        sometimes.update(outcome.sometimes)
    assert [what for what in SOMETIMES if not sometimes[what]] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(monkeypatch: MonkeyPatch, bug: Bug) -> None:
    """And it is the bug that is found: without it the same seed passes, as the test above shows."""
    assert bug.seed in RUNS
    bug.plant(monkeypatch)
    outcome = WholeWorld(draw_whole(*bug.seed)).run()
    assert outcome.number in bug.found_by, outcome.violation


def test_a_seed_is_one_history() -> None:
    assert len({WholeWorld(draw_whole(45, "liveness")).run().digest for _ in range(2)}) == 1
