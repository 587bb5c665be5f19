"""The observers in a real node: nothing that happened is missing, whoever was killed meanwhile, and nobody else notices."""

from __future__ import annotations

import gzip
import signal
import socket
import sqlite3
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from otpd.agents.services.journal import Cursor, unread
from otpd.agents.services.telemetry.catalogue import EVENTS
from tests.e2e.node import Node, node
from tests.helpers import eventually

BAD = """
import asyncio
from otpd.agents import Agent, call, run

class Bad(Agent):
    @call
    async def fail(self, text: str) -> None:
        print("about to fail", flush=True)
        raise ValueError(text)

if __name__ == "__main__":
    run(Bad)
"""
LOOP = '[programs.%s]\ncommand = ["false"]\nbackoff = { initial = "30ms", factor = 1, max = "30ms" }\n'
TICKING = BAD.replace("call, run", "call, every, run").replace(
    "class Bad(Agent):\n", 'class Bad(Agent):\n    @every("100ms")\n    async def tick(self) -> None:\n        pass\n\n'
)
ERRORS_OF_BAD = ("bad", "agent", "error")
CRASHERS = ("x", "y", "z")
WATCHER = """
from otpd.agents import Agent, call, on, run

class Watcher(Agent):
    async def init(self):
        self.seen = []
    @on("otpd.child.*")
    async def child(self, event):
        self.seen.append([event.topic, event.data["name"], event.data["metadata"].get("reason")])
        self.emit("noticed", total=len(self.seen))
    @call
    async def of(self, name: str) -> list:
        return [[topic, reason] for topic, whom, reason in self.seen if whom == name]

if __name__ == "__main__":
    run(Watcher)
"""


def journal(n: Node) -> list[dict[str, Any]]:
    """All events on disk, oldest first."""
    return list(unread(str(n.home / ".otpd"), Cursor()))


def deaths(n: Node) -> Counter[str]:
    """By name, as root has written them down."""
    return Counter(event["name"] for event in journal(n) if event["event"] == "otpd.child.death")


def stored(n: Node) -> Counter[str]:
    """By name, in errors.db itself, without what a reader could add to it."""
    kinds = "('crash', 'unclean_stop', 'end')"
    with suppress(sqlite3.OperationalError):  # it is just being made
        with closing(sqlite3.connect(f"file:{n.home}/.otpd/errors.db?mode=ro", uri=True)) as db:
            return Counter(dict(db.execute(f"SELECT name, sum(count) FROM groups WHERE kind IN {kinds} GROUP BY name")))
    return Counter()


def test_a_death_is_in_the_error_store_with_all_that_is_known_of_it_and_instances_of_a_group_are_one_error() -> None:
    with node('[agents.bad]\nscript = "bad.py"\ninstances = 2\n', {"bad.py": BAD}, services=("errors",)) as n:
        n.otpd("call", "bad-1", "fail", "text=no price for 12", check=1)
        n.reborn("bad-1", 1, deadline=30)
        n.otpd("call", "bad-2", "fail", "text=no price for 13", check=1)
        (group,) = eventually(lambda: [each for each in n.json("errors", "bad") if each["count"] == 2])
        assert (group["kind"], group["summary"]) == ("crash", "error(ValueError: no price for 13)")
        assert (group["name"], group["instances"]) == ("bad", {"bad-1": 1, "bad-2": 1})
        shown = eventually(lambda: (found := n.json("errors", "show", str(group["latest"])))["lines"] and found)
        detail = shown["detail"]
        assert (shown["path"], shown["generation"], detail["status"], detail["asked_by"]) == ("bad-2", 1, 1, None)
        assert (detail["exception"], detail["where"]) == ("ValueError", f"{n.home}/bad.py:9 in fail")
        assert detail["traceback"].endswith("ValueError: no price for 13\n")
        assert shown["lines"][0] == "about to fail"
        assert detail["resources"]["max_memory"] > 2**20
        assert detail["resources"].keys() >= {"cpu_user_s", "cpu_system_s"}
        assert f"1x (2x in bad) {group['summary']}" in n.otpd("why", "bad-1").stdout
        assert [each["count"] for each in n.json("call", "errors", "groups", 'names=["bad"]')] == [2]


def test_no_death_is_missed_or_counted_twice_though_store_and_root_are_killed_and_nobody_notices() -> None:
    config = "".join(LOOP % name for name in CRASHERS) + '[agents.calm]\nscript = "idle.py"\n'
    observers = ("errors", "telemetry")
    with node(config, services=observers, start=False) as n:
        n.start(check=1)
        calm = n.worker("calm")
        for number in (signal.SIGKILL, signal.SIGSTOP):
            before = [n.worker(name) for name in observers]
            for each in before:
                n.kill(each["pid"], number)
            seen = sum(deaths(n).values())
            eventually(lambda seen=seen: sum(deaths(n).values()) > seen + 10)
            for each in before:
                if number == signal.SIGSTOP:
                    with suppress(ProcessLookupError):  # its watchdog was sooner
                        n.kill(each["pid"], signal.SIGCONT)
                else:
                    n.reborn(each["name"], each["generation"], deadline=30)
        assert [n.worker("calm")[key] for key in ("pid", "generation")] == [calm["pid"], calm["generation"]]
        n.otpd("child", "stop", *CRASHERS)
        eventually(lambda: stored(n) == deaths(n), what="each death is stored once")
        _, root = n.guardians()
        n.kill(root)
        eventually(lambda: n.answers() and n.guardians()[1] != root)
        n.otpd("status", "calm", "--wait", "ready")
        n.otpd("child", "stop", *CRASHERS)
        died = eventually(lambda: n.json("errors", "--kind", "root_died"))
        assert [(each["count"], each["summary"]) for each in died] == [
            (1, "root ended without an order (life 1); every child ended with it")
        ]
        eventually(lambda: stored(n) == deaths(n), what="each death of both lives is stored once")


