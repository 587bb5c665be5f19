"""The world: children that die, fall ill, hang and use too much; a health service, its lines and a broker that come and go.

>>> World(1).run()

Everything is decided by the seed. After the faults there is a long calm, at the end of which everybody's health is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from otpd.agents.services.health.alerts import Threshold
from otpd.agents.services.health.limits import Usage
from otpd.agents.services.health.probes import Ask, Drop, Verdict
from otpd.agents.services.health.ward import Effect, Report, Ward
from otpd.supervisor.spec import Health, RestartWhen
from tests.simulation.clock import MS, SECOND, Clock, Entry
from tests.simulation.links import Latency, Pipe
from tests.simulation.scenario import FILES
from tests.simulation.wellness.root import Child, SimulatedRoot
from tests.simulation.wellness.watch import Patient, Watch

STORM, CALM = 60 * SECOND, 100 * SECOND
FAULTS: Final = (
    "die", "ill", "hang", "well", "greedy", "reload", "delete", "add", "broker", "kill", "stop", "cut", "disk",
)  # fmt: skip
_THRESHOLDS: Final = {"disk": Threshold(90.0, 80.0, 5.0)}


class Connection:
    """One of the service's two connections to root, as root sees it."""

    def __init__(self, service: Service, pid: int) -> None:
        self.pid, self.open = pid, True
        self.on_close: Callable[[], None] | None = None
        self._pipe = Pipe(service.world.clock, service.world.latency, service.reads)

    def part(self, value: dict[str, Any]) -> None:
        if self.open:
            self._pipe.send(value["said"])

    def answer(self, _result: Any) -> None: ...

    def close(self) -> None:
        if self.open:
            self.open = False
            self._pipe.cut()
            if self.on_close is not None:
                self.on_close()


@dataclass(eq=False)
class Service:
    """One incarnation of the service: the shell around a Ward."""

    world: World
    pid: int
    alive: bool = True
    stopped: bool = False
    late: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ward = Ward(_THRESHOLDS)
        self.asking: dict[int, Entry] = {}
        self._alarm: Entry | None = None
        self.line: Connection | None = None
        self.world.clock.after(SECOND, self._sample)
        self.connect()

    def does(self, action: Callable[..., None], *arguments: Any) -> None:
        """What a stopped process would do it does when it goes on."""
        if self.alive and self.stopped:
            self.late.append((action, arguments))
        elif self.alive:
            action(*arguments)

    def connect(self) -> None:
        self.line = Connection(self, self.pid)
        self._to_root = Pipe(self.world.clock, self.world.latency, lambda item: self.world.reported(self, item))
        self.world.watch.connected()
        self.world.root.link.watch(self.line, {})  # type: ignore[arg-type]

    def cut(self) -> None:
        """Both connections end; it notices, and comes again."""
        if self.line is not None:
            self.line.close()
            self._to_root.cut()
            self.does(self._deaf)

    def _deaf(self) -> None:
        self.ward.deaf()
        self.world.soon(self.does, self._again)

    def _again(self) -> None:
        if self.line is not None and not self.line.open:
            self.connect()

    def reads(self, packet: list[Any]) -> None:
        self.does(lambda: self._carry_out(self.ward.heard(packet, self.world.seconds)))

    # --- its work ---

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    self._put(effect)
                case Drop(number):
                    self.world.clock.cancel(self.asking.pop(number, None))
                case Report(item):
                    self.world.watch.said(item)
                    self._to_root.send(item)
        self.world.clock.cancel(self._alarm)
        if self.ward.next is not None:
            self._alarm = self.world.clock.at(round(self.ward.next * SECOND) + 1, self.does, self._due)

    def _due(self) -> None:
        self._carry_out(self.ward.due(self.world.seconds))

    def _put(self, ask: Ask) -> None:
        """As the child is now; what says nothing is waited for as long as the plan says."""
        self.world.watch.asked(ask)
        verdict, takes = self.world.verdict(ask)
        self.asking[ask.number] = self.world.clock.after(takes, self.does, self._answered, ask, verdict)

    def _answered(self, ask: Ask, verdict: Verdict) -> None:
        if self.asking.pop(ask.number, None) is not None:
            self.world.watch.answered(self, ask, verdict)
            self._carry_out(self.ward.answered(ask, verdict, self.world.seconds))

    def _sample(self) -> None:
        if self.alive:
            self.world.clock.after(2 * SECOND, self._sample)
            self.does(self._look)

    def _look(self) -> None:
        for target in self.ward.targets():
            child = self.world.root.children.get(target.name)
            files = child.files if child is not None and child.alive and child.pid == target.pid else 0
            self._carry_out(self.ward.sampled(target.name, target.generation, Usage(files=files), self.world.seconds))
        self._carry_out(self.ward.host({"disk": self.world.disk}, self.world.seconds))


