"""A pool in the process itself, for tests: the real machine and the real messages, with functions that run on the loop.

An async function runs beside the agent and may be timed out on a clock that jumps; a plain one runs at once, to its end.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from otpd.agents.tasks.desk import Entry
from otpd.agents.tasks.dispatch import Dispatch, Owner
from otpd.agents.tasks.functions import Library, Named
from otpd.agents.tasks.machine import NEVER, Options
from otpd.agents.tasks.payload import MSGPACK, Payload, decode, encode
from otpd.agents.tasks.pools import Counter, Pools
from otpd.agents.tasks.worker import failure


class LocalPools(Pools):
    """Any name is a pool of `size` workers and a queue of `queue`."""

    size, queue = 2, 1000

    def counter(self, pool: str) -> LocalCounter:
        found = self._counters.get(pool)
        if found is None:
            options = Options(size=self.size, queue=self.queue, idle=NEVER)
            found = self._counters[pool] = LocalCounter(pool, options, self.owner)
        assert isinstance(found, LocalCounter)
        return found


class LocalCounter(Counter):
    def __init__(self, name: str, options: Options, owner: str) -> None:
        super().__init__(name, _nobody)
        self._crew = _Crew(self._loop, self._turned)
        self.dispatch = Dispatch(options, self._crew, self._loop.time, lambda *_: None)
        self._crew.listener = self.dispatch
        self._key = self.dispatch.come(Owner(owner, 1, self._told))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return True

    def submit(self, entry: Entry) -> int:
        self._crew.known[entry.name] = entry.function
        return super().submit(entry)

    def _told(self, message: list[Any], fds: Sequence[int]) -> None:
        self._loop.call_soon(self._heard, message, list(fds))

    def _heard(self, message: list[Any], fds: list[int]) -> None:
        self.desk.hear(message, fds)
        if self.desk.out:
            self.flush_soon()

    def _after(self) -> None:
        out, self.desk.out = self.desk.out, []
        for message, fds in out:
            self.dispatch.hear(self._key, message, list(fds))
        self._turned()

    def _turned(self) -> None:
        if self.desk.out:
            self.flush_soon()
        due = self.dispatch.pool.due()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due == NEVER else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self.dispatch.tick()
        self._turned()

    def close(self) -> None:
        """As when the line of an owner ends: its tasks end."""
        self.dispatch.gone(self._key)
        if self._timer is not None:
            self._timer.cancel()
        super().close()


class _Crew:
    """Workers that are tasks of the loop."""

    listener: Dispatch

    def __init__(self, loop: asyncio.AbstractEventLoop, after: Any) -> None:
        self.known: dict[str, Any] = {}  # functions of the test itself, by their names
        self._loop, self._after = loop, after
        self._running: dict[int, asyncio.Task[None]] = {}
        self._library = Library()

    def start(self, worker: int) -> None:
        self._loop.call_soon(self._do, self.listener.ready, worker)

    def send(self, worker: int, message: list[Any], fds: Sequence[int]) -> None:
        _run, _task, function, _owner, codec, body, sizes = message
        sent = Payload(codec, body, sizes, list(fds))
        self._running[worker] = self._loop.create_task(self._run(worker, function, sent))

    def stop(self, worker: int) -> None:
        running = self._running.pop(worker, None)
        if running is not None:
            running.cancel()
        self._loop.call_soon(self._do, self.listener.lost, worker, "killed")

    async def _run(self, worker: int, function: Any, sent: Payload) -> None:
        try:
            args, kwargs = decode(sent, "arguments")
            value = self._found(function)(*args, **kwargs)
            value = await value if inspect.isawaitable(value) else value
            ok, answer = True, encode(value, MSGPACK, "result")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            ok, answer = False, failure(error, MSGPACK)
        del self._running[worker]
        self._do(self.listener.done, worker, ok, 0, (answer.codec, answer.body, list(answer.sizes)), answer.fds)

    def _found(self, function: Any) -> Any:
        named = Named(*function)
        known = self.known.get(str(named))
        return known if callable(known) else self._library.find(named)

    def _do(self, what: Any, *args: Any) -> None:
        what(*args)
        self._after()


async def _nobody(name: str) -> Any:
    raise AssertionError(f"a pool in memory needs no line: {name}")
