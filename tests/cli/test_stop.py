"""`otpd stop` against a node whose heart is a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.fake import OTPD, FakeNode, facts, fails
from tests.helpers import eventually

Send = Callable[[dict[str, Any]], None]


@pytest.fixture
def heart(node: FakeNode) -> Iterator[subprocess.Popen[bytes]]:
    """It lives until somebody ends it."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    node.answers["node"] = facts(heart_pid=process.pid)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ends(heart: subprocess.Popen[bytes], send: Send) -> None:
    send({"waiting": []})
    send({"ok": True, "result": {"left": []}, "done": True})
    heart.kill()


def test_stop_returns_when_heart_is_gone(node: FakeNode, heart: subprocess.Popen[bytes]) -> None:
    node.answers["stop"] = lambda request, send: ends(heart, send)
    done = node.otpd("stop")
    assert done.stdout.startswith("shop: stopped in ") and done.stdout.endswith("nothing is left\n")
    assert (done.stderr, node.asked("stop"), heart.poll()) == ("", [{"now": False}], -9)


def test_stop_in_json(node: FakeNode, heart: subprocess.Popen[bytes]) -> None:
    node.answers["stop"] = lambda request, send: ends(heart, send)
    answer = node.json("stop", "--now")
    assert answer.pop("seconds") >= 0
    assert answer == {"name": "shop", "stopped": True, "left": []}
    assert node.asked("stop") == [{"now": True}]


def test_a_root_that_leaves_without_a_last_word_is_waited_for_through_heart(
    node: FakeNode, heart: subprocess.Popen[bytes]
) -> None:
    def leave(_request: object, _send: Send) -> None:
        heart.kill()
        node.hang_up()

    node.answers["stop"] = leave
    assert "nothing is left" in node.otpd("stop").stdout


def test_what_could_not_be_ended_is_named_and_exit_1(node: FakeNode, heart: subprocess.Popen[bytes]) -> None:
    node.answers["stop"] = fails(1, "could not end: feed (pid 77)", "look at them with: ps -fp PID")
    done = node.otpd("stop", code=1)
    assert (done.stdout, done.stderr) == (
        "", "otpd: could not end: feed (pid 77)\nnext: look at them with: ps -fp PID\n",
    )  # fmt: skip


def test_it_says_what_it_waits_for_and_an_interrupt_kills(node: FakeNode, heart: subprocess.Popen[bytes]) -> None:
    sender: list[Send] = []

    def stop(request: dict[str, Any], send: Send) -> None:
        if request["now"]:
            ends(heart, send)
        else:
            sender.append(send)

    node.answers["stop"] = stop
    process = subprocess.Popen(
        [*OTPD, "stop"], cwd=node.home, env=node.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    eventually(lambda: sender)
    eventually(lambda: _told(sender[0], process))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, node.asked("stop")) == (0, [{"now": False}, {"now": True}])
    assert "nothing is left" in out
    assert err.endswith("otpd: killing what is left\n")


def _told(send: Send, process: subprocess.Popen[str]) -> bool:
    """Root's word, again and again, until the command has passed it on."""
    import select

    send({"waiting": ["feed", "calc"]})
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], 0.1)
    return bool(ready) and process.stderr.readline() == "otpd: waiting for feed, calc\n"


def test_a_root_that_is_stuck_is_killed_through_heart(node: FakeNode, heart: subprocess.Popen[bytes]) -> None:
    node.answers["stop"] = lambda *_: None
    done = node.otpd("stop", "--now", "--json")
    assert json.loads(done.stdout)["stopped"] is True
    assert "root does not answer" in done.stderr
    assert heart.wait(60) == -signal.SIGTERM


def test_what_carries_the_nodes_cookie_after_the_stop_is_named_whoever_did_the_ending(
    node: FakeNode, heart: subprocess.Popen[bytes]
) -> None:
    """T1: root's word is not taken for it; "nothing is left" is said of what is seen."""
    node.answers["stop"] = lambda request, send: ends(heart, send)
    cookie = "c00c1e" * 5 + "22"
    (node.home / ".otpd").mkdir(mode=0o700)
    (node.home / ".otpd" / "node_id").write_text(cookie)
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, "OTPD_NODE": cookie})
    try:
        done = node.otpd("stop", code=1)
    finally:
        left.kill()
        left.wait()
    assert f"otpd: shop: could not end: sleep 60 (pid {left.pid})" in done.stderr
    assert "nothing is left" not in done.stdout
