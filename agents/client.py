"""`connect()`: the verbs for a script that is no agent, synchronously and from any of its threads.

>>> # with connect() as node:
>>> #     print(node.call("inventory", "reserve", sku="A"))
>>> #     for event in node.events("orders.**"): ...

A client has a name of its own (as @4711.1) and lives until it is closed or its process ends. When the broker is started
again it connects anew by itself; its monitors and subscriptions stay. When the node ends, every verb raises NodeNotRunning.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from otpd.agents import raised, stored
from otpd.agents.blocking import Blocking
from otpd.agents.complaints import Complaints
from otpd.agents.conversation import Conversation
from otpd.agents.errors import CallTimeout, NodeNotRunning, OtpdError, Refused
from otpd.agents.following import Events, Following, Monitor
from otpd.agents.line import Line
from otpd.agents.locate import control_socket
from otpd.agents.tasks.reach import reach
from otpd.agents.verbs import Verbs
from otpd.agents.watching import Watching
from otpd.ipc.control import Control, ControlError
from otpd.ipc.endpoint import Endpoint
from otpd.ipc.happenings import Delivered, Fenced, Welcomed
from otpd.ipc.wire import Status

_CLOSE: Final = 5.0
_WATCH: Final = "it is no child of the node, and nobody dies with it; be told of a death: client.monitor(name).wait()"
_MEMBER: Final = "who is in a group must be able to be called, and a client can't be; make it an agent"
_PARENT: Final = "children belong to an agent and end with it; declare the worker in otpd.toml, or: otpd child start NAME"
_NAMED: Final = "that belongs to a name which outlives its process, and a client's does not; make it an agent"
#: Verbs of agents that a client can't have, and what to do instead.
_ONLY_AGENTS: Final = {
    "link": _WATCH, "unlink": _WATCH, "trap_exits": _WATCH, "demonitor": "close what monitor() gave: monitor.close()",
    "join": _MEMBER, "leave": _MEMBER, "start_child": _PARENT, "stop_child": _PARENT, "children": _PARENT,
    "schedule": _NAMED, "cancel": _NAMED, "load": _NAMED, "save": _NAMED, "transaction": _NAMED,
    "stop": "it ends when it is closed: client.close(); an agent is stopped with: otpd child stop NAME",
}  # fmt: skip
#: Seconds for root's answer: a little longer than root waits for a service.
_SUMMONED: Final = 20.0


def connect(config: str | os.PathLike[str] | None = None, timeout: float = 10.0) -> Client:
    """Connect to a running node: that of `config`, $OTPD_CONTROL, $OTPD_CONFIG, or the nearest otpd.toml upwards.

    NodeNotRunning when there is none; CallTimeout when its broker can't be reached within `timeout` seconds.
    """
    path = control_socket(config, os.environ, Path.cwd())
    try:
        control = Control.open(str(path), timeout)
        first, stream = _introduced(control, timeout)
    except ControlError as error:
        kind: type[OtpdError] = {7: NodeNotRunning, 8: CallTimeout}.get(error.code, Refused)
        raise kind(f"connect: {error.error}; {error.hint}") from None
    client = Client(control, first, stream, str(path))
    try:
        client.wait_until_welcome(timeout)
    except BaseException:
        client.close()
        raise
    return client


def _introduced(control: Control, timeout: float) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What root says first, and the stream of what it says later. A node that ends meanwhile leaves no socket behind."""
    try:
        stream = control.stream("connect", first=timeout)
        return next(stream), stream
    except BaseException:
        control.close()
        raise


