"""What is said into a line that is closed, and what a pool knows of a worker whose line has ended."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from otpd.agents.tasks.crew import Equipment, Workers
from otpd.agents.tasks.lines import Hub, Line
from otpd.agents.tasks.wire import PAUSE, Wire
from tests.tasks.starved import starved


def test_what_is_put_into_a_closed_line_is_closed_with_it() -> None:
    async def put_into_a_closed_line(fds: list[int]) -> bool:
        hub = Hub(lambda: None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line = Line(ours, lambda *_: None, lambda: None, lambda: None, hub=hub)
        line.put(["run", 1], fds[:1])
        line.close()
        line.put(["run", 2], fds[1:])
        hub.flush()
        hub.close(), theirs.close()
        return line.wire.pending

    fds = [os.memfd_create("argument"), os.memfd_create("argument")]
    assert not asyncio.run(put_into_a_closed_line(fds))
    assert [os.path.exists(f"/proc/self/fd/{fd}") for fd in fds] == [False, False]


class Root:
    """Starts a worker that says hello, that it is ready, and no more; its end is proved when `proved` is set."""

    def __init__(self) -> None:
        self.proved = asyncio.Event()

    async def start_child(self, spec: Mapping[str, Any]) -> None:
        address, secret = spec["env"]["OTPD_POOL"].split()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(b"\0" + bytes.fromhex(address))
        wire = Wire(sock)
        wire.put(["hello", secret]), wire.put(["ready"]), wire.flush()
        wire.close()

    async def stop_child(self, name: str) -> None:
        await self.proved.wait()


class Told:
    """What a pool hears of its workers, in order."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def ready(self, worker: int) -> None:
        self.heard.put_nowait(("ready", worker))

    def done(self, worker: int, ok: bool, memory: int, answer: Sequence[Any], fds: list[int]) -> None:
        raise AssertionError("it was given nothing")

    def ending(self, worker: int) -> None:
        self.heard.put_nowait(("ending", worker))

    def lost(self, worker: int, why: str) -> None:
        self.heard.put_nowait(("lost", worker))


def test_a_pool_knows_that_a_worker_is_ending_before_its_end_is_proved() -> None:
    async def story() -> list[tuple[str, int]]:
        hub, root, told = Hub(lambda: None), Root(), Told()
        workers = Workers("tasks-p", root, Equipment(), lambda: None, hub)
        workers.listener = told
        workers.start(1)
        async with asyncio.timeout(60):
            before = [await told.heard.get(), await told.heard.get()]
            root.proved.set()
            story = [*before, await told.heard.get()]
        workers.close(), hub.close()
        return story

    assert asyncio.run(story()) == [("ready", 1), ("ending", 1), ("lost", 1)]


def test_no_message_of_a_large_batch_is_lost() -> None:
    """The kernel takes at most 1024 pieces at a time."""
    one, two = (Wire(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    for number in range(3000):
        one.put(["run", number])
    assert one.flush()
    assert [message for message, _fds in two.take() or ()] == [["run", number] for number in range(3000)]
    one.close(), two.close()


def test_what_the_other_end_has_said_is_taken_though_it_ends_with_something_unread() -> None:
    """The kernel reports such an end before the packets that came ahead of it: the result of a task would be lost."""
    one, two = (Wire(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    one.put(["run", 2]), one.flush()
    two.put(["done", 1]), two.flush()
    two.close()
    assert (one.take(), one.take()) == ([(["done", 1], [])], None)
    one.close()


def test_what_finds_no_room_waits_and_what_nobody_takes_is_no_error() -> None:
    one, two = (Wire(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    while one.flush():
        one.put(["run", b"x" * 100_000])
    assert one.pending
    two.close()
    assert one.flush() and not one.pending
    one.close()


@pytest.mark.parametrize("hub", [False, True])
def test_a_line_for_which_the_kernel_has_no_room_tries_again_after_a_pause_though_it_is_writable(hub: bool) -> None:
    async def story() -> list[list[Any]]:
        one, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        found, end = starved(one), asyncio.get_running_loop().create_future()
        mine = Hub(lambda: None) if hub else None
        line = Line(found, lambda *_: None, lambda: None, lambda: None, hub=mine)
        other = Line(theirs, lambda message, _fds: end.set_result(message), lambda: None, lambda: None)
        line.put(["run", 1]), line.flush()
        async with asyncio.timeout(60):
            told = [await end]
        line.close(), other.close()
        if mine is not None:
            mine.close()
        assert (len(found.attempts), found.shortest >= PAUSE * 0.9) == (4, True)
        return told

    assert asyncio.run(story()) == [["run", 1]]
