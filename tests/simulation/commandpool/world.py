"""The command pool in a simulated world: the real dispatch and book, with processes that die and stop at any moment.

>>> world = World(1)
>>> world.run()
>>> world.sometimes["told done"] > 5
True

The sandbox, root and the shell of the pool are played: a worker is the first process of its namespace, so what it runs dies
with it. `watch` holds invariant 44 of messaging.md against what really ran.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from otpd.agents.sandbox import dispatch
from otpd.agents.sandbox.dispatch import Dispatch, Effect, Full
from otpd.agents.services.commands.book import Book, Entry, Owner
from tests.simulation.clock import MS, SECOND, Clock
from tests.simulation.commandpool.watch import Watch
from tests.simulation.kernel import Cookie, Kernel, Process, State
from tests.simulation.links import Latency, Pipe
from tests.simulation.smallworlds import live

#: While everything goes wrong, and in which all must then have come to an end.
SPAN: Final = 20 * SECOND
RECOVERY: Final = 120 * SECOND
FAULTS: Final = (
    "worker", "service", "owner", "root", "command", "stop worker", "stop service", "stop owner", "worker and service",
    "worker and owner", "service and owner", "no worker can start",
    "the next that is sent one",
)  # fmt: skip
#: What a command may take, and what its worker gets beyond that.
WALL: Final = SECOND
TRUST: Final = 3 * SECOND
_RECORD: Final = (
    "status", "killed_by", "exit_code", "signal", "queue_s", "wall_s", "cpu_s", "max_rss", "stdout_bytes", "stderr_bytes",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Run:
    """One command, as the service knows it. `takes`: ns; more than `WALL` is ended by its worker."""

    number: int
    key: str
    takes: int
    owner: Owner
    line: Line
    entry: Entry[Run] | None = None
    begun: bool = False
    unwanted: str = ""
    attempts: int = 0


class World:
    def __init__(self, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.chance = Random(f"{seed}/commands")
        self.clock = Clock()
        self.kernel = Kernel(self.clock, self.chance)
        self.latency = Latency(Random(f"{seed}/latency"), 20_000, 5 * MS, 0.02)
        draw = self.chance.randrange
        self.size, self.queue, self.share, self.wear = draw(1, 4), draw(4), draw(1, 6), draw(1, 6)
        self.sometimes: Counter[str] = Counter()
        self.calm = False
        self.barren_until = 0
        self.is_next_doomed = False
        self.numbers = itertools.count(1)
        self.watch = Watch(self)
        self.root = self.kernel.spawn(Cookie("root", 0), None)
        self.service: Service | None = None
        self.start_service()
        self.callers = [Caller(self, f"owner-{n}") for n in range(draw(1, 4))]
        for _ in range(draw(1, 12)):
            self.clock.at(draw(SPAN), self.strike, self.chance.choice(faults))

    def run(self) -> None:
        """Violation says what does not hold."""
        for caller in self.callers:
            caller.begin()
        live(self.clock, self.watch, SPAN)
        self.calm = True
        self._resume("")
        live(self.clock, self.watch, SPAN + RECOVERY)
        self.watch.finished()

    def spawn(self, name: str, parent: Process | None = None) -> Process:
        return self.kernel.spawn(Cookie(name, next(self.numbers)), parent or self.root)

    def start_service(self) -> None:
        process = self.spawn("service")
        self.service = Service(self, process)
        process.watchers.append(lambda: self._service_died(process))

    def _service_died(self, process: Process) -> None:
        """Its workers are its own children: they go first, then the next one comes."""
        self.kernel.reap(process)
        for child in self._of("worker"):
            self.kernel.signal(child, signal.SIGKILL)
        self.clock.after(self.chance.randrange(MS, 200 * MS), self.start_service)

    def _of(self, name: str) -> list[Process]:
        return [each for each in self.kernel.living() if each.cookie.name.startswith(name)]

    def strike(self, fault: str) -> None:
        self.sometimes[fault] += 1
        if fault == "no worker can start":
            self.barren_until = self.clock.now + self.chance.randrange(5 * SECOND)
            return
        self.is_next_doomed |= fault == "the next that is sent one"
        number = signal.SIGSTOP if "stop" in fault else signal.SIGKILL
        for kind in ("command", "worker", "service", "owner"):
            found = self._of(kind)
            one = [self.chance.choice(found)] if kind in fault and found else []
            for victim in found if fault == "root" else one:
                self.kernel.signal(victim, number)
        if "stop" in fault and "worker" not in fault:  # a worker that stands still is ended all the same
            self.clock.after(self.chance.randrange(5 * SECOND), self._resume, fault.split()[1])

    def _resume(self, name: str) -> None:
        for process in self._of(name):
            self.kernel.resume(process, State.STOPPED)


class Service:
    """The process of the service, with the shell of its pool: what `pool.Pool` does with descriptors is done with pipes."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.dispatch = Dispatch(world.size, world.queue, world.share, 2.0, world.wear)
        self.book: Book[Run] = Book(process.cookie.inc)
        self.crew: dict[int, Worker] = {}
        self.runs: dict[int, Run] = {}
        self._failures = 0
        self._timer: list[Any] | None = None

    @property
    def now(self) -> float:
        return self.world.clock.now / SECOND

    def order(self, run: Run) -> None:
        try:
            effects = self.dispatch.submit(run.number, run.key, run.owner.name, self.now)
        except Full:
            run.line.tell(run.number, "busy")
            return
        run.entry = Entry(self.book.fresh_id(), run.owner, "true", "default", run, self.now)
        self.book.begin(run.entry)
        self.runs[run.number] = run
        self.apply(effects)

    def owner_gone(self, owner: Owner) -> None:
        for entry in self.book.end_of(owner.name, owner.generation):
            self.cancel(entry.run, "owner")

    def cancel(self, run: Run, reason: str) -> None:
        if run.number not in self.runs or run.unwanted:
            return
        run.unwanted = reason
        if self.dispatch.withdraw(run.number):
            self._finish(run, reason)
        for worker in self.crew.values():
            if worker.run is run:
                worker.pipe.send(("cancel", run))
                worker.deadline = min(worker.deadline, self.world.clock.now + TRUST)
        self._turned()

    def _finish(self, run: Run, how: str) -> None:
        del self.runs[run.number]
        assert run.entry is not None
        self.world.watch.over(run.number, how)
        self.book.over(run.entry, {**dict.fromkeys(_RECORD), "status": how}, self.now)
        self.book.forget(run.entry)
        run.line.tell(run.number, how)

    # --- what workers say ---

    def hear(self, worker: Worker, message: tuple[Any, ...]) -> None:
        match message:
            case ["ready"]:
                self._failures, worker.deadline = 0, _NEVER
                self.apply(self.dispatch.ready(worker.number))
            case ["starting", run]:
                run.begun = True
            case ["result", run, how] if run.number in self.runs:
                worker.run, worker.deadline = None, _NEVER
                self._finish(run, run.unwanted or how)
                self.apply(self.dispatch.done(worker.number, worn=False))

    def gone(self, worker: Worker) -> None:
        del self.crew[worker.number]
        if self.dispatch.state(worker.number) is dispatch.State.STARTING:
            self._failed_start(worker)
        run, late = worker.run, self.world.clock.now >= worker.deadline
        again = run is not None and dispatch.may_go_again(
            begun=run.begun, unwanted=late or bool(run.unwanted), attempts=run.attempts
        )
        self.world.sometimes["given to another worker"] += again
        if run is not None and not again:
            self._finish(run, run.unwanted or ("timeout" if late else "worker"))
        self.apply(self.dispatch.gone(worker.number, again=again))

    def _failed_start(self, worker: Worker) -> None:
        self._failures += 1
        if self._failures >= dispatch.ATTEMPTS:
            self._failures = 0
            for number in self.dispatch.refuse(worker.key):
                self._finish(self.runs[number], "refused")

    # --- effects ---

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case dispatch.Start(number, key):
                    self.crew[number] = Worker(self, number, str(key))
                case dispatch.Send(number, run):
                    self._send(self.crew[number], self.runs[run])
                case dispatch.Stop(number):
                    self.crew[number].pipe.send(("stop", None))
                    self.crew[number].deadline = self.world.clock.now + TRUST
                case dispatch.Expire(number):
                    self._finish(self.runs[number], "busy")
        self._turned()

    def _send(self, worker: Worker, run: Run) -> None:
        worker.run, worker.deadline = run, self.world.clock.now + WALL + TRUST
        run.attempts += 1
        worker.pipe.send(("run", run))
        if self.world.is_next_doomed and worker.process is not None:
            self.world.is_next_doomed = False
            self.world.clock.after(self.world.latency.draw(), self.world.kernel.signal, worker.process, signal.SIGKILL)

    def _turned(self) -> None:
        self.world.clock.cancel(self._timer)
        due = min([self.dispatch.due() * SECOND, *(each.deadline for each in self.crew.values() if not each.is_killed)])
        if due < _NEVER:
            self._timer = self.process.after(max(1, int(due) + 1 - self.world.clock.now), self._late)

    def _late(self) -> None:
        for worker in self.crew.values():
            if self.world.clock.now >= worker.deadline and not worker.is_killed:
                worker.kill()
        self.apply(self.dispatch.tick(self.now))


