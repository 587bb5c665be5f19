"""Root's end of the line to heart, against a real socket; the parent of the tests stands for heart."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from otpd.supervisor import heart
from otpd.supervisor.heartlink import HeartLink, NoHeart
from otpd.supervisor.loop import Loop


class Line:
    def __init__(self) -> None:
        self.loop, self.told = Loop(), list[str]()
        self.heart, root = socket.socketpair()
        self.link = HeartLink(self.loop, root.detach(), os.getppid(), self.stop, lambda: self.told.append("died"))

    def stop(self, now: bool) -> None:
        self.told.append(f"stop {now}")


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    os.close(made.link._pidfd)
    made.link._channel.close()
    made.heart.close()


def test_each_word_of_heart_is_a_stop_also_when_several_come_at_once(line: Line) -> None:
    line.heart.send(heart.STOP + heart.KILL)
    line.loop.step()
    assert line.told == ["stop False", "stop True"]


def test_a_line_that_breaks_is_an_ordered_stop_and_wakes_nobody_again(line: Line) -> None:
    line.heart.close()
    line.loop.step()
    line.loop.after(0.0, lambda: line.told.append("the next turn"))
    line.loop.step()
    assert line.told == ["stop False", "the next turn"]
    line.link.tell(heart.ORDERED)  # to nobody: no error


def test_root_says_its_word(line: Line) -> None:
    line.link.tell(heart.ORDERED)
    assert line.heart.recv(64) == heart.ORDERED


def test_who_is_dead_or_not_the_parent_is_no_heart() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(NoHeart, match="heart died while root started"):
            HeartLink(Loop(), theirs.fileno(), pid, lambda now: None, lambda: None)
