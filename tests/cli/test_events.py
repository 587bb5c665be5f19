"""`otpd events`: text, JSON, following over a restart of root."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from tests.cli.fake import AT, OTPD, FakeNode, sends
from tests.helpers import eventually

STARTED = {"at": AT, "event": "otpd.child.started", "name": "feed", "path": "pricing/feed", "generation": 1}
EXITED = {
    "at": AT + 1.25, "event": "otpd.child.exited", "name": "feed", "path": "pricing/feed", "generation": 1,
    "reason": "killed", "asked": False, "uptime": 1.23456, "cause": None,
}  # fmt: skip
NODE = {"at": AT + 2, "event": "otpd.node.stopping", "name": "shop", "path": "", "generation": 0}


def test_one_line_per_event(node: FakeNode) -> None:
    node.answers["events"] = sends({"event": STARTED}, {"event": EXITED}, {"event": NODE}, {"ok": True, "done": True})
    assert node.otpd("events", "-n", "3").stdout == (
        "2027-01-15 08:00:00.000  child.started           pricing/feed  gen 1\n"
        "2027-01-15 08:00:01.250  child.exited            pricing/feed  gen 1  reason=killed asked=false uptime=1.235\n"
        "2027-01-15 08:00:02.000  node.stopping           shop\n"
    )
    assert node.asked("events") == [{"follow": False, "n": 3}]


def test_a_line_leaves_out_what_says_nothing_to_people_and_json_has_it(node: FakeNode) -> None:
    more = {"group": "feed", "offender": {"id": "feed-1"}, "next_attempt": 31186.5}
    event = {**NODE, "event": "otpd.restart.scheduled", "delay": 2.0, **more}
    node.answers["events"] = sends({"event": event}, {"ok": True, "done": True})
    assert node.otpd("events").stdout == "2027-01-15 08:00:02.000  restart.scheduled       shop  delay=2.000\n"
    assert node.json("events") == [event]


def test_json_is_a_list(node: FakeNode) -> None:
    node.answers["events"] = sends({"event": STARTED}, {"event": EXITED}, {"ok": True, "done": True})
    assert node.json("events") == [STARTED, EXITED]


def test_json_of_a_stream_is_one_object_per_line_and_goes_on_with_the_next_root(node: FakeNode) -> None:
    lives = iter([STARTED, EXITED])
    held = threading.Event()

    def follow(_request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        event = next(lives, None)
        if event is None:
            held.set()
            return
        send({"event": event})
        node._open[-1].shutdown(2)  # this root is gone

    node.answers["events"] = follow
    process = subprocess.Popen(
        [*OTPD, "events", "-f", "-n", "0", "--json"], cwd=node.home, env=node.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert [json.loads(line) for line in lines] == [STARTED, EXITED]
        eventually(held.is_set)
        process.terminate()
        process.wait(60)
    assert [request["n"] for request in node.asked("events")] == [0, 1000, 1000]


def test_following_ends_with_exit_7_when_the_node_does(node: FakeNode) -> None:
    node.answers["events"] = lambda *_: node.hang_up()
    done = node.otpd("events", "-f", code=7)
    assert done.stderr.startswith("otpd: no node is running")
