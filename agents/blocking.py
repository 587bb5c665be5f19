"""The verbs for threads: the same words, but each returns when it is done. What `self.sync` and `connect()` give.

The verbs themselves run on their loop, in another thread; this waits for them. The deadline of the call that is being
handled travels along.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from otpd.agents.commands import Command, Options, Word
from otpd.agents.errors import OtpdError
from otpd.agents.locks import Lock
from otpd.agents.proxies import Proxy
from otpd.agents.sandbox.result import Result
from otpd.agents.tasks.blocking import BlockingTasks
from otpd.agents.values import Entry, Whereabouts
from otpd.agents.verbs import TIMEOUT, Verbs
from otpd.ipc.endpoint import Address

T = TypeVar("T")
V = TypeVar("V", bound=Verbs)

_ON_THE_LOOP = (
    "self.sync would wait for the loop that it is called on, for ever: it is for plain def handlers, which run in a "
    "thread of their own; in async def methods write: await self.{}"
)
_FORKED = "this process was forked from the one that had connected, and threads don't cross a fork: connect() again here"


class Blocking(BlockingTasks, Generic[V]):
    """Usable from any thread but that of the loop."""

    def __init__(self, verbs: V) -> None:
        self._verbs, self._loop, self._thread = verbs, verbs._otpd.loop, verbs._otpd.thread
        self._pid = os.getpid()
        self.waiting = 0  # threads that wait for a verb; counted on the loop

    def _do(self, verb: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a verb on the loop and wait for it; an interrupt cancels it."""
        if threading.get_ident() == self._thread:
            raise RuntimeError(_ON_THE_LOOP.format(verb.__name__))
        if os.getpid() != self._pid:
            raise RuntimeError(_FORKED)
        future = asyncio.run_coroutine_threadsafe(self._finished(verb, args, kwargs), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _tasks_of(self) -> Verbs:
        return self._verbs

    # --- messages ---

    def call(self, to: str | Address, method: str, /, timeout: float | None = TIMEOUT, **args: Any) -> Any:
        """The result of `method` of the agent `to`, or one error, within `timeout` seconds (None: however long it takes)."""
        return self._do(self._verbs.call, to, method, timeout, **args)

    def cast(
        self, to: str | Address, method: str, /, confirm: bool | float = False, durable: bool | float = False, **args: Any
    ) -> None:
        """Send without an answer; with `confirm` it returns when the broker has accepted it, with `durable` (and `id`,
        `key`) when the store has it on disk, or raises; a number is for how many seconds at most."""
        self._do(self._verbs.cast, to, method, confirm, durable, **args)

    def publish(self, topic: str, /, durable: bool = False, **data: Any) -> None:
        """An event for everybody who has subscribed to a pattern that `topic` meets; with `durable` it is on disk for those
        who have subscribed durably when this returns."""
        self._do(self._verbs.publish, topic, durable, **data)

    def agent(self, name: str | Address, timeout: float | None = TIMEOUT) -> Proxy:
        """`self.sync.agent("inventory").reserve(sku="A")`."""
        return Proxy(self, name, timeout)

    def group(self, name: str, policy: str = "any", key: str | None = None) -> Address:
        """An address for call and cast; see `Verbs.group`."""
        return self._verbs.group(name, policy, key)

    def via(self, key: str) -> Address:
        """An address for call and cast: whoever holds `key`."""
        return self._verbs.via(key)

    # --- commands ---

    @overload
    def exec(self, argv: Sequence[Word], *, stream: Literal[False] = ..., **options: Unpack[Options]) -> Result: ...

    @overload
    def exec(
        self, argv: Sequence[Word], *, stream: Literal[True], **options: Unpack[Options]
    ) -> BlockingCommand: ...

    def exec(
        self, argv: Sequence[Word], *, stream: bool = False, **options: Unpack[Options]
    ) -> Result | BlockingCommand:
        """Run a command in the node's sandbox; see `Commands.exec`."""
        if stream:
            return BlockingCommand(self._do(self._verbs.exec, argv, stream=True, **options), self._do)
        return self._do(self._verbs.exec, argv, **options)  # type: ignore[no-any-return]

    def exec_python(self, code: str, args: Sequence[Word] = (), **options: Unpack[Options]) -> Result:
        """Run Python source in a warm interpreter of the sandbox; see `Commands.exec_python`."""
        return self._do(self._verbs.exec_python, code, args, **options)  # type: ignore[no-any-return]

    # --- names, groups, registry ---

    def whereis(self, name: str) -> Whereabouts | None:
        return self._do(self._verbs.whereis, name)  # type: ignore[no-any-return]

    def members(self, group: str) -> list[str]:
        return self._do(self._verbs.members, group)  # type: ignore[no-any-return]

    def register(self, key: str, value: Any = None) -> None:
        self._do(self._verbs.register, key, value)

    def update(self, key: str, value: Any, expected: int | None = None) -> None:
        self._do(self._verbs.update, key, value, expected)

    def unregister(self, key: str) -> None:
        self._do(self._verbs.unregister, key)

    def lookup(self, key: str) -> Entry | None:
        return self._do(self._verbs.lookup, key)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def lock(self, key: str, timeout: float | None = TIMEOUT) -> Iterator[Lock]:
        """`with self.sync.lock(key):` alone in the node."""
        lock = self._verbs.lock(key, timeout)
        self._do(lock.__aenter__)
        try:
            yield lock
        except BaseException as error:
            self._do(lock.__aexit__, type(error), error, None)
            raise
        self._do(lock.__aexit__, None, None, None)

    def emit(self, event: str, /, **measurements: Any) -> None:
        """Tell telemetry; never waits for the broker."""
        self._do(self._verbs.emit, event, **measurements)

    async def _finished(self, verb: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.waiting += 1
        try:
            found = verb(*args, **kwargs)
            return await found if inspect.isawaitable(found) else found
        finally:
            self.waiting -= 1


class BlockingCommand:
    """A command that was begun with `stream=True`, for a thread: `for stream, chunk in command`, then `result()`."""

    def __init__(self, command: Command, do: Callable[..., Any]) -> None:
        self.id = command.id
        self._command, self._do = command, do

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, bytes]:
        piece: tuple[str, bytes] | None = self._do(self._command.read)
        if piece is None:
            raise StopIteration
        return piece

    def result(self) -> Result:
        """Wait for the end; see `Command.result`."""
        return self._do(self._command.result)  # type: ignore[no-any-return]

    def write(self, data: bytes | str) -> None:
        """More standard input; see `Command.write`."""
        self._do(self._command.write, data)

    def close_stdin(self) -> None:
        """Its standard input ends."""
        self._do(self._command.close_stdin)

    def cancel(self) -> None:
        """End it; its result says so."""
        self._do(self._command.cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        with contextlib.suppress(OtpdError):
            self.cancel()
