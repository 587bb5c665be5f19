"""`otpd start` that does start: real nodes, in the background and in the foreground."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.node import OTPD, Node, gone, node
from tests.helpers import eventually

TALK = """
[node]
name = "shop"
[programs.talk]
command = ["sh", "-c", "echo hi; trap 'echo bye; exit 0' TERM; sleep 600 & wait"]
"""
DEAF = """
[programs.deaf]
command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]
shutdown = "infinity"
"""
BROKEN = TALK + '[programs.broken]\ncommand = ["sh", "-c", "exit 3"]\n'


def test_detached_it_returns_when_all_is_ready_and_says_so_in_one_line() -> None:
    with node(TALK, start=False) as made:
        done = made.start()
        pid = made.facts()["pid"]
        assert re.fullmatch(rf"shop: 1 child ready in [0-9.]+s, pid {pid}\n", done.stdout)
        assert done.stderr == ""


def test_detached_in_json() -> None:
    with node(TALK, start=False) as made:
        answer = json.loads(made.start(0, "--json").stdout)
        assert answer.pop("seconds") > 0
        assert answer == {"name": "shop", "pid": made.facts()["pid"], "ready": True, "children": 1}


def test_detached_it_says_what_is_not_ready_and_why_and_the_node_runs_on() -> None:
    with node(BROKEN, start=False) as made:
        done = made.start(1)
        first, reason, hint = done.stderr.splitlines()
        assert first == f"otpd: shop is running (pid {made.facts()['pid']}), but not all of it is ready:"
        assert re.fullmatch(r"  broken: (backoff|starting|restarting), error\(3\)", reason)
        assert hint == "next: look with: otpd why NAME; or end the node with: otpd stop"
        assert made.worker("talk")["state"] == "running"


def test_a_heart_that_ends_at_once_is_reported_with_what_it_said() -> None:
    with node(TALK, start=False) as made:
        in_the_way = made.home / ".otpd" / "node_id"
        in_the_way.mkdir(parents=True)
        done = made.start(1)
        in_the_way.rmdir()
        assert done.stderr.startswith("otpd: shop did not start: heart ended with status 1; it said:\n")
        assert "next: look with: otpd doctor" in done.stderr


def test_two_starts_at_the_same_instant_leave_one_node() -> None:
    with node(TALK, start=False) as made:
        starts = [
            subprocess.Popen([*OTPD, "start", "-d"], cwd=made.home, env=made.env, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        errors = [start.communicate(timeout=60)[1] for start in starts]
        assert sorted(start.returncode for start in starts) == [0, 9], errors
        assert made.worker("talk")["generation"] == 1


def foreground(made: Node, log: Path) -> subprocess.Popen[bytes]:
    with open(log, "wb") as out:
        return subprocess.Popen([*OTPD, "start"], cwd=made.home, env=made.env, stdout=out, stderr=out)


def test_in_the_foreground_it_shows_the_output_prefixed_and_stops_in_order_on_interrupt() -> None:
    with node(TALK, start=False) as made:
        log = made.home / "screen"
        heart = foreground(made, log)
        eventually(lambda: "talk | hi\n" in log.read_text() and "is ready" in log.read_text(), 30)
        heart.send_signal(signal.SIGINT)
        assert heart.wait(60) == 0
        shown = log.read_text().splitlines()
        started = ["services/broker", "talk"]
        assert shown[:2] == [f"otpd: {name} started, generation 1" for name in started]
        assert {"talk | hi", "talk | bye", "otpd: talk stopped"} <= set(shown)
        assert "\x1b" not in log.read_text()


def test_a_second_interrupt_kills() -> None:
    with node(DEAF, start=False) as made:
        log = made.home / "screen"
        heart = foreground(made, log)
        eventually(lambda: "up" in log.read_text() and "is ready" in log.read_text(), 30)
        heart.send_signal(signal.SIGINT)
        eventually(lambda: "is stopping in order" in log.read_text())
        eventually(lambda: "otpd: waiting for deaf; ^C kills what is left" in log.read_text())
        heart.send_signal(signal.SIGINT)
        heart.wait(60)


def test_a_screen_that_goes_away_changes_nothing_for_the_node() -> None:
    with node(TALK, start=False) as made:
        heart = subprocess.Popen([*OTPD, "start"], cwd=made.home, env=made.env, stdout=subprocess.PIPE)
        assert heart.stdout is not None
        with heart.stdout:
            assert heart.stdout.readline() == b"otpd: services/broker started, generation 1\n"
        made.otpd("restart", "talk")
        made.when("talk", state="running", generation=2)
        made.stop()
        assert heart.wait(60) == 0


@pytest.mark.parametrize("arguments", [["start", "-d", "tree.py"], ["-f", "tree.py", "start", "-d"]], ids=" ".join)
def test_a_tree_in_python(arguments: list[str]) -> None:
    tree = 'node = {"programs": {"nap": {"command": ["sleep", "600"]}}}\n'
    with node(TALK, {"tree.py": tree}, start=False) as made:
        made.otpd(*arguments)
        assert "nap" in made.otpd("-f", "tree.py", "status").stdout


def test_a_root_that_is_frozen_does_not_keep_the_node_from_being_stopped() -> None:
    with node(TALK) as made:
        left = [*made.guardians(), made.pid("talk")]
        made.kill(left[1], signal.SIGSTOP)
        done = made.stop("--now")
        assert done.stdout.endswith("nothing is left\n")
        assert [pid for pid in left if not gone(pid)] == []
        for stale in made.runtime.glob("otpd/*/*.sock"):  # root had no chance to; a start replaces them
            stale.unlink()
