"""Operation `request`: what a program that keeps children of its own says to a supervisor, and what it hears.

That the answers are OTP's is shown by the recorded scenarios; here is what is otpd's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from otpd.ipc.control import ControlError
from otpd.supervisor.control import OperationError
from otpd.supervisor.events import (
    ChangeSpec,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from otpd.supervisor.rawrequests import read
from otpd.supervisor.spec import INFINITY, ChildSpec, ChildType, Dynamic, Launch, SupervisorSpec
from otpd.supervisor.specdata import to_data
from tests.conformance.desk import Line
from tests.e2e.node import Node, node

CONFIG = """
[supervisors.team]
max_restarts = 100

[agents.idle]
script = "idle.py"
supervisor = "team"
"""


@pytest.fixture(scope="module")
def n() -> Iterator[Node]:
    with node(CONFIG) as running:
        yield running


def worker(n: Node, name: str, **fields: Any) -> ChildSpec:
    return ChildSpec(id=name, start=Launch(kind="agent", script=str(n.home / "idle.py"), ready="init"), **fields)


def ask(n: Node, op: str, sup: str = "team", by: str = "operator", **keys: Any) -> Any:
    return n.ask("request", request={"op": op, "sup": sup, **keys}, by=by)


def test_a_child_is_added_shown_stopped_and_deleted_and_its_death_says_who_asked(n: Node) -> None:
    assert ask(n, "start_child", child=to_data(worker(n, "extra"))) == ["ok", 1]
    row = n.worker("extra")
    assert (row["path"], row["state"], row["runtime"]) == ("team/extra", "running", True)
    assert ask(n, "terminate_child", id="extra", by="idle") == "ok"
    assert n.ask("why", name="extra")["deaths"][0]["asked_by"] == "idle"
    assert ask(n, "which_children") == [["extra", "undefined", None, "worker"], ["idle", "alive", 1, "worker"]]
    assert ask(n, "delete_child", id="extra") == "ok"
    assert "extra" not in n.workers()


def test_a_name_that_another_child_has_is_refused_before_anything_starts(n: Node) -> None:
    below = SupervisorSpec(children=(worker(n, "fresh"), worker(n, "idle")))
    squad = ChildSpec(id="squad", start=below, type=ChildType.SUPERVISOR, shutdown=INFINITY)
    with pytest.raises(ControlError) as caught:
        ask(n, "start_child", sup="", child=to_data(squad))
    assert (caught.value.code, str(caught.value)) == (3, "the name 'idle' is taken by team/idle")
    assert caught.value.hint == "names are unique in a node; choose another"
    with pytest.raises(ControlError, match="the name 'idle' is taken by team/idle"):
        ask(n, "change_spec", sup="", spec=to_data(replace(below, children=(worker(n, "idle"),))))
    assert [*n.workers()] == ["idle"]
    assert ask(n, "start_child", child=to_data(worker(n, "idle"))) == ["error", "already_started", 1]


def test_two_instances_may_not_bring_the_same_name_below_them(n: Node) -> None:
    start = SupervisorSpec(children=(worker(n, "inner"),))
    template = ChildSpec(id="template", start=start, type=ChildType.SUPERVISOR, shutdown=INFINITY)
    pool = SupervisorSpec(dynamic=Dynamic.SIMPLE, template=template)
    ask(n, "start_child", sup="", child=to_data(ChildSpec(id="pool", start=pool, type=ChildType.SUPERVISOR)))
    assert ask(n, "start_child", sup="pool", name="one") == ["ok", 1]
    with pytest.raises(ControlError, match="the name 'inner' is taken by pool/one/inner"):
        ask(n, "start_child", sup="pool", name="two")
    assert n.otpd("reload").stdout.strip()  # takes away what the config does not have, instances and all
    assert [*n.workers()] == ["idle"]


def test_a_request_for_one_incarnation_of_a_supervisor_never_reaches_the_next(n: Node) -> None:
    assert ask(n, "count_children", sup_generation=1)["specs"] == 1
    assert ask(n, "terminate_child", sup="", id="team") == "ok"
    assert ask(n, "count_children", sup_generation=1) == ["error", "noproc"]
    assert ask(n, "restart_child", sup="", id="team") == ["ok", 2]
    assert ask(n, "count_children", sup_generation=1) == ["error", "noproc"]
    assert ask(n, "count_children", sup_generation=2)["active"] == 1
    assert ask(n, "count_children", sup="nowhere") == ["error", "noproc"]


def test_the_answer_says_when_it_was_given_on_the_clock_of_the_events(n: Node) -> None:
    line = Line(n.control)
    line.send("request", request={"op": "start_child", "sup": "team", "child": to_data(worker(n, "timed"))})
    answered = line.receive()["at"]
    line.send("events", n=1000)
    events = [part["event"] for part in iter(line.receive, {"ok": True, "done": True})]
    line.close()
    started = [each["at"] for each in events if (each["event"], each["name"]) == ("otpd.child.started", "timed")]
    assert len(started) == 1 and 0 <= answered - started[0] < 30
    assert ask(n, "terminate_child", id="timed") == ask(n, "delete_child", id="timed") == "ok"


SPEC = to_data(ChildSpec(id="x", start=Launch(kind="program", command=("true",))))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "expected a request, a map with an op of start_child, terminate_child, restart_child, delete_child, "
               "which_children, count_children, get_childspec, change_spec, got None"),
        ({"op": "stop_child"}, "expected a request, a map with an op of start_child, terminate_child, restart_child, "
                               "delete_child, which_children, count_children, get_childspec, change_spec, got 'stop_child'"),
        ({"op": "which_children"}, "expected the text 'sup' in which_children, got None"),
        ({"op": "restart_child", "sup": "a", "id": 3}, "expected the text 'id' in restart_child, got 3"),
        ({"op": "terminate_child", "sup": "a", "id": "x", "generation": True},
         "expected 'generation' in terminate_child to be a number, got True"),
        ({"op": "start_child", "sup": "a", "child": {}},
         "'child' of the request can't be read: expected a child spec of otpd, got dict without a version (otpd_spec)"),
        ({"op": "start_child", "sup": "a", "child": {**SPEC, "child": {"id": "x", "start": 0, "restart": "always"}}},
         "'child' of the request can't be read: ChildSpec.restart: unexpected 'always'"),
        ({"op": "change_spec", "sup": "a", "spec": SPEC},
         "'spec' of the request can't be read: expected the fields of SupervisorSpec, got NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_what_was_expected(request_: Any, message: str) -> None:
    with pytest.raises(OperationError) as caught:
        read(request_, lambda path: f"top/{path}")
    assert (caught.value.code, str(caught.value)) == (2, message)


def test_a_request_is_read_as_the_trees_own() -> None:
    def of(op: str, **keys: Any) -> Any:
        return read({"op": op, "sup": "a", **keys}, lambda path: f"top/{path}")

    spec = ChildSpec(id="x", start=Launch(kind="program", command=("true",)))
    assert of("start_child", child=to_data(spec)) == StartChild("top/a", spec)
    assert of("start_child", name="x") == StartChild("top/a", ChildSpec(id="x", start=None))
    assert of("terminate_child", id="x") == TerminateChild("top/a", "x")
    assert of("terminate_child", id="b/x", generation=2) == TerminateChild("top/a", "top/b/x", 2)
    assert of("restart_child", id="x") == RestartChild("top/a", "x")
    assert of("delete_child", id="x") == DeleteChild("top/a", "x")
    assert of("which_children") == WhichChildren("top/a")
    assert of("count_children") == CountChildren("top/a")
    assert of("get_childspec", id="x", generation=1) == GetChildSpec("top/a", "x", 1)
    assert of("change_spec", spec=to_data(SupervisorSpec())) == ChangeSpec("top/a", SupervisorSpec())


def test_only_what_is_a_text_may_be_who_asked(n: Node) -> None:
    with pytest.raises(ControlError, match="expected 'by' to be a text, got 3"):
        n.ask("request", request={"op": "count_children", "sup": "team"}, by=3)
