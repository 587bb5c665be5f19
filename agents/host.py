"""One incarnation of an agent on the running loop: init, its mailbox, terminate. Whatever it lives in, a process or a test.

`life` puts a process around it. Guarantees: nothing is handled before init() has returned; when it is asked to stop, what
is being handled comes to its end first, as in OTP, and terminate() is called once; a crash, of a handler or of a task that
nobody awaits, ends it at once, after terminate("error(...)").
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from otpd.agents import raised
from otpd.agents.agent import Agent, Sync
from otpd.agents.arguments import bind
from otpd.agents.complaints import Complaints
from otpd.agents.conversation import Conversation
from otpd.agents.current import OWNER, Current
from otpd.agents.mailbox import Mailbox
from otpd.agents.methods import Method, Methods
from otpd.agents.replies import Reply
from otpd.agents.stored import Stored
from otpd.agents.timed import Timed


class Parent(Protocol):
    """Who starts and stops children for an agent, ChildError when it does not; and notes what a service has to tell."""

    caller: Callable[[dict[str, Any], int, int], None] | None
    child_ended: Callable[[str, str], None]

    def counts(self, counts: dict[str, int]) -> None: ...

    async def child(self, what: str, *arguments: Any) -> Any: ...

    def note(self, kind: str, name: str, data: dict[str, Any]) -> bool: ...


class Host:
    """`reason` is why it ends, unless it crashes."""

    def __init__(
        self, agent_class: type[Agent], generation: int, conversation: Conversation, parent: Parent, log: logging.Logger
    ) -> None:
        self.conversation, self._parent = conversation, parent
        self.agent = agent_class()
        self.agent.name, self.agent.generation, self.agent.log = conversation.endpoint.name, generation, log
        self.agent._otpd, self.agent._host, self.agent._stored = conversation, self, Stored(conversation)
        conversation.crash = self.crash
        complain = conversation.complain = Complaints(log, conversation.clock)
        self._methods = Methods(agent_class)
        self.mailbox = Mailbox(self.agent, self._methods, conversation, complain)
        self._stop, self._crashed = asyncio.Event(), asyncio.Event()
        self._crash: BaseException | None = None
        self.reason = "shutdown"

    def stop(self, reason: str) -> None:
        """The first reason counts."""
        if not self._stop.is_set():
            self.reason = reason
            self._stop.set()

    def crash(self, error: BaseException) -> None:
        self._crash = self._crash or error
        self._crashed.set()
        self._stop.set()

    @functools.cached_property
    def sync(self) -> Sync:
        return Sync(self.agent)

    def defer(self, current: Current) -> Reply:
        return self.mailbox.defer(current)

    async def child(self, what: str, *arguments: Any) -> Any:
        return await self._parent.child(what, *arguments)

    def serve(self, caller: Callable[[dict[str, Any], int, int], None], child_ended: Callable[[str, str], None]) -> None:
        """Be reached: `caller(who, socket, pidfd)` for each line that root makes; and be told why own children ended."""
        self._parent.caller, self._parent.child_ended = caller, child_ended

    def counts(self, counts: dict[str, int]) -> None:
        """What root shows of this service in the tree."""
        self._parent.counts(counts)

    def note(self, kind: str, name: str, data: dict[str, Any]) -> bool:
        return self._parent.note(kind, name, data)

    @property
    def timed(self) -> Timed:
        return self.mailbox.timed

    def method(self, name: str) -> Method:
        """LookupError when the class has none of this name."""
        return self._methods.own(name)

    # --- its life ---

    async def init(self, args: Mapping[str, Any]) -> bool:
        """False when the stop came first; then init() is cancelled."""
        OWNER.set(self)
        self.mailbox.subscribe()
        if self.agent.trap_exits:
            self.agent.trap_exits = True
        bound = bind(self.agent.name, self.agent.init, args)
        starting = asyncio.ensure_future(finished(self.agent.init, **bound))
        await _first(starting, self._stop)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            if self._crash is not None:
                raise self._crash
            return False
        starting.result()
        return True

    async def live(self) -> str:
        """The exit reason; raises what crashed it."""
        self.mailbox.timed.begin()
        working = asyncio.ensure_future(self.mailbox.run())
        await _first(working, self._stop)
        self.mailbox.close()
        await _first(working, self._crashed)
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
        if working.cancelled():
            self._crash = self._crash or RuntimeError("a handler has cancelled the task that handles the messages")
        else:
            self._crash = self._crash or working.exception()
        try:
            await self._terminate()
        finally:
            self.mailbox.settle()
            self.mailbox.worker.close()
        return self.reason

    async def _terminate(self) -> None:
        if self._crash is None:
            return await finished(self.agent.terminate, self.reason)
        try:
            await finished(self.agent.terminate, f"error({raised.one_line(self._crash)})")
        except Exception:
            self.agent.log.exception("terminate failed, too")
        raise self._crash

    def task_factory(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Tasks of an agent are linked to it: one that fails while nobody awaits it is a crash of the agent, as for
        linked processes. asyncio alone would keep silent until the task object is collected, so perhaps for ever."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        if OWNER.get() is self:
            task.add_done_callback(lambda done: loop.call_soon(loop.call_soon, self._ended, done))
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Two turns after its end: whoever awaits it has taken its exception by now."""
        error = None if task.cancelled() or not getattr(task, "_log_traceback", False) else task.exception()
        if error is not None:
            self.crash(error)


async def _first(task: asyncio.Future[Any], event: asyncio.Event) -> None:
    """Until one of the two has come."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def finished(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Call a plain or async method to its end."""
    result = method(*args, **kwargs)
    if inspect.isawaitable(result):
        await result
