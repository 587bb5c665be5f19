"""The simulated world with a store in it: no seed breaks an invariant, everything happens, and planted bugs are found."""

from __future__ import annotations

from collections import Counter

import pytest
from pytest import MonkeyPatch

from tests.simulation.durable import DurableWorld, draw_durable
from tests.simulation.planted_durable import BUGS, Bug
from tests.simulation.scenario import DURABLE_KINDS, MODES

#: Seconds each on a quiet machine; a busy one may take many times as long.
pytestmark = pytest.mark.timeout(900)
SEEDS = range(10)
SOMETIMES = (
    *(f"fault: {kind}" for kind in DURABLE_KINDS),
    "a durable message is a dead letter",
    "a durable message is handled again",
    "a store begins anew",
    "a submission is said again",
    "a transaction takes place",
    "the disk is full",
    "the store refuses: store_full",
)


def test_no_seed_loses_or_doubles_what_is_durable_and_everything_happens() -> None:
    sometimes: Counter[str] = Counter()
    for seed in SEEDS:
        for mode in MODES:
            outcome = DurableWorld(draw_durable(seed, mode)).run()
            assert outcome.violation is None, f"durable seed {seed} {mode}: {outcome.violation}"
            sometimes.update(outcome.sometimes)
    assert [what for what in SOMETIMES if not sometimes[what]] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(monkeypatch: MonkeyPatch, bug: Bug) -> None:
    """And it is the bug that is found: without it the same seed passes."""
    if bug.seed[0] not in SEEDS:
        assert DurableWorld(draw_durable(*bug.seed)).run().violation is None
    bug.plant(monkeypatch)
    outcome = DurableWorld(draw_durable(*bug.seed)).run()
    assert outcome.number in bug.found_by, outcome.violation


def test_a_seed_is_one_history() -> None:
    assert len({DurableWorld(draw_durable(3, "safety")).run().digest for _ in range(2)}) == 1