class Client(Blocking[Verbs]):
    """Made by `connect`. Threads may share it; a fork may not. Close it, or use it as a context manager."""

    def __init__(self, control: Control, first: dict[str, Any], stream: Iterator[dict[str, Any]], path: str = "") -> None:
        self.name: str = first["name"]
        self._control, self._stream, self._first, self._control_path = control, stream, first, path
        self._begun, self._welcome, self._closed = threading.Event(), threading.Event(), False
        self._failed: BaseException | None = None
        threading.Thread(target=self._serve, name=f"otpd {self.name}", daemon=True).start()
        self._begun.wait()
        if self._failed is not None:
            control.close()
            raise OtpdError(
                f"connect: its loop could not be started: {raised.one_line(self._failed)}; "
                "are too many files open? look: ls /proc/PID/fd, and ulimit -n"
            ) from self._failed
        self._follower = threading.Thread(target=self._follow, name=f"otpd brokers of {self.name}", daemon=True)
        self._follower.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give what was said a moment to leave, then leave. Harmless when it is closed."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._control.hang_up()
        self._follower.join(_CLOSE)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._server.join(_CLOSE)
        self._control.close()

    def wait_until_welcome(self, timeout: float) -> None:
        """CallTimeout when the broker has not taken it in after so many seconds."""
        if not self._welcome.wait(timeout):
            raise CallTimeout(
                f"connect: the node runs, but its broker did not answer within {timeout:g} s; it is started again by "
                "itself, look with: otpd status broker",
                "no",
            )
        if self._verbs._otpd.ended is not None:
            raise type(self._verbs._otpd.ended)(str(self._verbs._otpd.ended))

    def _do(self, verb: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            raise NodeNotRunning(f"{self.name} is closed; connect() again")
        return super()._do(verb, *args, **kwargs)

    if not TYPE_CHECKING:  # a typo of the user's must stay an error of the type checker

        def __getattr__(self, name: str) -> Any:
            why = _ONLY_AGENTS.get(name)
            raise AttributeError(f"a client of connect() has no {name}{f': {why}' if why else ''}", name=name, obj=self)

    # --- state of agents ---

    def state(self, name: str, default: Any = None, timeout: float | None = stored.TIMEOUT) -> Any:
        """What the agent `name` has saved; `default` when there is nothing. A client has no state of its own."""
        return self._do(stored.state_of, self._verbs._otpd, name, default, timeout)

    def set_state(self, name: str, state: Any, timeout: float | None = stored.TIMEOUT) -> None:
        """Put `state` in the place of what the agent `name` has saved. If it runs, restart it: it goes on with what it has
        loaded, and its next save is refused (Stale)."""
        self._do(stored.replace_state_of, self._verbs._otpd, name, state, timeout)

    # --- what it follows ---

    def monitor(self, name: str) -> Monitor:
        """Of the incarnation that has `name` now: `monitor.wait(timeout)` gives its end; at once if there is none."""
        refs: list[int] = []
        monitor = Monitor(name, lambda: self._do(self._following.demonitor, refs[0]))
        refs.append(self._do(self._following.monitor, name, monitor))
        return monitor

    def events(self, pattern: str, timeout: float | None = None) -> Events:
        """All that is published from now on on topics that meet `pattern`, as an iterator; it ends after `timeout` seconds
        of silence. Who reads too slowly loses the oldest, counted in `event.missed`."""
        refs: list[int] = []
        events = Events(pattern, timeout, lambda: self._do(self._following.unsubscribe, refs[0]))
        refs.append(self._do(self._following.subscribe, events))
        return events

    # --- its threads ---

    def _serve(self) -> None:
        """The loop of the verbs. What keeps it from beginning is for the thread that waits for that."""
        try:
            selector = Watching()
            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
                runner.run(self._live(selector))
        except BaseException as error:
            if self._begun.is_set():
                raise
            self._failed = error
        finally:
            self._begun.set()

    async def _live(self, selector: Watching) -> None:
        first = self._first
        conversation = Conversation(Endpoint(self.name, first["inc"], first["token"]))
        super().__init__(_Speaker(conversation))
        self._server, self._stop = threading.current_thread(), asyncio.Event()
        self._following = Following(conversation)
        for happening in (Welcomed, Fenced):
            conversation.hears[happening] = functools.partial(self._settled, conversation.hears[happening])
        conversation.reach = functools.partial(reach, self._control_path)
        conversation.summon = functools.partial(_summon, self._control_path)
        conversation.complain = Complaints(logging.getLogger("otpd.client"), conversation.clock)
        conversation.rejections = functools.partial(
            conversation.complain, "casts rejected", "cast to %s.%s rejected: %s; with confirm=True the sender is told"
        )
        conversation.hears[Delivered] = lambda message: _refuse(conversation, message)
        self._line = Line(conversation, first["identity"], selector)
        self._line.broker(*(first["broker"] or (None, None)))
        self._line.open()
        self._begun.set()
        try:
            await self._stop.wait()
            await self._line.drain()
        finally:
            conversation.close_pools()
            self._line.close(bye=True)
            conversation.end(NodeNotRunning(f"{self.name} is closed; connect() again"))
            self._welcome.set()

    def _settled(self, hear: Callable[[Any], None], happening: Any) -> None:
        """Taken in, or refused: `connect` need not wait any longer."""
        hear(happening)
        self._welcome.set()

    def _follow(self) -> None:
        """Root tells each new broker, until the node ends or this is closed."""
        why = "the node has ended; start it with: otpd start, and connect() again"
        try:
            for part in self._stream:
                broker = part["broker"] or (None, None)
                self._loop.call_soon_threadsafe(self._line.broker, *broker)
        except ControlError as error:
            why = why if self._closed or error.code == 7 else f"{error.error}; {error.hint}"
        except (OSError, RuntimeError):
            pass  # closed meanwhile
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._node_ended, f"{self.name}: {why}")

    def _node_ended(self, why: str) -> None:
        if not self._closed:
            self._line.broker(None, None)
            self._verbs._otpd.end(NodeNotRunning(why))
            self._welcome.set()


async def _summon(control: str, name: str) -> None:
    """Have root start a service that comes on demand; when it returns, it is there. NodeNotRunning, Refused."""

    def ask() -> None:
        with Control.open(control, _SUMMONED) as client:
            client.ask("reach", timeout=_SUMMONED, name=name, line=False)

    try:
        await asyncio.to_thread(ask)
    except ControlError as error:
        kind: type[OtpdError] = NodeNotRunning if error.code == 7 else Refused
        raise kind(f"{error.error}; {error.hint}") from None


class _Speaker(Verbs):
    def __init__(self, conversation: Conversation) -> None:
        self._otpd = conversation


def _refuse(conversation: Conversation, message: Delivered) -> None:
    """Who is no agent handles nothing."""
    endpoint = conversation.endpoint
    if message.call is not None:
        text = f"{endpoint.name} is a client of connect(): it calls, and can't be called; make it an agent"
        endpoint.reply(message.call, Status.REJECTED, conversation.encoder.encode(["NoMethod", text, None], "reply"))
    endpoint.handled(1, len(message.body))
