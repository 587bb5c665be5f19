"""Does the world find bugs? Each of those in `planted`, in the real machines, one at a time, must break an invariant."""

from __future__ import annotations

import pytest
from pytest import MonkeyPatch

from tests.simulation.hunting import hunt, known, likely
from tests.simulation.planted import BUGS, Bug
from tests.simulation.running import one
from tests.simulation.scenario import draw


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    find = hunt(bug, likely(bug))
    assert find.outcome is not None, str(find)
    assert find.outcome.number in bug.found_by, find.outcome.violation


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_without_the_bug_the_same_seed_passes(bug: Bug) -> None:
    """So it is the bug that was found."""
    assert one(draw(*known()[bug.name])).violation is None


#: What must go wrong in the world, or the bug stays hidden: the faults are not there for decoration.
HIDDEN_WITHOUT = [
    ("no tombstone is asked", "broker_stop"),
    ("a new broker is sent again what the old one had", "broker"),
    ("groups are not restored", "broker"),
    ("monitors are not restored", "broker"),
    ("deaths are not told", "resnapshot"),
    ("a worker that ignores sigterm is never killed", "deaf"),
    ("what a worker leaves behind is left", "helper"),
    ("the group is killed again when its leader is reaped", "helper"),
]


@pytest.mark.parametrize(("name", "kind"), HIDDEN_WITHOUT)
def test_a_bug_stays_hidden_where_a_kind_of_fault_does_not_exist(
    monkeypatch: MonkeyPatch, name: str, kind: str
) -> None:
    bug = next(bug for bug in BUGS if bug.name == name)
    bug.plant(monkeypatch)
    scenario = draw(*known()[name])
    assert one(scenario).violation is not None
    others = tuple(place for place, fault in enumerate(scenario.faults) if not fault.kind.startswith(kind))
    assert one(scenario.only(others)).violation is None