_NEVER: Final = float("inf")


class Worker:
    """A worker as the service holds it, and its process, which is the first of its namespace."""

    def __init__(self, service: Service, number: int, key: str) -> None:
        self.service, self.number, self.key, self.world = service, number, key, service.world
        self.run: Run | None = None
        self.deadline: float = self.world.clock.now + 30 * SECOND
        self.is_killed = False
        self.process: Process | None = None
        self._command: Process | None = None
        clock, latency = self.world.clock, self.world.latency
        self.pipe = Pipe(clock, latency, self._arrived)
        self._back = Pipe(clock, latency, lambda said: service.process.do(service.hear, self, said))
        clock.after(self.world.chance.randrange(5 * MS, 50 * MS), self._born)

    def _born(self) -> None:
        if self.is_killed or not self.service.process.alive or self.world.clock.now < self.world.barren_until:
            self._over()
            return
        self.process = self.world.spawn("worker")
        self.process.at_exit.append(self._takes_along)
        self.process.watchers.append(self._died)
        self._back.send(("ready",))

    def kill(self) -> None:
        self.is_killed = True
        if self.process is not None:
            self.world.kernel.signal(self.process, signal.SIGKILL)

    def _takes_along(self) -> None:
        if self._command is not None:
            self.world.kernel.signal(self._command, signal.SIGKILL)

    def _died(self) -> None:
        assert self.process is not None
        self.world.kernel.reap(self.process)
        self._over()

    def _over(self) -> None:
        self._back.end(lambda: self.service.process.do(self.service.gone, self))

    def _arrived(self, message: tuple[str, Any]) -> None:
        if self.process is not None:
            self.process.do(self._told, *message)

    def _told(self, word: str, run: Run) -> None:
        assert self.process is not None
        if word == "run":
            self._back.send(("starting", run))
            self.process.after(self.world.chance.randrange(3 * MS), self._carry_out, run)
        elif word == "cancel":
            self._end(run, "cancelled")
        else:
            self.process.exit(0)

    def _carry_out(self, run: Run) -> None:
        assert self.process is not None
        command = self._command = self.world.spawn("command", self.process)
        command.watchers.append(lambda: self.world.kernel.reap(command))
        command.at_exit.append(lambda: self.process is not None and self.process.do(self._end, run, "signaled"))
        self.world.watch.begins(run.number, command)
        self.process.after(min(run.takes, WALL), self._is_up, run, command)

    def _is_up(self, run: Run, command: Process) -> None:
        if self._command is command and command.alive:
            if run.takes < WALL:
                self.world.watch.ends(run.number)
            self._end(run, "done" if run.takes < WALL else "timeout")

    def _end(self, run: Run, how: str) -> None:
        """All of it is gone before a word is said of that."""
        command, self._command = self._command, None
        if command is not None:
            self.world.kernel.signal(command, signal.SIGKILL)
            self._back.send(("result", run, how))


