"""Back-off: when a restart waits, for how long, and what can happen meanwhile."""

from __future__ import annotations

import pytest

from otpd.supervisor.backoff import next_delay, spread, stable
from otpd.supervisor.events import DeleteChild, RestartChild, StartChild, StopTree, TerminateChild, TimerFired, WhichChildren
from otpd.supervisor.spec import Backoff, Strategy
from tests.supervisor.rig import Rig, supervisor, worker

PLAIN = Backoff(initial=0.1, factor=2.0, max=0.5, jitter=0.0, reset_after=60.0)


def delays(rig: Rig, name: str, crashes: int) -> list[float]:
    """Crash it again and again, 1 s after it is ready, and collect the delays."""
    found = []
    for _ in range(crashes):
        rig.at(rig.now + 1)
        said = rig.crash(name)
        if said[0].startswith("arm"):
            found.append(float(said[0].split()[2]))
            rig.fire(int(said[0].split()[1]))
            rig.settle()
        else:
            found.append(0.0)
    return found


def test_the_first_restart_is_at_once_then_delays_grow_up_to_the_maximum() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    assert delays(rig, "a", 6) == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_a_stable_run_starts_over() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    assert delays(rig, "a", 3) == [0.0, 0.1, 0.2]
    rig.at(rig.now + 59.0)
    assert delays(rig, "a", 2) == [0.0, 0.1]  # 59 + 1 s


def test_a_run_is_counted_from_ready_and_not_from_the_attempt() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.crash("a")
    rig.gone("a")  # waits 0.1 s
    rig.fire(1)
    rig.at(1000.0).up("a")
    assert rig.at(1059.0).crash("a")[0] == "arm 2 0.2 a"


def test_a_failed_attempt_waits_as_well() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.fails["a"] = "boom"
    assert rig.crash("a") == ["spawn a 2", "arm 1 0.1 a"]
    rig.trace.clear()
    rig.fire(1)
    assert rig.settle() == ["spawn a 3", "arm 2 0.2 a"]


def test_without_backoff_a_failed_attempt_is_retried_at_once() -> None:
    rig = Rig(worker("a"), max_restarts=3).boot()
    rig.gone("a")
    assert rig.fail("a") == ["spawn a 3"]


def test_a_delayed_restart_counts_when_it_is_made() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=1, max_seconds=5).boot()
    rig.crash("a")
    assert rig.crash("a") == ["arm 1 0.1 a"]
    assert rig.tree.snapshot(rig.now).restarts_in_window == 1
    assert rig.fire(1) == ["gave up shutdown"]


def test_what_is_shown_while_it_waits() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.crash("a")
    rig.at(7.0).crash("a", "error(3)")
    view = rig.view("a")
    assert (view.state, view.reason, view.next_attempt, view.delay, view.restarts) == ("backoff", "error(3)", 7.1, 0.1, 1)
    assert rig.told("restart_scheduled") == [
        ("restart_scheduled", "a", {"delay": 0.1, "next_attempt": 7.1, "reason": "error(3)"})
    ]
    assert not rig.tree.busy


def test_requests_see_it_as_restarting() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.crash("a")
    rig.crash("a")
    assert rig.ask(RestartChild("top", "a")) == ["reply ['error', 'restarting']"]
    assert rig.ask(DeleteChild("top", "a")) == ["reply ['error', 'restarting']"]
    assert rig.ask(StartChild("top", worker("a"))) == ["reply ['error', 'already_present']"]
    assert rig.ask(WhichChildren("top")) == ["reply [['a', 'restarting', None, 'worker']]"]


def test_terminate_child_cancels_it_and_a_late_timer_does_nothing() -> None:
    rig = Rig(worker("a", backoff=PLAIN), max_restarts=None).boot()
    rig.crash("a")
    rig.crash("a")
    assert rig.ask(TerminateChild("top", "a")) == ["cancel 1", "reply ok"]
    assert rig.feed(TimerFired(1)) == []
    assert rig.states() == {"a": "stopped"}
    assert rig.request(RestartChild("top", "a")) == ["spawn a 3", "reply ['ok', 3]"]
    assert rig.crash("a") == ["spawn a 4"]  # by hand starts over