class World:
    def __init__(self, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.seed, self.random = seed, Random(f"wellness/{seed}")
        self.clock, self.sometimes = Clock(), Counter[str]()
        slowest, rare = self.random.choice((MS, 200 * MS, 2 * SECOND)), self.random.choice((0.05, 0.3))
        self.latency = Latency(self.random, 50_000, slowest, rare)
        self.watch = Watch(self)
        self.root = SimulatedRoot(self)
        self.disk, self.broker, self._pid = 50.0, True, 0
        self._faults = [each for each in faults if self.random.random() < 0.6] or ["ill"]
        self._names = 0
        for _ in range(self.random.randint(2, 8)):
            self._add()
        self.service = self._start_service()

    @property
    def seconds(self) -> float:
        return self.clock.now / SECOND

    # --- what is watched ---

    @property
    def alerts(self) -> Collection[str]:
        return self.root.link.alerts

    def patient(self, name: str) -> Patient | None:
        return self.root.children.get(name)

    def patients(self) -> Sequence[Patient]:
        return self.root.running()

    def shown(self, patient: Any) -> dict[str, Any] | None:
        return self.root.shown_of(patient)

    def next_pid(self) -> int:
        """Numbers come back soon."""
        self._pid = self._pid % 40 + 1
        return self._pid

    def soon(self, action: Callable[..., None], *arguments: Any) -> None:
        self.clock.after(self.random.randrange(MS, SECOND), action, *arguments)

    def run(self) -> None:
        for _ in range(self.random.randint(5, 60)):
            self.clock.at(self.random.randrange(STORM), self._strike, self.random.choice(self._faults))
        self._until(STORM)
        self._heal()
        self._until(STORM + CALM // 4)
        self.watch.calm()
        self._until(STORM + CALM)
        self.watch.finished()

    def _until(self, when: int) -> None:
        while (following := self.clock.next) is not None and following <= when:
            self.clock.step()
            if self.clock.events % 8 == 0:
                self.watch.looked()
        self.clock.now = when

    # --- what children answer ---

    def verdict(self, ask: Ask) -> tuple[Verdict, int]:
        child = self.root.children.get(ask.name)
        quick, late = self.random.randrange(100_000, 50 * MS), round(ask.plan.timeout * SECOND)
        if not self.broker or child is None or not child.alive or child.generation != ask.generation:
            self.sometimes["a question could not be put"] += 1
            return Verdict(None, "nobody to ask"), quick
        match child.ills:
            case "ill":
                return Verdict(False, "ill"), quick
            case "hangs":
                self.sometimes["a question hangs"] += 1
                return Verdict(False, "no answer"), late
        return Verdict(True), quick

    def reported(self, service: Service, item: list[Any]) -> None:
        """Root reads it, if it is of the service that it knows."""
        if self.root.service.alive and self.root.service.pid == service.pid:
            self.watch.reported(item)
            connection = Connection(service, service.pid)
            self.root.link.report(connection, {"items": [item]})  # type: ignore[arg-type]

    # --- what happens ---

    def _start_service(self) -> Service:
        self.root.service.pid, self.root.service.alive = self.next_pid() + 1000, True
        self.root.service.generation += 1
        return Service(self, self.root.service.pid)

    def _restart_service(self) -> None:
        if not self.service.alive:
            self.service = self._start_service()

    def _add(self) -> None:
        self._names += 1
        name = f"c{self._names}"
        child = Child(name, f"top/{name}", *self._spec())
        self.root.children[name] = child
        self.root.born(child)

    def _spec(self) -> tuple[Health | None, RestartWhen | None]:
        random = self.random
        interval = random.choice((1.0, 3.0, 10.0))
        health = Health(
            check="call",
            interval=interval,
            timeout=interval * random.choice((0.3, 1.0)),
            failures=random.choice((1, 2, 3)),
            successes=random.choice((1, 2)),
            grace=random.choice((0.0, 0.0, 5.0)),
            action=random.choice(("report", "restart")),
        )
        limits = RestartWhen(files=FILES, age=random.choice((None, 30.0)))
        return random.choice((health, health, health, None)), random.choice((limits, None))

    def _strike(self, fault: str) -> None:
        self.sometimes[f"fault: {fault}"] += 1
        children = [child for child in self.root.children.values() if child.alive]
        child = self.random.choice(children) if children else None
        match fault:
            case "add":
                self._add()
            case "broker":
                self.broker = False
                self.clock.after(self.random.randrange(10 * SECOND), self._heal_broker)
            case "kill":
                self._kill_service()
            case "stop":
                self.service.stopped = True
                self.clock.after(self.random.randrange(8 * SECOND), self._continue, self.service)
            case "cut":
                self.service.cut()
            case "disk":
                self.disk = self.random.choice((50.0, 85.0, 95.0))
            case _ if child is not None:
                self._befall(child, fault)

    def _befall(self, child: Child, fault: str) -> None:
        match fault:
            case "die":
                self.root.died(child)
            case "delete" if len(self.root.children) > 1:
                self.root.deleted(child)
            case "ill" | "hang" | "well":
                child.ills = {"ill": "ill", "hang": "hangs", "well": ""}[fault]
                self.watch.looked_at(child.name, child.generation, child.files)
            case "greedy":
                child.files = self.random.choice((90, 101, 500))
                self.watch.looked_at(child.name, child.generation, child.files)
            case "reload":
                health, child.limits = self._spec()
                same = health is not None and child.health is not None and self.random.random() < 0.5
                child.health = replace(child.health, action=health.action) if same and child.health and health else health
                self.watch.reloaded(child)
                self.root.link.reloaded()

    def _kill_service(self) -> None:
        if self.service.alive:
            self.service.alive = self.root.service.alive = False
            if self.service.line is not None:
                self.service.line.close()
            self.soon(self._restart_service)

    def _continue(self, service: Service) -> None:
        service.stopped = False
        late, service.late = service.late, []
        for action, arguments in late:
            service.does(action, *arguments)

    def _heal_broker(self) -> None:
        self.broker = True

    def _heal(self) -> None:
        """Who is ill stays so; all that is between is well."""
        self.broker, self.disk = True, 50.0
        self._continue(self.service)
