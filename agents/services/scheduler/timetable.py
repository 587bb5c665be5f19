"""Carries out what the machine wants: first what must be on disk, then the runs, as calls whose end is the run's end.

One turn is: something has happened, the machine has heard of it, its effects are done, the alarms stand at what is due next.
Runs of schedules that leave nothing on disk don't wait for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

from otpd.agents.conversation import Conversation
from otpd.agents.errors import (
    BrokerLost,
    CallTimeout,
    CircuitOpen,
    Exited,
    NoProcess,
    OtpdError,
    Overloaded,
    RemoteError,
    Stale,
)
from otpd.agents.services.scheduler.disk import Changes
from otpd.agents.services.scheduler.effects import Cancel, Effect, Fire, Forget, Instant, Keep, Note
from otpd.agents.services.scheduler.machine import Scheduler
from otpd.agents.timed import FIRE
from otpd.ipc.endpoint import Address

_NS: Final = 1_000_000_000
#: Seconds between two words about a disk that fails.
_AGAIN: Final = 60.0
#: Why a run has reached nobody, as counted.
_REASONS: Final[dict[type[OtpdError], str]] = {
    Overloaded: "overloaded", CircuitOpen: "circuit_open", NoProcess: "noproc", CallTimeout: "expired",
}  # fmt: skip


class Keeper(Protocol):
    """`then(why)`: from any thread; why it is not kept, or None."""

    def write(self, changes: Changes, then: Callable[[str | None], None]) -> None: ...

    def close(self) -> None: ...


class Alarm(Protocol):
    def set(self, at: int | None) -> None: ...

    def close(self) -> None: ...


class Memory:
    """Keeps nothing beyond the process: in a test, or where there is no disk to write to. `why`: then no timer is accepted
    that would have to be kept."""

    def __init__(self, why: str | None = None) -> None:
        self.why = why

    def write(self, changes: Changes, then: Callable[[str | None], None]) -> None:
        then(self.why)

    def close(self) -> None: ...


class Timetable:
    """`tell` gets each Note; `alarm(ring)` makes the one of the wall clock."""

    def __init__(
        self, conversation: Conversation, keeper: Keeper, clock: Callable[[], Instant],
        alarm: Callable[[Callable[[], None]], Alarm], tell: Callable[[Note], None],
    ) -> None:  # fmt: skip
        self.machine = Scheduler()
        self.now, self.unkept = clock, 0
        self._conversation, self._keeper, self._tell = conversation, keeper, tell
        self._loop = conversation.loop
        self._calls: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._unsent: dict[tuple[str, int], Fire] = {}  # they wait for the disk
        self._held: Counter[str] = Counter()  # schedules of which a run waits so: later runs stay behind it
        self._timer: asyncio.TimerHandle | None = None
        self._wall = alarm(self.ring)
        self._closed = False
        self._complained = -_AGAIN

    # --- turns ---

    def ring(self) -> None:
        """A time has come, or the clock was set."""
        self.machine.tick(self.now())
        self.done()

    def done(self, then: Callable[[str | None], None] | None = None, behind: bool = False) -> None:
        """The machine has heard of something: do what it wants. `then(why)` when that is on disk, or why it is not.
        `behind`: also when nothing of it has to be, not before all is that was wanted earlier."""
        changes: Changes = {}
        fires: list[Fire] = []
        for effect in self.machine.take():
            self._sort(effect, changes, fires)
        if changes or behind or any(fire.id in self._held for fire in fires):
            self._unsent.update({(fire.id, fire.run): fire for fire in fires})
            self._held.update(fire.id for fire in fires)
            back = self._loop.call_soon_threadsafe
            self._keeper.write(changes, lambda why: None if self._closed else _called(back, self._kept, why, fires, then))
        else:
            for fire in fires:
                self._fire(fire)
            if then is not None:
                then(None)
        self._set_alarms()

    def _sort(self, effect: Effect, changes: Changes, fires: list[Fire]) -> None:
        match effect:
            case Keep(record=record):
                changes[record.id] = record
            case Forget(id=id_):
                changes[id_] = None
            case Fire():
                fires.append(effect)
            case Cancel(id=id_, run=run):
                self._cancel(id_, run, fires)
            case Note():
                self._tell(effect)

    def _kept(self, why: str | None, fires: list[Fire], then: Callable[[str | None], None] | None) -> None:
        """A disk that fails stops no timer: what is lost then is lost only if agent and scheduler die together, before the
        next change of the same schedule is written."""
        if self._closed:
            return
        if why is not None:
            self._complain(why)
        for fire in fires:
            self._held[fire.id] -= 1
            if not self._held[fire.id]:
                del self._held[fire.id]
            if self._unsent.pop((fire.id, fire.run), None) is fire:
                self._fire(fire)
        if then is not None:
            then(why)

    def _complain(self, why: str) -> None:
        """Once a minute: a full disk fails each write."""
        self.unkept += 1
        now = self._loop.time()
        if now >= self._complained + _AGAIN:
            self._complained = now
            self._tell(Note("unkept", "", {"why": why}))

    def _set_alarms(self) -> None:
        mono, wall = self.machine.next
        self._wall.set(wall)
        when = None if mono is None else mono / _NS
        if self._timer is not None and self._timer.when() != when:
            self._timer.cancel()
            self._timer = None
        if when is not None and self._timer is None:
            self._timer = self._loop.call_at(when, self._come)

    def _come(self) -> None:
        self._timer = None
        self.ring()

    # --- runs ---

    def _fire(self, fire: Fire) -> None:
        key = (fire.id, fire.run)
        task = self._calls[key] = self._loop.create_task(self._call(fire))
        task.add_done_callback(lambda done: self._calls.pop(key) if self._calls.get(key) is done else None)

    async def _call(self, fire: Fire) -> None:
        args = {"id": fire.id, "run": fire.run, "method": fire.method, "args": fire.args, "only": fire.only}
        outcome, why = await self._outcome(Address(fire.name), args)
        if outcome is not None and not self._closed:
            self._calls.pop((fire.id, fire.run), None)
            self.machine.ended(fire.id, fire.run, outcome, self.now(), why)
            self.done()

    async def _outcome(self, to: Address, args: dict[str, Any]) -> tuple[str | None, str]:
        """As `runs` names them; None: this scheduler is not the current one any more."""
        try:
            answer = await self._conversation.call(to, FIRE, args, None)
        except (RemoteError, Exited, BrokerLost) as error:
            return {RemoteError: "raised", Exited: "died", BrokerLost: "unknown"}[type(error)], ""
        except Stale:
            return None, ""
        except OtpdError as error:
            why = _REASONS.get(type(error))
            return ("undelivered", why) if why is not None else ("rejected", "")
        outcome = answer.get("outcome") if isinstance(answer, dict) else None
        return outcome if outcome in ("done", "rejected", "cancelled", "lost", "early") else "done", ""

    def _cancel(self, id_: str, run: int, fires: list[Fire]) -> None:
        key = (id_, run)
        self._unsent.pop(key, None)
        fires[:] = [fire for fire in fires if (fire.id, fire.run) != key]
        task = self._calls.pop(key, None)
        if task is not None:
            task.cancel()

    # --- the end ---

    def close(self) -> None:
        """Nothing more is fired; what was accepted is on disk when this returns. Runs that go on are left to go on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wall.close()
        self._keeper.close()


def _called(back: Callable[..., Any], *args: Any) -> None:
    try:
        back(*args)
    except RuntimeError:
        pass  # the loop has ended meanwhile
