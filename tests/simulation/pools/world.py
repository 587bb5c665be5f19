"""A task pool in a simulated world: the real machine, dispatch and desks, with processes that die, stop and are slow.

>>> world = World(1)
>>> world.run()
>>> world.told > 20
True

Root, which starts and ends processes and tells of their ends, is played here; everything that decides about a task is the
real thing. `watch` holds invariant 44 of messaging.md against what really ran.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from otpd.agents.tasks.desk import Desk, Entry
from otpd.agents.tasks.dispatch import Dispatch
from otpd.agents.tasks.dispatch import Owner as Guest
from otpd.agents.tasks.machine import NEVER, Options
from otpd.agents.tasks.payload import MSGPACK, Payload, encode
from otpd.agents.tasks.values import Outcome
from otpd.ipc.frames import pack, unpack
from tests.simulation.clock import MS, SECOND, Clock
from tests.simulation.kernel import Cookie, Kernel, Process, State
from tests.simulation.links import Latency, Pipe
from tests.simulation.pools.watch import Watch
from tests.simulation.smallworlds import live

#: Bytes of an argument or a result.
LARGEST: Final = 1000
#: While everything goes wrong, and in which all must then have come to an end.
SPAN: Final = 20 * SECOND
RECOVERY: Final = 900 * SECOND
FAULTS: Final = (
    "worker", "pool", "owner", "stop worker", "stop owner", "stop pool", "worker and pool", "root", "drain", "resize",
    "stop an owner that waits", "no worker can start", "results are not read",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Plan:
    """What a task will do: how long it takes in ns (0: for ever), and how it then ends."""

    number: int
    takes: int
    ends: str  # returns, raises, dies
    timeout: float | None
    patient: bool
    size: int  # bytes of its argument in shared memory
    result: int


class World:
    def __init__(self, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.chance = Random(f"{seed}/pools")
        self.clock = Clock()
        self.kernel = Kernel(self.clock, self.chance)
        self.latency = Latency(Random(f"{seed}/latency"), 20_000, 5 * MS, 0.02)
        draw = self.chance.randrange
        self.size, self.queue = draw(1, 4), self.chance.choice((0, 1, 2, 4, 8))
        self.queue_bytes = self.chance.choice((LARGEST // 2, 3 * LARGEST, 100 * LARGEST))
        self.wear = self.chance.choice((None, draw(1, 6)))
        self.pace = self.chance.choice((400 * MS, 3 * SECOND))  # of the owners: more than can be done, or about as much
        self.largest = LARGEST
        self.sometimes: Counter[str] = Counter()
        self.told = 0
        self.calm = False
        self.barren_until = 0
        self.plans: dict[int, Plan] = {}
        self.watch = Watch(self)
        self.root = self.kernel.spawn(Cookie("root", 0), None)
        self.pool: Pool | None = None
        self._incs = itertools.count(1)
        self.start_pool()
        self.owners = [Owner(self, f"owner-{n}") for n in range(draw(1, 4))]
        for _ in range(draw(1, 12)):
            self.clock.at(draw(SPAN), self.strike, self.chance.choice(faults))

    def run(self) -> None:
        """Violation says what does not hold."""
        for owner in self.owners:
            owner.begin()
        live(self.clock, self.watch, SPAN)
        self.calm = True
        for process in self.kernel.living():
            self.kernel.resume(process, State.STOPPED)
        live(self.clock, self.watch, SPAN + RECOVERY)
        self.watch.finished()

    def inc(self) -> int:
        return next(self._incs)

    def draw_plan(self) -> Plan:
        chance = self.chance
        takes = 0 if chance.random() < 0.1 and not self.calm else chance.randrange(MS, 2 * SECOND)
        ends = chance.choices(("returns", "raises", "dies"), (8, 1, 1))[0]
        timeout, patient = chance.choice((None, 0.5, 3.0)), chance.random() < 0.6
        size, result = (chance.choice((0, LARGEST // 10, LARGEST, most)) for most in (0, LARGEST))
        plan = Plan(len(self.plans), takes, ends, timeout, patient, size, result)
        if takes == 0 and plan.timeout is None:
            plan.timeout = 2.0
        self.plans[plan.number] = plan
        return plan

    # --- root ---

    def start_pool(self) -> None:
        process = self.kernel.spawn(Cookie("pool", self.inc()), self.root)
        self.pool = Pool(self, process)
        process.program = self.pool
        process.watchers.append(lambda: self._pool_died(process))

    def _pool_died(self, process: Process) -> None:
        """Its workers go first, then the next one comes."""
        self.kernel.reap(process)
        for child in [each for each in self.kernel.living() if each.cookie.name == "worker"]:
            self.kernel.signal(child, signal.SIGKILL)
        self.clock.after(self.chance.randrange(MS, 200 * MS), self.start_pool)

    # --- faults ---

    def strike(self, fault: str) -> None:
        self.sometimes[fault] += 1
        workers = [each for each in self.kernel.living() if each.cookie.name == "worker"]
        pool = self.pool.process if self.pool is not None else None
        if "worker" in fault and workers:
            number = signal.SIGSTOP if "stop" in fault else signal.SIGKILL
            self.kernel.signal(self.chance.choice(workers), number)
        if pool is not None and fault in ("pool", "worker and pool", "stop pool"):
            self.kernel.signal(pool, signal.SIGSTOP if "stop" in fault else signal.SIGKILL)
        if "stop" in fault:
            self.clock.after(self.chance.randrange(5 * SECOND), self._resume_all)
        if "owner" in fault:
            waiting = self._owners_that_wait() if "waits" in fault else []
            self.chance.choice(waiting or self.owners).hit(signal.SIGSTOP if "stop" in fault else signal.SIGKILL)
        if fault == "results are not read":
            self.chance.choice(self.owners).look_away(self.chance.randrange(SPAN))
        if fault == "no worker can start":
            self.barren_until = self.clock.now + self.chance.randrange(10 * SECOND)
        if fault == "root":
            for process in self.kernel.living():
                if process is not self.root:
                    self.kernel.signal(process, signal.SIGKILL)
        if self.pool is not None and pool is not None and fault in ("drain", "resize"):
            pool.do(self.pool.operate, fault)

    def _owners_that_wait(self) -> list[Owner]:
        """For room in the pool: it is likely to be granted while they stand still."""
        assert self.pool is not None
        dispatch = self.pool.dispatch
        waiting = {row.who for task, row in dispatch.rows.items() if not dispatch.pool.has(task)}
        return [each for each in self.owners if (each.name, each.process.cookie.inc) in waiting]

    def _resume_all(self) -> None:
        for process in self.kernel.living():
            if process.cookie.name != "worker":
                self.kernel.resume(process, State.STOPPED)


class Pool:
    """The process of the pool: the real dispatch, with workers that root starts and ends."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        bounds = {"size": world.size, "queue": world.queue, "queue_bytes": world.queue_bytes}
        options = Options(**bounds, max_tasks_per_worker=world.wear, idle=1.0)
        self.dispatch = Dispatch(options, self, lambda: world.clock.now / SECOND, self._note)
        self.fruitless = 0  # starts in a row of which nothing came, while tasks waited and nobody was told anything
        self.workers: dict[int, Worker] = {}
        self._timer: list[Any] | None = None

    def begin(self) -> None: ...

    def signalled(self, number: int) -> None: ...

    def _note(self, *_: Any) -> None:
        self.fruitless = 0

    # --- what the machine wants of its crew ---

    def start(self, worker: int) -> None:
        self.workers[worker] = Worker(self, worker)

    def send(self, worker: int, message: list[Any], fds: Sequence[int]) -> None:
        self.workers[worker].pipe.send(message)

    def stop(self, worker: int) -> None:
        self.world.clock.after(self.world.latency.draw(), self.workers[worker].kill)

    # --- what happens ---

    def operate(self, what: str) -> None:
        if what == "drain":
            self.dispatch.drain()
        else:
            self.dispatch.resize(self.world.chance.randrange(1, self.world.size + 1))
        self.turned()

    def lost(self, worker: int) -> None:
        del self.workers[worker]
        self.dispatch.lost(worker, "killed")
        self.turned()

    def turned(self) -> None:
        """As the dispatcher's `_after`."""
        self.world.clock.cancel(self._timer)
        due = self.dispatch.pool.due()
        if due != NEVER:
            self._timer = self.process.after(max(0, int(due * SECOND) + 1 - self.world.clock.now), self._tick)

    def _tick(self) -> None:
        self.dispatch.tick()
        self.turned()


