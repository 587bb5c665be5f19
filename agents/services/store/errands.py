"""What the queue of durable messages wants done: units become commits of the engine, deliveries casts to their targets.

`queue` decides, `couriers` tells it what agents and people say. An answer is given when its commit is on disk, and the next
message is handled meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from otpd.agents.deliveries import DURABLE, encoded
from otpd.agents.errors import Reject
from otpd.agents.replies import Reply
from otpd.agents.services.notes import note
from otpd.agents.services.store import journal
from otpd.agents.services.store.asked import Asked
from otpd.agents.services.store.messages import Answer, Bounds, Deliver, Effect, Tell, Unit, Watch
from otpd.agents.services.store.queue import MEMORY, Queue
from otpd.agents.services.store.state import put_state
from otpd.ipc.endpoint import Address
from otpd.ipc.happenings import Welcomed

#: Bytes of bodies that are kept in memory until they are delivered, so that they need not be read again.
_KEPT: Final = 16 * 2**20
#: Seconds until a commit that a full disk has refused is tried again.
_AGAIN: Final = 0.5
#: The code of what can't be written whatever the disk does.
REFUSED: Final = "refused"

Write: TypeAlias = Callable[[sqlite3.Connection], Any]
Then: TypeAlias = Callable[[Any, BaseException | None], None]


@dataclass(frozen=True, slots=True)
class Operator:
    """Of people, who are told by an error what was not done; the SDK of agents reads the code in an answer."""

    reply: Reply


class Bodies:
    """Of messages that wait, within a bound; the others are read from disk."""

    def __init__(self, bound: int = _KEPT) -> None:
        self._bodies: dict[int, bytes] = {}
        self._room = bound

    def keep(self, seq: int, body: bytes) -> None:
        if len(body) <= self._room:
            self._bodies[seq] = body
            self._room -= len(body)

    def get(self, seq: int) -> bytes | None:
        return self._bodies.get(seq)

    def drop(self, seq: int) -> None:
        self._room += len(self._bodies.pop(seq, b""))


class Errands(Asked):
    """`begin_errands` when the engine runs."""

    _queue: Queue
    engine: Any  # an Engine, or what a test has in its place

    async def begin_errands(self, bounds: Bounds) -> None:
        self._bodies = Bodies()
        self._units: deque[tuple[Unit, Write, asyncio.Future[Any]]] = deque()
        self._written = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._monitors: dict[str, int] = {}
        self._leaving: deque[Deliver] = deque()
        recover = functools.partial(journal.recover, wall=time.time())
        recovered = await self.engine.commit(recover, grows=False)
        self._queue = Queue(recovered, bounds, self._otpd.clock(), time.time())
        self._otpd.hears[Welcomed] = functools.partial(self._another_broker, self._otpd.hears[Welcomed])
        self._committing = asyncio.ensure_future(self._commit())
        self._committing.add_done_callback(self._ended)
        self._work()

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way to the disk."""
        return not self._units

    def end_errands(self) -> None:
        """Before the engine is closed."""
        self._committing.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _another_broker(self, hear: Callable[[Any], None], welcomed: Welcomed) -> None:
        """What was on its way may be lost with the one before."""
        hear(welcomed)
        self._queue.remind_all(self._otpd.clock())
        self._work()

    # --- its effects ---

    def _work(self) -> None:
        """After each event: its effects, its commits, its next time."""
        due = self._queue.tick(self._otpd.clock(), time.time())
        while self._queue.effects:
            self._effect(self._queue.effects.popleft())
        for unit in self._queue.take():
            self._submit(unit)
        if self._queue.effects:
            self._work()
        else:
            self._arm(due)

    def _arm(self, due: int) -> None:
        """One timer, at the earliest time that it was told; too early does no harm."""
        when = due / 1e9
        if self._timer is None or self._timer.cancelled() or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._otpd.loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._written.set()

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Deliver():
                self._leaving.append(effect)
                if len(self._leaving) == 1:
                    self._leave()
            case Answer(ref=Reply() as reply):
                self._answer(reply, effect)
            case Answer(ref=Operator(reply)) if reply.waiting:
                reply.fail(Reject(effect.text, data={"code": effect.code})) if effect.code else reply.answer(effect.value)
            case Watch(target=name, on=True):
                self._monitors[name] = self.monitor(name, follow=True)
            case Watch(target=name):
                self.demonitor(self._monitors.pop(name))
            case Tell(event="letter.dead", data=data):
                note(self, "letter.dead", data["target"], **data)
            case Tell(data=data):
                note(self, "letter.dropped", self.name, **data)

    def _leave(self) -> None:
        """In the order of dispatch, in which they are handled, too: one whose body must be read holds up those behind it."""
        while self._leaving:
            message = self._leaving[0].message
            body = self._bodies.get(message.seq)
            if body is None:
                self.engine.submit(functools.partial(journal.body, message=message), self._read, reads=True, brief=True)
                return
            self._deliver(self._leaving.popleft(), body)

    def _read(self, body: bytes | None, error: BaseException | None) -> None:
        if error is not None:  # more is asked than the disk answers: it stays the first
            self._otpd.loop.call_later(_AGAIN, self._leave)
            return
        effect = self._leaving.popleft()
        if body is None:
            self._queue.corrupt(effect.message.seq, self._otpd.clock())
        else:
            self._deliver(effect, body)
        self._leave()
        self._work()

    def _deliver(self, effect: Deliver, body: bytes) -> None:
        message = effect.message
        packed = encoded(
            seq=message.seq, attempt=effect.attempt, inc=effect.inc, kind=int(message.kind), name=message.name, body=body,
            sender=message.sender, id=message.id, at=message.at,
        )  # fmt: skip
        self._otpd.put_cast(Address(message.target), DURABLE, {}, packed)

    def _answer(self, reply: Reply, answer: Answer) -> None:
        if reply.waiting:
            reply.answer({"code": answer.code, "text": answer.text} if answer.code else answer.value)

    # --- commits ---

    def _submit(self, unit: Unit) -> None:
        wall = time.time()
        rows = journal.rows(unit, wall, self._queue.minute)
        for message, body in unit.inserts:
            self._bodies.keep(message.seq, body)
        state, receipt = unit.state, unit.receipt

        def write(connection: sqlite3.Connection) -> Any:
            more = None
            if state is not None and receipt is not None:
                more = put_state(connection, receipt.sender, receipt.inc, state[1], state[0], wall)
            journal.write(connection, rows, MEMORY, more)
            return more

        size = sum(len(body) for _, body in unit.inserts)
        self._units.append((unit, write, self.engine.commit(write, grows=rows.grows, size=size, brief=rows.brief)))
        self._written.set()

    async def _commit(self) -> None:
        """One after the other, as they were submitted; between them what the timer was for."""
        while True:
            if not self._units:
                self._written.clear()
                await self._written.wait()
                self._work()
                continue
            unit, write, future = self._units[0]
            try:
                more = await future
            except Exception as error:
                if unit.receipt is None and unit.ref is None:
                    more = await self._insist(write, error)
                    self._committed(unit, more)
                else:
                    self._failed(unit, error)
            else:
                self._committed(unit, more)
            self._units.popleft()
            self._work()

    def _refuse_behind(self) -> None:
        """The first of `_units` is tried until there is room. Who has submitted another one that has failed meanwhile, need
        not wait for that: none of it has taken place."""
        for entry in list(self._units)[1:]:
            unit, _, future = entry
            asked = unit.receipt is not None or unit.ref is not None
            error = future.exception() if asked and future.done() else None
            if error is not None:
                self._units.remove(entry)
                self._failed(unit, error)
        self._work()

    def _ended(self, task: asyncio.Future[None]) -> None:
        """Without it nothing would be answered any more."""
        if not task.cancelled():
            self.stop(f"error(a commit can't be written: {task.exception()!r})")

    async def _insist(self, write: Write, error: BaseException) -> Any:
        """What the queue itself has decided must be written: a disk that is full altogether is tried again."""
        while code_of(error):
            self._refuse_behind()
            await asyncio.sleep(_AGAIN)
            try:
                return await self.engine.commit(write, grows=False)
            except Exception as again:
                error = again
        raise error

    def _committed(self, unit: Unit, more: Any) -> None:
        self._queue.committed(unit, self._otpd.clock(), more)
        for message in (*unit.settled, *(burial.message for burial in unit.burials)):
            self._bodies.drop(message.seq)

    def _failed(self, unit: Unit, error: BaseException) -> None:
        self._queue.failed(unit, code_of(error) or REFUSED, str(error), self._otpd.clock())
        for message, _ in unit.inserts:
            self._bodies.drop(message.seq)


def code_of(error: BaseException) -> str:
    """Of a refusal; "" for what is none."""
    return str(getattr(error, "code", ""))
