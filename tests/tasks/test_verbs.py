"""What an agent can do with tasks: linked and not linked ones, and streams. In memory, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from otpd.agents import Agent, CallTimeout, Exit, Exited, NotData, Ok, Overloaded, RemoteError, Task, call, cast, testing
from otpd.agents.tasks.stream import Stream
from tests.agents.scenes import scene


def double(x: int) -> int:
    return 2 * x


async def nap(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return value


async def nap_of(seconds: float) -> float:
    return await nap(seconds, seconds)  # type: ignore[no-any-return]


def fail(text: str) -> None:
    raise ValueError(text)


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


class Boss(Agent):
    """A test hands it what to do."""

    @call
    async def do(self) -> Any:
        return await self.work(self)  # type: ignore[attr-defined]

    @cast
    async def later(self) -> None:
        await self.work(self)  # type: ignore[attr-defined]


async def done_by(work: Any, running: testing.Running[Boss]) -> Any:
    running.instance.work = work  # type: ignore[attr-defined]
    return await running.call("do", timeout=None)


@scene
async def test_a_task_gives_what_its_function_returns_or_what_it_raised() -> None:
    async with testing.run(Boss) as boss:
        assert await done_by(lambda self: self.task(double, 21), boss) == 42
        assert await done_by(lambda self: self.task("math:hypot", 3, 4), boss) == 5.0
        assert await done_by(lambda self: self.task(int, "ff", kwargs={"base": 16}), boss) == 255

        async def caught(self: Boss) -> tuple[str, str, bool]:
            with pytest.raises(RemoteError) as error:
                await self.task(fail, "no")
            return error.value.type, error.value.message, "ValueError: no" in error.value.traceback

        assert await done_by(caught, boss) == ["ValueError", "no", True]


@scene
async def test_what_can_not_be_sent_is_refused_with_advice() -> None:
    async def refused(self: Boss) -> list[str]:
        texts = []
        for function, args in ((lambda: 1, ()), ("no function", ()), (double, ({1, 2},)), (7, ())):
            with pytest.raises(NotData) as error:
                await self.task(function, *args)  # type: ignore[arg-type]
            texts.append(str(error.value))
        return texts

    async with testing.run(Boss) as boss:
        closure, name, argument, number = await done_by(refused, boss)
    assert "define it at the top of a module" in closure and "pickle = true" in closure
    assert "'module:function'" in name and "got 7" in number
    assert "test_verbs:double, arguments" in argument and "expected data, got set" in argument


@scene
async def test_a_linked_task_that_fails_unseen_crashes_its_owner() -> None:
    """Rule 100."""
    async def begin(self: Boss) -> None:
        self.kept = self.task(fail, "unseen")  # type: ignore[attr-defined]

    boss = testing.run(Boss)
    async with boss:
        boss.instance.work = begin  # type: ignore[attr-defined]
        await boss.cast("later")
        assert (await boss.ended()).startswith("error(RemoteError: task")


@scene
async def test_a_task_that_is_not_linked_keeps_its_failure_for_whoever_asks() -> None:
    """Rule 100."""
    async def ask(self: Boss) -> list[Any]:
        task = self.task_nolink(fail, "kept")
        await asyncio.sleep(60)
        outcome = await task.poll()
        assert isinstance(outcome, Exit)
        with pytest.raises(RemoteError):
            await task
        return [outcome.reason, task.done()]

    async with testing.run(Boss) as boss:
        assert await done_by(ask, boss) == ["error", True]


@scene
async def test_poll_looks_result_ends_it_and_shutdown_gives_what_came_before() -> None:
    """Rule 102."""
    async def ask(self: Boss) -> list[Any]:
        slow = self.task(nap, 100.0, "late")
        found: list[Any] = [await slow.poll(1.0)]
        with pytest.raises(CallTimeout):
            await slow.result(timeout=1.0)
        found.append((await slow.poll(10)).reason)  # type: ignore[union-attr]
        quick, other = self.task(nap, 1.0, "in time"), self.task(nap, 100.0)
        await asyncio.sleep(2)
        early, none = await quick.shutdown(), await other.shutdown()
        assert early == Ok("in time")
        return [*found, none, round(boss.elapsed)]

    async with testing.run(Boss) as boss:
        assert await done_by(ask, boss) == [None, "cancelled", None, 4]


@scene
async def test_only_the_owner_may_wait_for_a_task() -> None:
    """Rule 101."""
    kept: list[Task] = []

    async def begin(self: Boss) -> None:
        kept.append(self.task(nap, 100.0))

    async with testing.run(Boss, "clerk") as boss:
        await done_by(begin, boss)
        with pytest.raises(RuntimeError, match=r"task .*nap belongs to clerk, and only its owner may wait for it"):
            await kept[0].result(1)


@scene
async def test_time_is_counted_from_when_a_task_begins_and_over_it_is_ended() -> None:
    """Rule 106."""
    async def ask(self: Boss) -> list[str]:
        tasks = [self.task_nolink(nap, 8.0, timeout=10) for _ in range(4)]  # two at a time
        late = self.task_nolink(nap, 11.0, timeout=10)
        outcomes = [await task.poll(None) for task in (*tasks, late)]
        return ["ok" if each and each.ok else each.reason for each in outcomes]  # type: ignore[union-attr]

    async with testing.run(Boss) as boss:
        assert await done_by(ask, boss) == ["ok", "ok", "ok", "ok", "timeout"]


@scene
async def test_a_full_queue_raises_at_once_or_is_waited_for() -> None:
    """Rule 103."""
    async def ask(self: Boss) -> list[Any]:
        for _ in range(2):
            self.task_nolink(nap, 5.0)
        await asyncio.sleep(1)
        with pytest.raises(Overloaded):
            await self.task(nap, 1.0)
        assert await self.start_task(nap, 1.0) is False
        value = await self.task(nap, 1.0, "waited", wait=True)
        return [value, round(boss.elapsed), await self.start_task(nap, 1.0)]

    async with testing.run(Boss) as boss:
        boss.pools.queue = 0
        assert await done_by(ask, boss) == ["waited", 6, True]


# --- streams ---


async def read(stream: Stream) -> list[Any]:
    return [outcome.value async for outcome in stream]


@scene
async def test_a_stream_keeps_the_order_of_its_items_or_gives_what_comes_first() -> None:
    """Rule 105."""
    async def ask(self: Boss) -> list[Any]:
        ordered = await read(self.stream(nap_of, [3.0, 1.0, 2.0], max_concurrency=2))
        return [ordered, await read(self.stream(nap_of, [3.0, 1.0, 2.5], max_concurrency=2, ordered=False))]

    async with testing.run(Boss) as boss:
        assert await done_by(ask, boss) == [[3.0, 1.0, 2.0], [1.0, 3.0, 2.5]]


@scene
async def test_a_stream_takes_no_item_before_it_is_read_and_never_more_than_it_may_have_out() -> None:
    """Rule 104."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    async def ask(self: Boss) -> list[Any]:
        stream = self.stream(double, items(), max_concurrency=3)
        await asyncio.sleep(10)
        before = len(taken)
        first = await anext(stream)
        await asyncio.sleep(10)
        after = len(taken)
        second = await anext(stream)
        await stream.aclose()
        return [before, first.value, after, second.value, len(taken)]

    async with testing.run(Boss) as boss:
        assert await done_by(ask, boss) == [0, 0, 3, 2, 4]


