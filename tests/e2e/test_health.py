"""Health in a real node: found by every kind of check, shown, acted upon under the budget (T8, T55)."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from tests.e2e.node import Node, gone, node
from tests.helpers import eventually

pytestmark = pytest.mark.timeout(300)

#: Seconds in which anything must have happened, on the slowest machine.
LONG = 60.0

PATIENT = """
import time
from otpd.agents import Agent, call, cast, health, run

class Patient(Agent):
    async def init(self):
        self.wrong = None
    @health
    async def well(self):
        return self.wrong
    @cast
    async def fall_ill(self, what):
        self.wrong = what
    @cast
    async def hang(self):
        time.sleep(1000)
    @call
    async def ping(self):
        return "pong"

if __name__ == "__main__":
    run(Patient)
"""


class Answers:
    """An HTTP server whose status is what a test says, and which hangs at /slow."""

    def __init__(self) -> None:
        self.status, self.slow = 200, threading.Event()
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/slow":
                    answers.slow.wait()
                self.send_response(answers.status if self.path == "/" else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@contextmanager
def answers() -> Iterator[Answers]:
    made = Answers()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.slow.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def state(n: Node, name: str) -> str | None:
    found = n.worker(name)["health"]
    return None if found is None else found["state"]


def until(n: Node, **states: str) -> None:
    eventually(lambda: {name: state(n, name) for name in states} == states, LONG, f"{states}")


def changes(n: Node, name: str) -> list[tuple[str, int]]:
    """What was told of the health of `name`: (state, generation)."""
    told = [each for each in n.events() if each["event"].startswith("otpd.health.") and each["name"] == name]
    return [(each["event"].removeprefix("otpd.health."), each["generation"]) for each in told]


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


QUICK = 'interval = "1s", timeout = "1s", grace = "0s", failures = 2, successes = 2'


KINDS = f"""
[agents.own]
script = "patient.py"
[agents.asked]
script = "idle.py"
health = {{ call = true, {QUICK} }}
[programs.web]
command = ["sleep", "1000"]
health = {{ http = "http://127.0.0.1:PORT/", {QUICK} }}
[programs.port]
command = ["sleep", "1000"]
health = {{ tcp = PORT, {QUICK} }}
[programs.closed]
command = ["sleep", "1000"]
health = {{ tcp = 1, {QUICK} }}
[programs.file]
command = ["sleep", "1000"]
cwd = "data"
env = {{ WHICH = "well" }}
health = {{ exec = ["sh", "-c", "test -e $WHICH || {{ echo no file >&2; exit 3; }}"], {QUICK} }}
[programs.hangs]
command = ["sleep", "1000"]
health = {{ exec = ["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"], interval = "10m", timeout = "10m" }}
[programs.slow]
command = ["sleep", "1000"]
health = {{ http = "http://127.0.0.1:PORT/slow", interval = "10m", timeout = "10m" }}
[programs.nobody]
command = ["sleep", "1000"]
"""


@pytest.fixture(scope="module")
def kinds() -> Iterator[tuple[Node, Answers]]:
    """A child for each kind of check; two of them hang."""
    with answers() as server:
        config = KINDS.replace("PORT", str(server.port))
        with node(config, {"patient.py": PATIENT, "data/here": ""}, services=["health"]) as n:
            yield n, server


def test_each_kind_of_check_finds_its_child_and_none_that_hangs_delays_another(kinds: tuple[Node, Answers]) -> None:
    n, _ = kinds
    until(n, own="healthy", asked="healthy", port="healthy", closed="unhealthy")
    assert (state(n, "hangs"), state(n, "slow"), state(n, "nobody")) == ("unknown", "unknown", None)
    assert n.worker("closed")["health"]["why"] == "2 checks in a row failed: 127.0.0.1:1: Connection refused"
    assert all(row["generation"] == 1 for row in n.workers().values()), "report restarts nobody"


def test_a_child_is_healthy_or_not_as_its_answers_change_and_each_change_is_told_once(kinds: tuple[Node, Answers]) -> None:
    n, server = kinds
    until(n, web="healthy", file="unhealthy")
    assert n.worker("file")["health"]["why"] == "2 checks in a row failed: sh: status 3: no file"
    server.status = 503
    n.write("data/well", "")
    until(n, web="unhealthy", file="healthy")
    server.status = 302
    until(n, web="healthy")
    for name, first in (("web", "healthy"), ("file", "unhealthy")):
        told = [state for state, _ in changes(n, name)]
        assert (told[0], "unhealthy" in told, told[-1]) == (first, True, "healthy")
        assert all(one != other for one, other in itertools.pairwise(told)), "a change is told once"


def test_health_is_shown_and_asked_for_at_once(kinds: tuple[Node, Answers]) -> None:
    n, _ = kinds
    until(n, own="healthy", closed="unhealthy")
    n.otpd("cast", "own", "fall_ill", "what=tired")
    assert "tired" in n.otpd("health", "own", "--now", check=None).stdout
    found = n.json("health")
    assert [row["name"] for row in found["children"]] == [name for name in n.workers() if name != "nobody"]
    assert {"cpu", "memory", "disk", "load"} == found["host"].keys()
    assert "nobody asks nobody" in n.otpd("health", "nobody", check=3).stderr
    n.otpd("health", "no-such-child", check=4)
    n.otpd("health", "closed", check=3)
    assert "HEALTH" in n.otpd("status").stdout and "unhealthy: 2 checks" in n.otpd("tree").stdout


def test_a_check_that_hangs_ends_with_its_child(kinds: tuple[Node, Answers]) -> None:
    n, _ = kinds
    probes = eventually(lambda: [p for p in below(n.pid("health")) if p.name() == "sleep"], LONG)
    n.otpd("child", "stop", "hangs")
    eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in probes), LONG, "no probe is left")


def test_the_health_service_may_be_killed_or_stopped_and_nobody_else_notices() -> None:
    config = f"""
        [agents.well]
        script = "patient.py"
        [agents.ill]
        script = "patient.py"
        health = {{ call = true, {QUICK} }}
        [programs.hangs]
        command = ["sleep", "1000"]
        health = {{ exec = ["sh", "-c", "sleep 1000 & sleep 1000"], interval = "30s", timeout = "30s" }}
    """
    with node(config, {"patient.py": PATIENT}, services=["health"]) as n:
        n.otpd("cast", "ill", "fall_ill", "what=tired")
        until(n, well="healthy", ill="unhealthy")
        before = {name: row["pid"] for name, row in n.workers().items()}
        probes = eventually(lambda: below(n.pid("health")), LONG)
        n.kill(n.pid("health"))
        eventually(lambda: not any(gone_not(p.pid) for p in probes), LONG, "its probes end with it")
        n.reborn("health", 1, LONG)
        until(n, well="healthy", ill="unhealthy")
        assert changes(n, "well") == [("healthy", 1)], "what was known is no news"

        stopped = n.pid("health")
        n.kill(stopped, signal.SIGSTOP)
        assert n.otpd("health", "--timeout", "100ms", check=None).returncode != 0
        assert n.otpd("call", "well", "ping").stdout.strip() == '"pong"'
        assert n.otpd("status").returncode == 0 == n.otpd("tree").returncode
        n.otpd("restart", "ill")
        with suppress(ProcessLookupError):  # on a slow machine its watchdog has come first
            n.kill(stopped, signal.SIGCONT)
        until(n, well="healthy", ill="healthy")
        assert n.worker("ill")["generation"] == 2
        assert all(n.pid(name) == before[name] for name in ("well", "hangs"))


def test_while_the_broker_is_dead_or_stands_still_no_agent_is_unhealthy() -> None:
    config = f"""
        [agents.asked]
        script = "patient.py"
        health = {{ call = true, {QUICK}, action = "restart" }}
    """
    with node(config, {"patient.py": PATIENT}, services=["health"]) as n:
        until(n, asked="healthy")
        for number in (signal.SIGKILL, signal.SIGSTOP):  # the second one until its watchdog ends it
            before = n.worker("broker")["generation"]
            n.kill(n.pid("broker"), number)
            n.reborn("broker", before, LONG)
        asked = n.json("health")["children"][0]["checks"]
        eventually(lambda: n.json("health")["children"][0]["checks"] > asked + 3, LONG, "it is asked again")
        assert changes(n, "asked") == [("healthy", 1)]
        assert n.worker("asked")["generation"] == 1


def gone_not(pid: int) -> bool:
    return not gone(pid)


def test_a_dependency_that_is_not_well_is_restarted_with_what_depends_on_it_or_only_reported() -> None:
    """T55, T8: the policy of each; the strategy decides who goes with it, the budget pays, and a check of the one before
    never ends the next one."""
    config = "".join(
        f"""
        [supervisors.{policy}]
        strategy = "rest_for_one"
        max_restarts = 1
        max_seconds = 3600
        [agents.{policy}-db]
        script = "patient.py"
        supervisor = "{policy}"
        health = {{ call = true, interval = "2s", grace = "0s", action = "{policy}" }}
        [agents.{policy}-web]
        script = "idle.py"
        supervisor = "{policy}"
        """
        for policy in ("report", "restart")
    )
    with node(config, {"patient.py": PATIENT}, services=["health"]) as n:
        until(n, **{"report-db": "healthy", "restart-db": "healthy"})
        for policy in ("report", "restart"):
            n.otpd("cast", f"{policy}-db", "fall_ill", "what=tired")
        until(n, **{"report-db": "unhealthy"})
        n.reborn("restart-web", 1, LONG)
        until(n, **{"restart-db": "healthy"})
        generations = {name: row["generation"] for name, row in n.workers().items()}
        assert generations == {"report-db": 1, "report-web": 1, "restart-db": 2, "restart-web": 2}
        assert changes(n, "restart-db") == [("healthy", 1), ("unhealthy", 1), ("healthy", 2)]
        why = n.json("why", "restart-db")
        assert why["restarts_in_window"] == 1
        (death,) = why["deaths"]
        assert (death["asked_by"], death["cause"]) == ("health", "health: 3 checks in a row failed: tired")
        assert death["reason"] == "error(health: 3 checks in a row failed: tired)"

        n.otpd("cast", "restart-db", "hang")
        eventually(lambda: n.states()["restart-db"] == "running" and n.worker("restart-db")["generation"] == 3, LONG)
        supervisors = {each["name"]: each for each in n.json("tree")["tree"]["children"]}
        assert supervisors["restart"]["generation"] == 2, "one restart more than it may: its supervisor gave up"


GREEDY = """
import os, signal, subprocess, sys, threading
from otpd.agents import Agent, run

