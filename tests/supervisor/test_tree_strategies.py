"""Who restarts when a child ends: restart types, strategies, failing restarts, automatic shutdown."""

from __future__ import annotations

import pytest

from otpd.supervisor.events import StopTree
from otpd.supervisor.spec import BRUTAL_KILL, AutoShutdown, Dynamic, Restart, Strategy
from tests.supervisor.rig import Rig, supervisor, worker

LOOSE = {"max_restarts": 100}
REASONS = ["normal", "shutdown", "shutdown(done)", "error(1)", "killed", "signal(11)"]
CLEAN = ["normal", "shutdown", "shutdown(done)"]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("restart", list(Restart))
def test_whether_a_child_restarts_is_its_restart_type_and_the_reason(restart: Restart, reason: str) -> None:
    """Rules 23-25, 27, 65: whoever stops a permanent child of somebody else has it restarted."""
    rig = Rig(worker("a", restart=restart), **LOOSE).boot()
    restarts = restart == "permanent" or (restart == "transient" and reason not in CLEAN)
    assert rig.crash("a", reason) == (["spawn a 2"] if restarts else [])
    kept = {"a": "running" if restarts else "stopped"}
    assert rig.states() == ({} if restart == "temporary" else kept)
    reported = restart == "permanent" or reason not in CLEAN
    assert len(rig.told("child_terminated")) == reported


def test_one_for_one_restarts_only_the_child() -> None:
    """Rule 31."""
    rig = Rig(worker("a"), worker("b"), worker("c"), **LOOSE).boot()
    assert rig.crash("b") == ["spawn b 2"]


def test_one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() -> None:
    """Rules 33, 34, 36."""
    rig = Rig(worker("a"), worker("b"), worker("c", shutdown=1.0), strategy=Strategy.ONE_FOR_ALL, **LOOSE).boot()
    assert rig.crash("b") == ["stop c 1 1.0", "stop a 1 5.0", "spawn a 2", "spawn b 2", "spawn c 2"]
    assert rig.tree.snapshot(rig.now).restarts_in_window == 1


def test_rest_for_one_restarts_the_child_and_the_later_ones() -> None:
    """Rules 32, 35."""
    rig = Rig(worker("a"), worker("b"), worker("c"), worker("d"), strategy=Strategy.REST_FOR_ONE, **LOOSE).boot()
    assert rig.crash("b") == ["stop d 1 5.0", "stop c 1 5.0", "spawn b 2", "spawn c 2", "spawn d 2"]
    assert rig.view("a").generation == 1


def test_temporary_bystanders_are_stopped_and_forgotten() -> None:
    """Rule 26."""
    children = (worker("a"), worker("t", restart=Restart.TEMPORARY), worker("b"))
    rig = Rig(*children, strategy=Strategy.ONE_FOR_ALL, **LOOSE).boot()
    assert rig.crash("b") == ["stop t 1 5.0", "stop a 1 5.0", "spawn a 2", "spawn b 2"]
    assert rig.states() == {"a": "running", "b": "running"}


def test_a_bystander_that_dies_during_the_group_stop_is_part_of_that_restart() -> None:
    """BEHAVIOURS 17: its waiting notice is consumed, so it is neither restarted twice nor counted."""
    rig = Rig(worker("a"), worker("b"), worker("c"), strategy=Strategy.ONE_FOR_ALL, **LOOSE).boot()
    assert rig.gone("c") == ["stop b 1 5.0"]
    assert rig.gone("a", "killed") == []
    assert rig.gone("b", "shutdown") == ["spawn a 2"]
    rig.trace.clear()
    assert rig.settle() == ["spawn b 2", "spawn c 2"]
    assert rig.tree.snapshot(rig.now).restarts_in_window == 1
    assert [data["reason"] for _, _, data in rig.told("shutdown_error")] == ["killed"]


def test_a_failing_sibling_is_retried_from_itself_on_under_rest_for_one() -> None:
    """Rules 38, 40."""
    rig = Rig(worker("a"), worker("b"), worker("c"), strategy=Strategy.REST_FOR_ONE, **LOOSE).boot()
    rig.gone("a")
    rig.gone("c", "shutdown")
    rig.gone("b", "shutdown")
    rig.up("a")
    assert rig.fail("b") == ["spawn b 3"]
    assert rig.up("b") == ["spawn c 2"]
    assert rig.tree.snapshot(rig.now).restarts_in_window == 2


def test_a_failing_sibling_restarts_the_whole_group_again_under_one_for_all() -> None:
    """Rule 38."""
    rig = Rig(worker("a"), worker("b"), strategy=Strategy.ONE_FOR_ALL, **LOOSE).boot()
    rig.gone("a")
    rig.gone("b", "shutdown")
    rig.up("a")
    assert rig.fail("b") == ["stop a 2 5.0"]
    assert rig.gone("a", "shutdown") == ["spawn a 3"]


