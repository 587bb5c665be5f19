"""The test bench itself: its clock, its peers, and that no crash goes unseen."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from otpd.agents import Agent, ChildError, NoProcess, RemoteError, call, cast, testing
from tests.agents.scenes import scene


class Sleeper(Agent):
    async def init(self, first: float = 0) -> None:
        await asyncio.sleep(first)

    @call
    async def sleep(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    @call
    async def in_a_thread(self, seconds: float) -> str:
        return await asyncio.to_thread(self._work, seconds)

    def _work(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    @cast
    async def fail(self) -> None:
        raise RuntimeError("unseen")

    @call
    async def boom(self) -> None:
        raise RuntimeError("seen")


@scene
async def test_hours_pass_in_no_time_and_in_order() -> None:
    real, loop, passed = time.monotonic(), asyncio.get_running_loop(), []

    async def wake(seconds: float) -> None:
        await asyncio.sleep(seconds)
        passed.append(seconds)

    async with testing.run(Sleeper, first=3600) as sleeper:
        assert round(sleeper.elapsed) == 3600
        await asyncio.gather(wake(7200), wake(60), sleeper.call("sleep", timeout=None, seconds=86400))
        assert (passed, round(sleeper.elapsed)) == ([60, 7200], 90000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await loop.create_future()
    assert time.monotonic() - real < 60


@scene
async def test_the_clock_stands_still_while_a_thread_works() -> None:
    async with testing.run(Sleeper) as sleeper:
        assert await sleeper.call("in_a_thread", timeout=1, seconds=0.05) == "done"
        assert sleeper.elapsed < 0.1


@scene
async def test_afterwards_the_loop_has_its_own_clock_again_and_it_did_not_go_back() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    for _ in range(2):
        async with testing.run(Sleeper) as sleeper:
            await asyncio.sleep(1000)
        assert sleeper.elapsed == pytest.approx(1000)
    assert loop.time() >= before + 2000
    real = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - real >= 0.04


@scene
async def test_a_crash_that_the_test_has_not_seen_is_raised_at_the_end() -> None:
    with pytest.raises(RuntimeError, match="unseen"):
        async with testing.run(Sleeper) as sleeper:
            await sleeper.cast("fail")


@scene
async def test_a_crash_that_was_seen_is_not() -> None:
    async with testing.run(Sleeper) as sleeper:
        with pytest.raises(RemoteError):
            await sleeper.call("boom")
    async with testing.run(Sleeper) as sleeper:
        await sleeper.cast("fail")
        assert await sleeper.ended() == "error(RuntimeError: unseen)"
        with pytest.raises(NoProcess):
            await sleeper.call("sleep", seconds=1)


@scene
async def test_an_init_that_fails_is_raised_at_the_begin() -> None:
    class Broken(Agent):
        async def init(self) -> None:
            raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        async with testing.run(Broken):
            raise AssertionError("it runs")


@scene
async def test_a_peer_notes_what_it_gets_and_answers_as_it_is_told() -> None:
    class Asker(Agent):
        @call
        async def ask(self, what: str) -> Any:
            return await self.call("peer", what, n=1)

    async def answers(method: str, args: dict[str, Any]) -> Any:
        await asyncio.sleep(1)
        return method

    asker = testing.run(Asker)
    peer = asker.peer("peer", answers)
    async with asker:
        assert await asker.call("ask", what="x") == "x"
        assert (peer.calls, peer.casts) == ([("x", {"n": 1})], [])
        assert asker.calls == [("peer", "x", {"n": 1})]
        asker.peer("mute")
        with pytest.raises(RemoteError, match="no answers; write: "):
            await peer.call("mute", "x")


@scene
async def test_wrong_use_of_the_bench_is_said() -> None:
    running = testing.run(Sleeper)
    with pytest.raises(RuntimeError, match="sleeper is not running yet"):
        _ = running.instance
    async with running:
        with pytest.raises(ValueError, match=r"no peer named 'x' \(there are: none\); make it first"):
            await running.down("x")
        running.peer("x")
        with pytest.raises(ValueError, match="there is one of this name already"):
            running.peer("x")
        with pytest.raises(ChildError):
            await running.instance.stop_child("nobody")


def test_a_loop_whose_clock_can_not_jump_is_refused() -> None:
    from otpd.agents.testing_clock import Clock

    clock = Clock(lambda: False, lambda: None, lambda: False)
    with pytest.raises(TypeError, match="expected one of asyncio's own loops"):
        clock.put_on(object())
