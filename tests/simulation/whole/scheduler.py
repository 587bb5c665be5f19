"""The scheduler of the whole node: the real machine in its real timetable, and as little of the service as is around them.

It is an agent like the real one: agents declare and set timers by calls to it, a run is a call of its own, and what has
become of a name it hears from the broker, or asks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.schedules import Once, Rules
from otpd.agents.services.scheduler.declared import from_data
from otpd.agents.services.scheduler.effects import Effect, Fire
from otpd.agents.services.scheduler.job import Job
from otpd.agents.services.scheduler.timetable import Timetable
from otpd.ipc import happenings
from otpd.ipc.frames import unpack
from otpd.ipc.wire import Status
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import SECOND, Entry
from tests.simulation.kernel import State
from tests.simulation.messages import Message
from tests.simulation.parts import Part
from tests.simulation.whole.loop import Talk
from tests.simulation.whole.records import Keeper

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.whole.world import WholeWorld
    from tests.simulation.workers import Job as Start

SCHEDULER: Final = "scheduler"
#: Until it is asked again what has become of a name, if nobody could say.
_AGAIN: Final = 5 * SECOND


class Alarm:
    """Of the wall clock, with word of each jump."""

    def __init__(self, scheduler: SimulatedScheduler, ring: Callable[[], None]) -> None:
        self._scheduler, self.ring = scheduler, ring
        self._entry: Entry | None = None

    def set(self, at: int | None) -> None:
        world = self._scheduler.world
        world.clock.cancel(self._entry)
        self._entry = None
        if at is not None:
            self._entry = world.clock.at(at - world.ahead, self._scheduler.process.do, self.ring)

    def close(self) -> None:
        self.set(None)


class WatchedTimetable(Timetable):
    """The real one; what it wants done is seen."""

    def __init__(self, scheduler: SimulatedScheduler, talk: Talk, keeper: Keeper) -> None:
        self._scheduler = scheduler
        world = scheduler.world
        super().__init__(talk, keeper, lambda: world.instant, scheduler.alarm_of, partial(scheduler.tell, "noted"))  # type: ignore[arg-type]

    def ring(self) -> None:
        if not self._scheduler.world.hushed:
            super().ring()

    def _sort(self, effect: Effect, changes: Any, fires: list[Fire]) -> None:
        if isinstance(effect, Fire):
            self._scheduler.tell("decided", effect)
        super()._sort(effect, changes, fires)


class SimulatedScheduler(SimulatedAgent):
    """One incarnation."""

    world: WholeWorld

    def __init__(self, world: WholeWorld, process: Process, job: Start) -> None:
        super().__init__(world, process, job)
        process.at_exit.append(lambda: world.watch.timed("scheduler died", self))
        self.talk = Talk(self)
        self.alarm: Alarm | None = None
        keeper = Keeper(world, process, job.life, Random(f"{self.inc}/records"))
        self.table = WatchedTimetable(self, self.talk, keeper)
        self._looking: dict[int, tuple[str, Any]] = {}  # by the question: whom, and what was known of him then
        self._keeping: dict[Job, list[Callable[[str | None], None]]] = {}
        self._dropped: dict[tuple[str, str], bool] = {}

    def _parts(self) -> tuple[Part, ...]:
        return ()

    def alarm_of(self, ring: Callable[[], None]) -> Alarm:
        self.alarm = Alarm(self, ring)
        return self.alarm

    def tell(self, what: str, *arguments: Any) -> None:
        self.world.watch.timed(what, self, *arguments)

    @property
    def machine(self) -> Any:
        return self.table.machine

    def begin(self) -> None:
        now = self.world.instant
        self.machine.restore(self.world.records.load(self.job.life, now.mono - now.wall))
        self.machine.connected(False, now)
        self.world.watch.verb(self, "subscribe", self.endpoint.subscribe("otpd.name.**"), "otpd.name.**")
        super().begin()

    def _initialised(self) -> None:
        if self.phase == "init":
            self.phase = "ready"
            self.job.say(["ready"])
            self.table.ring()
            self.work()

    def end(self, reason: str, code: int) -> None:
        self.table.close()
        super().end(reason, code)

    # --- what it hears ---

    def _hear(self, happening: happenings.Happening) -> None:
        super()._hear(happening)
        if not self.process.alive:
            return
        match happening:
            case happenings.Welcomed():
                self._connected(True)
                self._look_at_all()
            case happenings.Lost():
                self._connected(False)
            case happenings.Gap():
                self._look_at_all()
            case happenings.EventReceived(topic=topic, body=body) if topic.startswith("otpd.name."):
                self._named(topic.removeprefix("otpd.name."), unpack(body))
            case happenings.Answered(ref=ref, ok=ok, value=value) if ref in self._looking:
                self._found(*self._looking.pop(ref), ok, value)
            case happenings.Replied() | happenings.CallFailed():
                self.talk.hear(happening)

    def _connected(self, is_open: bool) -> None:
        self.machine.connected(is_open, self.world.instant)
        self.table.done()

    def _hear_payload(self, happening: Any, message: Message) -> None:
        self.endpoint.handled(1, len(happening.body))
        self.world.watch.handled(self, message)
        name, generation, now = happening.source, happening.generation, self.world.instant
        answer = partial(self._answer, happening.call, message)
        match message.payload:
            case ("declare", rows):
                self._new(name)
                self.machine.declare(name, generation, [from_data(row) for row in rows], now)
                self.table.done()
                answer("")
            case ("set_timer", _, id_, due, wall):
                self._new(name)
                before = self.machine.jobs.get(id_)
                self.machine.schedule(name, generation, id_, "ring", Once(due, Rules(misfire="run_once"), wall), b"", now)
                self._answer_when_kept(answer, before, self.machine.jobs.get(id_))
            case ("drop_timer", _, id_, asked):
                question = name, asked
                if question not in self._dropped:
                    self._dropped[question] = self.machine.cancel(name, id_)
                    self.tell("dropped", id_, self._dropped[question])
                found = "yes" if self._dropped[question] else "no"
                self.table.done(lambda _why: answer(found), behind=True)

    def _answer(self, call: int, message: Message, answer: str) -> None:
        message.answer = answer
        self.endpoint.reply(call, Status.OK, message.body())
        self.process.after(0, self.work)

    def _answer_when_kept(self, answer: Callable[[str], None], before: Job | None, job: Job | None) -> None:
        """As the service does it."""
        if job is not None and job is not before:
            self._keeping[job] = [lambda why: answer(why or "")]
            self.table.done(partial(self._kept, job))
            return
        self.table.done()
        if job is not None and job in self._keeping:
            self._keeping[job].append(lambda why: answer(why or ""))
        else:
            answer("")

    def _kept(self, job: Job, why: str | None) -> None:
        answers = self._keeping.pop(job)
        if why is not None and self.machine.jobs.get(job.id) is job:
            self.machine.cancel(job.owner.name, job.id)
            self.table.done()
        for answer in answers:
            answer(why)

    # --- names ---

    def _new(self, name: str) -> None:
        if name not in self.machine.owners:
            self._look(name)

    def _named(self, name: str, data: dict[str, Any]) -> None:
        if name not in self.machine.owners:
            return
        if data["state"] in ("stopped", "gone"):
            self._presence(name, "restarting", data["generation"])
            self._look(name)
        else:
            self._presence(name, data["state"], data["generation"])

    def _presence(self, name: str, state: str | None, generation: int) -> None:
        self.machine.presence(name, state, generation, self.world.instant)
        self.table.done()

    def _look_at_all(self) -> None:
        for name in list(self.machine.owners):
            self._look(name)

    def _look(self, name: str) -> None:
        ref = self.endpoint.ask("whereis", name)
        self._looking[ref] = name, self.machine.heard(name)
        self.world.watch.verb(self, "ask", ref, "whereis", name)

    def _found(self, name: str, before: Any, ok: bool, value: Any) -> None:
        if not ok:
            self._again(name)
            return
        state, generation = (None, 0) if value is None else (value["state"], value["generation"])
        if state in ("stopped", None):
            self.process.after(2 * self.world.root_latency.draw(), self._decide, name, before, state, generation)
        else:
            self._presence(name, state, generation)
            if state in ("starting", "restarting"):
                self._again(name)

    def _decide(self, name: str, before: Any, state: str | None, generation: int) -> None:
        """A stop of the whole node is the end of no name; root is asked for it, and who does not answer may be stopping."""
        root = self.world.root
        if root is None or root.stopping or root.process.state is not State.RUNNING:
            self._again(name)
        elif state is None and self.machine.heard(name) != before:
            self._look(name)
        else:
            self._presence(name, state, generation)
        self.work()

    def _again(self, name: str) -> None:
        self.process.after(_AGAIN, self._look_again, name)

    def _look_again(self, name: str) -> None:
        if name in self.machine.owners:
            self._look(name)
            self.work()
