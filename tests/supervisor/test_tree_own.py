"""A worker's own children: they end with their owner and before its next incarnation, and the owner with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otpd.supervisor import ledger, own
from otpd.supervisor.events import (
    Boot,
    CountChildren,
    DeleteChild,
    Exited,
    RestartChild,
    StartChild,
    StartFailed,
    StartIgnored,
    StopTree,
    TerminateChild,
    WhichChildren,
)
from otpd.supervisor.spec import BRUTAL_KILL, Backoff, Restart
from otpd.supervisor.tree import SupervisorView, WorkerView
from tests.supervisor.rig import Rig, supervisor, worker


def owning(*names: str, **flags: object) -> Rig:
    """Workers a and b; a has these children of its own, and everything runs."""
    rig = Rig(worker("a"), worker("b"), **flags).boot()
    rig.start_own("a", *map(worker, names))
    rig.settle()
    rig.trace.clear()
    return rig


def test_whose_child_one_is_goes_up_to_who_is_nobodys() -> None:
    rig = owning("x")
    rig.start_own("a/x", worker("y"))
    owners = {path: rig.tree.owners(path) for path in ("top/a", "top/a/x", "top/a/x/y", "top/no/x")}
    assert owners == {"top/a": (), "top/a/x": ("a",), "top/a/x/y": ("x", "a"), "top/no/x": ()}


# --- while the owner lives ---


def test_the_first_child_is_started_and_the_answer_comes_when_it_is_ready() -> None:
    rig = Rig(worker("a")).boot()
    assert rig.start_own("a", worker("x")) == ["spawn a/x 1"]
    assert rig.up("a/x") == ["reply ['ok', 1]"]
    assert rig.states() == {"a": "running", "a/x": "running"}


def test_children_start_one_after_another() -> None:
    rig = Rig(worker("a")).boot()
    assert rig.start_own("a", worker("x"), worker("y")) == ["spawn a/x 1"]
    assert rig.up("a/x") == ["reply ['ok', 1]", "spawn a/y 1"]


def test_a_child_may_be_started_while_the_owner_itself_is_starting() -> None:
    rig = Rig(worker("a"), worker("b"))
    rig.feed(Boot())
    assert rig.start_own("a", worker("x")) == ["spawn a/x 1"]
    assert rig.up("a/x") == ["reply ['ok', 1]"]
    assert rig.up("a") == ["spawn b 1"]


def test_only_the_incarnation_that_lives_can_have_children() -> None:
    rig = Rig(worker("a")).boot()
    rig.crash("a")
    assert rig.request(StartChild("top/a", worker("x"), owner=1)) == ["reply ['error', 'noproc']"]
    assert rig.request(StartChild("top/a", worker("x"), owner=2)) == ["spawn a/x 1", "reply ['ok', 1]"]


def test_a_worker_without_children_is_no_supervisor() -> None:
    rig = Rig(worker("a")).boot()
    assert rig.request(WhichChildren("top/a")) == ["reply ['error', 'noproc']"]
    assert rig.request(StartChild("top/a", worker("x"))) == ["reply ['error', 'noproc']"]


def test_a_failed_start_is_answered_and_forgotten() -> None:
    rig = Rig(worker("a")).boot()
    rig.fails["a/x"] = "boom"
    rig.start_own("a", worker("x"))
    assert rig.settle()[-1] == "reply ['error', 'start_failed', 'boom']"
    assert rig.states() == {"a": "running"}


def test_one_that_declines_is_answered_and_forgotten() -> None:
    rig = Rig(worker("a")).boot()
    rig.fails["a/x"] = "ignore"
    rig.start_own("a", worker("x"))
    assert rig.settle()[-1] == "reply ignore"
    assert rig.states() == {"a": "running"}


def test_a_child_is_stopped_by_name_and_is_no_more() -> None:
    rig = owning("x", "y")
    assert rig.request(TerminateChild("top/a", "x")) == ["stop a/x 1 5.0", "reply ok"]
    assert rig.states() == {"a": "running", "a/y": "running", "b": "running"}
    assert rig.request(TerminateChild("top/a", "x")) == ["reply ['error', 'not_found']"]


def test_a_running_child_is_neither_started_nor_deleted_by_name() -> None:
    rig = owning("x")
    assert rig.request(RestartChild("top/a", "x")) == ["reply ['error', 'running']"]
    assert rig.request(DeleteChild("top/a", "x")) == ["reply ['error', 'running']"]
    assert rig.request(DeleteChild("top/a", "n")) == ["reply ['error', 'not_found']"]


def test_a_crash_of_a_child_restarts_it_alone() -> None:
    rig = owning("x", "y")
    assert rig.crash("a/x") == ["spawn a/x 2"]
    assert rig.view("a/x").restarts == 1


def test_a_child_that_ends_for_good_is_no_more() -> None:
    rig = Rig(worker("a")).boot()
    rig.start_own("a", worker("x", restart=Restart.TRANSIENT), worker("y", restart=Restart.TEMPORARY))
    rig.settle()
    assert (rig.crash("a/x", "normal"), rig.crash("a/y", "error(1)")) == ([], [])
    assert rig.states() == {"a": "running"}


def test_the_number_of_children_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_SPEC", replace(own._SPEC, max_children=2))
    rig = owning("c0", "c1")
    rig.start_own("a", worker("more"))
    assert rig.trace == ["reply ['error', 'max_children']"]
    rig.request(TerminateChild("top/a", "c0"))
    rig.start_own("a", worker("more"))
    assert rig.settle()[-2:] == ["spawn a/more 1", "reply ['ok', 1]"]


def test_children_are_seen_below_their_owner() -> None:
    rig = owning("x")
    view = rig.view("a")
    assert isinstance(view, WorkerView) and view.own is not None
    assert [child.path for child in view.children] == ["top/a/x"]
    assert (view.own.max_restarts, view.own.max_seconds) == (3, 5)
    assert rig.tree.find("x") == ["top/a/x"]
    assert (rig.tree.holder("x"), rig.tree.holder("b"), rig.tree.holder("n")) == ("top/a/x", "top/b", None)
    counts = {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}
    assert rig.request(CountChildren("top/a")) == [f"reply {counts}"]


# --- the owner ends ---


def test_the_children_of_a_dead_owner_stop_all_at_once_before_its_next_incarnation_starts() -> None:
    rig = owning("x", "y")
    assert rig.gone("a") == ["stop a/y 1 5.0", "stop a/x 1 5.0"]
    assert rig.states() == {"a": "stopping", "a/x": "stopping", "a/y": "stopping", "b": "running"}
    assert rig.gone("a/x", "shutdown") == []
    assert rig.gone("a/y", "shutdown") == ["spawn a 2"]
    assert rig.states() == {"a": "restarting", "b": "running"}


def test_each_child_of_a_dead_owner_has_the_time_that_its_spec_says() -> None:
    rig = Rig(worker("a")).boot()
    rig.start_own("a", worker("x", shutdown=0.5), worker("y", shutdown=BRUTAL_KILL))
    rig.settle()
    assert rig.gone("a") == ["stop a/y 1 brutal_kill", "stop a/x 1 0.5"]


def test_an_owner_that_is_asked_to_stop_goes_before_its_children() -> None:
    rig = owning("x")
    assert rig.ask(TerminateChild("top", "a")) == ["stop a 1 5.0"]
    assert rig.gone("a/x") == ["spawn a/x 2"]  # it is there for its owner to the last
    rig.up("a/x")
    assert rig.gone("a", "shutdown") == ["stop a/x 2 5.0"]
    assert rig.gone("a/x", "shutdown") == ["reply ok"]
    assert rig.states() == {"a": "stopped", "b": "running"}


def test_the_owner_may_stop_its_children_itself_while_the_tree_stops() -> None:
    """In terminate(): it is answered, but nobody is started any more."""
    rig = owning("x", "y")
    assert rig.feed(StopTree(urgent=True)) == ["stop b 1 5.0"]
    assert rig.gone("b", "shutdown") == ["stop a 1 5.0"]
    assert rig.ask(TerminateChild("top/a", "x")) == ["stop a/x 1 5.0"]
    assert rig.gone("a/x", "shutdown") == ["reply ok"]
    assert rig.start_own("a", worker("z")) == ["reply ['error', 'noproc']"]
    assert rig.gone("a/y") == []
    assert rig.gone("a", "shutdown") == ["ended shutdown"]


def test_a_start_that_is_pending_when_the_owner_dies_is_given_up() -> None:
    rig = owning("x")
    rig.start_own("a", worker("y"), worker("z"))
    assert rig.gone("a") == [
        "reply ['error', 'noproc']", "abort a/y 1", "stop a/x 1 5.0", ]  # fmt: skip
    assert rig.gone("a/y", "killed") == []
    assert rig.gone("a/x", "shutdown") == ["reply ['error', 'noproc']", "spawn a 2"]


def test_an_owner_that_fails_to_start_takes_its_children_along() -> None:
    rig = Rig(worker("b"), worker("a")).boot()
    rig.gone("a")
    assert rig.starting == {"a": 2}
    rig.start_own("a", worker("x"))
    rig.up("a/x")
    assert rig.fail("a", "boom") == ["stop a/x 1 5.0"]
    assert rig.gone("a/x", "shutdown") == ["spawn a 3"]


def test_an_owner_that_declines_to_start_takes_its_children_along() -> None:
    rig = Rig(worker("a")).boot()
    rig.gone("a")
    rig.start_own("a", worker("x"))
    rig.up("a/x")
    assert rig.ignore("a") == ["stop a/x 1 5.0"]
    assert rig.gone("a/x", "shutdown") == []
    assert rig.states() == {"a": "stopped"}


def test_the_next_incarnation_begins_without_children_and_may_have_some_of_the_same_names() -> None:
    rig = owning("x")
    rig.crash("a")
    assert rig.states() == {"a": "running", "b": "running"}
    rig.start_own("a", worker("x"))
    assert rig.settle()[-2:] == ["spawn a/x 2", "reply ['ok', 2]"]
    assert rig.view("a/x").restarts == 0


def test_the_end_of_an_owner_is_told_at_once_and_once() -> None:
    rig = owning("x")
    rig.gone("a", "error(7)")
    told = [("child_exited", "a", {"reason": "error(7)", "asked": False, "uptime": 0.0})]
    assert rig.told("child_exited") == told
    assert rig.feed(Exited("top/a", 1, "killed")) == []
    assert rig.told("children_ended") == []
    rig.settle()
    assert [line for line in rig.told("child_exited") if line[1] == "a"] == told
    assert rig.told("children_ended") == [("children_ended", "a", {})]


def test_the_strategy_stops_an_owner_and_then_its_children() -> None:
    rig = owning("x", strategy="one_for_all")
    assert rig.crash("b") == ["stop a 1 5.0", "stop a/x 1 5.0", "spawn a 2", "spawn b 2"]


def test_an_owner_that_is_asked_while_its_children_still_go_is_not_asked() -> None:
    rig = owning("x", strategy="one_for_all")
    rig.gone("a", "error(1)")
    assert rig.gone("b") == []
    assert rig.gone("a/x", "shutdown") == ["spawn a 2"]


def test_everything_below_a_supervisor_that_is_killed_is_killed_at_once() -> None:
    rig = Rig(supervisor("s", worker("a"), shutdown=1.0)).boot()
    rig.start_own("s/a", worker("x"))
    rig.settle()
    rig.ask(TerminateChild("top", "s"))
    assert rig.fire(1) == ["stop s/a 1 brutal_kill", "stop s/a/x 1 brutal_kill"]
    assert rig.gone("s/a", "killed") == []
    assert rig.gone("s/a/x", "killed") == ["reply ok"]


def test_children_that_go_slowly_are_killed_with_the_supervisor_of_their_dead_owner() -> None:
    rig = Rig(supervisor("s", worker("a"), shutdown=1.0)).boot()
    rig.start_own("s/a", worker("x"))
    rig.settle()
    rig.ask(TerminateChild("top", "s"))
    assert rig.gone("s/a", "shutdown") == ["stop s/a/x 1 5.0"]
    assert rig.fire(1) == ["stop s/a/x 1 brutal_kill"]
    assert rig.gone("s/a/x", "killed") == ["reply ok"]


# --- the children end their owner ---


def test_children_that_restart_too_often_end_their_owner() -> None:
    rig = owning("x", "y")
    for _ in range(3):
        rig.crash("a/x")
    assert rig.gone("a/x") == ["stop a/y 1 5.0"]
    assert rig.gone("a/y", "shutdown") == ["end a 1 children: shutdown"]
    assert rig.told("gave_up") == [("gave_up", "a", {"child": "x", "max_restarts": 3, "max_seconds": 5})]
    assert rig.start_own("a", worker("z")) == ["reply ['error', 'noproc']"]
    assert rig.gone("a", "error(children: shutdown)") == ["spawn a 2"]
    rig.up("a")
    assert rig.start_own("a", worker("z")) == ["spawn a/z 1"]


def test_a_child_that_can_not_be_restarted_ends_the_owner_while_it_starts() -> None:
    rig = Rig(worker("a")).boot()
    rig.gone("a")
    rig.start_own("a", worker("x"))
    rig.up("a/x")
    rig.fails["a/x"] = "boom"
    rig.trace.clear()
    rig.gone("a/x")
    while "a/x" in rig.starting:
        rig.fail("a/x")
    assert rig.trace[-1] == "end a 2 children: shutdown"
    assert rig.feed(StartFailed("top/a", rig.starting.pop("a"), "children: shutdown")) == ["spawn a 3"]


def test_an_owner_that_is_ended_by_its_children_and_asked_to_stop_is_asked_too() -> None:
    rig = owning("x")
    for _ in range(3):
        rig.crash("a/x")
    assert rig.gone("a/x") == ["end a 1 children: shutdown"]
    assert rig.ask(TerminateChild("top", "a")) == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["reply ok"]


# --- deeper, and again ---


def test_children_may_have_children_and_all_go_from_below() -> None:
    rig = owning("x")
    rig.start_own("a/x", worker("deep"))
    rig.up("a/x/deep")
    assert rig.gone("a") == ["stop a/x 1 5.0"]
    assert rig.gone("a/x", "shutdown") == ["stop a/x/deep 1 5.0"]
    assert rig.gone("a/x/deep", "shutdown") == ["spawn a 2"]


def test_a_child_whose_own_children_give_up_is_restarted_by_its_owner() -> None:
    rig = owning("x")
    rig.start_own("a/x", worker("deep"))
    rig.up("a/x/deep")
    for _ in range(3):
        rig.crash("a/x/deep")
    assert rig.gone("a/x/deep") == ["end a/x 1 children: shutdown"]
    assert rig.gone("a/x", "error(children: shutdown)") == ["spawn a/x 2"]


def test_a_back_off_of_a_child_ends_with_its_owner() -> None:
    rig = Rig(worker("a")).boot()
    rig.start_own("a", worker("x", backoff=Backoff(jitter=0.0)))
    rig.settle()
    rig.crash("a/x")
    rig.crash("a/x")
    assert rig.trace[-1] == "arm 1 0.1 a/x"
    assert rig.gone("a") == ["cancel 1", "spawn a 2"]


def test_the_same_name_under_another_owner_goes_on_counting() -> None:
    rig = owning("x")
    rig.request(TerminateChild("top/a", "x"))
    rig.start_own("b", worker("x"))
    assert rig.settle()[-2:] == ["spawn b/x 2", "reply ['ok', 2]"]


def test_counters_of_names_that_are_no_more_are_bounded_and_never_count_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RETIRED_KEPT", 3)
    rig = owning("x")
    rig.crash("a/x")
    rig.request(TerminateChild("top/a", "x"))
    for n in range(3):
        rig.start_own("a", worker(f"c{n}"))
        rig.settle()
        rig.request(TerminateChild("top/a", f"c{n}"))
    assert len(rig.tree._ledger.records) == 3  # top, a, b
    rig.start_own("a", worker("x"))
    assert rig.settle()[-1] == "reply ['ok', 3]"


def test_the_own_supervisor_is_not_told_as_one_of_the_tree() -> None:
    rig = owning("x")
    rig.crash("a")
    kinds = {kind for kind, path, _ in rig.told("supervisor_init", "supervisor_started", "supervisor_stopped") if path}
    assert kinds == set()
    assert not isinstance(rig.view("a"), SupervisorView)


def test_a_start_that_was_ignored_late_changes_nothing() -> None:
    rig = owning("x")
    rig.gone("a")
    assert rig.feed(StartIgnored("top/a", 1)) == []
