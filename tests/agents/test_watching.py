"""The selector that serves the line before it blocks, and the worker thread, under a real loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest

from otpd.agents.watching import Watching
from otpd.agents.worker import Worker
from tests.agents.scenes import scene
from tests.helpers import eventually


def loop_with(turn: Callable[[list[int]], bool]) -> tuple[asyncio.Runner, Watching]:
    selector = Watching()
    selector.turn = turn
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)), selector


def test_the_line_is_served_before_every_sleep_and_when_its_descriptor_is_readable() -> None:
    served: list[list[int]] = []
    reader, writer = os.pipe()
    heard: list[asyncio.Future[bytes]] = []

    def turn(readable: list[int]) -> bool:
        served.append(readable)
        if readable:
            heard[0].set_result(os.read(reader, 10))
        return bool(readable)

    runner, selector = loop_with(turn)

    async def wait() -> None:
        selector.watch([reader])
        heard.append(asyncio.get_running_loop().create_future())
        asyncio.get_running_loop().call_later(0.01, os.write, writer, b"x")
        assert await heard[0] == b"x"

    with runner:
        runner.run(wait())
    os.close(reader)
    os.close(writer)
    assert [fds for fds in served if fds] == [[reader]]
    assert served[0] == []


def test_what_a_turn_has_set_off_runs_before_anything_blocks() -> None:
    """A future that a turn resolves would otherwise wait for the next timer."""
    futures: list[asyncio.Future[str]] = []

    def turn(readable: list[int]) -> bool:
        if futures and not futures[0].done():
            futures[0].set_result("at once")
            return True
        return False

    runner, _ = loop_with(turn)

    async def wait() -> str:
        futures.append(asyncio.get_running_loop().create_future())
        asyncio.get_running_loop().call_later(30, print)
        return await futures[0]

    begin = time.monotonic()
    with runner:
        assert runner.run(wait()) == "at once"
    assert time.monotonic() - begin < 30, "the timer"


@scene
async def test_the_worker_gives_results_and_errors_from_one_thread_that_is_made_when_needed() -> None:
    before = threading.active_count()
    worker = Worker()
    assert threading.active_count() == before

    def fail(error: BaseException) -> None:
        raise error

    threads = {await worker.run(threading.current_thread) for _ in range(3)}
    assert len(threads) == 1 and threads != {threading.current_thread()}
    with pytest.raises(KeyError):
        await worker.run(lambda: fail(KeyError("x")))
    with pytest.raises(RuntimeError, match="the handler raised StopIteration"):
        await worker.run(lambda: fail(StopIteration()))
    assert worker.running == 0
    hold = threading.Event()
    given_up = worker.run(hold.wait)
    given_up.cancel()
    following = worker.run(lambda: "next")
    hold.set()
    assert await following == "next"
    worker.close()
    await asyncio.to_thread(eventually, lambda: not threads & set(threading.enumerate()))
