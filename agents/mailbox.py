"""What reaches an agent, and its handlers: one at a time, in the order of arrival, by one task on the loop.

`conversation` fills it, `life` starts it and ends it. Some things never wait behind a handler: `otpd.describe` is answered
when it comes, and so is `otpd.health`, by a task of its own (`wellness`); a cancelled call is marked at once, credit and
answers don't pass through here at all.

What becomes of a message:
| | fits | no such method, wrong arguments | handler raises Reject | handler raises |
|---|---|---|---|---|
| call | reply | answer that teaches (BadArguments, NoMethod) | answer (Reject) | reply RemoteError, then the agent crashes |
| cast | - | logged and counted | logged and counted | the agent crashes |
| event, death, rejection | - | - | logged and counted | the agent crashes |
| durable cast or event | acknowledged | dead letter | dead letter | again later, or a dead letter: `durable_inbox` |

A call that its handler defers is answered by its `Reply`; what the handler returns then says nothing.

A call whose deadline has passed or whose caller has given up is not handled; its reply, if it is being handled, is dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from otpd.agents import raised
from otpd.agents.complaints import Complaints
from otpd.agents.conversation import Conversation
from otpd.agents.current import CASTER, CURRENT, Current
from otpd.agents.data import UNDECODABLE, decode
from otpd.agents.deliveries import Delivery
from otpd.agents.durable_inbox import DurableInbox
from otpd.agents.errors import Reject, TooLarge
from otpd.agents.methods import Method, Methods
from otpd.agents.replies import Reply
from otpd.agents.timed import Firing, Timed
from otpd.agents.values import Event
from otpd.agents.wellness import Wellness
from otpd.agents.worker import Worker
from otpd.ipc import errors as wire_errors
from otpd.ipc.happenings import CallCancelled, Delivered, Down, EventReceived, Exit, Gap, Lost, Up
from otpd.ipc.topics import TopicError
from otpd.ipc.wire import Status

DESCRIBE: Final = "otpd.describe"
HEALTH: Final = "otpd.health"
_DESCRIBE_BEGINS, _HEALTH_BEGINS = (b"\x92" + bytes([0xA0 | len(each)]) + each.encode() for each in (DESCRIBE, HEALTH))
#: Nanoseconds of handlers after which the loop is given a turn: replies leave, timers fire.
_SLICE: Final = 1_000_000
#: Handled messages that are reported to the broker together; it waits for word of 64 (a quarter of the window).
_REPORT: Final = 16
#: Rejections that wait for handle_rejected; more are counted only, because the sender may outrun it.
_REJECTIONS: Final = 1000
_FOR_NOBODY: Final = "calls that nobody waited for any more"


#: What taking a body apart may raise when another language, or malice, has made it.
MALFORMED: Final = (*UNDECODABLE, AttributeError)


class Callbacks(Protocol):
    """Of an agent."""

    name: str
    generation: int

    def handle_down(self, name: str, generation: int, reason: str) -> Any: ...
    def handle_up(self, name: str, generation: int) -> Any: ...
    def handle_exit(self, name: str, generation: int, reason: str) -> Any: ...
    def handle_rejected(self, name: str, method: str, reason: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Rejected:
    """A cast that was not accepted, and nobody awaits the word."""

    name: str
    method: str
    reason: str


class Mailbox:
    def __init__(self, agent: Callbacks, methods: Methods, conversation: Conversation, complain: Complaints) -> None:
        self._agent, self._methods, self._conversation, self._complain = agent, methods, conversation, complain
        self._endpoint, self._clock = conversation.endpoint, conversation.clock
        self._queue: deque[Any] = deque()
        self._calls: dict[int, Current] = {}  # those that wait, are being handled, or are answered later
        self._missed: dict[str, int] = {}  # of a pattern, since its last event
        self._patterns: dict[int, str] = {}
        self.worker = Worker()
        self._wellness = Wellness(agent, methods.health, self._tell_health)
        self._idle: asyncio.Future[None] | None = None
        self._quiet: list[asyncio.Future[None]] = []  # of those who wait for it to be idle
        self._closed = False
        self._handled = self._handled_bytes = self._waiting_rejections = 0
        self.received = 0
        self._durable = DurableInbox(conversation, methods, complain, self._run_durable, self._put)
        self.timed = Timed(agent.name, agent.generation, methods, conversation, complain)
        conversation.hears.update(
            {
                Delivered: self._delivered, EventReceived: self._put, CallCancelled: self._cancelled, Gap: self._put,
                Down: self._put, Up: self._put, Exit: self._put,
            }
        )  # fmt: skip
        conversation.hears[Lost] = functools.partial(self._broker_lost, conversation.hears[Lost])
        conversation.rejections = self._rejected
        conversation.silenced = self._silence
        self._how: dict[type, Callable[[Any], Awaitable[None]]] = {
            Delivered: self._cast, Current: self._call, EventReceived: self._event, Rejected: self._handle_rejected,
            Gap: self._gap, Delivery: self._handle_durable, Firing: self._fire,
            Down: lambda it: self._callback(agent.handle_down, it.name, it.generation, it.reason),
            Up: lambda it: self._callback(agent.handle_up, it.name, it.generation),
            Exit: lambda it: self._callback(agent.handle_exit, it.name, it.generation, it.reason),
        }  # fmt: skip

    def subscribe(self) -> None:
        """To each pattern of the class, once."""
        for pattern in dict.fromkeys(method.pattern for method in self._methods.events):
            ref, answer = self._conversation.subscribe(pattern)
            self._patterns[ref] = pattern
            answer.add_done_callback(self._subscribed)
        if self._methods.durable_events:
            self._durable.subscribe()

    def _subscribed(self, answer: asyncio.Future[Any]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if error is not None and self._conversation.ended is None:
            self._complain("subscriptions refused", "%s", error)

    # --- arrivals ---

    def _put(self, item: Any) -> None:
        self._queue.append(item)
        if self._idle is not None:
            self._wake()

    def _wake(self) -> None:
        if self._idle is not None:
            _set(self._idle)

    def _delivered(self, message: Delivered) -> None:
        if message.call is None:
            if self._durable.is_meant(message):
                self._durable.arrived(message)
            else:
                self._put(message)
        elif message.body.startswith(_DESCRIBE_BEGINS):
            self._reply(message.call, Status.OK, self.describe(), DESCRIBE)
            self._endpoint.handled(1, len(message.body))
        elif (firing := self.timed.takes(message)) is not None:
            self._due(message, firing)
        elif message.body.startswith(_HEALTH_BEGINS):
            self._wellness.ask(message.call)
            self._endpoint.handled(1, len(message.body))
        else:
            current = Current(message.source, message.generation, message.call, message.deadline, message.body)
            self._calls[message.call] = current
            self._put(current)

    def _due(self, message: Delivered, firing: Firing | bool) -> None:
        if isinstance(firing, Firing):
            self._put(firing)
        else:
            self._endpoint.handled(1, len(message.body))

    @property
    def tells_health(self) -> bool:
        return self._methods.health is not None

    def _tell_health(self, call: int, wrong: str | None) -> None:
        self._reply(call, Status.OK, wrong, HEALTH)
        self._conversation.flush()

    def _cancelled(self, cancelled: CallCancelled) -> None:
        of_a_run = self.timed.forsaken if cancelled.is_dead else self.timed.cancel
        if of_a_run(cancelled.call):
            return
        current = self._calls.get(cancelled.call)
        if current is not None and current.deferred:
            self._give_up(current)
        elif current is not None:
            current.cancelled = True
        else:
            self._wellness.drop(cancelled.call)

    def _broker_lost(self, hear: Callable[[Any], None], lost: Lost) -> None:
        """Who had called through it has been told; those that are answered later need no answer any more."""
        hear(lost)
        for current in [each for each in self._calls.values() if each.deferred]:
            self._give_up(current)

    def _rejected(self, name: str, method: str, reason: str) -> None:
        if self._durable.is_word(name, method):
            return
        if self._waiting_rejections >= _REJECTIONS:
            text = "more rejected casts than handle_rejected takes (the last: %s.%s, %s)"
            self._complain("casts rejected", text, name, method, reason)
        else:
            self._waiting_rejections += 1
            self._put(Rejected(name, method, reason))

    def _silence(self, concerned: Callable[[Any], bool]) -> None:
        """What is not to be heard any more."""
        self._queue = deque(each for each in self._queue if not concerned(each))

    # --- the task ---

    async def run(self) -> None:
        """Until `close`; ends with the exception of a handler that raised."""
        until = 0
        while not self._closed:
            if not self._queue:
                await self._sleep()
                until = time.monotonic_ns() + _SLICE
                continue
            item = self._queue.popleft()
            try:
                await self._how[type(item)](item)
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                raise RuntimeError("a handler awaited what somebody has cancelled, and did not catch it") from error
            if time.monotonic_ns() > until:
                await asyncio.sleep(0)
                until = time.monotonic_ns() + _SLICE

    async def _sleep(self) -> None:
        self._report()
        self._idle = self._conversation.loop.create_future()
        while self._quiet:
            _set(self._quiet.pop())
        await self._idle
        self._idle = None

    async def until_idle(self) -> None:
        """Until nothing waits and nothing is being handled."""
        if self._idle is None or self._queue:
            quiet: asyncio.Future[None] = self._conversation.loop.create_future()
            self._quiet.append(quiet)
            await quiet

    def close(self) -> None:
        """No further message is handled; what is being handled comes to its end."""
        self._closed = True
        self._wake()

    def settle(self) -> None:
        """Before the end: tell the broker what was handled, because it counts the rest as lost."""
        self._report()
        self._endpoint.settle()

    def _done(self, size: int) -> None:
        self.received += 1
        self._handled += 1
        self._handled_bytes += size
        if self._handled >= _REPORT:
            self._report()

    def _report(self) -> None:
        if self._handled:
            self._endpoint.handled(self._handled, self._handled_bytes)
            self._handled = self._handled_bytes = 0

    # --- handlers ---

    async def _cast(self, message: Delivered) -> None:
        try:
            method, args = decode(message.body)
            handler = self._methods.casts.get(method)
            wrong = f": {self._methods.missing('cast', method)}" if handler is None else handler.parameters.wrong(args)
        except MALFORMED:
            handler, wrong = None, ": expected [method, {arguments}]"
        if handler is None or wrong is not None:
            which = f".{handler.name}, " if handler is not None else ""
            self._complain("casts dropped", "cast from %s dropped: %s%s%s", message.source, self._agent.name, which, wrong)
        else:
            CASTER.set(message.source)
            try:
                await self._run(handler, args)
            except Reject as error:
                self._complain("casts dropped", "cast from %s: %s rejects it: %s", message.source, handler.name, error)
        self._done(len(message.body))

    async def _handle_durable(self, delivery: Delivery) -> None:
        await self._durable.handle(delivery)
        self._done(delivery.size)

    def _run_durable(self, handler: Method, given: dict[str, Any] | Event) -> Awaitable[Any]:
        if isinstance(given, dict):
            return self._run(handler, given)
        job = functools.partial(handler.function, self._agent, given)
        return job() if handler.is_async else self._in_thread(job)

    async def _call(self, current: Current) -> None:
        CURRENT.set(current)
        try:
            if current.cancelled or 0 < current.deadline <= self._clock():
                self._complain.counts[_FOR_NOBODY] += 1
            else:
                await self._answer(current)
        finally:
            CURRENT.set(None)
            if not current.deferred:
                self._forget(current)
            self._done(len(current.body))

    async def _fire(self, firing: Firing) -> None:
        """As a call: who waits for its end is told of a crash before it happens."""
        try:
            self.timed.ended(firing, await self.timed.handle(firing, self._run))
        except (Exception, asyncio.CancelledError) as error:
            if not _is_cancelled():
                for call in self.timed.end(firing, "raised"):
                    self._reply(call, Status.RAISED, raised.as_values(error), firing.method)
                self._conversation.flush()
            raise
        finally:
            self._done(len(firing.body))

    def _forget(self, current: Current) -> None:
        """What is done for the caller is let go, too: it may hold much, and often leads back to this."""
        current.finished, current.gone = True, None
        self._calls.pop(current.number, None)

    def defer(self, current: Current) -> Reply:
        """The call is answered by what this returns, whatever its handler does next, unless that raises."""
        loop, timer = self._conversation.loop, None
        if current.deadline:
            timer = loop.call_at(current.deadline / 1e9, self._give_up, current)
        current.deferred = True
        return Reply(current, functools.partial(self._late, current), self._forget, timer)

    def _give_up(self, current: Current) -> None:
        """Nobody waits for this answer any more."""
        current.cancelled, gone = True, current.gone
        self._forget(current)
        if gone is not None:
            gone()

    def _late(self, current: Current, status: Status, value: Any) -> None:
        if current.finished:
            self._complain.counts[_FOR_NOBODY] += 1
        else:
            self._reply(current.number, status, value, current.method)

    async def _answer(self, current: Current) -> None:
        """A handler that raises: its caller is told before the agent crashes."""
        handler, args, refusal = self._prepare(current.body)
        if handler is None:
            return self._reply(current.number, Status.REJECTED, [*refusal, None], "")
        current.method = handler.name
        try:
            status, value = await self._outcome(handler, args)
            if not (current.cancelled or (current.deferred and status is Status.OK)):
                current.deferred = False
                self._reply(current.number, status, value, handler.name)
        except (Exception, asyncio.CancelledError) as error:
            if not _is_cancelled():
                current.deferred = False
                self._reply(current.number, Status.RAISED, raised.as_values(error), handler.name)
                self._conversation.flush()
            raise

    async def _outcome(self, handler: Method, args: dict[str, Any]) -> tuple[Status, Any]:
        try:
            return Status.OK, await self._run(handler, args)
        except Reject as error:
            return Status.REJECTED, ["Reject", error.message, error.data]

    def _prepare(self, body: bytes) -> tuple[Method | None, dict[str, Any], list[str]]:
        """The handler with its arguments, or None with [error, text]."""
        try:
            method, args = decode(body)
            handler = self._methods.calls.get(method)
            if handler is None:
                return None, {}, ["NoMethod", f"{self._agent.name}: {self._methods.missing('call', method)}"]
            wrong = handler.parameters.wrong(args)
        except MALFORMED:
            return None, {}, ["BadArguments", f"{self._agent.name}: expected [method, {{arguments}}]"]
        if wrong is not None:
            return None, {}, ["BadArguments", f"{self._agent.name}.{method}, {wrong}; it takes {handler.parameters.doc}"]
        return handler, args, []

    def _reply(self, call: int, status: Status, value: Any, method: str) -> None:
        """NotData or TooLarge when the value can't be sent."""
        body = self._conversation.encoder.encode(value, f"the result of {self._agent.name}.{method}")
        try:
            self._endpoint.reply(call, status, body)
        except wire_errors.TooLarge as error:
            raise TooLarge(f"{self._agent.name}.{method}: {error}") from None

    def _run(self, handler: Method, args: dict[str, Any]) -> Awaitable[Any]:
        if handler.is_async:
            return handler.function(self._agent, **args)  # type: ignore[no-any-return]
        return self._in_thread(functools.partial(handler.function, self._agent, **args))

    def _in_thread(self, job: Callable[[], Any]) -> Awaitable[Any]:
        return self.worker.run(functools.partial(contextvars.copy_context().run, job))

    async def _gap(self, gap: Gap) -> None:
        """In its turn: it is the next event that tells of it, not one that came before."""
        pattern = self._patterns.get(gap.ref)
        if pattern is not None:
            self._missed[pattern] = self._missed.get(pattern, 0) + gap.count

    async def _event(self, received: EventReceived) -> None:
        try:
            data = decode(received.body)
            handlers = self._methods.of_topic(received.topic)
        except (*UNDECODABLE, TopicError):
            self._complain("events dropped", "event %s of %s dropped: expected a map", received.topic, received.source)
            handlers, data = [], {}
        missed = {pattern: self._missed.pop(pattern, 0) for pattern in {handler.pattern for handler in handlers}}
        for handler in handlers:
            event = Event(received.topic, data, received.source, received.generation, missed[handler.pattern])
            function = functools.partial(handler.function, self._agent, event)
            await self._shielded(function() if handler.is_async else self._in_thread(function), handler.name)
        self._done(len(received.body))

    async def _handle_rejected(self, rejected: Rejected) -> None:
        self._waiting_rejections -= 1
        await self._callback(self._agent.handle_rejected, rejected.name, rejected.method, rejected.reason)

    async def _callback(self, method: Callable[..., Any], *args: Any) -> None:
        job = functools.partial(method, *args)
        await self._shielded(job() if inspect.iscoroutinefunction(method) else self._in_thread(job), method.__name__)

    async def _shielded(self, running: Awaitable[Any], name: str) -> None:
        """Reject is an answer; here nobody has asked."""
        try:
            await running
        except Reject as error:
            self._complain("rejects that nobody gets", "%s rejects what nobody asked: %s", name, error)

    # --- what it is ---

    def describe(self) -> dict[str, Any]:
        """The answer to `otpd.describe`."""
        who = {"name": self._agent.name, "generation": self._agent.generation}
        now = {"received": self.received, "waiting": len(self._queue), "handling": self._idle is None}
        return {**who, **self._methods.describe(), **now, "counts": dict(self._complain.counts)}


def _is_cancelled() -> bool:
    """Whether the mailbox itself is to end; otherwise a CancelledError is one that a handler met."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
