"""How a supervisor starts its children, and what happens when one of them can't."""

from __future__ import annotations

import pytest

from otpd.supervisor.events import Boot, Exited, Started, StopTree
from otpd.supervisor.spec import ChildSpec, Restart
from otpd.supervisor.tree import Tree
from tests.supervisor.rig import Rig, supervisor, worker


def test_children_start_one_after_the_other_each_when_the_one_before_is_ready() -> None:
    """Rules 1, 2."""
    rig = Rig(worker("a"), supervisor("s", worker("x"), worker("y")), worker("b"))
    assert rig.feed(Boot()) == ["spawn a 1"]
    assert rig.up("a") == ["spawn s/x 1"]
    assert rig.states() == {"a": "running", "s": "starting", "s/x": "starting", "s/y": "starting", "b": "starting"}
    assert rig.up("s/x") == ["spawn s/y 1"]
    assert rig.up("s/y") == ["spawn b 1"]
    assert rig.up("b") == ["started"]
    assert set(rig.states().values()) == {"running"}


def test_who_has_started_is_told_with_what_its_supervisor_knows_of_it() -> None:
    """Rule 11."""
    rig = Rig(worker("a", restart=Restart.TRANSIENT, shutdown=1.5)).boot()
    spec = {"restart": "transient", "shutdown": 1.5, "type": "worker"}
    offender = {"id": "a", "path": "top/a", "generation": 1, **spec}
    assert rig.told("child_started") == [("child_started", "a", {"restart": False, "offender": offender})]


def test_a_failing_child_rolls_back_what_had_started_in_reverse() -> None:
    """Rules 3, 4, 5."""
    rig = Rig(worker("a"), worker("b", shutdown=1.5), worker("c"), worker("d"))
    rig.feed(Boot())
    rig.up("a")
    rig.up("b")
    assert rig.fail("c", "no such file") == ["stop b 1 1.5"]
    assert rig.gone("b", "shutdown") == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["gave up ['failed_to_start_child', 'c', 'no such file']"]
    assert rig.told("start_error", "supervisor_start_failed") == [
        ("start_error", "", {"child": "c", "reason": "no such file", "offender": rig.notices[-4].data["offender"]}),
        ("supervisor_start_failed", "", {"reason": ["failed_to_start_child", "c", "no such file"], "text": None}),
    ]


def test_reasons_of_nested_failures_nest() -> None:
    rig = Rig(supervisor("s", supervisor("t", worker("x"))))
    rig.feed(Boot())
    reason = "['failed_to_start_child', 's', ['failed_to_start_child', 't', ['failed_to_start_child', 'x', 'boom']]]"
    assert rig.fail("s/t/x", "boom") == [f"gave up {reason}"]


def test_an_exit_before_ready_is_a_failed_start() -> None:
    """Rule 12."""
    rig = Rig(worker("a"))
    rig.feed(Boot())
    assert rig.gone("a", "error(2)") == ["gave up ['failed_to_start_child', 'a', 'error(2)']"]


def test_a_child_that_ignores_keeps_its_spec_unless_temporary() -> None:
    """Rules 6, 7."""
    rig = Rig(worker("a"), worker("b", restart=Restart.TEMPORARY), worker("c"))
    rig.fails = {"a": "ignore", "b": "ignore"}
    rig.boot()
    assert rig.states() == {"a": "stopped", "c": "running"}


@pytest.mark.parametrize(
    ("children", "flags", "reason"),
    [
        ((worker("a"), worker("a")), {}, ["start_spec", ["duplicate_child_name", "a"]]),
        ((worker("a"),), {"strategy": "all"}, ["supervisor_data", ["invalid_strategy", "all"]]),
        ((worker("a"),), {"max_seconds": 0}, ["supervisor_data", ["invalid_period", 0]]),
        ((worker("a"), worker("b", shutdown=-1)), {}, ["start_spec", ["invalid_shutdown", -1000]]),
    ],
)
def test_everything_is_checked_before_anything_starts(children: tuple[ChildSpec, ...], flags: dict, reason: list) -> None:
    """Rules 8, 9, 10."""
    rig = Rig(*children, **flags)
    assert rig.feed(Boot()) == [f"gave up {reason}"]
    assert rig.told("supervisor_start_failed")[0][2]["text"].count(", got") == 1


def test_what_ends_before_the_supervisor_is_up_is_noticed_afterwards() -> None:
    rig = Rig(worker("a"), worker("b"))
    rig.feed(Boot())
    rig.up("a")
    assert rig.gone("a") == []
    assert rig.up("b") == ["started", "spawn a 2"]
    assert rig.up("a") == []


def test_generations_count_attempts_and_are_never_reset() -> None:
    rig = Rig(supervisor("s", worker("x"), max_restarts=0), max_restarts=3).boot()
    assert rig.crash("s/x") == ["spawn s/x 2"]
    assert rig.view("s").generation == 2
    assert rig.crash("s/x") == ["spawn s/x 3"]


def test_events_that_fit_nothing_are_ignored() -> None:
    """Rule 86."""
    rig = Rig(worker("a")).boot()
    for event in (
        Exited("top/a", 7, "error(1)"),
        Exited("top/nobody", 1, "error(1)"),
        Exited("elsewhere/a", 1, "error(1)"),
        Exited("top", 9, "killed"),
        Started("top/a", 1),
        Boot(),
    ):
        assert rig.feed(event) == []
    assert rig.states() == {"a": "running"}


def test_the_top_must_be_a_supervisor() -> None:
    with pytest.raises(TypeError, match="expected the start of 'a', the top, to be a SupervisorSpec"):
        Tree(worker("a"))


def test_an_empty_tree_starts_and_ends() -> None:
    rig = Rig()
    assert rig.feed(Boot()) == ["started"]
    assert rig.feed(StopTree()) == ["ended shutdown"]
    assert rig.tree.ended
    assert rig.feed(StopTree()) == []


def test_a_tree_that_never_started_can_be_stopped() -> None:
    rig = Rig(worker("a"))
    assert rig.feed(StopTree()) == ["ended shutdown"]
    assert rig.feed(Boot()) == []