def test_a_timer_that_fires_while_the_supervisor_is_busy_waits_for_its_turn() -> None:
    rig = Rig(worker("a", backoff=PLAIN), worker("b"), max_restarts=None).boot()
    rig.crash("a")
    rig.crash("a")
    rig.gone("b")
    assert rig.fire(1) == []
    assert rig.up("b") == ["spawn a 3"]


def test_a_stop_that_overtakes_a_fired_timer_wins() -> None:
    rig = Rig(worker("a", backoff=PLAIN), worker("b"), max_restarts=None).boot()
    rig.crash("a")
    rig.crash("a")
    rig.gone("b")
    rig.ask(TerminateChild("top", "a"))
    rig.fire(1)
    assert rig.up("b") == ["reply ok"]
    assert rig.open == []


def test_a_group_restart_takes_along_who_was_waiting() -> None:
    rig = Rig(worker("a", backoff=PLAIN), worker("b"), strategy=Strategy.ONE_FOR_ALL, max_restarts=None).boot()
    rig.crash("a")
    assert rig.crash("a") == ["arm 1 0.1 a"]
    assert rig.crash("b") == ["cancel 1", "spawn a 3", "spawn b 3"]


def test_stopping_cancels_all_waiting() -> None:
    """Rule 64."""
    rig = Rig(worker("a", backoff=PLAIN), supervisor("s", worker("x", backoff=PLAIN), max_restarts=None), max_restarts=None)
    rig.boot()
    for name in ("a", "s/x", "a", "s/x"):
        rig.crash(name)
    assert rig.run(StopTree()) == ["cancel 2", "cancel 1", "ended shutdown"]
    assert rig.timers == {}


def test_who_waits_for_its_retry_is_skipped_when_all_are_stopped() -> None:
    """Rule 64."""
    rig = Rig(worker("a"), worker("b"), max_restarts=9).boot()
    rig.gone("a")
    assert rig.feed(StopTree()) == []
    assert rig.fail("a") == ["stop b 1 5.0"]
    assert rig.gone("b", "shutdown") == ["ended shutdown"]


def test_a_supervisor_as_a_child_backs_off_too() -> None:
    rig = Rig(supervisor("s", worker("x"), max_restarts=0, backoff=PLAIN), max_restarts=None).boot()
    assert rig.crash("s/x") == ["spawn s/x 2"]
    assert rig.crash("s/x") == ["arm 1 0.1 s"]
    assert rig.states() == {"s": "backoff", "s/x": "starting"}
    rig.fire(1)
    assert rig.view("s").state == "restarting"


def test_jitter_is_deterministic_stays_in_its_range_and_spreads() -> None:
    policy = Backoff(jitter=0.2)
    found = [spread(policy, 10.0, f"top/agent-{n}", 3) for n in range(1000)]
    assert found == [spread(policy, 10.0, f"top/agent-{n}", 3) for n in range(1000)]
    assert all(8.0 <= delay <= 12.0 for delay in found)
    tenths = [sum(low <= delay < low + 0.4 for delay in found) for low in [8.0 + 0.4 * k for k in range(10)]]
    assert min(tenths) > 60  # 100 expected


@pytest.mark.parametrize(("uptime", "expected"), [(59.999, False), (60.0, True), (1e9, True)])
def test_stable_means_ready_for_reset_after(uptime: float, expected: bool) -> None:
    assert stable(PLAIN, uptime) is expected


def test_delays_never_overflow() -> None:
    delay: float | None = None
    for _ in range(5000):
        delay = next_delay(Backoff(factor=10.0, max=30.0), delay)
    assert delay == 30.0