def test_a_store_that_is_damaged_is_set_aside_and_made_anew_from_the_journal() -> None:
    with node('[programs.x]\ncommand = ["false"]\nrestart = "temporary"\n', services=("errors",)) as n:
        eventually(lambda: stored(n)["x"] == 1)
        n.otpd("child", "stop", "errors")
        for path in (n.home / ".otpd").glob("errors.db*"):
            path.unlink()
        (n.home / ".otpd" / "errors.db").write_bytes(b"\0" * 8192)
        assert "errors.db" in n.otpd("errors", check=1).stderr
        n.otpd("child", "start", "errors")
        eventually(lambda: (n.home / ".otpd" / "errors.db.unusable-1").exists())
        eventually(lambda: [each["name"] for each in n.json("errors", "--kind", "storage")] == ["errors"])
        eventually(lambda: stored(n)["x"] == 1, what="made anew")


def of_the_guide() -> str:
    """The example of docs/telemetry.md."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    return page.partition("```python\n")[2].partition("```")[0]


def metrics(n: Node) -> dict[str, dict[tuple[str, ...], Any]]:
    """By name and labels."""
    found = n.json("metrics")["metrics"]
    return {each["name"]: {tuple(row["labels"].values()): row.get("value") for row in each["series"]} for each in found}


def page(port: int) -> str:
    """Nothing until somebody listens there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Of OpenTelemetry: its URL, and what was posted to it."""
    posted: list[tuple[str, bytes]] = []

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Post) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", posted
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_gets_the_lives_of_children_and_runs_of_schedules_and_one_that_stands_still_holds_up_nobody() -> None:
    with collector() as (url, posted):
        config = f'[agents.bad]\nscript = "bad.py"\n[services.telemetry]\notlp = "{url}"\n'
        with node(config, {"bad.py": TICKING}, services=("scheduler", "telemetry")) as n:
            eventually(lambda: ("otel",) in metrics(n).get("otpd_subscriber_attached", {}))
            eventually(lambda: ("bad/tick", "done") in metrics(n).get("otpd_schedule_runs_total", {}))
            eventually(lambda: any(b"otpd.schedule.run" in body for _, body in posted))
            telemetry = n.worker("telemetry")
            n.kill(telemetry["pid"], signal.SIGSTOP)
            assert "# without what is counted from events" in n.otpd("metrics").stdout
            n.otpd("call", "bad", "fail", "text=x", check=1)
            n.reborn("bad", 1, deadline=30)
            with suppress(ProcessLookupError):  # the watchdog was sooner: it tells of no past then
                n.kill(telemetry["pid"], signal.SIGCONT)

            def traced() -> bool:
                n.otpd("call", "bad", "fail", "text=y", check=None)
                return any(path == "/v1/traces" and b"otpd.child.run" in body for path, body in posted)

            eventually(traced, 60)
            eventually(lambda: metrics(n).get("otpd_child_deaths_total", {}).get(ERRORS_OF_BAD) == deaths(n)["bad"])


def test_what_happens_is_told_on_topics_and_counted_and_root_alone_can_tell_the_rest() -> None:
    agents = "".join(f'[agents.{name}]\nscript = "{name}.py"\n' for name in ("bad", "watcher", "guide"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = agents + f'[services.telemetry]\nlisten = "127.0.0.1:{port}"\n'
    files = {"bad.py": BAD, "watcher.py": WATCHER, "guide.py": of_the_guide()}
    with node(config, files, services=("telemetry",)) as n:
        n.otpd("call", "bad", "fail", "text=x", check=1)
        told = [["otpd.child.death", "error(ValueError: x)"], ["otpd.child.started", None]]
        eventually(lambda: all(each in n.json("call", "watcher", "of", "name=bad") for each in told))
        emitted = ("guide", "recovered")
        found = eventually(lambda: (emitted in (seen := metrics(n)).get("otpd_emits_total", {})) and seen)
        assert found["otpd_child_deaths_total"][ERRORS_OF_BAD] == 1
        assert found["otpd_child_restarts_total"][("bad", "agent")] == 1
        assert found["otpd_emits_total"][("watcher", "noticed")] >= 2
        assert found["otpd_subscriber_attached"] == {("topics",): 1.0}
        scraped = eventually(lambda: page(port))
        assert 'otpd_child_deaths_total{name="bad",kind="agent",reason="error"} 1' in scraped
        assert 'otpd_child_running{name="watcher",kind="agent"} 1' in scraped
        watcher, before = n.worker("watcher"), n.worker("telemetry")
        n.kill(before["pid"])
        n.reborn("telemetry", before["generation"], deadline=30)
        eventually(lambda: metrics(n).get("otpd_child_deaths_total", {}).get(ERRORS_OF_BAD) == 1, what="counted anew")
        n.otpd("call", "bad", "fail", "text=y", check=1)
        eventually(lambda: ["otpd.child.death", "error(ValueError: y)"] in n.json("call", "watcher", "of", "name=bad"))
        assert n.worker("watcher")["pid"] == watcher["pid"]
        n.otpd("child", "stop", "telemetry", "broker")
        alone = n.otpd("metrics").stdout
        assert 'otpd_child_running{name="watcher",kind="agent"} 1' in alone
        assert "# without what is counted from events: broker is stopped" in alone
        unknown = {each["event"] for each in journal(n)} - {f"otpd.{name}" for name in EVENTS}
        assert unknown == set(), "every event is in the catalogue"
