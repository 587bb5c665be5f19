"""The table of one incarnation, row by row."""

from __future__ import annotations

import pytest

from otpd.supervisor.events import Exited, Started, StartFailed, StartIgnored
from otpd.supervisor.incarnation import (
    DUMP_TIME,
    Action,
    Arm,
    Due,
    Dump,
    End,
    Incarnation,
    Phase,
    Probe,
    Status,
    Tell,
    reason_of,
)
from otpd.supervisor.spec import BRUTAL_KILL, Launch, TcpReady


def agent(**more: object) -> Incarnation:
    return Incarnation("top/a", 1, Launch(kind="agent", script="/a.py", ready="init", **more), 5.0)  # type: ignore[arg-type]


def running(**more: object) -> Incarnation:
    made = agent(**more)
    made.launched()
    made.set_up()
    made.ready()
    return made


def told(actions: list[Action]) -> list[object]:
    return [action.event for action in actions if isinstance(action, Tell)]


def ends(actions: list[Action]) -> list[End]:
    return [action for action in actions if isinstance(action, End)]


@pytest.mark.parametrize(
    ("status", "announced", "asked_with", "reason"),
    [
        (Status(code=0), None, None, "normal"),
        (Status(code=0), None, 15, "normal"),
        (Status(code=7), None, None, "error(7)"),
        (Status(code=0), "shutdown", 15, "shutdown"),
        (Status(code=1), "error(ValueError: x)", None, "error(ValueError: x)"),
        (Status(signal=15), None, None, "shutdown"),
        (Status(signal=2), None, None, "signal(2)"),
        (Status(signal=2), None, 2, "shutdown"),
        (Status(signal=9), "shutdown", 15, "killed"),
        (Status(signal=11), None, None, "signal(11)"),
        (Status(), None, None, "error(unknown)"),
    ],
)
def test_the_exit_reason_says_what_ended_it(
    status: Status, announced: str | None, asked_with: int | None, reason: str
) -> None:
    assert reason_of(status, announced, asked_with) == reason


def test_an_agent_is_started_when_its_init_has_returned() -> None:
    made = agent()
    assert made.begin() == [Arm(Due.START, 10.0)]
    assert told(made.launched()) == []
    assert told(made.set_up()) == []
    assert told(made.ready()) == [Started("top/a", 1)]
    assert made.phase is Phase.RUNNING


def test_ready_twice_is_told_once() -> None:
    made = running()
    assert made.ready() == []


def test_a_program_that_is_ready_when_spawned_is_started_by_its_set_up() -> None:
    made = Incarnation("top/p", 1, Launch(kind="program", command=("x",)), 5.0)
    made.launched()
    assert told(made.set_up()) == [Started("top/p", 1)]


def test_a_program_with_a_probe_is_probed_after_its_set_up() -> None:
    made = Incarnation("top/p", 1, Launch(kind="program", command=("x",), ready=TcpReady(port=1)), 5.0)
    made.launched()
    assert made.set_up() == [Probe()]
    assert told(made.ready()) == [Started("top/p", 1)]


def test_a_death_is_told_only_when_nothing_of_it_is_left() -> None:
    """T1."""
    made = running()
    actions = made.died(Status(signal=9))
    assert told(actions) == []
    assert ends(actions) == [End(BRUTAL_KILL)]
    assert told(made.cleared()) == [Exited("top/a", 1, "killed")]
    assert made.cleared() == []


def test_a_death_before_ready_is_a_failed_start() -> None:
    made = agent()
    made.launched()
    made.set_up()
    made.announce("error(ValueError: no)")
    made.died(Status(code=1))
    assert told(made.cleared()) == [StartFailed("top/a", 1, "error(ValueError: no)")]


def test_a_failed_set_up_says_what_was_wrong() -> None:
    made = agent()
    made.launched()
    made.failed("cwd /x: No such file or directory")
    made.died(Status(code=127))
    assert told(made.cleared()) == [StartFailed("top/a", 1, "cwd /x: No such file or directory")]


def test_a_start_that_takes_too_long_is_ended_and_fails() -> None:
    made = agent(start_timeout=2.0)
    made.launched()
    made.set_up()
    assert ends(made.due(Due.START)) == [End(5.0)]
    made.died(Status(signal=15))
    assert told(made.cleared()) == [StartFailed("top/a", 1, "not ready within 2 s")]


def test_a_start_that_never_got_a_process_fails_without_a_ladder() -> None:
    made = agent(start_timeout=2.0)
    actions = made.due(Due.START)
    assert ends(actions) == []
    assert told(actions) == [StartFailed("top/a", 1, "not ready within 2 s")]
    assert made.phase is Phase.GONE


def test_ready_after_the_stop_began_is_not_believed() -> None:
    """Test 26."""
    made = agent()
    made.launched()
    made.set_up()
    made.abort("the node is stopping")
    assert made.ready() == []
    made.died(Status(signal=15))
    assert told(made.cleared()) == [StartFailed("top/a", 1, "the node is stopping")]


