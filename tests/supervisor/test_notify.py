"""The sockets of sd_notify: one for each child that speaks it, whoever sends, and whenever (T54)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.supervisor.loop import Loop
from otpd.supervisor.notify import NotifySockets, Sender
from otpd.supervisor.paths import NodePaths

ME = Sender(os.getpid(), os.getuid())
Heard = list[tuple[str, Sender, dict[str, str]]]


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    return NodePaths(tmp_path, tmp_path)


@pytest.fixture
def heard() -> Heard:
    return []


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made._epoll.close()


@pytest.fixture
def sockets(loop: Loop, paths: NodePaths, heard: Heard) -> Iterator[NotifySockets]:
    before = set(os.listdir("/proc/self/fd"))
    made = NotifySockets(loop, paths, f"test-{os.getpid()}", lambda *message: heard.append(message))
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert paths.notify_sockets() == []


def say(address: str, text: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text, address.replace("@", "\0", 1))


@pytest.mark.parametrize("foreign", [False, True])
def test_each_child_has_one_of_its_own_for_all_its_incarnations(
    sockets: NotifySockets, loop: Loop, heard: Heard, foreign: bool
) -> None:
    first, second = sockets.address("top/a", foreign), sockets.address("top/b", foreign)
    assert sockets.address("top/a", foreign) == first != second
    assert (first[0] == "@") is foreign
    say(second, b"READY=1\nSTATUS=up")
    say(first, b"WATCHDOG=1")
    loop.step()
    assert sorted(heard) == [("top/a", ME, {"WATCHDOG": "1"}), ("top/b", ME, {"READY": "1", "STATUS": "up"})]


def test_what_was_said_before_is_heard_at_once_however_much_it_is(sockets: NotifySockets, heard: Heard) -> None:
    """A death is told after what the child has said, and the next incarnation hears nothing of the last one."""
    address = sockets.address("top/a", False)
    for number in range(5):
        say(address, b"N=%d" % number)
    sockets.drain("top/a")
    sockets.drain("top/b")
    assert [message["N"] for _, _, message in heard] == ["0", "1", "2", "3", "4"]


def test_a_child_that_changes_its_user_gets_another_address(sockets: NotifySockets, paths: NodePaths) -> None:
    own = sockets.address("top/a", False)
    assert os.path.exists(own)
    assert sockets.address("top/a", True).startswith("@")
    assert not os.path.exists(own)


def test_a_socket_that_a_cleaner_has_removed_is_made_again_in_its_place(
    sockets: NotifySockets, loop: Loop, heard: Heard
) -> None:
    """Test 52: $NOTIFY_SOCKET of who runs already can't change."""
    address = sockets.address("top/a", False)
    os.unlink(address)
    sockets.recreate()
    say(address, b"READY=1")
    loop.step()
    assert heard == [("top/a", ME, {"READY": "1"})]


def test_what_a_root_that_was_killed_has_left_is_removed(loop: Loop, paths: NodePaths) -> None:
    for number in (1, 77):
        paths.notify(number).touch()
    NotifySockets(loop, paths, "x", lambda *_: None)
    assert paths.notify_sockets() == []
