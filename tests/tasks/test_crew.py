"""Who may be a worker of a pool: whoever knows the secret of one that is expected, and nobody else for long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from otpd.agents.tasks import crew
from otpd.agents.tasks.crew import Equipment, Workers
from otpd.agents.tasks.lines import Hub
from otpd.agents.tasks.wire import Wire


class Node:
    """Root and the machine of the pool: workers are started by nobody, the test speaks for them."""

    workers: Workers

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.told: list[Any] = []
        self.stopped: list[str] = []
        self.ends: dict[str, str] = {}  # what root says of those that it stops

    async def start_child(self, spec: Mapping[str, Any]) -> None:
        self.environment[spec["name"]] = spec["env"]["OTPD_POOL"]

    async def stop_child(self, name: str) -> None:
        self.stopped.append(name)
        if name in self.ends:
            self.workers.ended(name, self.ends[name])

    def ready(self, worker: int) -> None:
        self.told.append(["ready", worker])

    def done(self, worker: int, ok: bool, memory: int, answer: Sequence[Any], fds: list[int]) -> None:
        self.told.append(["done", worker, ok])

    def ending(self, worker: int) -> None:
        self.told.append(["ending", worker])

    def lost(self, worker: int, why: str) -> None:
        self.told.append(["lost", worker, why])


class Pool(Node):
    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(lambda: self.hub.flush())
        self.workers = Workers("w", self, Equipment(), self.hub.flush, self.hub)
        self.workers.listener = self

    def connect(self) -> Wire:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.workers._server.getsockname())
        sock.setblocking(False)
        return Wire(sock)

    def say(self, wire: Wire, *messages: list[Any]) -> None:
        for message in messages:
            wire.put(message)
        wire.flush()

    async def heard(self, wire: Wire) -> Any:
        """What it is told next; None: its line was closed."""
        async with asyncio.timeout(30):
            while (found := wire.take()) == []:
                await asyncio.sleep(0.005)
        return found


@contextlib.asynccontextmanager
async def pool() -> AsyncIterator[Pool]:
    before = len(os.listdir("/proc/self/fd"))
    made = Pool()
    yield made
    made.workers.close()
    for life in made.workers._lives:
        life.cancel()
    await asyncio.gather(*made.workers._lives, return_exceptions=True)
    made.hub.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


SETTINGS = [(["settings", {"measures": False, "spawn": "warn", "preload": []}], [])]


@on_a_loop
async def test_one_that_knows_its_secret_is_a_worker_and_no_second_one_with_it() -> None:
    async with pool() as node:
        node.workers.start(1)
        worker, double = node.connect(), node.connect()
        await asyncio.sleep(0)
        secret = node.environment["w-1"].split()[1]
        node.say(worker, ["hello", secret], ["ready"])
        assert await node.heard(worker) == SETTINGS
        node.say(double, ["hello", secret], ["ready"])
        assert (await node.heard(double), node.told) == (None, [["ready", 1]])
        worker.close()
        double.close()


@pytest.mark.parametrize("said", [["hello", "\xe9"], ["hello", "\udcff"], ["hello", ""], ["ready"], ["hello", 7]])
@on_a_loop
async def test_one_that_does_not_is_sent_away(said: list[Any]) -> None:
    async with pool() as node:
        node.workers.start(1)
        stranger = node.connect()
        node.say(stranger, said)
        assert (await node.heard(stranger), node.told) == (None, [])
        stranger.close()


@on_a_loop
async def test_another_user_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool() as node:
        monkeypatch.setattr(crew.os, "getuid", lambda: 4242)
        stranger = node.connect()
        assert await node.heard(stranger) is None
        stranger.close()


@on_a_loop
async def test_strangers_who_say_nothing_are_few_and_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool() as node:
        silent = [node.connect() for _ in range(crew._STRANGERS + 3)]
        for line in silent[:3]:
            assert await node.heard(line) is None
        assert len(node.workers._strangers) == crew._STRANGERS
        monkeypatch.setattr(crew, "_PATIENCE", 0.0)
        impatient = node.connect()
        assert await node.heard(impatient) is None
        for line in (*silent, impatient):
            line.close()


@on_a_loop
async def test_without_a_free_descriptor_those_who_come_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, server: socket.socket) -> None:
            self.fileno, self.close, self.getsockname, self.real = server.fileno, server.close, server.getsockname, server
            self.refused = 0

        def accept(self) -> Any:
            if self.refused < 2:
                self.refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self.real.accept()

    monkeypatch.setattr(crew, "_PAUSE", 0.0)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with pool() as node:
        node.workers._server = Full(node.workers._server)  # type: ignore[assignment]
        line = node.connect()
        node.say(line, ["hello", "no"])
        assert (await node.heard(line), complaints) == (None, [])
        line.close()


@on_a_loop
async def test_one_that_ends_before_it_has_said_a_word_is_lost() -> None:
    async with pool() as node:
        node.workers.start(1)
        await asyncio.sleep(0)
        node.workers.ended("w-1", "exit status 1")
        async with asyncio.timeout(30):
            while not node.told:
                await asyncio.sleep(0.005)
        assert (node.told, node.stopped) == ([["lost", 1, "exit status 1"]], ["w-1"])


@pytest.mark.parametrize(("said", "why"), [("shutdown", crew._HUNG_UP), ("killed", "killed")])
@on_a_loop
async def test_of_one_whose_line_ends_it_is_told_why_and_not_that_it_was_stopped_for_that(said: str, why: str) -> None:
    async with pool() as node:
        node.workers.start(1)
        worker = node.connect()
        await asyncio.sleep(0)
        node.say(worker, ["hello", node.environment["w-1"].split()[1]])
        assert await node.heard(worker) == SETTINGS
        node.ends["w-1"] = said
        worker.close()
        async with asyncio.timeout(30):
            while len(node.told) < 2:
                await asyncio.sleep(0.005)
        assert node.told == [["ending", 1], ["lost", 1, why]]
