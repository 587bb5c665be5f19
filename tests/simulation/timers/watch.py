"""What must hold in the world of timers, whatever happens."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.schedules import Every, Once
from otpd.agents.services.scheduler.effects import Fire, Note
from otpd.agents.services.scheduler.job import Presence
from tests.simulation.clock import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.timers.people import Agent, Service
    from tests.simulation.timers.world import World

#: Outcomes after which a one-shot timer that no handler has had is excused: its agent, or everybody, died with it.
_EXCUSED: Final = ("died", "lost", "gone")
#: A fixed delay counts from when the scheduler knows of the end; one that it has cancelled ends a moment later.
SLACK: Final = 20 * MS


class Broken(AssertionError):
    """Something happened that must not."""


class Watch:
    """`pending`: one-shot timers that were accepted, and have neither run nor been taken back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pending: dict[str, str] = {}
        self._runs: Counter[tuple[str, int]] = Counter()
        self._last: dict[str, int] = {}  # run of each interval that was handled last
        self._ends: dict[str, tuple[int, tuple[int, int]]] = {}  # when a run ended, and in which life and generation
        self._latest = 0  # what the wall clock has shown at most
        self._taken_back: set[str] = set()
        self._stopped: set[str] = set()

    # --- what happens ---

    def decided(self, service: Service, fire: Fire) -> None:
        """No run before its time, on its own clock."""
        job = service.machine.jobs[fire.id]
        if fire.run < 0 or fire.only is not None:
            return
        self._latest = max(self._latest, service.now.wall)
        now = self._latest if job.wall else service.now.mono  # one that has come may wait while the clock is set back
        if now < fire.run and not (isinstance(job.plan, Once) and self.world.sometimes["operator"]):
            raise Broken(f"{fire.id}: run of {fire.run} begins at {now}, too early")

    def handled(self, agent: Agent, fire: Fire) -> None:
        key = (fire.id, fire.run)
        self._runs[key] += 1
        if self._runs[key] > 1:
            raise Broken(f"{fire.id}: run {fire.run} is handled a second time, in generation {agent.generation}")
        if fire.id in self._taken_back:
            raise Broken(f"{fire.id}: it was taken back and runs")
        if fire.name in self._stopped:
            raise Broken(f"{fire.id}: it outlived its name")
        self.pending.pop(fire.id, None)
        self._apart(agent, fire)

    def _apart(self, agent: Agent, fire: Fire) -> None:
        """A jump of the wall clock, a death, an operator: nothing brings two runs of an interval closer together."""
        plan = agent.plans.get(fire.method)
        if not isinstance(plan, Every) or fire.run < 0:
            return
        last, (ended, generation) = self._last.get(fire.id), self._ends.get(fire.id, (None, None))
        if generation != (self.world.life, agent.generation):
            ended = last  # who knew of the end may be dead: then it counts from the slot
        if not plan.delay and last is not None and fire.run - last < plan.interval:
            raise Broken(f"{fire.id}: runs {last} and {fire.run} are closer than {plan.interval}")
        if plan.delay and ended is not None and self.world.clock.now - ended < plan.interval - SLACK:
            raise Broken(f"{fire.id}: a run begins {self.world.clock.now - ended} after the end of the last")
        self._last[fire.id] = fire.run

    def over(self, agent: Agent, fire: Fire) -> None:
        if fire.run >= 0:
            self._ends[fire.id] = self.world.clock.now, (self.world.life, agent.generation)

    def accepted(self, agent: Agent, id_: str) -> None:
        if not any(run_id == id_ for run_id, _ in self._runs) and agent.name not in self._stopped:
            self.pending[id_] = agent.name

    def cancelled(self, id_: str) -> None:
        self._taken_back.add(id_)
        self.pending.pop(id_, None)

    def noted(self, note: Note) -> None:
        self.world.sometimes[f"{note.kind} {note.data.get('why') or note.data.get('outcome') or ''}"] += 1
        if note.kind == "ended" and note.data["outcome"] in _EXCUSED:
            self.pending.pop(note.id, None)

    def stopped(self, name: str) -> None:
        self.world.clock.after(5 * SECOND, self._must_be_gone, name)

    def _must_be_gone(self, name: str) -> None:
        """Its timers with it, as soon as there is a scheduler that knows."""
        if self.world.agents[name].state not in ("stopped", "gone"):
            return
        self._stopped.add(name)
        self.pending = {id_: owner for id_, owner in self.pending.items() if owner != name}
        service = self.world.service
        if service is None:
            self.stopped(name)
            return
        owner = service.machine.owners.get(name)
        if owner is None or (owner.patience and not (owner.presence is Presence.ABSENT and self._heard_of(name))):
            return
        raise Broken(f"{name}: it is gone, and its timers are not")

    def _heard_of(self, name: str) -> bool:
        """The disk knows that the name was there in this life of root: it is not one that is yet to come."""
        records = (record for record, life in self.world.disk.values() if life == self.world.life)
        return any(record.name == name and record.generation for record in records)

    def begins_anew(self, name: str) -> None:
        self._stopped.discard(name)
        self.pending = {id_: owner for id_, owner in self.pending.items() if owner != name}
        tables: tuple[dict[str, Any], ...] = (self._last, self._ends)
        for table in tables:
            for id_ in [each for each in table if each.startswith(f"{name}/")]:
                del table[id_]
        self._runs = Counter({key: n for key, n in self._runs.items() if not key[0].startswith(f"{name}/")})

    # --- at the end ---

    def finished(self) -> None:
        """It was calm for some time: what had to come has come."""
        for agent in self.world.agents.values():
            if agent.state == "ready":
                for key in agent.plans:
                    self._must_come(f"{agent.name}/{key}")
        for id_, name in self.pending.items():
            if self.world.agents[name].state == "ready":
                self._must_come(id_)

    def _must_come(self, id_: str) -> None:
        """It has a timer that is not overdue, or a run that goes on."""
        service = self.world.service
        job = None if service is None else service.machine.jobs.get(id_)
        if service is None or job is None:
            raise Broken(f"{id_}: it is not there any more")
        overdue = job.timer is not None and job.timer[0] < job.now(service.now)
        if overdue or job.parked or not (job.timer is not None or job.runs or job.waiting):
            raise Broken(f"{id_}: it never runs again ({job.state}, overdue: {overdue})")

    def emptied(self) -> None:
        """All names are gone: zero timers, zero records, zero calls."""
        service = self.world.service
        assert service is not None
        left = [len(service.machine.jobs), len(service.machine.owners), len(self.world.disk), len(service.calls)]
        if any(left) or service.machine.next != (None, None):
            raise Broken(f"left when all names are gone: {left} schedules, names, records, calls; {service.machine.next}")