def test_a_worker_that_declines_is_ignored_once_it_is_gone() -> None:
    made = agent()
    made.launched()
    made.set_up()
    assert ends(made.ignored()) == [End(5.0)]
    made.died(Status(code=0))
    assert told(made.cleared()) == [StartIgnored("top/a", 1)]


def test_a_stop_runs_the_ladder_and_tells_the_true_reason() -> None:
    made = running()
    assert ends(made.ask(5.0)) == [End(5.0)]
    assert made.died(Status(code=0)) == []
    assert told(made.cleared()) == [Exited("top/a", 1, "normal")]


def test_a_harder_stop_cuts_the_ladder_short() -> None:
    made = running()
    made.ask("infinity")
    assert ends(made.ask(BRUTAL_KILL)) == [End(BRUTAL_KILL)]


def test_a_stop_that_meets_a_death_waits_for_the_clearing() -> None:
    made = running()
    made.died(Status(code=3))
    assert made.ask(5.0) == []
    assert told(made.cleared()) == [Exited("top/a", 1, "error(3)")]


def test_a_silent_worker_is_dumped_then_killed() -> None:
    """T50."""
    made = running(watchdog=3.0)
    assert made.beat() == [Arm(Due.SILENT, 3.0)]
    assert made.due(Due.SILENT) == [Dump(), Arm(Due.DUMPED, DUMP_TIME)]
    assert made.beat() == []
    assert ends(made.due(Due.DUMPED)) == [End(BRUTAL_KILL)]
    made.died(Status(signal=9))
    assert told(made.cleared()) == [Exited("top/a", 1, "killed")]
    assert made.cause == "watchdog: silent for 3 s"


def test_the_watchdog_is_armed_when_it_is_ready_not_before() -> None:
    made = agent(watchdog=3.0)
    assert made.begin() == [Arm(Due.START, 10.0)]
    made.launched()
    made.set_up()
    assert made.beat() == []
    assert Arm(Due.SILENT, 3.0) in made.ready()


def test_what_root_ends_by_itself_is_abnormal_however_politely_it_went() -> None:
    """T8."""
    made = running()
    assert ends(made.over_limit("memory 500 MiB over 400 MiB")) == [End(5.0)]
    made.died(Status(code=0))
    assert told(made.cleared()) == [Exited("top/a", 1, "error(memory 500 MiB over 400 MiB)")]


LINKED = "linked(inventory, killed)"


@pytest.mark.parametrize("status", [Status(code=0), Status(code=1), Status(signal=15), Status(signal=9)])
def test_h5_the_end_by_a_broken_link_has_that_reason_whatever_the_status(status: Status) -> None:
    made = running()
    assert ends(made.terminate(LINKED)) == [End(5.0)]
    assert made.stop_reason == LINKED
    made.died(status)
    assert made.last_reason == LINKED
    assert told(made.cleared()) == [Exited("top/a", 1, LINKED)]


def test_a_link_that_breaks_during_init_fails_the_start() -> None:
    made = agent()
    made.launched()
    made.set_up()
    assert ends(made.terminate(LINKED)) == [End(5.0)]
    made.died(Status(signal=15))
    assert told(made.cleared()) == [StartFailed("top/a", 1, LINKED)]


def test_a_broken_link_comes_too_late_for_one_that_is_asked_to_stop_or_dead() -> None:
    asked, dead = running(), running()
    asked.ask(5.0)
    dead.died(Status(code=3))
    for made in (asked, dead):
        assert made.terminate(LINKED) == []
        assert made.stop_reason == "shutdown"
    asked.died(Status(signal=15))
    assert [told(made.cleared()) for made in (asked, dead)] == [
        [Exited("top/a", 1, "shutdown")],
        [Exited("top/a", 1, "error(3)")],
    ]


def test_a_stop_that_comes_when_it_is_dead_does_not_change_its_reason() -> None:
    """Rule 61; what it left behind may take its time to go."""
    crashed, linked = running(), running()
    crashed.died(Status(code=0))
    crashed.cause = "watchdog: silent for 1 s"
    linked.terminate(LINKED)
    linked.died(Status(code=0))
    before = [crashed.last_reason, linked.last_reason]
    for made in (crashed, linked):
        made.ask(5.0)
    assert [told(made.cleared()) for made in (crashed, linked)] == [[Exited("top/a", 1, reason)] for reason in before]
    assert before == ["error(watchdog: silent for 1 s)", LINKED]


def test_its_last_reason_is_known_before_it_is_cleared() -> None:
    """What the broker is told when the process is gone is what the tree hears when all is."""
    crashed, declined, failed = running(), agent(), agent()
    crashed.announce("error(ValueError: x)")
    crashed.died(Status(code=1))
    declined.launched()
    declined.ignored()
    declined.died(Status(code=0))
    failed.launched()
    failed.died(Status(signal=11))
    reasons = [made.last_reason for made in (crashed, declined, failed)]
    assert reasons == ["error(ValueError: x)", "normal", "signal(11)"]