class Worker:
    """The process of a worker, as root starts it and as it ends."""

    def __init__(self, pool: Pool, number: int) -> None:
        self.pool, self.number, self.world = pool, number, pool.world
        self.process: Process | None = None
        self.killed = False
        self.pipe = Pipe(self.world.clock, self.world.latency, self._told)
        self._back = Pipe(self.world.clock, self.world.latency, lambda heard: pool.process.do(*heard))
        self.world.clock.after(self.world.chance.randrange(5 * MS, 50 * MS), self._born)

    def _born(self) -> None:
        barren = self.world.clock.now < self.world.barren_until
        if barren:
            self.world.watch.comes_to_nothing(self.pool)
        if barren or self.killed or not self.pool.process.alive:
            self._over()
            return
        process = self.process = self.world.kernel.spawn(Cookie("worker", self.world.inc()), self.world.root)
        process.watchers.append(self._died)
        self._say(self._ready)

    def _ready(self) -> None:
        self.pool.fruitless = 0
        self.pool.dispatch.ready(self.number)
        self.pool.turned()

    def _ending(self) -> None:
        self.pool.dispatch.ending(self.number)
        self.pool.turned()

    def _say(self, what: Callable[..., None], *args: Any) -> None:
        self._back.send((what, *args))

    def kill(self) -> None:
        self.killed = True
        if self.process is not None:
            self.world.kernel.signal(self.process, signal.SIGKILL)

    def _died(self) -> None:
        """Root has seen it, and knows that nothing is left."""
        assert self.process is not None
        self.world.kernel.reap(self.process)
        self.world.watch.worker_gone(self)
        self._say(self._ending)
        self.world.clock.after(self.world.latency.draw(), self._over)

    def _over(self) -> None:
        self._say(self.pool.lost, self.number)

    def _told(self, message: list[Any]) -> None:
        if self.process is not None:
            self.process.do(self._run, message)

    def _run(self, message: list[Any]) -> None:
        assert self.process is not None
        plan = self.world.plans[unpack(message[5])[0][0]]
        self.world.watch.begins(self, plan)
        if plan.takes:
            self.process.after(plan.takes, self._end, plan)

    def _end(self, plan: Plan) -> None:
        assert self.process is not None
        self.world.watch.ends(self, plan)
        if plan.ends == "dies":
            self.process.exit(1)
            return
        ok = plan.ends == "returns"
        answer = encode(plan.number if ok else ["ValueError", "no", "", None], MSGPACK)
        self._say(self._done, ok, (MSGPACK, answer.body, [plan.result] if plan.result else []))

    def _done(self, ok: bool, answer: Any) -> None:
        self.pool.dispatch.done(self.number, ok, 0, answer, [])
        self.pool.turned()


