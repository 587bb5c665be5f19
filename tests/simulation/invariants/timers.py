"""Invariant 43: what becomes of each timer, seen in the scheduler that decides, and in the agents that handle its runs.

The words of `timed`: "decided" scheduler, fire; "noted" scheduler, note; "accepted" agent, id, due, wall; "taken back" id;
"dropped" scheduler, id, whether it was there: its owner may not live to hear it;
"over" agent, firing: its handler has ended; "unkept" ids: the disk was full; "scheduler died" scheduler; "jumped": the wall
clock; "power failed"; "rested": what had to come has come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.schedules import Every, Once
from otpd.agents.services.scheduler.effects import Fire, Note
from otpd.agents.services.scheduler.job import Presence
from otpd.agents.timed import FIRE
from tests.simulation.clock import MS
from tests.simulation.messages import Message, short
from tests.simulation.observe import Observer

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.broker import SimulatedBroker
    from tests.simulation.kernel import Process
    from tests.simulation.whole.scheduler import SimulatedScheduler

#: Outcomes after which a timer that no handler has had is excused: its agent, or everybody, died with it.
_EXCUSED: Final = ("died", "lost", "gone", "raised")
#: A fixed delay counts from when the scheduler knows of the end; one that it has cancelled ends a moment later.
_SLACK: Final = 1000 * MS
_HERE: Final = ("starting", "ready", "restarting")


class Timers(Observer):
    """`_pending`: timers that were accepted, and have neither run nor been taken back: whose, and since when."""

    world: Any

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._pending: dict[str, tuple[str, int]] = {}
        self._due: dict[str, tuple[int, bool]] = {}
        self._ran: Counter[tuple[str, int]] = Counter()
        self._last: dict[str, int] = {}  # run of each interval that was handled last
        self._ends: dict[str, tuple[int, int]] = {}  # when a run ended, and in which incarnation
        self._taken_back: set[str] = set()
        self._unkept: set[str] = set()
        self._left: dict[str, int] = {}  # when a name was last stopped or gone, as brokers are told
        self._latest = 0  # what the wall clock has shown at most
        self._jumped = False
        self._words: dict[str, Callable[..., None]] = {
            "decided": self._decided, "noted": self._noted, "accepted": self._accepted, "taken back": self._was_taken_back,
            "dropped": self._dropped, "over": self._over, "unkept": self._unkept.update, "rested": self._rested,
            "scheduler died": self._scheduler_died, "jumped": self._has_jumped, "power failed": self._power_failed,
        }  # fmt: skip

    def timed(self, what: str, *arguments: Any) -> None:
        self._words[what](*arguments)

    # --- what happens ---

    def _decided(self, scheduler: SimulatedScheduler, fire: Fire) -> None:
        """No run before its time, on its own clock."""
        job, now = scheduler.machine.jobs[fire.id], self.world.instant
        self._latest = max(self._latest, now.wall)
        if fire.only is None:
            at = self._latest if job.wall else now.mono  # one that has come may wait while the clock is set back
            self.check(at >= fire.run, 43, f"{fire.id}: run of {fire.run} begins at {at}, too early")
        self._combined(scheduler, fire)

    def _combined(self, scheduler: SimulatedScheduler, fire: Fire) -> None:
        root = self.world.root
        row = None if root is None else root.link.table.row(fire.name)
        self.sometimes["a run is given to one that is away by now"] += row is not None and row.state.value != "ready"
        self.sometimes["a run is given, and the broker is dead by now"] += scheduler.epoch not in self.world.brokers

    def handled(self, agent: SimulatedAgent, message: Message) -> None:
        if message.payload is None or message.payload[0] != FIRE:
            return
        fire = message.payload[1]
        id_, run = fire["id"], fire["run"]
        self._ran[id_, run] += 1
        self.sometimes["a run is handled"] += 1
        if id_ not in self._unkept:
            self.check(self._ran[id_, run] == 1, 43, f"{id_}: {run} is handled again, in {short(agent.inc)}")
            self.check(id_ not in self._taken_back, 43, f"{id_} was taken back and runs")
        if id_ in self._due and not self._jumped:
            due, wall = self._due[id_]
            now = self.world.instant
            self.check((now.wall if wall else now.mono) >= due, 43, f"{id_} runs before {due}")
        self._pending.pop(id_, None)
        self._apart(agent, id_, fire["method"], run)

    def _apart(self, agent: SimulatedAgent, id_: str, method: str, run: int) -> None:
        """A jump of the wall clock, a death: nothing brings two runs of an interval closer together."""
        plan = self.world.plans(agent.name).get(method)
        if not isinstance(plan, Every):
            return
        last, (ended, inc) = self._last.get(id_), self._ends.get(id_, (None, None))
        if inc != agent.inc:
            ended = last  # who knew of the end may be dead: then it counts from the slot
        if not plan.delay and last is not None:
            self.check(run - last >= plan.interval, 43, f"{id_}: runs {last} and {run} are closer than {plan.interval}")
        if plan.delay and ended is not None:
            passed = self.world.clock.now - ended
            self.check(passed >= plan.interval - _SLACK, 43, f"{id_}: a run begins {passed} after the end of the last")
        self._last[id_] = run

    def _over(self, agent: SimulatedAgent, firing: Any) -> None:
        self._ends[firing.id] = self.world.clock.now, agent.inc

    def _accepted(self, agent: SimulatedAgent, id_: str, due: int, wall: bool) -> None:
        self.sometimes["a timer is accepted"] += 1
        self._due[id_] = due, wall
        if not any(known == id_ for known, _ in self._ran):
            self._pending[id_] = agent.name, self.world.clock.now

    def _dropped(self, _scheduler: SimulatedScheduler, id_: str, was_there: bool) -> None:
        if was_there:
            self._pending.pop(id_, None)

    def _was_taken_back(self, id_: str) -> None:
        self.sometimes["a timer is taken back"] += 1
        self._taken_back.add(id_)
        self._pending.pop(id_, None)
        ran = any(known == id_ for known, _ in self._ran)
        self.check(not ran or id_ in self._unkept, 43, f"{id_} is said to be taken back, and has run")

    def _noted(self, scheduler: SimulatedScheduler, note: Note) -> None:
        what = note.data.get("why") or note.data.get("outcome") or ""
        if note.kind in ("skipped", "ended"):
            self.sometimes[f"a run is {note.kind}: {what}"] += 1
        if note.kind == "ended" and what in _EXCUSED:
            self._pending.pop(note.id, None)
        if note.kind == "gone":
            self._begins_anew(note.id)

    def _begins_anew(self, name: str) -> None:
        """Its name is gone for the scheduler; for what was accepted that must be true."""
        self.sometimes["the timers of a name are gone with it"] += 1
        for id_, (_, since) in self._of(name, self._pending.items()):
            self.check(self._left.get(name, -1) >= since, 43, f"{id_} is gone, and {name} has never left since")
            del self._pending[id_]
        tables: tuple[dict[str, Any], ...] = (self._last, self._ends)
        for table in tables:
            for id_, _ in self._of(name, table.items()):
                del table[id_]
        self._ran = Counter({key: n for key, n in self._ran.items() if not key[0].startswith(f"{name}/")})

    @staticmethod
    def _of(name: str, items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return [(id_, value) for id_, value in items if id_.startswith(f"{name}/")]

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        match packet:
            case ["row", {"state": "stopped", "name": name}] | ["gone", str(name)]:
                self._left[name] = self.world.clock.now
            case ["death", str(name), *_] if broker.router._table.get(name) is None:
                self._left[name] = self.world.clock.now  # a broker that has never known the name

    def _scheduler_died(self, scheduler: SimulatedScheduler) -> None:
        self.sometimes["the scheduler dies, and runs go on"] += bool(scheduler.talk.calls)
        self.sometimes["the scheduler dies while the store commits"] += self.world.disk.is_committing

    def process_ended(self, process: Process) -> None:
        """By what others have done to it, not by its handler."""
        handling = getattr(process.program, "handling", None)
        if handling is None or process.status is None or not process.status.signal:
            return
        payload = handling.message.payload
        if payload is not None and payload[0] == FIRE:
            self.sometimes["an agent is killed while it handles a run"] += 1
            self.sometimes["... and something durable of its is on its way"] += self.world.submits(process.program)

    def broker_ended(self, broker: SimulatedBroker) -> None:
        scheduler = self.world.scheduler if self.world.scenario.timers else None
        self.sometimes["the broker dies, and runs are under way"] += scheduler is not None and bool(scheduler.talk.calls)

    def _has_jumped(self) -> None:
        self._jumped = True

    def _power_failed(self) -> None:
        """Another boot: what is kept of the monotonic clock goes on by the wall clock, wherever that was set to."""
        if self._jumped:
            self._last.clear()
            self._ends.clear()

    # --- when all is well ---

    def _rested(self) -> None:
        scheduler = self.world.scheduler
        self.check(scheduler is not None and scheduler.phase == "ready", 43, "there is no scheduler, though all is well")
        ready = {agent.name: agent for agent in self.world.agents() if agent.phase == "ready" and agent.welcome}
        for name in ready:
            if not name.startswith("@") and name not in self.world.services:
                for key in self.world.plans(name):
                    self._must_come(scheduler, f"{name}/{key}")
        for id_, (name, _) in self._pending.items():
            if name in ready:
                self._must_come(scheduler, id_)
        self._nobody_is_left(scheduler)

    def _must_come(self, scheduler: Any, id_: str) -> None:
        """It has a timer that is not overdue, or a run that goes on."""
        job, now = scheduler.machine.jobs.get(id_), self.world.instant
        self.check(job is not None, 43, f"{id_}: it is not there any more")
        overdue = job.timer is not None and job.timer[0] < job.now(now)
        comes = job.timer is not None or job.runs or job.waiting
        self.check(not overdue and not job.parked and comes, 43, f"{id_} never runs again: {job.state}, overdue: {overdue}")
        if isinstance(job.plan, Once) and job.timer is None:
            self.sometimes["a timer still runs in the end"] += 1

    def _nobody_is_left(self, scheduler: Any) -> None:
        """Timers of names that nobody has any more."""
        for name, owner in scheduler.machine.owners.items():
            row = self.world.root.link.table.row(name)
            here = row is not None and row.state.value in _HERE
            self.check(here or owner.presence is Presence.ABSENT, 43, f"{name} is gone, and its timers are not")