@scene
async def test_a_stream_that_finds_its_pool_full_waits_for_room_and_raises_nothing() -> None:
    """Rule 109, in our way: items wait, where OTP's supervisor refuses and the stream would have to be begun again."""

    async def ask(self: Boss) -> list[Any]:
        for _ in range(2):
            self.task_nolink(nap, 5.0)
        await asyncio.sleep(1)
        return [await read(self.stream(double, range(3))), round(boss.elapsed)]

    async with testing.run(Boss) as boss:
        boss.pools.queue = 0
        assert await done_by(ask, boss) == [[0, 2, 4], 5]


@scene
async def test_items_may_come_from_an_async_source() -> None:
    async def items() -> AsyncIterator[int]:
        for n in range(3):
            await asyncio.sleep(1)
            yield n

    async with testing.run(Boss) as boss:
        assert await done_by(lambda self: read(self.stream(double, items(), max_concurrency=2)), boss) == [0, 2, 4]


@scene
async def test_a_task_of_a_stream_over_its_time_ends_the_stream_or_is_an_item() -> None:
    """Rules 106, 107."""
    async def exits(self: Boss) -> str:
        with pytest.raises(CallTimeout) as error:
            await read(self.stream(nap_of, [1.0, 9.0, 1.0], timeout=5, max_concurrency=2))
        return str(error.value)

    async def goes_on(self: Boss) -> list[Any]:
        stream = self.stream(nap_of, [1.0, 9.0, 2.0], timeout=5, on_timeout="kill_task", zip_input_on_exit=True)
        found: list[Any] = [(each.value if each.ok else [each.reason, each.input]) async for each in stream]
        return found

    async with testing.run(Boss) as boss:
        assert "it ran longer than its timeout" in await done_by(exits, boss)
        assert await done_by(goes_on, boss) == [1.0, ["timeout", 9.0], 2.0]