@dataclass(eq=False)
class Owner:
    """A process that gives tasks to the pool, takes some back, and comes again when it dies."""

    world: World
    name: str
    desk: Desk = field(init=False)
    process: Process = field(init=False)
    line: Line | None = None
    looks_away_until: int = 0  # it reads no results, and submits on

    def begin(self) -> None:
        self.desk, self.line = Desk("p"), None
        self.process = self.world.kernel.spawn(Cookie(self.name, self.world.inc()), self.world.root)
        self.process.program = self  # type: ignore[assignment]
        self.process.watchers.append(self._died)
        self.process.after(self.world.chance.randrange(100 * MS), self._work)

    def signalled(self, number: int) -> None: ...

    def hit(self, number: int) -> None:
        self.world.kernel.signal(self.process, number)

    def look_away(self, time: int) -> None:
        self.looks_away_until = self.world.clock.now + time
        self.world.clock.after(time, self._look_again)

    def _look_again(self) -> None:
        if self.line is not None:
            self.process.do(self.line.read)

    def _died(self) -> None:
        self.looks_away_until = 0
        self.world.kernel.reap(self.process)
        self.world.clock.after(self.world.chance.randrange(300 * MS), self.begin)

    def _work(self) -> None:
        if self.world.calm:
            return
        self.process.after(self.world.chance.randrange(MS, self.world.pace), self._work)
        pool = self.world.pool
        if self.line is None and pool is not None and pool.process.alive:
            self.line = Line(self, pool)
        if self.line is not None:
            for _ in range(self.world.chance.randrange(4)):
                self._submit(self.line)
            self.line.flush()

    def _submit(self, line: Line) -> None:
        plan, me = self.world.draw_plan(), (self.process, self.desk)

        def told(outcome: Outcome) -> None:
            self.world.told += 1
            self.world.watch.told(plan, outcome, line)

        sent = Payload(MSGPACK, pack([[plan.number], {}]), [plan.size])
        entry = Entry("m:f", lambda: (["m", "f", None, None], sent), told)
        entry.timeout, entry.patient = plan.timeout, plan.patient
        number = self.desk.submit(entry)
        self.world.watch.asked(plan, me[0], line.pool)
        if self.world.chance.random() < 0.15:
            self.process.after(self.world.chance.randrange(3 * SECOND), self._take_back, self.desk, number)

    def _take_back(self, desk: Desk, number: int) -> None:
        desk.withdraw(number)
        if self.line is not None:
            self.line.flush()


