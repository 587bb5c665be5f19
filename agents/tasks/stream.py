"""Many tasks as a stream: lazy, a bounded number at a time, in order or as they end. Elixir's Task.async_stream.

Nothing is started before the first item is asked for, and never more than `max_concurrency` items are between the source
and whoever reads: that is the backpressure. Leaving early, by break, an exception or the owner's end, ends every task that
is out, and nothing of them is heard again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from otpd.agents.current import inherited_deadline
from otpd.agents.errors import CallTimeout
from otpd.agents.tasks.handle import Task
from otpd.agents.tasks.values import Exit, Outcome

Source: TypeAlias = Iterable[Any] | AsyncIterable[Any]
_END: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a stream goes on. `nolink`: a task that fails is an item as others are."""

    max_concurrency: int
    ordered: bool = True
    on_timeout: Literal["exit", "kill_task"] = "exit"
    zip_input_on_exit: bool = False
    nolink: bool = False


class Stream:
    """`async for outcome in stream:` gives Ok or Exit for each item. `start(item)` makes its task."""

    def __init__(self, source: Source, start: Callable[[Any], Task], manner: Manner) -> None:
        if manner.max_concurrency < 1:
            raise ValueError(f"stream: expected max_concurrency of at least 1, got {manner.max_concurrency}")
        if manner.on_timeout not in ("exit", "kill_task"):
            raise ValueError(f'stream: expected on_timeout "exit" or "kill_task", got {manner.on_timeout!r}')
        self._start, self._manner = start, manner
        self._items = source.__aiter__() if isinstance(source, AsyncIterable) else iter(source)
        self._out: deque[tuple[Task, Any]] = deque()  # started and not yet given out
        self._ended: deque[Task] = deque()  # of those, in the order of their ends
        self._wake: asyncio.Future[None] | None = None
        self._exhausted = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        try:
            await self._fill()
            if not self._out:
                raise StopAsyncIteration
            if not self._manner.ordered:
                await self._first()
            task, item = self._out[0]
            outcome = await task.poll(None)  # however long it takes, within the deadline of the call that is served
            if outcome is None:
                raise self._too_late()
            self._out.popleft()
            return self._seen(outcome, item)
        except BaseException:
            self.close()
            raise

    async def _fill(self) -> None:
        while not self._exhausted and len(self._out) < self._manner.max_concurrency:
            item = await self._next()
            if item is _END:
                self._exhausted = True
                return
            task = self._start(item)
            self._out.append((task, item))
            if not self._manner.ordered:
                task.tell(lambda task=task: self._has_ended(task))  # type: ignore[misc]
                if task.outcome is not None:
                    self._has_ended(task)

    async def _next(self) -> Any:
        if isinstance(self._items, AsyncIterator):
            return await anext(self._items, _END)
        return next(self._items, _END)

    def _has_ended(self, task: Task) -> None:
        if task not in self._ended:
            self._ended.append(task)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _first(self) -> None:
        """Until one has ended; it is brought to the front."""
        deadline = inherited_deadline()
        try:
            async with asyncio.timeout_at(deadline / 1e9 if deadline else None):
                while not self._ended:
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        except TimeoutError:
            raise self._too_late() from None
        task = self._ended.popleft()
        found = next(each for each in self._out if each[0] is task)
        self._out.remove(found)
        self._out.appendleft(found)

    def _too_late(self) -> CallTimeout:
        name = self._out[0][0].name
        return CallTimeout(
            f"stream of {name}: the call that is served has passed its deadline; its tasks are ended. Call with a longer "
            "timeout, or answer first and work through the stream afterwards",
            "maybe",
        )

    def _seen(self, outcome: Outcome, item: Any) -> Outcome:
        if not isinstance(outcome, Exit):
            return outcome
        timed_out = outcome.reason == "timeout"
        if (timed_out and self._manner.on_timeout == "exit") or (not timed_out and not self._manner.nolink):
            raise outcome.error
        return replace(outcome, input=item) if self._manner.zip_input_on_exit else outcome

    # --- leaving early ---

    def close(self) -> None:
        """End every task that is out. What it has given out already stays."""
        self._exhausted = True
        out, self._out = self._out, deque()
        for task, _item in out:
            task.cancel()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        """A `break` drops the stream: CPython comes here at once."""
        if getattr(self, "_out", None):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return  # the loop is over, and the line with it
            self.close()
