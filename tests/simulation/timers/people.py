"""Who lives in the world of timers: the scheduler and agents, thin shells around the real machines, as the real ones."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from otpd.agents.firings import Declaration, Firings
from otpd.agents.schedules import Once, Plan, Rules
from otpd.agents.services.scheduler.declared import Declared
from otpd.agents.services.scheduler.effects import Cancel, Fire, Forget, Instant, Keep, Note, Record
from otpd.agents.services.scheduler.machine import Scheduler
from tests.simulation.clock import MS, SECOND, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.timers.world import World


@dataclass(eq=False, slots=True)
class Call:
    """One run on its way: to the agent, in its mailbox, or its answer back. `epoch`: of the broker that carries it."""

    fire: Fire
    epoch: int
    life: int  # of the scheduler that waits for it
    delivered: bool = False


class Service:
    """One life of the scheduler: what it has not committed dies with it."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.alive = world, number, True
        self.machine = Scheduler()
        self.calls: dict[tuple[str, int], Call] = {}
        self._alarm: Entry | None = None
        self._committed = 0
        self.held: Counter[str] = Counter()
        records = [record if life == world.life else replace(record, generation=0) for record, life in world.disk.values()]
        self.machine.restore(records)
        for name in list(self.machine.owners):
            self.look(name)
        self.ring()

    @property
    def now(self) -> Instant:
        return self.world.instant

    def ring(self) -> None:
        if self.alive:
            self.machine.tick(self.now)
            self.turn()

    def turn(self, then: Callable[[], None] | None = None) -> None:
        """As `timetable`: keep, then fire."""
        changes: dict[str, Record | None] = {}
        fires: list[Fire] = []
        for effect in self.machine.take():
            match effect:
                case Keep(record=record):
                    changes[record.id] = record
                case Forget(id=id_):
                    changes[id_] = None
                case Fire():
                    self.world.watch.decided(self, effect)
                    fires.append(effect)
                case Cancel(id=id_, run=run):
                    self._cancel(id_, run, fires)
                case Note():
                    self.world.watch.noted(effect)
        for fire in fires:
            self.calls[fire.id, fire.run] = Call(fire, self.world.epoch, self.number)
        if changes or any(fire.id in self.held for fire in fires):
            self.held.update(fire.id for fire in fires)
            done = max(self._committed, self.world.clock.now + self.world.chance.randrange(20 * MS))
            self._committed = done
            self.world.clock.at(done, self._commit, changes, fires, then)
        else:
            self._send(fires)
            if then is not None:
                then()
        self._set_alarm()

    def _commit(self, changes: dict[str, Record | None], fires: list[Fire], then: Callable[[], None] | None) -> None:
        if not self.alive:
            return
        self.held.subtract(fire.id for fire in fires)
        self.held += Counter()
        for id_, record in changes.items():
            if record is None:
                self.world.disk.pop(id_, None)
            else:
                self.world.disk[id_] = (record, self.world.life)
        self._send(fires)
        if then is not None:
            then()

    def _send(self, fires: list[Fire]) -> None:
        for fire in fires:
            call = self.calls.get((fire.id, fire.run))
            if call is not None and call.fire is fire:
                call.epoch = self.world.epoch
                self.world.carry(call)

    def _cancel(self, id_: str, run: int, fires: list[Fire]) -> None:
        fires[:] = [fire for fire in fires if (fire.id, fire.run) != (id_, run)]
        call = self.calls.pop((id_, run), None)
        if call is not None:
            self.world.later(self.world.cancel, call)

    def _set_alarm(self) -> None:
        self.world.clock.cancel(self._alarm)
        mono, wall = self.machine.next
        moments = [] if mono is None else [mono]
        if wall is not None:
            moments.append(self.world.clock.now + wall - self.now.wall)
        self._alarm = self.world.clock.at(min(moments), self.ring) if moments else None

    # --- what reaches it ---

    def answered(self, call: Call, outcome: str, why: str = "") -> None:
        key = (call.fire.id, call.fire.run)
        if self.alive and self.calls.get(key) is call:
            del self.calls[key]
            self.machine.ended(*key, outcome, self.now, why)
            self.turn()

    def declare(self, name: str, generation: int, declared: list[Declared]) -> None:
        if self.alive:
            self.machine.declare(name, generation, declared, self.now)
            self.turn()

    def presence(self, name: str, state: str | None, generation: int) -> None:
        if self.alive:
            self.machine.presence(name, state, generation, self.now)
            self.turn()

    def connected(self, is_open: bool) -> None:
        if self.alive:
            self.machine.connected(is_open, self.now)
            self.turn()

    def look(self, name: str) -> None:
        """Whereis: what the broker knows when the question reaches it."""
        self.world.later(lambda: self.presence(name, *self.world.whereis(name)))