class Line:
    """Between an owner and one incarnation of the pool: cut by the death of either, told to the other a moment later."""

    def __init__(self, owner: Owner, pool: Pool) -> None:
        self.owner, self.pool, self._desk, self._process = owner, pool, owner.desk, owner.process
        clock, latency = owner.world.clock, owner.world.latency
        self._to_pool = Pipe(clock, latency, lambda message: pool.process.do(self._heard, message))
        self._to_owner = Pipe(clock, latency, lambda message: self._process.do(self._told, message))
        self._key: int | None = None
        self.unread = 0  # bytes of results that are under way to the owner, or lie there
        self._lying: list[tuple[int, int]] = []  # the task's number, and bytes in shared memory
        self._to_pool.send(None)
        owner.process.at_exit.append(self._owner_died)
        pool.process.at_exit.append(self._pool_died)

    def flush(self) -> None:
        out, self._desk.out = self._desk.out, []
        for message, _fds in out:
            self._to_pool.send(message)

    def _heard(self, message: list[Any] | None) -> None:
        if message is None:
            guest = Guest(self.owner.name, self._process.cookie.inc, lambda said, _fds: self._say(said))
            self._key = self.pool.dispatch.come(guest)
        elif self._key is not None and self._key in self.pool.dispatch.owners:
            self.pool.dispatch.hear(self._key, message, [])
        self.pool.turned()

    def _say(self, message: list[Any]) -> None:
        self.unread += sum(_sizes(message))
        self._to_owner.send(message)

    def _told(self, message: list[Any]) -> None:
        """There is no shared memory here: the desk is given the rest, and says that it has read when its owner has."""
        if sizes := _sizes(message):
            self._lying.append((message[1], sum(sizes)))
            message = [*message[:-1], []]
        self._desk.hear(message, [])
        if self.owner.looks_away_until <= self.owner.world.clock.now:
            self.read()
        self.flush()

    def read(self) -> None:
        """What lies there."""
        lying, self._lying = self._lying, []
        for number, size in lying:
            self.unread -= size
            self._desk.out.append((["read", number], ()))
        self.flush()

    def _owner_died(self) -> None:
        self._to_owner.cut()
        self._to_pool.end(lambda: self.pool.process.do(self._guest_gone))

    def _guest_gone(self) -> None:
        if self._key is not None:
            self.pool.dispatch.gone(self._key)
            self.pool.turned()

    def _pool_died(self) -> None:
        self._to_pool.cut()
        self._to_owner.end(lambda: self._process.do(self._lost))

    def _lost(self) -> None:
        self._desk.lost("it ended")
        if self.owner.line is self:
            self.owner.line = None


def _sizes(message: list[Any]) -> list[int]:
    """Of what a message to an owner brings in shared memory."""
    return message[-1] if message[0] == "done" else []
