"""The line to the broker when there are no descriptors for it, and what is left of the backlog at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otpd.agents import line as lines
from otpd.agents.complaints import Complaints
from otpd.agents.conversation import Conversation
from otpd.agents.line import Line
from otpd.agents.watching import Watching
from otpd.ipc.endpoint import Address, Endpoint, Phase
from otpd.ipc.wire import Lane, commands, system
from tests.agents.scenes import scene


class Sockets:
    """In the place of Lanes. `refusals`: how often they can't be opened."""

    refusals = 0
    opened: list[Sockets]
    watching: Watching

    def __init__(self, endpoint: str, identity: bytes) -> None:
        cls = type(self)
        if cls.refusals:
            cls.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        self.fds, self.is_drained = (), False
        self.end: list[str] = []
        self.come: list[tuple[Lane, bytes]] = []
        self.sent: list[tuple[Lane, bytes]] = []
        cls.opened.append(self)

    def send(self, frames: list[tuple[Lane, bytes]]) -> None:
        self.sent += frames

    @property
    def more(self) -> bool:
        return bool(self.come)

    def receive(self, budget: int) -> list[tuple[Lane, bytes]]:
        frames, self.come = self.come, []
        return frames

    def close(self, drain: bool) -> None:
        self.end.append("closed")

    def leave(self) -> None:
        self.end.append("left")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Sockets]]:
    monkeypatch.setattr("otpd.ipc.sockets.Lanes", Sockets)
    monkeypatch.setattr(lines, "_RETRY", 0.001)
    monkeypatch.setattr(Sockets, "opened", [], raising=False)
    monkeypatch.setattr(Sockets, "refusals", 0)
    with contextlib.closing(Watching()) as watching:
        monkeypatch.setattr(Sockets, "watching", watching, raising=False)
        yield Sockets


def made() -> tuple[Conversation, Line]:
    conversation = Conversation(Endpoint("feed", 1, b"t"))
    conversation.complain = Complaints(logging.getLogger("otpd.test"), conversation.clock)
    line = Line(conversation, b"i", Sockets.watching)
    line.open()
    return conversation, line


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_sockets_that_can_not_be_opened_are_tried_again_with_one_complaint(
    sockets: type[Sockets], caplog: pytest.LogCaptureFixture
) -> None:
    @scene
    async def run() -> None:
        conversation, line = made()
        sockets.refusals = 3
        line.broker("b1", "ipc:///x")
        assert conversation.endpoint.phase is Phase.OFFLINE
        await until(lambda: sockets.opened)
        assert conversation.endpoint.phase is Phase.GREETING
        line.close()

    run()
    [told] = caplog.messages
    assert told.startswith("no sockets to the broker: OSError: [Errno 24] Too many open files; tried again by itself")


def test_a_broker_that_could_not_be_reached_is_forgotten_for_the_next(sockets: type[Sockets]) -> None:
    @scene
    async def run() -> None:
        _, line = made()
        sockets.refusals = 1
        line.broker("b1", "ipc:///x")
        line.broker("b2", "ipc:///y")
        await asyncio.sleep(0.01)
        assert len(sockets.opened) == 1
        line.close()

    run()


def with_backlog(conversation: Conversation, line: Line) -> None:
    """Two messages may be sent, five are said."""
    line.broker("b1", "ipc:///x")
    welcome = system(["welcome", {"epoch": "b1", "credit": [2, 100_000], "id": 1}])
    conversation.endpoint.received(Lane.SYSTEM, welcome, conversation.clock())
    conversation.work_off()
    for _ in range(5):
        conversation.endpoint.cast(Address("x"), b"\x92\xa1m\x80")


def test_credit_that_comes_right_before_a_sleep_lets_go_what_waits_for_it(sockets: type[Sockets]) -> None:
    """Nothing else would wake the agent: the broker waits for its messages, and has nothing to say."""

    @scene
    async def run() -> None:
        conversation, line = made()
        with_backlog(conversation, line)
        (lanes,) = sockets.opened
        lanes.come = [(Lane.SYSTEM, system(["credit", 9, 100_000]))]
        assert line.turn([])
        assert conversation.endpoint.unsent == 3
        assert not line.turn([])
        assert conversation.endpoint.unsent == 0
        line.close()

    run()


def test_the_end_waits_for_credit_that_comes(sockets: type[Sockets], caplog: pytest.LogCaptureFixture) -> None:
    @scene
    async def run() -> None:
        conversation, line = made()
        with_backlog(conversation, line)
        ending = asyncio.ensure_future(line.drain())
        await asyncio.sleep(0)
        assert conversation.endpoint.unsent == 3
        conversation.endpoint.received(Lane.SYSTEM, system(["credit", 9, 100_000]), conversation.clock())
        line.flush()
        await ending
        assert conversation.endpoint.unsent == 0
        line.close()

    run()
    assert caplog.messages == []


def test_what_the_broker_does_not_take_is_counted_and_the_bye_leaves(
    sockets: type[Sockets], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_DRAIN", 0.01)

    @scene
    async def run() -> None:
        conversation, line = made()
        with_backlog(conversation, line)
        await line.drain()
        line.close(bye=True)
        lane, frame = sockets.opened[0].sent[-1]
        assert (lane, list(commands(frame))) == (Lane.DATA, [["bye"]])

    run()
    assert caplog.messages == ["3 messages were not taken by the broker before the end, and are lost"]


@pytest.mark.parametrize(
    ("is_drained", "process_ends", "end"),
    [(True, True, ["left"]), (False, True, ["closed"]), (True, False, ["closed"])],
)
def test_only_sockets_that_have_nothing_to_send_are_left_to_the_end_of_the_process(
    sockets: type[Sockets], is_drained: bool, process_ends: bool, end: list[str]
) -> None:
    @scene
    async def run() -> None:
        _, line = made()
        line.broker("b1", "ipc:///x")
        (opened,) = sockets.opened
        opened.is_drained = is_drained
        line.close(process_ends=process_ends)
        assert opened.end == end

    run()
