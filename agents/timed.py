"""The agent's side of the scheduler: hands over what its class declares, and handles the runs that it is given.

Level triggered: all declarations, with what this incarnation knows of them, are said again whenever the scheduler or the
broker is another one, until they are taken. A run comes as a call, so that its end is the answer; `firings` sees to it that
each is handled once, whoever asks for it how often.

| what comes for a run | it waits in the mailbox | its handler runs |
|---|---|---|
| the same again | answered at its end, too | answered at its end, too |
| the scheduler gives it up | not handled | cancelled, if it is async; what goes on for GRACE more is a crash |
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from otpd.agents.complaints import Complaints
from otpd.agents.conversation import Conversation
from otpd.agents.data import UNDECODABLE, decode
from otpd.agents.durations import nanoseconds
from otpd.agents.errors import BadArguments, CallTimeout, NodeNotRunning, NoMethod, OtpdError, Reject, Stale
from otpd.agents.firings import Declaration, Firings
from otpd.agents.methods import Method, Methods
from otpd.ipc.endpoint import Address
from otpd.ipc.happenings import Delivered, Down, Up, Welcomed
from otpd.ipc.wire import Status

SCHEDULER: Final = "scheduler"
FIRE: Final = "otpd.fire"
_FIRE_BEGINS: Final = b"\x92" + bytes([0xA0 | len(FIRE)]) + FIRE.encode()
#: Seconds that a cancelled handler has to end.
GRACE: Final = 5.0
#: Seconds until what the scheduler has not taken is said again, at first and at most.
_AGAIN, _AGAIN_MOST = 0.1, 5.0
_TO: Final = Address(SCHEDULER)


@dataclass(slots=True, eq=False)
class Firing:
    """One run that is waiting for its turn, or is handled. `calls`: who waits for its end."""

    id: str
    run: int
    method: str
    args: bytes
    body: bytes
    calls: list[int]
    cancelled: bool = False
    task: asyncio.Future[Any] | None = None
    over: asyncio.Future[None] | None = None

    def done(self, _: asyncio.Future[Any]) -> None:
        if self.over is not None and not self.over.done():
            self.over.set_result(None)

    def overdue(self) -> None:
        """Its handler goes on although it was cancelled: a crash."""
        if self.over is not None and not self.over.done():
            advice = "catch no CancelledError in it, write it as async def, or give it more max_runtime"
            self.over.set_exception(TimeoutError(f"{self.id}: went on {GRACE:g} s after it was cancelled; {advice}"))


class Timed:
    """Of one incarnation; `mailbox` asks it."""

    def __init__(
        self, name: str, generation: int, methods: Methods, conversation: Conversation, complain: Complaints
    ) -> None:
        now = conversation.clock()
        declared = (Declaration(f"{name}/{key}", m.name, plan, now) for key, (m, plan) in methods.schedules.items())
        self.firings = Firings(generation, declared)
        self._name, self._methods, self._conversation, self._complain = name, methods, conversation, complain
        self._going: dict[tuple[str, int], Firing] = {}
        self._calls: dict[int, Firing] = {}  # by the number of each call that asks for a run
        self._telling: asyncio.Task[None] | None = None
        self._monitor: int | None = None
        self._count = 0

    # --- declare ---

    def begin(self) -> None:
        """init() has returned: the scheduler is told, now and whenever there is another one."""
        if not self.firings.declared:
            return
        hears = self._conversation.hears
        for happening in (Up, Down):
            hears[happening] = self._filter(hears[happening])
        welcomed = hears[Welcomed]

        def again(happening: Any) -> None:
            welcomed(happening)
            self._tell()

        hears[Welcomed] = again
        self._monitor = self._conversation.monitor(SCHEDULER, True)
        self._tell()

    def _filter(self, hear: Callable[[Any], None]) -> Callable[[Any], None]:
        def heard(happening: Any) -> None:
            if happening.ref != self._monitor:
                hear(happening)
            elif isinstance(happening, Up):
                self._tell()

        return heard

    def _tell(self) -> None:
        """From the beginning, if it is being told: that may be meant for one that is no more."""
        if self._telling is not None:
            self._telling.cancel()
        self._telling = asyncio.ensure_future(self._declare())

    async def _declare(self) -> None:
        pause = _AGAIN
        while True:
            try:
                schedules = self.firings.declarations()
                await self._conversation.call(_TO, "declare", {"schedules": schedules}, 5.0)
            except (Stale, NodeNotRunning):
                return
            except (Reject, BadArguments, NoMethod) as error:
                self._complain("schedules refused", "the schedules of this agent are refused: %s", error)
                return
            except OtpdError as error:
                if pause == _AGAIN_MOST:
                    text = "the scheduler does not take the schedules of this agent: %s; tried again"
                    self._complain("schedules not taken", text, error)
            else:
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _AGAIN_MOST)

    # --- ask ---

    async def ask(self, method: str, args: Mapping[str, Any], timeout: float = 5.0) -> Any:
        """A question that may be put twice, so that it is, while the scheduler is started again."""
        until = self._conversation.clock() + int(timeout * 1e9)
        while True:
            left = (until - self._conversation.clock()) / 1e9
            try:
                return await self._conversation.call(_TO, method, args, left)
            except (Reject, Stale, BadArguments, NoMethod, CallTimeout):
                raise
            except OtpdError:
                if left < 2 * _AGAIN:
                    raise
            await asyncio.sleep(_AGAIN)

    async def schedule(self, method: str, after: Any, at: Any, key: str | None, grace: Any, args: Mapping[str, Any]) -> str:
        """The id of a new one-shot timer; see `Agent.schedule`."""
        what = f"schedule of {self._name}.{method}"
        try:
            wrong = self._methods.own(method).parameters.wrong(args)
        except LookupError as error:
            raise NoMethod(f"schedule: {error}") from None
        if wrong is not None:
            raise BadArguments(f"{what}, {wrong}")
        try:
            wall, due = self._due(after, at)
            latest = None if grace is None else nanoseconds("grace", grace)
        except (ValueError, TypeError) as error:
            raise BadArguments(f"{what}: {error}") from None
        which = self._unique() if key is None else str(key)
        id_ = f"{self._name}/{method}/{which}"
        packed = self._packed(args, what)
        await self.ask("set_timer", {"id": id_, "method": method, "due": due, "wall": wall, "grace": latest, "args": packed})
        return id_

    async def cancel_timer(self, id_: str) -> bool:
        """See `Agent.cancel`."""
        return bool(await self.ask("drop_timer", {"id": id_, "asked": self._unique()}))

    def _unique(self) -> str:
        """Of all incarnations."""
        self._count += 1
        return f"{self._conversation.endpoint.inc:x}.{self._count}"

    def _packed(self, args: Mapping[str, Any], what: str) -> bytes:
        """NotData names the argument."""
        encoder = self._conversation.encoder
        encoder.message("", args, what)
        return encoder.encode(args, what) if args else b""

    def _due(self, after: Any, at: Any) -> tuple[bool, int]:
        """Whether it is of the wall clock, and when."""
        if (after is None) == (at is None):
            raise ValueError('expected one of after="5m" and at=datetime, got ' + ("none" if at is None else "both"))
        if at is None:
            return False, self._conversation.clock() + nanoseconds("after", after)
        if not isinstance(at, datetime.datetime) or at.utcoffset() is None:
            raise ValueError(f"at: expected a datetime with a time zone, such as datetime.now(UTC), got {at!r}")
        return True, int(at.timestamp() * 1e6) * 1000

    # --- runs ---

    def takes(self, message: Delivered) -> Firing | bool | None:
        """A run to put into the mailbox; True when it is answered, or will be; None when it is no run."""
        if message.source != SCHEDULER or not message.body.startswith(_FIRE_BEGINS):
            return None
        assert message.call is not None
        try:
            _, fire = decode(message.body)
            id_, run, method, args, only = (fire[key] for key in ("id", "run", "method", "args", "only"))
        except (*UNDECODABLE, KeyError):
            return None
        verdict = self.firings.take(id_, run, only)
        if verdict == "run":
            firing = Firing(id_, run, method, args, message.body, [message.call])
            self._going[id_, run] = self._calls[message.call] = firing
            return firing
        if verdict == "attach":
            firing = self._calls[message.call] = self._going[id_, run]
            firing.calls.append(message.call)
        else:
            self._answer([message.call], verdict)
        return True

    def cancel(self, call: int) -> bool:
        """The scheduler waits no longer for a run, and it is to end. False: the call is no run."""
        firing = self._calls.get(call)
        if firing is None:
            return False
        if not firing.cancelled:
            firing.cancelled = True
            if isinstance(firing.task, asyncio.Task):  # a plain handler runs in a thread, which nobody can cancel
                firing.task.cancel()
            if firing.task is not None:
                self._conversation.loop.call_later(GRACE, firing.overdue)
        return True

    def forsaken(self, call: int) -> bool:
        """The scheduler died: the run goes on, and the next one asks for it. False: the call is no run."""
        firing = self._calls.pop(call, None)
        if firing is not None:
            firing.calls.remove(call)
        return firing is not None

    async def handle(self, firing: Firing, run: Callable[[Method, dict[str, Any]], Awaitable[Any]]) -> str:
        """The outcome; raises what the handler raises."""
        if firing.cancelled:
            return "cancelled"
        try:
            handler, args = self._methods.own(firing.method), decode(firing.args) if firing.args else {}
        except LookupError as error:
            return self._refuse(firing, str(error))
        wrong = handler.parameters.wrong(args)
        if wrong is not None:
            return self._refuse(firing, wrong)
        firing.over = self._conversation.loop.create_future()
        firing.task = asyncio.ensure_future(run(handler, args))
        firing.task.add_done_callback(firing.done)
        try:
            await firing.over
        except BaseException:
            firing.task.cancel()
            raise
        if firing.task.cancelled() and firing.cancelled:
            return "cancelled"
        try:
            firing.task.result()
        except Reject as error:
            return self._refuse(firing, str(error))
        return "done"

    def _refuse(self, firing: Firing, why: str) -> str:
        self._complain("runs refused", "run of %s refused: %s", firing.id, why)
        return "rejected"

    def end(self, firing: Firing, outcome: str) -> list[int]:
        """It is over: who waits for that."""
        self.firings.end(firing.id, firing.run, outcome, self._conversation.clock())
        self._going.pop((firing.id, firing.run), None)
        for call in firing.calls:
            self._calls.pop(call, None)
        return firing.calls

    def ended(self, firing: Firing, outcome: str) -> None:
        self._answer(self.end(firing, outcome), outcome)

    def _answer(self, calls: list[int], outcome: str) -> None:
        body = self._conversation.encoder.encode({"outcome": outcome}, "the end of a run")
        for call in calls:
            self._conversation.endpoint.reply(call, Status.OK, body)
