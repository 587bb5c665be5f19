"""The pools as one asyncio program uses them: a line and a desk for each that it has asked, made with its first task.

`handle` and `stream` are what the verbs give back. A line that is lost ends its tasks; the next task asks for a new one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from otpd.agents.errors import NotData, OtpdError
from otpd.agents.tasks.desk import Desk, Entry, Packed, no_pickle
from otpd.agents.tasks.functions import named
from otpd.agents.tasks.lines import Line
from otpd.agents.tasks.payload import MSGPACK, PICKLE, encode
from otpd.agents.tasks.values import Exit

DEFAULT = "general"
#: Functions whose names are remembered.
_REMEMBERED = 512


class End(Protocol):
    """An end of a line: what `Line` is."""

    open: bool

    def put(self, message: list[Any], fds: Sequence[int] = ()) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class What:
    """A function with a name for people, and how it travels: `function` None by pickle."""

    name: str
    named: list[str | None] | None
    function: Any


class Names:
    """What functions are called, remembered."""

    def __init__(self) -> None:
        self._known: dict[Any, What] = {}

    def of(self, function: str | Callable[..., Any]) -> What:
        """NotData for what is no function."""
        try:
            known = self._known.get(function)
        except TypeError:
            return _what(function)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[function] = _what(function)
        return known


def _what(function: str | Callable[..., Any]) -> What:
    found = named(function)
    if found is None:
        return What(getattr(function, "__qualname__", repr(function)), None, function)
    return What(str(found), found.to_wire(), None)


def packer(what: What, args: Sequence[Any], kwargs: Mapping[str, Any], pickles: Callable[[], bool]) -> Callable[[], Packed]:
    """What `Entry.pack` is. NotData when it is called, for what can't be sent."""

    def pack() -> Packed:
        if what.named is None:
            if not pickles():
                raise no_pickle(what.name)
            return b"", encode((what.function, list(args), dict(kwargs)), PICKLE, f"task {what.name}")
        codec = PICKLE if pickles() else MSGPACK
        return what.named, encode((list(args), dict(kwargs)), codec, f"task {what.name}, arguments")

    return pack


class Counter:
    """One pool as this program sees it: its desk and the line to it."""

    def __init__(self, name: str, reach: Callable[[str], Awaitable[socket.socket]]) -> None:
        self.desk = Desk(name)
        self._reach = reach
        self._line: Line | None = None
        self._coming: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._flushing = False

    @property
    def connected(self) -> bool:
        return self._line is not None and self.desk.facts is not None

    @property
    def pickles(self) -> bool:
        return self.desk.facts is not None and self.desk.facts.pickle

    async def connect(self) -> None:
        """Until the pool has said hello. Refused and CallTimeout say why there is no line."""
        while not self.connected:
            if self._coming is None:
                self._coming = asyncio.ensure_future(self._connect())
                self._coming.add_done_callback(self._came)
            await asyncio.shield(self._coming)

    def _came(self, coming: asyncio.Future[None]) -> None:
        self._coming = None
        if not coming.cancelled():
            coming.exception()

    async def _connect(self) -> None:
        sock = await self._reach(self.desk.pool)
        hello = self._loop.create_future()

        def hear(message: list[Any], fds: list[int]) -> None:
            self.desk.hear(message, fds)
            if not hello.done():
                hello.set_result(None)

        def gone() -> None:
            if not hello.done():
                hello.set_result(None)
            self._lost("it ended, or was ended")

        self._line = Line(sock, hear, gone, self._after)
        await hello

    def _lost(self, why: str) -> None:
        self._line = None
        self.desk.facts = None
        self.desk.lost(why)

    def submit(self, entry: Entry) -> int:
        task = self.desk.submit(entry)
        self.flush_soon()
        return task

    def withdraw(self, task: int) -> None:
        self.desk.withdraw(task)
        self.flush_soon()

    def forget(self, task: int) -> None:
        self.desk.forget(task)
        self.flush_soon()

    def flush_soon(self) -> None:
        """All that is said in one turn of the loop goes together."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._after()

    def _after(self) -> None:
        out, self.desk.out = self.desk.out, []
        if self._line is None:
            self.desk.out = out
            return
        for message, fds in out:
            self._line.put(message, fds)
        self._line.flush()

    def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
        if self._line is not None:
            self._line.close()
        self._lost("this process is about to end")


class Pools:
    """By name. `reach` gives a socket to a pool; `crash` ends the program that a linked task belongs to."""

    def __init__(
        self, reach: Callable[[str], Awaitable[socket.socket]], owner: str, crash: Callable[[BaseException], None] | None
    ) -> None:
        self.owner, self.crash = owner, crash
        self.names = Names()
        self._reach = reach
        self._counters: dict[str, Counter] = {}

    def counter(self, pool: str) -> Counter:
        found = self._counters.get(pool)
        if found is None:
            if not isinstance(pool, str) or not pool:
                raise NotData(f"expected the name of a pool, such as {DEFAULT!r}, got {pool!r}")
            found = self._counters[pool] = Counter(pool, self._reach)
        return found

    def close(self) -> None:
        for each in self._counters.values():
            each.close()
        self._counters.clear()


def refused(name: str, error: OtpdError) -> Exit:
    """The outcome of a task that could not be handed over."""
    return Exit("refused" if not isinstance(error, NotData) else "error", error)
