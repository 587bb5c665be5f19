"""Stopping the tree: in its turn, or urgently, from every situation; always to the end."""

from __future__ import annotations

import pytest

from otpd.supervisor.events import Boot, CountChildren, RestartChild, Started, StopTree, TerminateChild
from otpd.supervisor.spec import INFINITY, Backoff, Dynamic, Strategy
from tests.supervisor.rig import Rig, supervisor, worker

NOW = StopTree(urgent=True)
PLAIN = Backoff(initial=0.1, jitter=0.0)


def test_in_its_turn_it_waits_for_the_start_to_finish() -> None:
    rig = Rig(worker("a"), worker("b"))
    rig.feed(Boot())
    assert rig.feed(StopTree()) == []
    assert rig.up("a") == ["spawn b 1"]
    assert rig.up("b") == ["started", "stop b 1 5.0"]
    assert rig.gone("b", "shutdown") == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["ended shutdown"]


def test_urgently_it_gives_up_the_pending_start_and_rolls_back() -> None:
    rig = Rig(worker("a"), worker("b"), worker("c"))
    rig.feed(Boot())
    rig.up("a")
    assert rig.feed(NOW) == ["abort b 1"]
    assert rig.gone("b", "killed") == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["ended shutdown"]


def test_urgently_it_descends_into_a_supervisor_that_is_starting() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x"), supervisor("t", worker("p"), worker("q"))))
    rig.feed(Boot())
    for name in ("a", "s/x", "s/t/p"):
        rig.up(name)
    assert rig.feed(NOW) == ["abort s/t/q 1"]
    assert rig.fail("s/t/q", "aborted") == ["stop s/t/p 1 5.0"]
    assert rig.gone("s/t/p", "shutdown") == ["stop s/x 1 5.0"]
    assert rig.gone("s/x", "shutdown") == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["ended shutdown"]


def test_a_start_that_succeeds_too_late_is_still_given_up() -> None:
    rig = Rig(worker("a"))
    rig.feed(Boot())
    rig.feed(NOW)
    assert rig.feed(Started("top/a", 1)) == []
    assert rig.gone("a", "killed") == ["ended shutdown"]


def test_urgently_it_goes_before_everything_that_is_queued() -> None:
    rig = Rig(worker("a"), worker("b"), max_restarts=9).boot()
    rig.gone("a")
    rig.gone("b")
    rig.ask(CountChildren("top"))
    assert rig.feed(NOW) == ["abort a 2"]
    assert rig.gone("a", "killed") == ["reply ['error', 'noproc']", "ended shutdown"]


def test_an_unanswered_request_is_answered_with_noproc() -> None:
    rig = Rig(worker("a")).boot()
    rig.request(TerminateChild("top", "a"))
    rig.ask(RestartChild("top", "a"))
    assert rig.feed(NOW) == ["reply ['error', 'noproc']", "abort a 2"]
    assert rig.gone("a", "killed") == ["ended shutdown"]


def test_urgently_during_an_orderly_stop_it_changes_only_the_turn() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x"), worker("y"), max_restarts=9)).boot()
    rig.gone("s/x")  # s restarts it and is busy
    assert rig.feed(StopTree()) == []  # waits in the mailbox of s
    assert rig.feed(NOW) == ["abort s/x 2"]
    assert rig.gone("s/x", "killed") == ["stop s/y 1 5.0"]
    assert rig.gone("s/y", "shutdown") == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["ended shutdown"]


def test_below_an_urgent_stop_supervisors_are_stopped_urgently_too() -> None:
    rig = Rig(supervisor("s", worker("x"), max_restarts=9), worker("a")).boot()
    rig.gone("s/x")
    assert rig.feed(NOW) == ["stop a 1 5.0"]
    assert rig.gone("a", "shutdown") == ["abort s/x 2"]
    assert rig.gone("s/x", "killed") == ["ended shutdown"]


def test_after_it_nobody_restarts_anything_while_waiting_for_the_turn() -> None:
    group = supervisor("s", worker("x"), worker("y"), strategy=Strategy.ONE_FOR_ALL, max_restarts=9)
    rig = Rig(group, worker("a", shutdown=INFINITY), worker("b", backoff=PLAIN), max_restarts=None).boot()
    rig.gone("s/x")  # s stops y, to start both again
    assert rig.feed(NOW) == ["stop b 1 5.0"]
    assert rig.gone("s/y", "shutdown") == []
    assert rig.ask(CountChildren("top/s")) == []
    assert rig.gone("b", "shutdown") == ["stop a 1 infinity"]
    assert rig.gone("a", "shutdown") == ["reply ['error', 'noproc']", "ended shutdown"]


def test_urgently_in_the_middle_of_a_group_restart() -> None:
    rig = Rig(worker("a"), worker("b"), worker("c"), strategy=Strategy.ONE_FOR_ALL, max_restarts=9).boot()
    rig.gone("a")
    rig.gone("c", "shutdown")
    assert rig.feed(NOW) == []  # b is being stopped already
    assert rig.gone("b", "shutdown") == ["ended shutdown"]


def test_again_and_again_is_harmless() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x"))).boot()
    assert [rig.feed(NOW), rig.feed(NOW), rig.feed(StopTree())] == [["stop s/x 1 5.0"], [], []]
    assert rig.gone("s/x", "shutdown") == ["stop a 1 5.0"]
    assert rig.feed(NOW) == []
    assert rig.gone("a", "killed") == ["ended shutdown"]
    assert rig.feed(NOW) == []


def test_an_end_that_was_not_asked_for_stays_one_although_a_stop_came_during_it() -> None:
    """T53."""
    rig = Rig(worker("a"), worker("b"), max_restarts=0).boot()
    assert rig.gone("b") == ["stop a 1 5.0"]
    assert rig.feed(NOW) == []
    assert rig.gone("a", "shutdown") == ["gave up shutdown"]


def test_it_cancels_what_waits_and_stops_dynamic_children_at_once() -> None:
    from otpd.supervisor.events import StartChild

    dynamic = supervisor("d", dynamic=Dynamic.DYNAMIC)
    rig = Rig(dynamic, worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.request(StartChild("top/d", worker("x")))
    rig.request(StartChild("top/d", worker("y", shutdown=INFINITY)))
    rig.crash("a")
    rig.crash("a")
    assert rig.feed(NOW) == ["cancel 1", "stop d/y 1 infinity", "stop d/x 1 5.0"]
    assert rig.gone("d/x", "shutdown") == []
    assert rig.gone("d/y", "shutdown") == ["ended shutdown"]


@pytest.mark.parametrize("urgent", [False, True])
def test_a_suspended_tree_can_only_be_stopped_urgently(urgent: bool) -> None:
    rig = Rig().boot()
    rig.tree.suspend("top")
    assert rig.feed(StopTree(urgent)) == (["ended shutdown"] if urgent else [])
