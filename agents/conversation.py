"""What one incarnation says to the broker and what it waits for: the endpoint, and a future for each answer.

Lives on one asyncio loop. `verbs` are its users above, a line (`line`, or `testing`) moves its frames below. What is no
answer goes to whoever has put himself into `hears`, by the type of the happening.

Guarantees: each call ends exactly once, at the latest at its deadline, broker or no broker (D1); deadlines are inherited
(D4); a caller that is cancelled cancels its call (D5); nothing is tried again by itself but questions that change nothing.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from otpd.agents.commands import nobody_to_summon
from otpd.agents.current import inherited_deadline
from otpd.agents.data import Encoder
from otpd.agents.errors import BrokerLost, CallTimeout, NoProcess, NotData, OtpdError, Stale, TooLarge, failure, stale
from otpd.agents.names import Names, checked
from otpd.agents.submissions import Submissions
from otpd.agents.waiting import Done, Waiting, what
from otpd.ipc import errors as wire_errors
from otpd.ipc.endpoint import Address, Endpoint
from otpd.ipc.happenings import (
    Answered,
    CallFailed,
    CastAccepted,
    CastRejected,
    Exit,
    Fenced,
    Happening,
    Lost,
    Replied,
    Welcomed,
)

if TYPE_CHECKING:
    from otpd.agents.tasks.pools import Pools

_NS: Final = 1_000_000_000
#: The latest deadline that can be said: u64 on the wire.
_FOREVER: Final = 1 << 63
#: Casts whose method is remembered, in case they are rejected: more than can be on their way.
_REMEMBERED: Final = 4096
_ELSEWHERE: Final = (
    "the verbs of self belong to the loop of the agent, and this is another thread: a plain def handler runs in the worker "
    "thread; use the same verb of self.sync there, or write the handler as async def"
)
Args: TypeAlias = Mapping[str, Any]


class Conversation:
    """`clock`: ns of CLOCK_MONOTONIC. To be made on the loop that it lives on."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.endpoint, self.clock = endpoint, clock
        self.loop = asyncio.get_running_loop()
        self.encoder, self.names = Encoder(), Names()
        self.complain: Callable[..., None] = _nothing  # a counted warning
        self.flush: Callable[[], None] = _nothing  # set by the line
        self.summon: Callable[[str], Awaitable[None]] = nobody_to_summon  # has root start a service; set by the life
        self.silenced: Callable[[Callable[[Any], bool]], None] = _nothing  # set by the mailbox
        self.hears: dict[type, Callable[[Any], None]] = {
            Replied: self._replied, CallFailed: self._call_failed, Answered: self._answered, CastAccepted: self._accepted,
            CastRejected: self._rejected, Welcomed: self._welcomed, Lost: self._lost, Fenced: self._fenced,
        }  # fmt: skip
        self.epoch: str | None = None
        self.ended: OtpdError | None = None
        self.at_end: Callable[[OtpdError], None] = _nothing
        self.rejections: Callable[[str, str, str], None] = _nothing  # name, method, code of a cast that nobody awaits
        self.reach: Callable[[str], Awaitable[socket.socket]] = _unreachable  # a line to a pool; set by what this lives in
        self.crash: Callable[[BaseException], None] | None = None  # set by the host
        self.thread = threading.get_ident()
        self._calls: dict[int, Waiting] = {}
        self._questions: dict[int, Waiting] = {}
        self._confirms: dict[int, Waiting] = {}
        self._sent: dict[int, tuple[int, str]] = {}
        self._roomless: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.submissions = Submissions(self)  # to the store

    @functools.cached_property
    def pools(self) -> Pools:
        """Made with the first task."""
        from otpd.agents.tasks.pools import Pools

        return Pools(self.reach, self.endpoint.name, self.crash)

    def close_pools(self) -> None:
        """Tasks that are open end with this."""
        if "pools" in self.__dict__:
            self.pools.close()

    # --- what all verbs begin with ---

    def here(self) -> None:
        """Not on another thread, and not after the end."""
        if threading.get_ident() != self.thread:
            raise RuntimeError(_ELSEWHERE)
        if self.ended is not None:
            raise type(self.ended)(str(self.ended))

    def deadline(self, timeout: float | None, verb: str, target: str, method: str = "") -> int:
        """ns, 0 for none: the sooner of `timeout` seconds from now and what is left to the call that is being handled."""
        inherited, now = inherited_deadline(), self.clock()
        if inherited and inherited <= now:
            raise CallTimeout(f"{what(verb, target, method)}: the call that it serves has passed its deadline; return", "no")
        if timeout is None:
            return inherited
        try:
            own = min(_FOREVER, now + max(1, int(float(timeout) * _NS)))  # a text times a number would be a very long text
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{what(verb, target, method)}: expected timeout in seconds or None, got {timeout!r}") from None
        return min(own, inherited) if inherited else own

    # --- calls ---

    async def call(self, to: Address, method: str, args: Args, timeout: float | None, inherit: bool = True) -> Any:
        """`inherit`: it ends at the latest with the call that is being handled."""
        self.here()
        deadline = self.deadline(timeout, "call of", to.name, method) if inherit or timeout is not None else 0
        body = self._message("call of", to, method, args)
        if not self.endpoint.room:
            await self._room(deadline, "call of", to.name, method)
        try:
            request = self.endpoint.call(to, body, deadline, self.clock())
        except wire_errors.TooLarge as error:
            raise TooLarge(str(error)) from None
        future = self.loop.create_future()
        self._calls[request] = Waiting(future, "call of", to.name, method)
        if deadline:
            self._arm(deadline)
        if self.endpoint.happened:
            self.work_off()
        try:
            return await future
        finally:
            if self._calls.pop(request, None) is not None:
                self.endpoint.cancel(request)

    def _replied(self, reply: Replied) -> None:
        waiting = self._calls.pop(reply.request, None)
        if waiting is not None:
            waiting.take(reply.status, reply.body)

    def _call_failed(self, failed: CallFailed) -> None:
        waiting = self._calls.pop(failed.request, None)
        if waiting is not None:
            waiting.fail(failure(str(waiting), failed.code, failed.executed, self._detail(failed)))

    def _detail(self, failed: CallFailed) -> str:
        away = failed.code == "expired" and self.epoch is None
        return "there is no broker at the moment; it is started again by itself" if away else failed.detail

    # --- casts and events ---

    def cast(self, to: Address, method: str, args: Args) -> Any:
        """Queued when it returns, if there is room; else what it returns must be awaited."""
        self.here()
        endpoint = self.endpoint
        if not endpoint.room:
            return self._cast_later(to, method, args)
        self.put_cast(to, method, args, self._message("cast to", to, method, args))
        return _DONE

    def _message(self, verb: str, to: Address, method: str, args: Args) -> bytes:
        try:
            return self.encoder.message(method, args, "")
        except NotData:  # once more, with the words that it costs too much to make each time
            return self.encoder.message(method, args, what(verb, to.name, method))

    def put_cast(self, to: Address, method: str, args: Args, body: bytes, confirm: Waiting | None = None) -> int:
        """Whether there is room or not; `body` says the same as `args`."""
        endpoint = self.endpoint
        try:
            number = endpoint.cast(to, body, confirm is not None)
        except wire_errors.TooLarge as error:
            raise TooLarge(str(error)) from None
        if confirm is not None:
            self._confirms[number] = confirm
        self._sent[number % _REMEMBERED] = (number, method)
        if endpoint.pending:
            self.flush()
        return number

    async def _cast_later(self, to: Address, method: str, args: Args) -> None:
        body = self._message("cast to", to, method, args)
        await self._room(self.deadline(None, "cast to", to.name, method), "cast to", to.name, method)
        self.put_cast(to, method, args, body)

    async def cast_confirmed(self, to: Address, method: str, args: Args, timeout: float | None) -> None:
        """Ends when the broker has accepted it, or has not."""
        self.here()
        deadline = self.deadline(timeout, "cast to", to.name, method)
        body = self._message("cast to", to, method, args)
        await self._room(deadline, "cast to", to.name, method)
        waiting = Waiting(self.loop.create_future(), "cast to", to.name, method)
        number = self.put_cast(to, method, args, body, waiting)
        try:
            await self.within(deadline, waiting, "the broker did not say whether it has accepted it", "maybe")
        finally:
            self._confirms.pop(number, None)

    def _accepted(self, accepted: CastAccepted) -> None:
        waiting = self._confirms.pop(accepted.number, None)
        if waiting is not None:
            waiting.answer(None)

    def _rejected(self, rejected: CastRejected) -> None:
        waiting = self._confirms.pop(rejected.number, None)
        number, method = self._sent.get(rejected.number % _REMEMBERED, (None, ""))
        if waiting is not None:
            executed = "maybe" if rejected.code == "broker_lost" else "no"
            waiting.fail(failure(str(waiting), rejected.code, executed))
        else:
            self.rejections(rejected.target, method if number == rejected.number else "?", rejected.code)

    def publish(self, topic: str, data: Args) -> Any:
        """As `cast`."""
        self.here()
        self.names.own_topic(topic)
        if not self.endpoint.room:
            return self._publish_later(topic, data)
        self.put_event(topic, data)
        return _DONE

    def put_event(self, topic: str, data: Args) -> None:
        """Whether there is room or not."""
        body = self.encoder.encode(data, what("publish", topic))
        try:
            self.endpoint.publish(topic, body)
        except wire_errors.TooLarge as error:
            raise TooLarge(str(error)) from None
        if self.endpoint.pending:
            self.flush()

    async def _publish_later(self, topic: str, data: Args) -> None:
        await self._room(self.deadline(None, "publish", topic), "publish", topic)
        self.put_event(topic, data)

    def emit(self, topic: str, data: Args) -> None:
        """As `publish`, but dropped and counted when there is no room."""
        self.here()
        self.names.topic(topic)
        if self.endpoint.room:
            self.put_event(topic, data)
        else:
            self.complain("emits dropped", "the broker takes no more for the moment: dropped %s", topic)

    # --- questions ---

    async def ask(self, question: str, *arguments: Any, timeout: float | None = 5.0, again: bool = False) -> Any:
        """The broker's answer. `again`: it changes nothing, so it is put to the next broker when one dies."""
        self.here()
        about = checked(question, arguments[0])
        deadline = self.deadline(timeout, question, about)
        while True:
            waiting = Waiting(self.loop.create_future(), question, about)
            ref = self.put_question(waiting, question, *arguments)
            try:
                return await self.within(deadline, waiting, "the broker has not answered", "maybe")
            except BrokerLost:
                if not again:
                    raise
            finally:
                self._questions.pop(ref, None)

    def put_question(self, waiting: Waiting, question: str, *arguments: Any) -> int:
        """NotData or TooLarge when it can't be asked."""
        self.encoder.encode(arguments, str(waiting))
        try:
            ref = self.endpoint.ask(question, *arguments)
        except wire_errors.TooLarge as error:
            raise TooLarge(str(error)) from None
        self._questions[ref] = waiting
        return ref

    def subscribe(self, pattern: str) -> tuple[int, asyncio.Future[Any]]:
        """The ref by which a Gap names it, and the broker's answer."""
        self.here()
        ref = self.endpoint.subscribe(pattern)
        answer: asyncio.Future[Any] = self.loop.create_future()
        self._questions[ref] = Waiting(answer, "subscribe to", pattern)
        return ref, answer

    def _answered(self, answered: Answered) -> None:
        waiting = self._questions.pop(answered.ref, None)
        if waiting is None:
            return
        match answered.value:
            case (str(code), str(text)) if not answered.ok:
                waiting.fail(failure(str(waiting), code, "maybe" if code == "broker_lost" else "no", text))
            case value:
                waiting.answer(value)

    # --- deaths ---

    def monitor(self, name: str, follow: bool) -> int:
        self.here()
        return self.endpoint.monitor(checked("monitor", name), bool(follow))

    def demonitor(self, ref: int) -> None:
        self.here()
        self.endpoint.demonitor(ref)
        self.silenced(lambda each: getattr(each, "ref", None) == ref)

    def link(self, name: str) -> None:
        self.here()
        self.endpoint.link(checked("link", name))

    def unlink(self, name: str) -> None:
        self.here()
        self.endpoint.unlink(checked("unlink", name))
        self.silenced(lambda each: isinstance(each, Exit) and each.name == name)

    # --- time and room ---

    async def within(self, deadline: int, waiting: Waiting, missing: str, executed: Any) -> Any:
        """The answer; CallTimeout at the deadline."""
        try:
            async with asyncio.timeout_at(deadline / _NS if deadline else None):
                return await waiting.future
        except TimeoutError:
            away = "" if self.epoch is not None else "; there is no broker at the moment, it is started again by itself"
            raise CallTimeout(f"{waiting}: {missing} within the deadline{away}; try again", executed) from None

    async def _room(self, deadline: int, verb: str, target: str, method: str = "") -> None:
        """Wait until the backlog towards the broker is within bounds: backpressure."""
        while not self.endpoint.room:
            self.here()
            waiting = Waiting(self.loop.create_future(), verb, target, method)
            self._roomless.append(waiting.future)
            await self.within(deadline, waiting, "the broker takes no more for the moment, and did not", "no")

    def _arm(self, due: int) -> None:
        """One timer for all calls, at the earliest deadline that it knows."""
        when = due / _NS
        if self._timer is None or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer = None
        due = self.endpoint.expire(self.clock())
        if due is not None:
            self._arm(due)
        self.work_off()

    # --- what the line tells ---

    def work_off(self) -> None:
        """All that has happened, in order."""
        happened, hears = self.endpoint.happened, self.hears
        while happened:
            each: Happening = happened.popleft()
            hear = hears.get(type(each))
            if hear is not None:
                hear(each)

    def make_room(self) -> bool:
        """Those who wait for room may look again, if there is any; whether there were such."""
        if not self._roomless or not self.endpoint.room:
            return False
        waiting, self._roomless = self._roomless, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return True

    def _welcomed(self, welcomed: Welcomed) -> None:
        self.epoch = welcomed.epoch

    def _lost(self, _: Lost) -> None:
        self.epoch = None

    def _fenced(self, fenced: Fenced) -> None:
        self.end(Stale(f"{stale(self.endpoint.name, fenced.why)}; end this process"))

    def end(self, error: OtpdError) -> None:
        """Nothing more is said or waited for."""
        self.ended = error
        open_ends = [*self._calls.values(), *self._questions.values(), *self._confirms.values()]
        for table in (self._calls, self._questions, self._confirms):
            table.clear()
        for waiting in open_ends:
            waiting.fail(type(error)(str(error)))
        roomless, self._roomless = self._roomless, []
        for future in roomless:
            if not future.done():
                future.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.at_end(error)


_DONE: Final = Done()


async def _unreachable(name: str) -> socket.socket:
    raise NoProcess(f"reach {name}: there are no pools here")


def _nothing(*_: Any) -> None:
    pass