@dataclass(eq=False)
class Agent:
    """A name with its incarnations. `state`: ready, restarting, stopped, gone."""

    world: World
    name: str
    plans: dict[str, Plan]
    generation: int = 0
    state: str = "gone"
    waiting: list[Call] = field(default_factory=list)  # at the broker, for the next incarnation
    mailbox: deque[Call] = field(default_factory=deque)
    calls: dict[tuple[str, int], list[Call]] = field(default_factory=dict)
    handling: Call | None = None
    counter: int = 0

    def begin(self) -> None:
        self.generation += 1
        self.state = "ready"
        now = self.world.clock.now
        declared = [Declaration(f"{self.name}/{key}", key, plan, now) for key, plan in self.plans.items()]
        self.firings = Firings(self.generation, declared)
        self.mailbox, self.calls, self.handling = deque(), {}, None
        self.world.tell(self.name, "ready", self.generation)
        self.declare()
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            self.receive(call)

    def declare(self) -> None:
        """Said with what it knows now, heard a little later, by whoever is the scheduler then."""
        if self.state == "ready" and self.plans:
            rows = [_declared(each) for each in self.firings.declared.values()]
            generation, service = self.generation, self.world.service
            if service is not None:
                self.world.later(service.declare, self.name, generation, rows)

    def end(self, state: str) -> None:
        """What it had is lost with it; who waits for that is told."""
        if self.state == "ready":
            for calls in self.calls.values():
                for call in calls:
                    self.world.reply(call, "died")
        self.state = state
        self.world.tell(self.name, state, self.generation if state != "gone" else 0)
        if state in ("stopped", "gone"):
            waiting, self.waiting = self.waiting, []
            for call in waiting:
                self.world.reply(call, "undelivered", "noproc")

    # --- runs ---

    def receive(self, call: Call) -> None:
        if self.state in ("stopped", "gone"):
            self.world.reply(call, "undelivered", "noproc")
        elif self.state == "restarting":
            self.waiting.append(call)
        else:
            self._take(call)

    def _take(self, call: Call) -> None:
        call.delivered = True
        fire = call.fire
        verdict = self.firings.take(fire.id, fire.run, fire.only)
        if verdict == "run":
            self.calls[fire.id, fire.run] = [call]
            self.mailbox.append(call)
            self._next()
        elif verdict == "attach":
            self.calls[fire.id, fire.run].append(call)
        else:
            self.world.reply(call, verdict)

    def _next(self) -> None:
        if self.handling is None and self.mailbox:
            call = self.handling = self.mailbox.popleft()
            self.world.watch.handled(self, call.fire)
            takes = self.world.chance.choice((MS, 5 * MS, 50 * MS, SECOND, 8 * SECOND))
            self.world.clock.after(takes, self._done, call, self.generation)

    def _done(self, call: Call, generation: int) -> None:
        if self.handling is call and self.generation == generation and self.state == "ready":
            self.handling = None
            self._over(call, "done")

    def _over(self, call: Call, outcome: str) -> None:
        fire = call.fire
        self.world.watch.over(self, fire)
        self.firings.end(fire.id, fire.run, outcome, self.world.clock.now)
        for each in self.calls.pop((fire.id, fire.run), []):
            self.world.reply(each, outcome)
        self._next()

    def cancel(self, call: Call) -> None:
        """The scheduler has given a run up: one that waits at the broker is withdrawn."""
        self.waiting = [each for each in self.waiting if not _same(each, call)]
        if self._handles(call):
            self.handling = None
            self._over(call, "cancelled")
        elif any(_same(each, call) for each in self.mailbox):
            self.mailbox = deque(each for each in self.mailbox if not _same(each, call))
            self._over(call, "cancelled")

    def _handles(self, call: Call) -> bool:
        return self.handling is not None and _same(self.handling, call)

    # --- what it asks for ---

    def schedule(self, after: int, wall: bool) -> None:
        service = self.world.service
        if self.state != "ready" or service is None:
            return
        self.counter += 1
        id_ = f"{self.name}/ring/{self.world.life}.{self.generation}.{self.counter}"
        now = self.world.instant
        plan = Once((now.wall if wall else now.mono) + after, Rules(misfire="run_once"), wall)
        self.world.later(self._schedule, service, self.generation, id_, plan)

    def _schedule(self, service: Service, generation: int, id_: str, plan: Once) -> None:
        if service.alive:
            service.machine.schedule(self.name, generation, id_, "ring", plan, b"", service.now)
            if id_ in service.machine.jobs:
                service.turn(lambda: self.world.watch.accepted(self, id_))

    def unschedule(self, id_: str) -> None:
        service = self.world.service
        if service is not None and self.state == "ready" and service.machine.cancel(self.name, id_):
            service.turn(lambda: self.world.watch.cancelled(id_))


def _same(one: Call, other: Call) -> bool:
    return (one.fire.id, one.fire.run) == (other.fire.id, other.fire.run)


def _declared(each: Declaration) -> Declared:
    known: dict[str, Any] = each.to_data()
    return Declared(
        each.id, each.method, each.plan, known["since"], known["last"], known["ended"], tuple(known["running"])
    )
