"""A supervisor with limited time to stop: when it has passed, everything below is killed, and only then is it gone."""

from __future__ import annotations

from otpd.supervisor.events import Exited, RestartChild, StopTree, TerminateChild, TimerFired
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Backoff, Strategy
from tests.supervisor.rig import Rig, supervisor, worker


def test_it_is_stopped_in_order_as_long_as_the_time_lasts() -> None:
    rig = Rig(supervisor("s", worker("x"), worker("y"), shutdown=2.0)).boot()
    assert rig.ask(TerminateChild("top", "s")) == ["arm 1 2 s", "stop s/y 1 5.0"]
    assert rig.gone("s/y", "shutdown") == ["stop s/x 1 5.0"]
    assert rig.gone("s/x", "shutdown") == ["cancel 1", "reply ok"]


def test_then_everything_left_below_is_killed() -> None:
    """Rule 60."""
    below = supervisor("t", worker("p"))
    rig = Rig(supervisor("s", below, worker("x", shutdown=INFINITY), worker("y"), shutdown=0.5)).boot()
    rig.ask(TerminateChild("top", "s"))
    assert rig.gone("s/y", "shutdown") == ["stop s/x 1 infinity"]
    assert rig.fire(1) == ["stop s/t/p 1 brutal_kill", "stop s/x 1 brutal_kill"]
    assert rig.gone("s/t/p", "killed") == []
    assert rig.view("s").state == "stopping"
    assert rig.gone("s/x", "killed") == ["reply ok"]
    assert rig.states()["s"] == "stopped"
    assert [(path, data["child"], data["reason"]) for _, path, data in rig.told("shutdown_error")] == [("", "s", "killed")]
    assert rig.request(RestartChild("top", "s"))[-1] == "reply ['ok', 2]"


def test_brutal_kill_kills_at_once_and_is_no_error() -> None:
    """Rules 54, 58."""
    rig = Rig(supervisor("s", worker("x"), worker("y"), shutdown=BRUTAL_KILL)).boot()
    assert rig.ask(TerminateChild("top", "s")) == ["stop s/x 1 brutal_kill", "stop s/y 1 brutal_kill"]
    assert rig.gone("s/x", "killed") == []
    assert rig.gone("s/y", "killed") == ["reply ok"]
    assert rig.told("shutdown_error") == []
    assert [kind for kind, *_ in rig.told("supervisor_killed", "supervisor_stopped")] == [
        "supervisor_killed",
        "supervisor_stopped",
    ]


def test_pending_starts_and_waiting_restarts_below_end_too() -> None:
    waits = worker("w", backoff=Backoff(initial=9.0, jitter=0.0))
    rig = Rig(supervisor("s", waits, worker("x"), shutdown=0.5, max_restarts=9)).boot()
    rig.crash("s/w")
    rig.crash("s/w")
    rig.gone("s/x")  # s is busy with it
    assert rig.ask(TerminateChild("top", "s")) == ["arm 2 0.5 s"]
    assert rig.fire(2) == ["cancel 1", "abort s/x 2"]
    assert rig.gone("s/x", "killed") == ["reply ok"]
    assert rig.timers == {}


def test_a_supervisor_that_is_starting_below_fails_to_start() -> None:
    t = supervisor("t", worker("p"))
    rig = Rig(supervisor("s", worker("x"), t, shutdown=0.5, strategy=Strategy.REST_FOR_ONE, max_restarts=9)).boot()
    rig.gone("s/x")
    rig.gone("s/t/p", "shutdown")
    rig.up("s/x")
    assert rig.starting == {"s/t/p": 2}
    rig.ask(TerminateChild("top", "s"))
    assert rig.fire(1) == ["stop s/x 2 brutal_kill", "abort s/t/p 2"]
    assert rig.gone("s/t/p", "killed") == []
    assert rig.gone("s/x", "killed") == ["reply ok"]


def test_who_kills_a_supervisor_from_outside_has_it_restarted_when_nothing_is_left() -> None:
    rig = Rig(supervisor("s", worker("x"), worker("y")), max_restarts=9).boot()
    assert rig.feed(Exited("top/s", 1, "killed")) == ["stop s/x 1 brutal_kill", "stop s/y 1 brutal_kill"]
    assert rig.gone("s/x", "killed") == []
    assert rig.gone("s/y", "killed") == ["spawn s/x 2"]


def test_a_late_timer_of_an_earlier_stop_does_nothing() -> None:
    rig = Rig(supervisor("s", worker("x"), shutdown=2.0)).boot()
    rig.request(TerminateChild("top", "s"))
    rig.request(RestartChild("top", "s"))
    assert rig.feed(TimerFired(1)) == []
    assert rig.view("s").state == "running"


def test_the_time_runs_during_an_urgent_stop_as_well() -> None:
    rig = Rig(supervisor("s", worker("x", shutdown=INFINITY), shutdown=1.0)).boot()
    assert rig.feed(StopTree(urgent=True)) == ["arm 1 1 s", "stop s/x 1 infinity"]
    assert rig.fire(1) == ["stop s/x 1 brutal_kill"]
    assert rig.gone("s/x", "killed") == ["ended shutdown"]