def test_ignore_in_a_restart_ends_the_retries() -> None:
    """Rule 29."""
    rig = Rig(worker("a"), **LOOSE).boot()
    rig.gone("a")
    assert rig.ignore("a") == []
    assert rig.states() == {"a": "stopped"}


def test_any_significant_child_that_ends_by_itself_ends_the_supervisor() -> None:
    """Rules 70, 73."""
    s = worker("s", restart=Restart.TRANSIENT, significant=True)
    rig = Rig(worker("a"), s, worker("b"), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT).boot()
    assert rig.crash("s", "normal") == ["stop b 1 5.0", "stop a 1 5.0", "gave up shutdown"]


def test_all_significant_waits_for_the_last_one() -> None:
    """Rules 28, 71."""
    one = worker("one", restart=Restart.TRANSIENT, significant=True)
    two = worker("two", restart=Restart.TEMPORARY, significant=True)
    rig = Rig(worker("a"), one, two, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT, **LOOSE).boot()
    assert rig.crash("one", "error(1)") == ["spawn one 2"]
    assert rig.crash("one", "normal") == []
    assert rig.crash("two", "error(1)") == ["stop a 1 5.0", "gave up shutdown"]


def test_giving_up_climbs_to_the_parent_which_starts_the_subtree_afresh() -> None:
    """Rules 47, 48, 51."""
    rig = Rig(supervisor("s", worker("x"), worker("y"), max_restarts=1), **LOOSE).boot()
    assert rig.crash("s/x") == ["spawn s/x 2"]
    assert rig.crash("s/y") == ["stop s/x 2 5.0", "spawn s/x 3", "spawn s/y 2"]
    assert rig.view("s").generation == 2
    assert rig.crash("s/y") == ["spawn s/y 3"]
    assert [data["child"] for kind, _, data in rig.told("gave_up")] == ["y"]


def test_a_transient_supervisor_that_gives_up_stays_down_and_is_shown_as_failed() -> None:
    """Rule 48."""
    rig = Rig(supervisor("s", worker("x"), max_restarts=0, restart=Restart.TRANSIENT), worker("a")).boot()
    assert rig.crash("s/x") == []
    assert rig.states() == {"s": "failed", "s/x": "stopped", "a": "running"}


def test_dynamic_children_stop_all_at_once_and_only_odd_ends_are_reported() -> None:
    """Rules 62, 63."""
    from otpd.supervisor.events import StartChild

    d = supervisor("d", dynamic=Dynamic.SIMPLE, template=worker("t", shutdown=2.0))
    rig = Rig(d).boot()
    for name in "xyz":
        rig.request(StartChild("top/d", worker(name)))
    assert rig.feed(StopTree()) == ["stop d/z 1 2.0", "stop d/y 1 2.0", "stop d/x 1 2.0"]
    rig.gone("d/y", "error(1)")
    rig.gone("d/x", "error(1)")
    assert rig.gone("d/z", "shutdown") == ["ended shutdown"]
    assert [data["child"] for _, _, data in rig.told("shutdown_error")] == [["children", 2]]


@pytest.mark.parametrize(
    ("engine", "shutdown", "restart", "reason", "noticed", "reported"),
    [
        (None, 5.0, "permanent", "shutdown", True, False),
        (None, 5.0, "permanent", "normal", True, True),
        (None, 5.0, "transient", "normal", True, False),
        (None, 5.0, "permanent", "shutdown(x)", True, True),
        (None, 5.0, "transient", "killed", True, True),
        (None, BRUTAL_KILL, "permanent", "killed", True, False),
        (None, BRUTAL_KILL, "permanent", "shutdown", True, True),
        (None, BRUTAL_KILL, "transient", "shutdown", True, False),
        (Dynamic.DYNAMIC, 5.0, "permanent", "shutdown(x)", True, False),
        (Dynamic.DYNAMIC, 5.0, "permanent", "normal", True, True),
        (Dynamic.DYNAMIC, BRUTAL_KILL, "transient", "shutdown", True, True),
        (Dynamic.DYNAMIC, BRUTAL_KILL, "transient", "killed", True, False),
        (Dynamic.DYNAMIC, 5.0, "transient", "shutdown", False, True),
        (Dynamic.DYNAMIC, 5.0, "transient", "normal", False, False),
        (Dynamic.DYNAMIC, 5.0, "permanent", "normal", False, True),
    ],
)
def test_which_ends_of_stopped_children_are_errors(
    engine: Dynamic | None, shutdown: float | str, restart: str, reason: str, noticed: bool, reported: bool
) -> None:
    """Rules 56-58, and where Elixir differs."""
    from otpd.supervisor.notices import is_stop_error

    spec = worker("a", shutdown=shutdown, restart=Restart(restart))
    assert is_stop_error(engine, spec, reason, unnoticed=not noticed) is reported
