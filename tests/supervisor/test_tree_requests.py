"""Management requests: their answers, and that they wait for their turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from otpd.supervisor.events import (
    Boot,
    ChangeSpec,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    Op,
    RestartChild,
    StartChild,
    StopTree,
    TerminateChild,
    WhichChildren,
)
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Backoff, Dynamic, Restart, Strategy, SupervisorSpec
from otpd.supervisor.views import SupervisorView
from tests.supervisor.rig import Rig, supervisor, worker


def test_the_life_of_a_child_in_requests() -> None:
    """Rules 76, 79-81."""
    rig = Rig(worker("a")).boot()
    steps: list[tuple[Op, list[str]]] = [
        (StartChild("top", worker("a")), ["reply ['error', 'already_started', 1]"]),
        (RestartChild("top", "a"), ["reply ['error', 'running']"]),
        (DeleteChild("top", "a"), ["reply ['error', 'running']"]),
        (TerminateChild("top", "a"), ["stop a 1 5.0", "reply ok"]),
        (TerminateChild("top", "a"), ["reply ok"]),
        (StartChild("top", worker("a")), ["reply ['error', 'already_present']"]),
        (RestartChild("top", "a"), ["spawn a 2", "reply ['ok', 2]"]),
        (TerminateChild("top", "a"), ["stop a 2 5.0", "reply ok"]),
        (DeleteChild("top", "a"), ["reply ok"]),
        (DeleteChild("top", "a"), ["reply ['error', 'not_found']"]),
        (RestartChild("top", "a"), ["reply ['error', 'not_found']"]),
        (TerminateChild("top", "a"), ["reply ['error', 'not_found']"]),
        (GetChildSpec("top", "a"), ["reply ['error', 'not_found']"]),
        (StartChild("top", worker("a")), ["spawn a 3", "reply ['ok', 3]"]),
    ]
    assert [rig.request(op) for op, _ in steps] == [said for _, said in steps]


def test_a_child_that_fails_in_start_child_leaves_nothing() -> None:
    """Rules 75, 77."""
    rig = Rig(worker("a")).boot()
    rig.fails["b"] = "boom"
    assert rig.request(StartChild("top", worker("b"))) == ["spawn b 1", "reply ['error', 'start_failed', 'boom']"]
    bad = worker("c", restart="sometimes")
    assert rig.request(StartChild("top", bad)) == ["reply ['error', 'bad_spec', ['invalid_restart_type', 'sometimes']]"]
    assert rig.states() == {"a": "running"}


def test_a_child_that_declines_in_start_child_is_kept_as_a_spec_unless_temporary() -> None:
    """Rule 78."""
    rig = Rig(worker("a")).boot()
    rig.fails = {"b": "ignore", "t": "ignore"}
    assert rig.request(StartChild("top", worker("b"))) == ["spawn b 1", "reply ['ok', 'undefined']"]
    temporary = worker("t", restart=Restart.TEMPORARY)
    assert rig.request(StartChild("top", temporary)) == ["spawn t 1", "reply ['ok', 'undefined']"]
    assert rig.states() == {"a": "running", "b": "stopped"}


def test_a_failing_restart_child_is_not_retried_and_shown_as_failed() -> None:
    """Rules 49, 80."""
    rig = Rig(worker("a")).boot()
    rig.request(TerminateChild("top", "a"))
    rig.fails["a"] = "boom"
    assert rig.request(RestartChild("top", "a")) == ["spawn a 2", "reply ['error', 'start_failed', 'boom']"]
    assert (rig.view("a").state, rig.view("a").reason) == ("failed", "boom")


def test_added_children_are_last_and_stop_first() -> None:
    """Rule 42."""
    rig = Rig(worker("z")).boot()
    rig.request(StartChild("top", worker("a")))
    assert rig.request(WhichChildren("top")) == ["reply [['a', 'alive', 1, 'worker'], ['z', 'alive', 1, 'worker']]"]
    assert rig.run(StopTree()) == ["stop a 1 5.0", "stop z 1 5.0", "ended shutdown"]


def test_every_child_is_listed_whether_it_runs_waits_or_is_down() -> None:
    """Rule 82."""
    rig = Rig(worker("a", backoff=Backoff(initial=9.0)), worker("b"), supervisor("s")).boot()
    rig.crash("a")
    rig.crash("a")
    rig.request(TerminateChild("top", "b"))
    rows = [["s", "alive", 1, "supervisor"], ["b", "undefined", None, "worker"], ["a", "restarting", None, "worker"]]
    assert rig.request(WhichChildren("top")) == [f"reply {rows}"]


def test_counts_are_by_declared_type() -> None:
    """Rule 83."""
    rig = Rig(worker("a"), supervisor("s", worker("x")), worker("b")).boot()
    rig.request(TerminateChild("top", "b"))
    counts = {"specs": 3, "active": 2, "supervisors": 1, "workers": 2}
    assert rig.request(CountChildren("top")) == [f"reply {counts}"]


@pytest.mark.parametrize(("shutdown", "shown"), [(5.0, 5000), (0.25, 250), (BRUTAL_KILL, BRUTAL_KILL), (INFINITY, INFINITY)])
def test_a_spec_is_read_back_as_otp_writes_it(shutdown: Any, shown: Any) -> None:
    """Rule 21."""
    rig = Rig(worker("a", shutdown=shutdown, restart=Restart.TRANSIENT)).boot()
    data = {"id": "a", "restart": "transient", "shutdown": shown, "significant": False, "type": "worker"}
    assert rig.request(GetChildSpec("top", "a")) == [f"reply {data}"]


def test_requests_wait_while_a_child_starts_and_while_one_stops() -> None:
    """Rule 84."""
    rig = Rig(worker("a"), worker("b")).boot()
    rig.gone("a")
    assert rig.ask(WhichChildren("top")) == []
    assert rig.up("a") == ["reply [['b', 'alive', 1, 'worker'], ['a', 'alive', 2, 'worker']]"]
    assert rig.ask(TerminateChild("top", "b")) == ["stop b 1 5.0"]
    assert rig.ask(RestartChild("top", "b")) == []
    assert rig.ask(DeleteChild("top", "b")) == []
    assert rig.gone("b", "shutdown") == ["reply ok", "spawn b 2"]
    assert rig.up("b") == ["reply ['ok', 2]", "reply ['error', 'running']"]


def test_a_restarting_child_can_be_stopped_and_then_stays_down() -> None:
    """Rules 39, 41."""
    rig = Rig(worker("a"), max_restarts=10).boot()
    rig.gone("a")
    assert [rig.ask(RestartChild("top", "a")), rig.ask(DeleteChild("top", "a")), rig.ask(TerminateChild("top", "a"))] == [
        [],
        [],
        [],
    ]
    assert rig.fail("a") == ["reply ['error', 'restarting']", "reply ['error', 'restarting']", "reply ok"]
    assert rig.states() == {"a": "stopped"}
    assert rig.open == []


def test_who_does_not_run_answers_noproc() -> None:
    rig = Rig(supervisor("s", worker("x"))).boot()
    assert rig.request(CountChildren("top/nobody")) == ["reply ['error', 'noproc']"]
    rig.ask(TerminateChild("top", "s"))
    assert rig.ask(CountChildren("top/s")) == []  # it still runs, and will not get to it
    rig.trace.clear()
    assert rig.settle() == ["reply ['error', 'noproc']", "reply ok"]
    assert rig.request(CountChildren("top/s")) == ["reply ['error', 'noproc']"]


def test_a_supervisor_stopped_by_hand_comes_back_from_its_original_spec() -> None:
    """BEHAVIOURS 29."""
    rig = Rig(supervisor("s", worker("x"))).boot()
    rig.request(StartChild("top/s", worker("y")))
    rig.request(TerminateChild("top", "s"))
    assert rig.states() == {"s": "stopped", "s/x": "stopped"}
    assert rig.request(RestartChild("top", "s")) == ["spawn s/x 2", "reply ['ok', 2]"]


def test_a_simple_supervisor_copies_its_template_and_knows_its_children_by_incarnation() -> None:
    """Rules 88, 94; BEHAVIOURS 47."""
    rig = Rig(
        supervisor("d", dynamic=Dynamic.SIMPLE, template=worker("t", shutdown=2.0), max_restarts=9), worker("w")
    ).boot()
    assert rig.request(StartChild("top/d", worker("x"))) == ["spawn d/x 1", "reply ['ok', 1]"]
    assert rig.view("d/x").spec == worker("x", shutdown=2.0)
    assert rig.request(RestartChild("top/d", "x")) == ["reply ['error', 'simple_one_for_one']"]
    assert rig.request(TerminateChild("top/d", "x")) == ["reply ['error', 'simple_one_for_one']"]
    assert rig.crash("d/x") == ["spawn d/x 2"]
    assert rig.request(TerminateChild("top/d", "top/w", 1)) == ["reply ['error', 'not_found']"]
    assert rig.request(TerminateChild("top/d", "x", 1)) == ["reply ok"]  # that one is dead
    assert rig.request(TerminateChild("top/d", "x", 2)) == ["stop d/x 2 2.0", "reply ok"]
    assert rig.states() == {"d": "running", "w": "running"}


def test_a_dynamic_supervisor_counts_restarting_children_against_max_children() -> None:
    """Rule 89."""
    rig = Rig(supervisor("d", dynamic=Dynamic.DYNAMIC, max_children=1, max_restarts=9)).boot()
    assert rig.request(StartChild("top/d", worker("a"))) == ["spawn d/a 1", "reply ['ok', 1]"]
    rig.gone("d/a")
    assert rig.ask(StartChild("top/d", worker("b"))) == []
    assert rig.fail("d/a") == ["reply ['error', 'max_children']", "spawn d/a 3"]
    assert rig.ignore("d/a") == []
    assert rig.request(StartChild("top/d", worker("b"))) == ["spawn d/b 1", "reply ['ok', 1]"]


def test_a_dynamic_child_that_declines_is_forgotten_at_its_start_and_at_its_restart() -> None:
    """Rules 91, 93."""
    rig = Rig(supervisor("d", dynamic=Dynamic.DYNAMIC, max_restarts=9)).boot()
    rig.fails = {"d/a": "ignore"}
    assert rig.request(StartChild("top/d", worker("a"))) == ["spawn d/a 1", "reply ignore"]
    assert rig.states() == {"d": "running"}
    rig.fails = {}
    assert rig.request(StartChild("top/d", worker("a"))) == ["spawn d/a 2", "reply ['ok', 2]"]
    rig.fails = {"d/a": "ignore"}
    assert rig.crash("d/a") == ["spawn d/a 3"]
    assert rig.states() == {"d": "running"}


def test_a_failed_restart_of_a_dynamic_child_is_retried_at_once_counts_and_can_be_stopped_under_its_old_handle() -> None:
    """Rules 92, 94."""
    rig = Rig(supervisor("d", dynamic=Dynamic.DYNAMIC, max_restarts=9)).boot()
    rig.request(StartChild("top/d", worker("a")))
    assert rig.gone("d/a") == ["spawn d/a 2"]
    assert rig.fail("d/a") == ["spawn d/a 3"]
    d = rig.view("d")
    assert isinstance(d, SupervisorView) and d.restarts_in_window == 2
    assert rig.ask(TerminateChild("top/d", "a", 1)) == []
    assert rig.fail("d/a") == ["reply ok"]
    assert rig.states() == {"d": "running"}


def test_to_list_and_to_count_many_children_reads_the_table_and_asks_nobody() -> None:
    """Rule 85: both are cheap here."""
    rig = Rig(supervisor("d", dynamic=Dynamic.DYNAMIC)).boot()
    names = [f"x{number}" for number in range(50)]
    for name in names:
        rig.request(StartChild("top/d", worker(name)))
    rows = [[name, "alive", 1, "worker"] for name in sorted(names)]
    counts = {"specs": 50, "active": 50, "supervisors": 0, "workers": 50}
    assert rig.ask(WhichChildren("top/d")) == [f"reply {rows}"]
    assert rig.ask(CountChildren("top/d")) == [f"reply {counts}"]


def test_a_changed_spec_starts_and_stops_nobody() -> None:
    """Rule 87."""
    rig = Rig(worker("a"), worker("b"), worker("c")).boot()
    new = SupervisorSpec(strategy=Strategy.ONE_FOR_ALL, children=(worker("c", shutdown=9.0), worker("n"), worker("a")))
    assert rig.request(ChangeSpec("top", new)) == ["reply ok"]
    assert rig.states() == {"c": "running", "n": "stopped", "a": "running", "b": "running"}
    assert rig.crash("a") == ["stop b 1 5.0", "stop c 1 9.0", "spawn c 2", "spawn n 1", "spawn a 2", "spawn b 2"]


def test_a_bad_changed_spec_changes_nothing() -> None:
    """Rule 87."""
    rig = Rig(worker("a")).boot()
    before = rig.tree.snapshot()
    bad = SupervisorSpec(max_restarts=-1)
    assert rig.request(ChangeSpec("top", bad)) == ["reply ['error', 'bad_spec', ['invalid_intensity', -1]]"]
    dynamic = SupervisorSpec(dynamic=Dynamic.DYNAMIC)
    assert rig.request(ChangeSpec("top", dynamic)) == ["reply ['error', 'bad_spec', ['invalid_dynamic', 'elixir']]"]
    assert rig.tree.snapshot() == before


def test_a_changed_template_applies_to_running_instances() -> None:
    d = supervisor("d", dynamic=Dynamic.SIMPLE, template=worker("t"))
    rig = Rig(d).boot()
    rig.request(StartChild("top/d", worker("x")))
    rig.request(StartChild("top/d", replace(worker("y"), start="its own")))
    new = SupervisorSpec(dynamic=Dynamic.SIMPLE, template=replace(worker("t", shutdown=BRUTAL_KILL), start="new"))
    rig.request(ChangeSpec("top/d", new))
    specs = [rig.view(f"d/{name}").spec for name in "xy"]
    assert [(spec.start, spec.shutdown) for spec in specs] == [("new", BRUTAL_KILL), ("its own", BRUTAL_KILL)]


def test_a_suspended_supervisor_lets_everything_queue() -> None:
    rig = Rig(worker("a"), max_restarts=0).boot()
    rig.tree.suspend("top")
    assert rig.gone("a") == []
    assert rig.ask(TerminateChild("top", "a")) == []
    with pytest.raises(RuntimeError, match="expected top to be idle, it is doing: suspended"):
        rig.tree.suspend("top")
    effects = rig.tree.resume("top", rig.now)
    assert rig.tree.ended
    assert effects[-1].gave_up
    assert rig.feed(Boot()) == []
