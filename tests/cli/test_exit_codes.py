"""One table of exit codes: what root answers, and what the command line finds by itself."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.cli.fake import OTPD, FakeNode, fails
from tests.helpers import eventually

ASKING = [
    ["tree"], ["status"], ["status", "--wait", "ready"], ["why", "x"], ["events"], ["restart", "x"], ["child", "stop", "x"],
    ["scale", "x", "3"], ["signal", "TERM", "x"], ["stop"], ["stop", "--now"], ["top"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_a_node_that_is_down_is_exit_7_with_the_next_step(down: FakeNode, arguments: list[str]) -> None:
    done = down.otpd(*arguments, code=7)
    assert done.stdout == ""
    assert done.stderr.startswith(f"otpd: no node is running with {down.home}/.otpd: nobody answers on {down.control}\n")
    assert done.stderr.endswith("next: start it with: otpd start\n")


@pytest.mark.parametrize("arguments", ASKING[1:4], ids=" ".join)
def test_a_stale_socket_counts_as_down(down: FakeNode, arguments: list[str]) -> None:
    import socket

    down.control.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(down.control))
    down.otpd(*arguments, code=7)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8, 70])
def test_the_code_and_the_words_of_root_are_passed_on(node: FakeNode, code: int) -> None:
    node.answers["child"] = fails(code, "feed: is not as asked", "look with: otpd status")
    done = node.otpd("child", "start", "feed", code=code)
    assert done.stderr == "otpd: feed: is not as asked\nnext: look with: otpd status\n"


def test_a_socket_of_somebody_else_is_exit_5(down: FakeNode) -> None:
    import os

    if os.geteuid() == 0:
        pytest.skip("root may connect to every socket")
    down.control.parent.mkdir(parents=True)
    down.control.parent.chmod(0)
    try:
        assert "run otpd as the user who started the node" in down.otpd("tree", code=5).stderr
    finally:
        down.control.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["signal", "TREM", "feed"], "there is no signal 'TREM'; did you mean SIGTERM?"),
        (["scale", "feed", "-1"], "-1"),
        (["status", "--timeout", "5 parsecs"], "a duration such as"),
        (["status", "--wait", "redy"], "ready"),
        (["why"], "Missing argument 'NAME'"),
        (["restart"], "Missing argument 'NAME...'"),
        (["start", "--json"], "--json needs --detach"),
        (["tree", "-w"], "a live picture needs a terminal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_2_and_says_what_is_right(node: FakeNode, arguments: list[str], words: str) -> None:
    assert words in node.otpd(*arguments, code=2).stderr


def test_an_interrupted_command_is_exit_130_and_says_nothing(node: FakeNode) -> None:
    node.answers["events"] = lambda *_: None
    process = subprocess.Popen(
        [*OTPD, "events", "-f"], cwd=node.home, env=node.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: node.asked("events"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
