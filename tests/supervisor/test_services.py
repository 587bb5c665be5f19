"""The node's own part of the tree."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from otpd.supervisor import services
from otpd.supervisor.sections import SERVICES as OPTIONS
from otpd.supervisor.services import BROKER, COMMANDS, OWN_NAMES, ROWS, SERVICES, WATCHDOG, is_own, script_of, with_services
from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, Restart, SupervisorSpec
from otpd.supervisor.validate import check_supervisor

MINE = ChildSpec(id="mine", start=Launch(kind="agent", script="/mine.py"))
NODE = NodeSpec(
    name="n", state_dir="/state", config="/otpd.toml", top=SupervisorSpec(max_restarts=None, isolate=True, children=(MINE,))
)


def own(node: NodeSpec = NODE) -> dict[str, ChildSpec]:
    found = with_services(node).children[0].start
    assert isinstance(found, SupervisorSpec)
    check_supervisor(found)
    assert (found.max_restarts, found.isolate) == (None, True)
    return {child.id: child for child in found.children}


def test_services_come_before_everything_that_the_user_wrote() -> None:
    found = with_services(NODE)
    assert [child.id for child in found.children] == [SERVICES, "tasks", "mine"]
    assert (found.isolate, found.max_restarts, found.children[2]) == (True, None, MINE)


def test_each_is_a_permanent_service_that_is_never_given_up_and_starts_in_the_order_of_the_rows() -> None:
    found = own(replace(NODE, commands={}))
    assert list(found) == [row.name for row in ROWS]
    assert list(found)[:2] == ["broker", "store"]
    for child in found.values():
        assert isinstance(child.start, Launch)
        assert (child.restart, child.start.kind, child.start.ready) == (Restart.PERMANENT, "service", "init")
        assert child.start.script is not None and os.path.isfile(child.start.script)
        assert child.backoff is not None and child.backoff.max == 5.0
    broker = found[BROKER].start
    assert isinstance(broker, Launch) and (broker.watchdog, broker.args) == (WATCHDOG, {})


def test_a_service_is_told_of_the_node_what_concerns_it_and_the_options_of_its_table() -> None:
    tables = {"store": {"enabled": True, "max_state": 4096}}
    store = own(replace(NODE, services=tables))["store"].start
    assert isinstance(store, Launch)
    assert store.args == {"state_dir": "/state", "max_state": 4096}


def test_a_service_has_its_own_word_about_processes_of_its_own() -> None:
    found = {name: child.start for name, child in own(replace(NODE, services={"store": {"spawn": "deny"}})).items()}
    assert isinstance(found["store"], Launch) and isinstance(found[BROKER], Launch)
    assert (found["store"].spawn, found["store"].args, found[BROKER].spawn) == ("deny", {"state_dir": "/state"}, "allow")
    default = own()["store"].start
    assert isinstance(default, Launch) and default.spawn == "warn"


def test_all_but_the_broker_may_be_left_out() -> None:
    off = {row.name: {"enabled": False} for row in ROWS if row.optional}
    assert list(own(replace(NODE, services=off))) == [BROKER]
    assert {row.name for row in ROWS if row.optional} <= OPTIONS.keys(), "each has its table in the configuration"


def test_what_is_the_nodes_own_is_told_by_its_path() -> None:
    paths = ("top", "top/services", "top/services/broker", "top/s/services", "top/servicesx", "top/tasks/tasks-cpu")
    assert [path for path in paths if is_own(path)] == ["top/services", "top/services/broker", "top/tasks/tasks-cpu"]
    assert {SERVICES, *(row.name for row in ROWS)} <= OWN_NAMES


def test_to_know_where_a_service_is_loads_nothing_of_it() -> None:
    """T32: root never loads zmq, and the SDK does."""
    code = f"import sys; from otpd.supervisor.{services.__name__.rpartition('.')[2]} import *; "
    code += "print(script_of('otpd.agents.services.store.service'), 'otpd.agents' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [script_of("otpd.agents.services.store.service"), "False"]


def test_commands_are_run_where_the_file_speaks_of_them() -> None:
    bound, free = Launch(kind="agent", script="/a.py", commands=("git *",), group="a"), Launch(kind="agent", script="/b.py")
    agents = (ChildSpec(id="a-1", start=bound), ChildSpec(id="a-9", start=free), ChildSpec(id="b", start=free))
    node = NodeSpec(name="n", state_dir="/s", config="/srv/otpd.toml", top=SupervisorSpec(children=agents), commands={})
    assert COMMANDS not in own()
    start = own(replace(node, commands={"workers": 3}))[COMMANDS].start
    assert isinstance(start, Launch)
    assert (start.kind, start.args) == (
        "service",
        {"table": {"workers": 3}, "base": "/srv", "allowed": {"a-1": ["git *"], "a": ["git *"], "a-9": None}},
    )
