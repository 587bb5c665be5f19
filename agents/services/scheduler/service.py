"""The scheduler as an agent: what others ask of it, what it hears of names, and what it tells.

>>> # await self.call("scheduler", "schedules", name="inventory")
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from otpd.agents import Agent, Event, NodeNotRunning, OtpdError, Reject, Reply, Stale, call, on, run
from otpd.agents.schedules import LATEST, Once, Rules
from otpd.agents.services.notes import note
from otpd.agents.services.scheduler.alarm import WallAlarm
from otpd.agents.services.scheduler.declared import from_data
from otpd.agents.services.scheduler.disk import Disk, Newer
from otpd.agents.services.scheduler.effects import Instant, Note
from otpd.agents.services.scheduler.job import Job
from otpd.agents.services.scheduler.machine import Full
from otpd.agents.services.scheduler.rows import rows
from otpd.agents.services.scheduler.telling import Telling
from otpd.agents.services.scheduler.timetable import Keeper, Memory, Timetable
from otpd.ipc.control import Control, ControlError
from otpd.ipc.happenings import Lost, Welcomed

#: Seconds between two words about the same schedule: 2,000 runs a second are told as so many counts.
_TELL: Final = 1.0
#: Seconds until it is asked again what has become of a name, if nobody could say.
_AGAIN: Final = 5.0
_ON_ITS_WAY: Final = ("starting", "restarting")
_PAGE: Final = 1000
#: Questions to cancel a timer whose answers are remembered: who puts one again, because the broker died, does so within
#: seconds.
_REMEMBERED: Final = 4096


class Scheduler(Agent):
    """Every timer of the node, by the names of their agents."""

    async def init(self, state_dir: str = "") -> None:
        keeper = self._keeper(state_dir)
        self._table = Timetable(self._otpd, keeper, self._now, self._alarm, self._heard)
        self._happened = Telling()
        self._telling: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Future[bool] | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._undecided: set[str] = set()
        self._asking: asyncio.TimerHandle | None = None
        self._keeping: dict[Job, list[Reply]] = {}  # who waits until a timer is on disk
        self._dropped: dict[tuple[str, str], bool] = {}
        if isinstance(keeper, Disk):
            self._table.machine.restore(keeper.load())
            for problem in keeper.problems:
                self.log.error("%s", problem)
                note(self, "damaged", "scheduler", what=problem)
        self._otpd.hears[Welcomed] = partial(self._welcomed, self._otpd.hears[Welcomed])
        self._otpd.hears[Lost] = partial(self._lost, self._otpd.hears[Lost])
        self._table.machine.connected(self._otpd.epoch is not None, self._now())
        self._table.ring()

    def _welcomed(self, hear: Callable[[Any], None], welcomed: Any) -> None:
        """Another broker: what has become of names meanwhile, nobody has told."""
        hear(welcomed)
        self._connected(True)
        self._look_at_all()

    def _lost(self, hear: Callable[[Any], None], lost: Any) -> None:
        hear(lost)
        self._connected(False)

    def _connected(self, is_open: bool) -> None:
        self._table.machine.connected(is_open, self._now())
        self._table.done()

    def _keeper(self, state_dir: str) -> Keeper:
        """Without a disk to write to, what agents declare is fired all the same."""
        if not state_dir:
            return Memory()
        try:
            return Disk(Path(state_dir) / "scheduler.db", self._otpd.endpoint.inc >> 32)
        except Newer:
            raise
        except (OSError, sqlite3.Error) as error:
            why = f"{state_dir}/scheduler.db can't be used: {error}"
            self.log.error("%s; declared schedules go on, new timers are refused; look at the disk, then: otpd restart %s",
                           why, self.name)  # fmt: skip
            note(self, "unkept", self.name, why=why)
            return Memory(why)

    def _now(self) -> Instant:
        return Instant(time.monotonic_ns(), time.time_ns())

    def _alarm(self, ring: Any) -> Any:
        return WallAlarm(asyncio.get_running_loop(), ring)

    async def terminate(self, reason: str) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._table.close()

    # --- agents ---

    @call
    async def declare(self, schedules: list[dict[str, Any]]) -> None:
        """All that the caller's class declares, with what this incarnation knows of it."""
        current = self.current
        assert current is not None
        try:
            declared = [from_data(each) for each in schedules]
        except (KeyError, TypeError, ValueError) as error:
            raise Reject(f"declare: expected schedules as the SDK of this otpd sends them: {error!r}") from None
        foreign = [each.id for each in declared if not each.id.startswith(f"{current.caller}/")]
        if foreign:
            raise Reject(f"declare: expected ids that begin with {current.caller}/, got {foreign[0]}")
        self._new(current.caller)
        self._table.machine.declare(current.caller, current.generation, declared, self._now())
        self._table.done()

    @call
    async def set_timer(
        self, id: str, method: str, due: int, wall: bool = False, grace: int | None = None, args: bytes = b""
    ) -> None:
        """A one-shot timer of the caller; answered when it is on disk."""
        current, reply = self.current, self.defer()
        assert current is not None
        if not id.startswith(f"{current.caller}/"):
            reply.fail(Reject(f"set_timer: expected an id that begins with {current.caller}/, got {id}"))
            return
        if not 0 <= due < LATEST or not (grace is None or 0 <= grace < LATEST):
            reply.fail(Reject(f"set_timer: expected nanoseconds, got due {due} and grace {grace}"))
            return
        plan = Once(due, Rules(misfire="run_once", grace=grace), wall)
        self._new(current.caller)
        before = self._table.machine.jobs.get(id)
        try:
            self._table.machine.schedule(current.caller, current.generation, id, method, plan, args, self._now())
        except Full:
            reply.fail(Reject("schedule: the scheduler has as many timers as it can hold; cancel some"))
            return
        self._answer_when_kept(reply, before, self._table.machine.jobs.get(id))

    def _answer_when_kept(self, reply: Reply, before: Job | None, job: Job | None) -> None:
        """Who says the same again, because the broker died, waits for the same write and gets its answer."""
        if job is not None and job is not before:
            self._keeping[job] = [reply]
            self._table.done(partial(self._kept, job))
            return
        self._table.done()
        if job is not None and job in self._keeping:
            self._keeping[job].append(reply)
        else:
            reply.answer(None)

    def _kept(self, job: Job, why: str | None) -> None:
        replies = self._keeping.pop(job)
        if why is not None and self._table.machine.jobs.get(job.id) is job:
            self._table.machine.cancel(job.owner.name, job.id)
            self._table.done()
        for reply in replies:
            if why is None:
                reply.answer(None)
            else:
                reply.fail(Reject(f"schedule: it can't be kept: {why}; look with: otpd errors scheduler"))

    @call
    async def drop_timer(self, id: str, asked: str = "") -> bool:
        """Whether the caller had a timer of this id that had not run yet; answered when it is on disk that there is none.
        `asked`: the same when a question is put again, which gets the same answer."""
        current, reply = self.current, self.defer()
        assert current is not None
        question = (current.caller, asked)
        found = self._dropped.get(question) if asked else None
        if found is None:
            found = self._dropped[question] = self._table.machine.cancel(current.caller, id)
            if len(self._dropped) > _REMEMBERED:
                del self._dropped[next(iter(self._dropped))]
        self._table.done(lambda _why: reply.answer(found), behind=True)
        return found

    def _new(self, name: str) -> None:
        """One of which nothing was known: what is it, beyond that it speaks?"""
        if name not in self._table.machine.owners:
            self._look(name)

    # --- operators ---

    @call
    async def schedules(self, name: str | None = None, begin: int = 0) -> dict[str, Any]:
        """Rows of all schedules, or of those of an agent or of one id, next ones first; 1,000 at most, from `begin` on."""
        found = rows(self._table.machine, self._now(), name)
        return {"rows": found[begin : begin + _PAGE], "all": len(found)}

    @call
    async def run_now(self, id: str) -> None:
        """Run it once, now, beside its times."""
        refused = self._table.machine.run_now(self._own(id), self._now())
        self._table.done()
        if refused is not None:
            raise Reject(f"{id} is not run: {refused}")

    @call
    async def pause(self, id: str) -> None:
        """Its times pass, counted as skipped, until it is resumed."""
        self._table.machine.pause(self._own(id), self._now())
        reply = self.defer()
        self._table.done(lambda _why: reply.answer(None))

    @call
    async def resume(self, id: str) -> None:
        self._table.machine.resume(self._own(id), self._now())
        reply = self.defer()
        self._table.done(lambda _why: reply.answer(None))

    def _own(self, id: str) -> str:
        """People may touch any schedule, an agent its own."""
        current = self.current
        assert current is not None
        if not current.caller.startswith("@") and not id.startswith(f"{current.caller}/"):
            text = f"{current.caller} may run, pause and resume what begins with {current.caller}/, got {id}"
            raise Reject(f"{text}; that of others is for people: otpd schedule")
        if id not in self._table.machine.jobs:
            raise Reject(f"no schedule has the id {id}", data={"code": "unknown"})
        return id

    @call
    async def stats(self) -> dict[str, Any]:
        """How many there are, and how many writes have failed."""
        return {**self._table.machine.counts(), "unkept": self._table.unkept}

    # --- names ---

    @on("otpd.name.**")
    async def named(self, event: Event) -> None:
        """What becomes of a name. A stop of the whole node is the end of no name."""
        name = event.topic.removeprefix("otpd.name.")
        if event.missed:
            self._look_at_all()
        if name not in self._table.machine.owners:
            return
        state = event.data["state"]
        if state in ("stopped", "gone"):
            self._presence(name, "restarting", event.data["generation"])
            self._look(name)
        else:
            self._presence(name, state, event.data["generation"])

    def _presence(self, name: str, state: str | None, generation: int) -> None:
        self._table.machine.presence(name, state, generation, self._now())
        self._table.done()

    def _look_at_all(self) -> None:
        for name in list(self._table.machine.owners):
            self._look(name)

    def _look(self, name: str) -> None:
        task = asyncio.ensure_future(self._ask(name))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _ask(self, name: str) -> None:
        """That nobody has it decides nothing of one that has spoken since: it was born behind the answer. And who was on its
        way is asked for again: that it was up may have been published before the broker had the subscription to it."""
        before = self._table.machine.heard(name)
        try:
            found = await self.whereis(name)
        except (Stale, NodeNotRunning):
            return
        except OtpdError:
            self._ask_later(name)
            return
        state, generation = (found.state, found.generation) if found is not None else (None, 0)
        if state in ("stopped", None) and await self._node_is_stopping():
            self._ask_later(name)
        elif state is None and self._table.machine.heard(name) != before:
            self._look(name)
        else:
            self._presence(name, state, generation)
            if state in _ON_ITS_WAY:
                self._ask_later(name)

    def _ask_later(self, name: str) -> None:
        self._undecided.add(name)
        if self._asking is None:
            self._asking = asyncio.get_running_loop().call_later(_AGAIN, self._ask_again)

    def _ask_again(self) -> None:
        self._asking = None
        names, self._undecided = self._undecided, set()
        for name in names & self._table.machine.owners.keys():
            self._look(name)

    async def _node_is_stopping(self) -> bool:
        """Asked of root once for all names that stop together."""
        if self._stopping is None:
            loop = asyncio.get_running_loop()
            self._stopping = loop.run_in_executor(None, _node_stops)
            self._stopping.add_done_callback(lambda _: loop.call_later(_TELL, self._forget_answer))
        return await asyncio.shield(self._stopping)

    def _forget_answer(self) -> None:
        """A root that was too busy to say may say it the next time."""
        self._stopping = None

    # --- what it tells ---

    def _heard(self, happened: Note) -> None:
        self._happened.heard(happened)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_TELL, self._tell)

    def _tell(self) -> None:
        """Each second once what has happened to each schedule."""
        self._telling = None
        told = self._happened.take()
        for kind, data in told.emits:
            self.emit(kind, **data)
        for what, name, data in told.notes:
            note(self, what, name, **data)
        if told.ran is not None:
            self._otpd.emit("otpd.scheduler.ran", {"at": time.time(), **told.ran})


def _node_stops() -> bool:
    """Whether root is stopping the node, and all names with it."""
    try:
        with Control.open(os.environ["OTPD_CONTROL"], 5.0) as control:
            return control.ask("node").get("state") in ("stopping", "ending")
    except (KeyError, ControlError, OSError):
        return True  # it is on its way out, or busy: nothing is decided


if __name__ == "__main__":
    run(Scheduler)