@scene
async def test_a_failure_in_a_stream_raises_after_all_others_were_ended_or_with_nolink_is_an_item() -> None:
    async def raises(self: Boss) -> list[Any]:
        seen = []
        with pytest.raises(RemoteError):
            async for outcome in self.stream(fail_at_three, range(100), max_concurrency=4):
                seen.append(outcome.value)
        await asyncio.sleep(1)
        return [seen, self._pools().counter("general").desk.count]

    async def gives(self: Boss) -> list[Any]:
        return [each.ok async for each in self.stream(fail_at_three, range(5), nolink=True)]

    async with testing.run(Boss) as boss:
        assert await done_by(raises, boss) == [[0, 1, 2], 0]
        assert await done_by(gives, boss) == [True, True, True, False, True]


@scene
async def test_leaving_a_stream_early_ends_every_task_that_is_out_and_nothing_is_heard_of_them() -> None:
    """Rule 108."""
    async def leave(self: Boss) -> list[Any]:
        async for outcome in self.stream(nap_of, [1.0, 50.0, 50.0, 50.0], timeout=None, max_concurrency=4):
            assert outcome == Ok(1.0)
            break
        await asyncio.sleep(1)
        counter: Any = self._pools().counter("general")
        counters = counter.dispatch.pool.counters
        return [counter.desk.count, counter.dispatch.pool.running, counters.done, counters.cancelled, round(boss.elapsed)]

    async with testing.run(Boss) as boss:
        assert await done_by(leave, boss) == [0, 0, 1, 3, 2]


@scene
async def test_the_deadline_of_the_call_that_is_served_ends_what_it_waits_for() -> None:
    async def wait(self: Boss) -> Any:
        return await self.task(nap, 100.0)

    async with testing.run(Boss) as boss:
        boss.instance.work = wait  # type: ignore[attr-defined]
        counter: Any = boss.pools.counter("general")
        with pytest.raises(CallTimeout):
            await boss.call("do", timeout=3)
        await asyncio.sleep(1)
        assert (counter.dispatch.pool.running, counter.dispatch.pool.counters.cancelled) == (0, 1)
        boss_ended = await boss.ended()
        assert "it did not end within the deadline" in boss_ended


@scene
async def test_the_deadline_of_the_call_that_is_served_ends_a_stream_and_every_task_of_it() -> None:
    for ordered in (True, False):

        async def read(self: Boss, ordered: bool = ordered) -> Any:
            stream = self.stream(nap_of, [90.0, 100.0], timeout=None, ordered=ordered, max_concurrency=2)
            return [each.ok async for each in stream]

        async with testing.run(Boss) as boss:
            boss.instance.work = read  # type: ignore[attr-defined]
            counter: Any = boss.pools.counter("general")
            with pytest.raises(CallTimeout):
                await boss.call("do", timeout=3)
            await asyncio.sleep(1)
            assert (counter.dispatch.pool.running, counter.dispatch.pool.counters.cancelled) == (0, 2)
            boss_ended = await boss.ended()
            assert "stream of tests.tasks.test_verbs:nap_of: the call that is served has passed its deadline" in boss_ended


@scene
async def test_who_is_cancelled_while_it_waits_for_a_stream_leaves_no_task_behind() -> None:
    async def give_up(self: Boss) -> list[Any]:
        reader = asyncio.ensure_future(anext(self.stream(nap_of, [90.0, 100.0], timeout=None, max_concurrency=2)))
        await asyncio.sleep(1)
        reader.cancel()
        await asyncio.sleep(1)
        counter: Any = self._pools().counter("general")
        return [counter.dispatch.pool.running, counter.dispatch.pool.counters.cancelled]

    async with testing.run(Boss) as boss:
        assert await done_by(give_up, boss) == [0, 2]


def test_an_outcome_raises_its_error_when_its_value_is_read() -> None:
    with pytest.raises(Exited):
        _ = Exit("killed", Exited("gone")).value
