"""The verbs for tasks: of `self`, of `connect()`, and in tests.

| verb | as in Elixir | |
|---|---|---|
| `await self.task(fn, *args)` | Task.async + await | linked: a failure that nobody awaits crashes the owner |
| `self.task_nolink(fn, *args)` | async_nolink | a failure is kept for whoever asks: `await task`, `await task.poll(None)` |
| `await self.start_task(fn, *args)` | start_child | nobody's: it outlives its owner; True, or False when the queue is full |
| `self.stream(fn, items, ...)` | async_stream | Ok or Exit for each item |
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, Literal

from otpd.agents.conversation import Conversation
from otpd.agents.errors import OtpdError, Overloaded
from otpd.agents.tasks.desk import Entry
from otpd.agents.tasks.handle import Task
from otpd.agents.tasks.pools import DEFAULT, Pools, packer
from otpd.agents.tasks.stream import Manner, Source, Stream
from otpd.agents.tasks.values import Exit, Outcome

Function = str | Callable[..., Any]
NO_LIMIT: Final = float("inf")
_MAX_TIMEOUT: Final = 1e9


class TaskVerbs:
    """Mixed into `Verbs`. A task's own arguments are given by position; `kwargs` holds those by name."""

    _otpd: Conversation

    def task(
        self,
        function: Function,
        /,
        *args: Any,
        pool: str = DEFAULT,
        timeout: float | None = None,
        wait: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> Task:
        """Run `function` in a process of `pool`. Await what this gives for the result, now or later.

        `timeout`: seconds that it may run, counted from when it begins (None: as the pool says); then its worker is ended
        and awaiting it raises CallTimeout. A full queue raises Overloaded, or with `wait` it waits for room. What the
        function raises is RemoteError, the death of its worker Exited.
        """
        return self._task(True, function, args, kwargs, pool, timeout, wait)

    def task_nolink(
        self,
        function: Function,
        /,
        *args: Any,
        pool: str = DEFAULT,
        timeout: float | None = None,
        wait: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> Task:
        """As `task`, but its failure is nobody's crash: it is there for whoever asks for it, `await task.poll(None)`."""
        return self._task(False, function, args, kwargs, pool, timeout, wait)

    async def start_task(
        self,
        function: Function,
        /,
        *args: Any,
        pool: str = DEFAULT,
        timeout: float | None = None,
        wait: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> bool:
        """Fire and forget: it belongs to the pool, runs on when its starter ends, and a failure is logged once.

        True when the pool has it; False when its queue is full (and `wait` is False).
        """
        pools = self._pools()
        counter = pools.counter(pool)
        what = pools.names.of(function)
        pack = packer(what, args, kwargs or {}, lambda: counter.pickles)
        await counter.connect()
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answer.done():  # who waited may have been cancelled
                answer.set_result(outcome)

        entry = Entry(what.name, pack, done, _limit(timeout, what.name), wait, True, function)
        counter.submit(entry)
        outcome = await answer
        if isinstance(outcome, Exit):
            if isinstance(outcome.error, Overloaded):
                return False
            raise outcome.error
        return True

    def stream(
        self,
        function: Function,
        items: Source,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit", "kill_task"] = "exit",
        zip_input_on_exit: bool = False,
        nolink: bool = False,
        pool: str = DEFAULT,
    ) -> Stream:
        """`async for outcome in self.stream(parse, paths):` runs `function(item)` for each item: Ok or Exit.

        Lazy, with at most `max_concurrency` (default: the cores here) between source and reader. `timeout` is each task's
        own, counted from when it begins; passed, the stream raises CallTimeout, or with on_timeout="kill_task" gives
        Exit("timeout") and goes on. A task that fails raises here, after all others were ended; with `nolink` it is an
        Exit, too. `zip_input_on_exit`: an Exit has its item as `input`. Items are sent with wait=True.
        """
        many = max_concurrency if max_concurrency is not None else len(os.sched_getaffinity(0))
        manner = Manner(
            max_concurrency=many, ordered=ordered, on_timeout=on_timeout, zip_input_on_exit=zip_input_on_exit, nolink=nolink
        )
        limit = NO_LIMIT if timeout is None else timeout
        return Stream(items, lambda item: self._task(False, function, (item,), None, pool, limit, True), manner)

    # --- how ---

    def _pools(self) -> Pools:
        self._otpd.here()
        return self._otpd.pools

    def _task(
        self, linked: bool, function: Function, args: Any, kwargs: Any, pool: str, timeout: float | None, wait: bool
    ) -> Task:
        pools = self._pools()
        counter = pools.counter(pool)
        what = pools.names.of(function)
        task = Task(pools, counter, what.name, linked)
        pack = packer(what, args, kwargs or {}, lambda: counter.pickles)
        task.begin(Entry(what.name, pack, task.settle, _limit(timeout, what.name), wait, False, function))
        return task


def _limit(timeout: float | None, name: str) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise TypeError(f"task {name}: expected timeout in seconds or None, got {timeout!r}")
    return min(float(timeout), _MAX_TIMEOUT)


__all__ = ["OtpdError", "TaskVerbs"]