@dataclass(eq=False)
class Caller:
    """A process that orders commands, takes some back, and comes again when it dies."""

    world: World
    name: str
    process: Process = field(init=False)
    line: Line | None = None

    def begin(self) -> None:
        self.line, self.process = None, self.world.spawn(self.name)
        self.process.watchers.append(self._died)
        self.process.after(self.world.chance.randrange(100 * MS), self._work)

    def _died(self) -> None:
        self.world.kernel.reap(self.process)
        self.world.clock.after(self.world.chance.randrange(300 * MS), self.begin)

    def _work(self) -> None:
        world = self.world
        if world.calm:
            return
        self.process.after(world.chance.randrange(MS, 800 * MS), self._work)
        if self.line is None and world.service is not None and world.service.process.alive:
            self.line = Line(self, world.service)
        for _ in range(world.chance.randrange(4) if self.line is not None else 0):
            self._order()

    def _order(self) -> None:
        assert self.line is not None
        chance, owner = self.world.chance, Owner(self.name, self.process.cookie.inc)
        takes = chance.randrange(MS, WALL + WALL // 4)
        run = Run(next(self.world.numbers), chance.choice("aab"), takes, owner, self.line)
        self.world.watch.ordered(run.number, self.process, self.line.service)
        self.line.order(run)
        if chance.random() < 0.15:
            self.process.after(chance.randrange(2 * SECOND), self.line.take_back, run)


class Line:
    """Between a caller and one incarnation of the service: the end of either is told to the other a moment later."""

    def __init__(self, caller: Caller, service: Service) -> None:
        self.caller, self.service, self._process = caller, service, caller.process
        clock, latency = caller.world.clock, caller.world.latency
        self._open: set[int] = set()
        self._there = Pipe(clock, latency, lambda said: service.process.do(*said))
        self._back = Pipe(clock, latency, lambda said: self._process.do(self._told, *said))
        caller.process.at_exit.append(self._caller_died)
        service.process.at_exit.append(lambda: self._back.end(lambda: self._process.do(self._lost)))

    def order(self, run: Run) -> None:
        self._open.add(run.number)
        self._there.send((self.service.order, run))

    def take_back(self, run: Run) -> None:
        self._there.send((self.service.cancel, run, "cancelled"))

    def tell(self, number: int, how: str) -> None:
        self._back.send((number, how))

    def _told(self, number: int, how: str) -> None:
        self._open.discard(number)
        self.caller.world.watch.told(number, how)

    def _caller_died(self) -> None:
        owner = Owner(self.caller.name, self._process.cookie.inc)
        self._there.end(lambda: self.service.process.do(self.service.owner_gone, owner))

    def _lost(self) -> None:
        if self.caller.line is self:
            self.caller.line = None
        for number in sorted(self._open):
            self._told(number, "exited")