class Greedy(Agent):
    async def init(self, memory=0, cpu=False, files=0, threads=0):
        if self.generation > 1:
            return
        if memory or cpu:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                data = bytearray(b"1") * (memory << 20)
                while cpu:
                    pass
                while True:
                    signal.pause()
        self.files = [open("/dev/null") for _ in range(files)]
        for _ in range(threads):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    async def terminate(self, reason):
        print("terminate", reason, flush=True)

if __name__ == "__main__":
    run(Greedy)
"""


def test_whose_process_tree_uses_more_than_it_may_is_restarted_and_why_says_so() -> None:
    """T8, T27: each measure by itself; asked to stop as its spec says, counted in the budget, also after a reload."""
    limits = {
        "memory": ("memory = 150", 'memory = "120MiB"'),
        "cpu": ("cpu = true", 'cpu = "10% over 1s"'),
        "files": ("files = 60", "files = 50"),
        "threads": ("threads = 20", "threads = 15"),
        "age": ("", 'age = "3s"'),
    }
    config = """
        [supervisors.s]
        max_restarts = 1000
        max_seconds = 3600
    """
    for name, (uses, limit) in limits.items():
        config += f"""
        [agents.{name}]
        script = "greedy.py"
        supervisor = "s"
        args = {{ {uses} }}
        restart_when = {{ {limit} }}
        """
    for name, (uses, limit) in {"quiet": limits["files"], "later": limits["threads"]}.items():
        config += f"""
        [agents.{name}]
        script = "greedy.py"
        supervisor = "s"
        args = {{ {uses} }}
        restart_when = {{ {limit.replace("5", "50")} }}
        """
    with node(config, {"greedy.py": GREEDY}, services=["health"]) as n:
        pids = {name: n.pid(name) for name in ("quiet", "later")}
        for name in limits:
            n.reborn(name, 1, LONG)
            death = n.json("why", name)["deaths"][-1]
            assert death["cause"].startswith(f"{name}: "), death
            assert death["cause"].partition(", ")[2].startswith(f"restart_when.{name} is "), death
            assert (death["reason"], death["asked_by"]) == (f"error({death['cause']})", "health")
            assert "terminate shutdown" in n.log(name)
        assert {name: n.pid(name) for name in pids} == pids
        assert n.json("why", "quiet")["restarts_in_window"] >= len(limits)
        used = {row["name"]: row["used"] for row in n.json("health")["children"]}
        assert used["quiet"]["files"] > 60 and used["later"]["threads"] > 20

        n.write("otpd.toml", (n.home / "otpd.toml").read_text().replace("threads = 150", "threads = 15"))
        n.otpd("reload")
        n.reborn("later", 1, LONG)
        assert n.pid("quiet") == pids["quiet"], "and the reload itself has restarted nobody"


def test_what_is_wrong_with_the_host_is_one_alert_that_is_raised_once_and_cleared() -> None:
    """By thresholds that every host passes; the next health service knows what was raised before."""
    low = '[services.health.alerts]\nmemory = { raise = "0.05%", clear = "0.01%", hold = "0s" }\n'
    with node('[agents.a]\nscript = "idle.py"\n' + low, services=["health"]) as n:
        eventually(lambda: alerts(n), LONG)
        n.kill(n.pid("health"))
        n.reborn("health", 1, LONG)
        eventually(lambda: n.json("health")["alerts"] == ["memory"], LONG)
        ((kind, name, limit),) = alerts(n)
        assert (kind, name, limit) == ("otpd.alert.raised", "memory", 0.05)
        (shown,) = n.json("tree")["node"]["alerts"]
        assert (shown["condition"], shown["limit"]) == ("memory", 0.05)
        assert "memory" in n.otpd("tree").stdout.splitlines()[0]
        assert n.worker("health")["alerts"] == [shown]
        assert n.otpd("status").stdout.splitlines()[-1].startswith(f"alert: memory {shown['value']:g}% (alert at 0.05%), ")
        text = (n.home / "otpd.toml").read_text()
        n.write("otpd.toml", text.replace('raise = "0.05%", clear = "0.01%"', 'raise = "100%", clear = "99.9%"'))
        n.otpd("reload")
        eventually(lambda: [kind for kind, _, _ in alerts(n)] == ["otpd.alert.raised", "otpd.alert.cleared"], LONG)
        assert "alerts" not in n.worker("health")


def alerts(n: Node) -> list[tuple[str, str, float]]:
    told = [each for each in n.events() if each["event"].startswith("otpd.alert.")]
    return [(each["event"], each["name"], each["limit"]) for each in told]


def test_where_the_service_is_left_out_nobody_is_asked() -> None:
    """Also not who has a method for it; limits and checks of the config are refused then."""
    with node('[agents.own]\nscript = "patient.py"\n', {"patient.py": PATIENT}) as n:
        assert state(n, "own") is None and "HEALTH" not in n.otpd("status").stdout
        assert "there is no health service in this node now" in n.otpd("health", check=3).stderr


def test_only_the_health_service_itself_may_say_how_children_are() -> None:
    from otpd.ipc.control import ControlError

    with node('[agents.a]\nscript = "idle.py"\nhealth = { call = true }\n', services=["health"]) as n:
        for op, more in (("watch_health", {}), ("report_health", {"items": [["replace", "a", 1, "because"]]})):
            try:
                n.ask(op, **more)
            except ControlError as error:
                assert (error.code, error.error) == (5, "only the health service asks this")
            else:
                raise AssertionError(f"{op} was answered")
        assert n.worker("a")["generation"] == 1
