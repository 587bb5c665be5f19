"""The simulated world with a store in it: no seed breaks an invariant, everything happens, and planted bugs are found."""

from __future__ import annotations

import pytest
from pytest import MonkeyPatch

from tests.simulation.durable import DurableWorld, draw_durable
from tests.simulation.planted_durable import BUGS, Bug

#: Seconds each on a quiet machine; a busy one may take many times as long.
pytestmark = pytest.mark.timeout(900)


def test_no_seed_loses_or_doubles_what_is_durable() -> None:
    """Those in which bugs are planted below; that everything happens is the matter of the whole node."""
    for seed in sorted({bug.seed for bug in BUGS}):
        outcome = DurableWorld(draw_durable(*seed)).run()
        assert outcome.violation is None, f"durable seed {seed}: {outcome.violation}"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(monkeypatch: MonkeyPatch, bug: Bug) -> None:
    """And it is the bug that is found: without it the same seed passes, as the test above shows."""
    bug.plant(monkeypatch)
    outcome = DurableWorld(draw_durable(*bug.seed)).run()
    assert outcome.number in bug.found_by, outcome.violation


def test_a_seed_is_one_history() -> None:
    assert len({DurableWorld(draw_durable(3, "safety")).run().digest for _ in range(2)}) == 1
