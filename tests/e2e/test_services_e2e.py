"""The services in a real node: seen, stopped and killed like anybody else's, and never lost by accident; lives that grow."""

from __future__ import annotations

import json
import pwd
import re
from pathlib import Path
from typing import Any

import pytest

from otpd.ipc.control import ControlError
from tests.e2e.fakebroker import node_with_fake
from tests.e2e.node import ALL_SERVICES, Node, gone, node
from tests.e2e.others import needs_root
from tests.e2e.test_broker_link import BARES, bare, inc, noted
from tests.helpers import eventually

PROGRAM = '[programs.p]\ncommand = ["sleep", "1000"]\n'


# --- like anybody else's ---


def test_a_node_of_programs_has_the_services_too_and_they_are_shown() -> None:
    with node(PROGRAM, services=ALL_SERVICES) as n:
        (services, p) = n.json("tree")["tree"]["children"]
        assert (services["path"], services["strategy"], services["state"]) == ("services", "one_for_one", "running")
        assert p["name"] == "p"
        assert [(each["path"], each["kind"], each["state"]) for each in services["children"]] == [
            (f"services/{name}", "service", "running") for name in ALL_SERVICES
        ]
        (broker, *_) = services["children"]
        assert re.search(r"services .*\n.*broker +running", n.otpd("tree").stdout)
        assert re.search(r"^broker +service +running", n.otpd("status").stdout, re.MULTILINE)
        assert n.json("status", "broker")[0]["pid"] == broker["pid"]
        assert n.json("why", "broker")["supervisor"] == "services"
        assert n.otpd("logs", "broker").returncode == 0
        events = [(each["event"], each["path"]) for each in n.json("events", "-n", "100")]
        started = [path for event, path in events if event == "otpd.child.started" and path.startswith("services/")]
        assert started == [f"services/{name}" for name in ALL_SERVICES]
        assert "services" not in n.otpd("check", "--show").stdout, "the user's tree alone"


def test_the_broker_is_stopped_started_restarted_and_killed_like_any_child() -> None:
    """T33: and no agent is touched by it."""
    with node('[agents.a]\nscript = "idle.py"\n') as n:
        before = n.worker("a")
        n.otpd("child", "stop", "broker")
        stopped = n.services()["broker"]
        assert (stopped["state"], stopped["last_exit"]["reason"]) == ("stopped", "shutdown")
        n.otpd("child", "start", "broker")
        n.otpd("restart", "broker")
        pid = n.services()["broker"]["pid"]
        n.kill(pid)
        eventually(lambda: n.services()["broker"]["state"] == "running" and n.services()["broker"]["pid"] != pid)
        assert n.services()["broker"]["generation"] == 4
        after = n.worker("a")
        assert [after[key] for key in ("pid", "generation")] == [before[key] for key in ("pid", "generation")]
        assert n.otpd("status", "--wait", "ready").returncode == 0


def test_the_services_can_t_be_scaled_deleted_or_changed() -> None:
    with node(PROGRAM) as n:
        deletes = (["child", "delete", "broker"], ["child", "delete", "services"])
        for arguments in (["scale", "broker", "2"], ["scale", "broker", "0"], *deletes):
            done = n.otpd(*arguments, check=3)
            assert "is the node's own and can't be" in done.stderr
            assert "otpd child stop" in done.stderr
        for request in (
            {"op": "delete_child", "sup": "", "id": "services"},
            {"op": "delete_child", "sup": "services", "id": "broker"},
            {"op": "start_child", "sup": "services", "child": child("mine")},
            {"op": "start_child", "sup": "", "child": child("store")},
        ):
            with pytest.raises(ControlError) as refused:
                n.ask("request", request=request)
            assert refused.value.code == 3
        n.otpd("child", "stop", "broker")
        n.otpd("child", "delete", "broker", "p", check=3)
        assert n.states() == {"p": "running"}
        n.otpd("child", "start", "broker")
        assert n.services()["broker"]["state"] == "running"


def child(name: str) -> dict[str, Any]:
    from otpd.supervisor import specdata
    from otpd.supervisor.spec import ChildSpec, Launch

    return specdata.to_data(ChildSpec(id=name, start=Launch(kind="program", command=("sleep", "1000"))))


def test_a_reload_leaves_the_services_where_and_as_they_are() -> None:
    with node(PROGRAM) as n:
        before = n.services()["broker"]["pid"]
        n.write("otpd.toml", '[programs.q]\ncommand = ["sleep", "1000"]\n' + PROGRAM)
        assert "services" not in n.otpd("reload", "--plan").stdout
        n.otpd("reload")
        assert [each["name"] for each in n.json("tree")["tree"]["children"]] == ["services", "q", "p"]
        assert n.services()["broker"]["pid"] == before
        n.otpd("child", "stop", "broker")
        n.write("otpd.toml", PROGRAM)
        n.otpd("reload")
        assert n.services()["broker"]["state"] == "stopped", "what was stopped by hand stays down"


def test_a_reload_starts_stops_and_restarts_the_services_whose_tables_have_changed() -> None:
    with node(PROGRAM) as n:
        broker = n.services()["broker"]["pid"]
        assert set(n.services()) == {"broker"}
        n.write("otpd.toml", PROGRAM + "[services.store]\n")
        assert n.otpd("reload", "--plan").stdout.startswith("start    services/store\n")
        n.otpd("reload")
        assert n.worker("store")["generation"] == 1
        n.write("otpd.toml", PROGRAM + '[services.store]\nmax_state = "2MiB"\n')
        assert n.otpd("reload", "--plan").stdout.startswith("restart  services/store: args\n")
        n.otpd("reload")
        assert n.worker("store")["generation"] == 2
        n.write("otpd.toml", PROGRAM)
        n.otpd("reload")
        assert {name: row["pid"] for name, row in n.services().items()} == {"broker": broker}


# --- T32 ---


def test_t32_root_heart_and_logger_never_load_zmq() -> None:
    with node('[agents.a]\nscript = "idle.py"\n') as n:
        facts = n.facts()
        loaded = {
            name: [line for line in Path(f"/proc/{facts[f'{name}pid']}/maps").read_text().splitlines() if "zmq" in line]
            for name in ("", "heart_", "logger_")
        }
        assert loaded == {"": [], "heart_": [], "logger_": []}


# --- lives ---


def lives(n: Node) -> list[int]:
    """That the incarnations of a, each the first of its root, were told."""
    return [line["life"] for line in noted(n, "a") if isinstance(line, dict)]


def test_a1_incarnations_grow_over_the_deaths_of_root_and_of_heart_and_root() -> None:
    """Invariant 41: the life is on disk before anybody lives it."""
    with node_with_fake(bare("a"), BARES) as (n, broker):
        for life in (2, 3):
            n.kill(n.facts()["pid"])
            eventually(lambda life=life: lives(n) == [*range(1, life + 1)], 15, f"life {life}")
        eventually(lambda: n.answers() and n.states() == {"a": "running"})
        guardians = n.guardians()
        for pid in guardians:
            n.kill(pid)
        eventually(lambda: all(map(gone, guardians)))
        n.start()
        assert lives(n) == [1, 2, 3, 4]
        assert (n.home / ".otpd" / "life").read_text() == "4\n"
        n.stop()
        n.start()
        assert lives(n) == [1, 2, 3, 4, 5]
        assert broker.row("a", state="ready")["inc"] == inc(5, 1)
        begun = [event for event in n.all_events() if event["event"] == "otpd.node.starting"]
        assert [event["life"] for event in begun] == [5]


def test_a_life_that_was_lost_is_told_and_goes_on_above_everything() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        n.stop()
        (n.home / ".otpd" / "life").write_text("rubbish")
        n.start()
        (told,) = [event for event in n.all_events() if event["event"] == "otpd.life.problem"]
        assert told["detail"] == f"{n.home}/.otpd/life is damaged; counting on from the clock"
        assert broker.job()["life"] == told["life"] > 1_700_000_000


# --- another user ---


class Theirs:
    """Agents of a user who may enter one directory only, and write there what they hear."""

    def __init__(self, n: Node) -> None:
        self._node, self._place = n, n.home / "public"
        self._place.mkdir()
        n.home.chmod(0o755)
        self._place.chmod(0o777)
        (self._place / "bare.py").write_text(BARES["bare.py"])

    def add(self, name: str) -> None:
        """To the configuration."""
        how = f'script = "{self._place}/bare.py"\nuser = "{NOBODY}"\nenv = {{ HOME = "{self._place}" }}\n'
        self._node.write("otpd.toml", (self._node.home / "otpd.toml").read_text() + f"[agents.{name}]\n{how}")

    def noted(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self._place / f"{name}.1").read_text().splitlines()]


NOBODY = pwd.getpwuid(65534).pw_name


@needs_root
def test_an_agent_of_another_user_gets_an_endpoint_that_it_can_reach() -> None:
    with node_with_fake(bare("mine"), BARES, start=False) as (n, broker):
        theirs = Theirs(n)
        theirs.add("theirs")
        n.start()
        assert broker.job()["args"] == {"abstract": True}
        assert theirs.noted("theirs")[0]["broker"] == ["b1.1", f"ipc://@otpd-{n.node_id()}-b1.1"]
        assert noted(n, "mine")[0]["broker"] == ["b1.1", f"ipc://{Path(n.control).parent}/b1.1"]


@needs_root
def test_the_first_agent_of_another_user_brings_a_broker_that_opens_to_it() -> None:
    """It comes by a reload: the broker is started again, once, and everybody hears of the new one."""
    with node_with_fake(bare("mine"), BARES, start=False) as (n, broker):
        theirs = Theirs(n)
        n.start()
        assert broker.job()["args"] == {}
        for name in ("one", "two"):
            theirs.add(name)
            n.otpd("reload")
        abstract = f"ipc://@otpd-{n.node_id()}-b1.2"
        eventually(lambda: theirs.noted("one")[-1] == ["broker", "b1.2", abstract], 10, "one hears of the new broker")
        assert theirs.noted("one")[0]["broker"] is None
        plain = f"ipc://{Path(n.control).parent}/b1.2"
        eventually(lambda: noted(n, "mine")[-1] == ["broker", "b1.2", plain], 10, "mine hears of it")
        assert broker.job(2)["args"] == {"abstract": True}
        assert (n.services()["broker"]["generation"], n.worker("mine")["generation"]) == (2, 1)
