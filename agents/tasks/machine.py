"""Which task goes to which worker, and when workers come and go. Pure: told what happens and when, answers with effects.

A task is known by a number. Owners take turns; a task that runs over its time ends with its worker, and so does one whose
owner has taken it back: there is no other way to end a function. It is settled when its worker is gone, so that nothing of
it acts any more when its owner hears of it.

    task     (PARKED -Grant-> GRANTED -submit-> ) QUEUED -Send-> RUNNING -done-> settled
    worker   STARTING -ready-> IDLE -Send-> BUSY -done-> IDLE ... -End-> LEAVING -gone->
             STARTING -its time is over-> OVERDUE -gone->

| what comes    | PARKED    | QUEUED    | RUNNING                                          |
|---------------|-----------|-----------|--------------------------------------------------|
| done          | -         | -         | DONE or FAILED; TIMED_OUT if that was before     |
| its time ends | -         | -         | its worker is ended; TIMED_OUT when that is gone |
| withdrawn     | CANCELLED | CANCELLED | its worker is ended; CANCELLED when that is gone |
| worker gone   | -         | -         | what was to become of it, else KILLED            |

Workers that end while they start, or are not ready in time and so are ended, are started again after a pause that grows.
Those of one round of starts count once, however many they are; when no worker is left that could take what waits, and round
after round has failed, it is told so.

A task is parked when the queue is full, in number or in bytes, and its owner wants to wait: it keeps the task and is told
when there is room. To one Grant there is one `submit`. An owner that stands still loses the room after a while, and is not
asked again before it has answered: then its task is accepted if there is room still, else parked anew.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from otpd.agents.tasks.counters import Counters
from otpd.agents.tasks.effects import Drained, Effect, End, Grant, Hold, Send, Settled, Start, Stop
from otpd.agents.tasks.waiting import Parked, Queue

#: Seconds in which an owner must use the room that it was granted, before it is another's turn.
GRANT: Final = 1.0
#: Rounds of starts without a worker that has come of it, until what waits is told that there will be none.
MAX_FAILURES: Final = 3
#: Seconds without a start after the first such round; they double with each, up to the second.
PAUSE, _MAX_PAUSE = 0.1, 5.0
NEVER: Final = float("inf")


class State(enum.Enum):
    STARTING = enum.auto()
    OVERDUE = enum.auto()  # was not ready in time, and is being ended
    IDLE = enum.auto()
    BUSY = enum.auto()
    LEAVING = enum.auto()


_TAKES: Final = (State.IDLE, State.BUSY)  # takes a task, now or after its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times in seconds, None or inf: no limit. `memory`: bytes that a worker may have kept after its task."""

    size: int
    queue: int = 1000
    queue_bytes: int = 256 * 2**20  # of arguments that wait; and of results that one owner may leave unread
    max_tasks_per_worker: int | None = None
    memory: int | None = None
    timeout: float | None = None
    idle: float = 10.0
    start_timeout: float = 30.0  # of a worker, until it is ready for its first task


@dataclass(slots=True)
class _Task:
    owner: int | None  # None: nobody's
    timeout: float
    since: float  # submitted; then, begun
    worker: int | None = None
    fate: End | None = None  # what it will be when its worker is gone


@dataclass(slots=True)
class _Worker:
    round: int = 0  # how many rounds of starts had failed when it was started
    state: State = State.STARTING
    task: int | None = None
    served: int = 0
    until: float = NEVER  # of its start, its task, or its idleness
    used: int = 0  # a count that grows with each use


@dataclass(slots=True)
class Pool:
    options: Options
    counters: Counters = field(default_factory=Counters)
    draining: bool = False
    _tasks: dict[int, _Task] = field(default_factory=dict)  # queued and running
    _queue: Queue = field(init=False)
    _parked: Parked = field(default_factory=lambda: Parked(GRANT))
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _uses: int = 0
    _failures: int = 0  # rounds of starts, one after another
    _pause: float = NEVER  # until then no worker is started; NEVER: there is no pause

    def __post_init__(self) -> None:
        self._queue = Queue(self.options.queue_bytes)

    # --- questions ---

    @property
    def queued(self) -> int:
        return self._queue.count

    @property
    def running(self) -> int:
        return len(self._tasks) - self._queue.count

    @property
    def parked(self) -> int:
        return len(self._parked)

    @property
    def waiting_bytes(self) -> tuple[int, int]:
        """Of arguments that are queued, and of results that nobody has read."""
        return self._queue.bytes, self._queue.results

    @property
    def workers(self) -> dict[int, State]:
        return {number: row.state for number, row in self._workers.items()}

    def task_of(self, worker: int) -> int | None:
        return self._workers[worker].task if worker in self._workers else None

    def has(self, task: int) -> bool:
        """Whether it was accepted and is not over."""
        return task in self._tasks

    def expects(self, task: int) -> bool:
        """Whether it was granted room, and its owner has not answered yet."""
        return self._parked.expects(task)

    def worker_of(self, task: int) -> int | None:
        return self._tasks[task].worker if task in self._tasks else None

    def due(self) -> float:
        """When `tick` must be called next; inf: not by itself."""
        times = [row.until for row in self._workers.values()]
        return min([self._pause, self._parked.due(), *times])

    # --- tasks ---

    def submit(
        self,
        task: int,
        owner: int,
        now: float,
        timeout: float | None = None,
        patient: bool = False,
        detached: bool = False,
        size: int = 0,
    ) -> list[Effect]:
        """A new task, or one that was granted room. `timeout` None: that of the pool. `patient`: it may have to wait.

        `size`: bytes of its arguments. `detached`: nobody's once it is accepted, so that it runs whoever goes; until then
        its owner alone has it.
        """
        granted = self._parked.answered(task)
        first = self._parked.next() is None  # else a large one would wait for ever, because small ones come all the time
        if not granted and (self.draining or not first or not self._room(size)):
            return self._no_room(task, owner, patient, size)
        limit = self.options.timeout if timeout is None else timeout
        whose = None if detached else owner
        self._tasks[task] = _Task(whose, NEVER if limit is None else limit, now)
        self._queue.add(task, whose, size)
        self.counters.submitted += 1
        return [*self._assign(now)]

    def _room(self, size: int) -> bool:
        """In number and in bytes, or because it could run at once."""
        taken, options = self._queue.count + self._parked.granted, self.options
        if self._queue.bytes + self._parked.bytes + size > options.queue_bytes:
            return taken < self._free()
        return taken < options.queue or taken < options.queue + self._free()

    def _free(self) -> int:
        """Tasks that could run at once: they are no queue while their workers are coming."""
        open_ = sum(row.state in (State.IDLE, State.STARTING) for row in self._workers.values())
        return open_ + max(0, self.options.size - len(self._workers))

    def _no_room(self, task: int, owner: int, patient: bool, size: int) -> list[Effect]:
        if patient:
            self._parked.park(task, owner, size)
            return [Hold(task)]
        self.counters.refused += 1
        if self.draining:
            return [Settled(task, End.DRAINING)]
        waiting, most = self._queue.bytes, self.options.queue_bytes
        too_large = waiting + size > most
        return [Settled(task, End.FULL, f"{waiting} bytes wait, {size} more are over {most}" if too_large else "")]

    def withdraw(self, task: int, now: float) -> list[Effect]:
        """Its owner does not want it any more. Harmless when it is over."""
        if self._parked.remove(task):
            return [Settled(task, End.CANCELLED), *self._assign(now)]
        row = self._tasks.get(task)
        if row is None or row.fate is not None:
            return []
        if row.worker is not None:
            return [self._end_with_worker(row, End.CANCELLED)]
        self._queue.remove(task, row.owner)
        return [self._settle(task, End.CANCELLED), *self._assign(now)]

    def owner_gone(self, owner: int, now: float) -> list[Effect]:
        """All of its tasks end."""
        self._queue.forget(owner)
        waiting = self._parked.of(owner)
        mine = [task for task, row in self._tasks.items() if row.owner == owner]
        return [effect for task in (*waiting, *mine) for effect in self.withdraw(task, now)]

    def unread(self, owner: int, size: int) -> None:
        """A result of so many bytes was given to it, and lies in shared memory until it says `read`."""
        self._queue.unread(owner, size)

    def read(self, owner: int, size: int, now: float) -> list[Effect]:
        self._queue.read(owner, size)
        return [*self._assign(now)]

    # --- workers ---

    def ready(self, worker: int, now: float) -> list[Effect]:
        row = self._workers[worker]
        if row.state is State.STARTING:
            self._failures, self._pause = 0, NEVER
            self._rest(row, now)
        return [*self._assign(now)]

    def done(self, worker: int, now: float, *, failed: bool = False, memory: int = 0) -> list[Effect]:
        """Its task has come to its own end. `memory`: bytes that the worker has now."""
        row = self._workers[worker]
        task, row.task = row.task, None
        if task is None:
            return []
        row.served += 1
        mine = self._tasks[task]
        own = End.FAILED if failed else End.DONE
        end = End.TIMED_OUT if mine.fate is End.TIMED_OUT else own  # one that was withdrawn has come to its end all the same
        self.counters.run.add(now - mine.since)
        effects: list[Effect] = [self._settle(task, end)]
        if row.state is State.BUSY:
            self._rest(row, now)
            if self._worn(row, memory):
                effects.append(self._leave(worker))
        return [*effects, *self._assign(now)]

    def _worn(self, row: _Worker, memory: int) -> bool:
        options = self.options
        over = options.memory is not None and memory > options.memory
        return over or (options.max_tasks_per_worker is not None and row.served >= options.max_tasks_per_worker)

    def ending(self, worker: int, now: float) -> list[Effect]:
        """Its line has ended, and so will it: it gets no task any more. Report it `gone` when nothing of it is left."""
        row = self._workers.get(worker)
        if row is not None and row.state in _TAKES:
            row.state, row.until = State.LEAVING, NEVER
        return [*self._assign(now)]

    def gone(self, worker: int, now: float, why: str = "") -> list[Effect]:
        """The process is no more, whatever the reason; with it its task, and no other."""
        row = self._workers.pop(worker, None)
        if row is None:
            return []
        effects: list[Effect] = []
        if row.task is not None:
            mine = self._tasks[row.task]
            self.counters.run.add(now - mine.since)
            effects.append(self._settle(row.task, mine.fate or End.KILLED, why))
        if row.state is State.STARTING:
            effects += self._failed_to_start(row, now, why)
        return [*effects, *self._assign(now)]

    def _failed_to_start(self, row: _Worker, now: float, why: str) -> Iterator[Effect]:
        if row.round != self._failures:
            return  # another one of its round has been counted, or a worker has come since
        self._failures += 1
        self._pause = now + min(PAUSE * 2 ** min(self._failures - 1, 10), _MAX_PAUSE)
        if self._failures >= MAX_FAILURES and not any(each.state in _TAKES for each in self._workers.values()):
            self._failures = 0
            for task in self._queue.tasks():
                self._queue.remove(task, self._tasks[task].owner)
                yield self._settle(task, End.KILLED, why)

    def _overdue(self, row: _Worker, now: float) -> Iterator[Effect]:
        """Its start has failed now, not when it is gone: none is started in its place before the pause is over."""
        row.state, row.until = State.OVERDUE, NEVER
        seconds = self.options.start_timeout
        yield from self._failed_to_start(
            row, now, f"no worker was ready within {seconds:g} s; see what it imports, or raise start_timeout"
        )

    # --- time, and the operator ---

    def tick(self, now: float) -> list[Effect]:
        """What is due."""
        effects: list[Effect] = []
        if self._pause <= now:
            self._pause = NEVER
        for number, row in list(self._workers.items()):
            if row.until <= now and row.state is State.STARTING:
                effects += [Stop(number), *self._overdue(row, now)]
            elif row.until <= now:
                mine = self._tasks.get(row.task) if row.task is not None else None
                effects.append(self._leave(number) if mine is None else self._end_with_worker(mine, End.TIMED_OUT))
        self._parked.tick(now)
        return [*effects, *self._assign(now)]

    def resize(self, size: int, now: float) -> list[Effect]:
        """Workers that are too many go when they have nothing to do."""
        return self.configure(replace(self.options, size=size), now)

    def configure(self, options: Options, now: float) -> list[Effect]:
        self.options, self._queue.limit = options, options.queue_bytes
        return [*self._assign(now)]

    def drain(self, now: float) -> list[Effect]:
        """Accept nothing until all that was accepted is over and its workers are gone."""
        self.draining = True
        return [*self._assign(now)]

    # --- decisions ---

    def _settle(self, task: int, end: End, why: str = "") -> Settled:
        counters = self.counters
        match end:
            case End.DONE:
                counters.done += 1
            case End.FAILED:
                counters.failed += 1
            case End.TIMED_OUT:
                counters.timed_out += 1
            case End.KILLED:
                counters.killed += 1
            case End.CANCELLED:
                counters.cancelled += 1
        del self._tasks[task]
        return Settled(task, end, why)

    def _end_with_worker(self, row: _Task, fate: End) -> Stop:
        assert row.worker is not None
        row.fate = fate
        return self._leave(row.worker)

    def _leave(self, worker: int) -> Stop:
        row = self._workers[worker]
        row.state, row.until = State.LEAVING, NEVER
        return Stop(worker)

    def _rest(self, row: _Worker, now: float) -> None:
        row.state, row.until = State.IDLE, now + self.options.idle

    def _assign(self, now: float) -> Iterator[Effect]:
        """All that can be done now: tasks to workers, room to those who wait for it, workers for what waits."""
        idle = [number for number, row in self._workers.items() if row.state is State.IDLE]
        if len(idle) > 1:
            idle.sort(key=self._last_used)
        if len(self._workers) > self.options.size:
            yield from self._shrink(idle)
        while idle and self._queue.ready:
            yield self._give(idle.pop(), now)
        if self.draining:
            yield from self._drain(idle)
        if self._parked:
            yield from self._grant(now)
        if self._queue.ready and self._pause == NEVER and len(self._workers) < self.options.size:
            coming = sum(row.state is State.STARTING for row in self._workers.values())
            for _ in range(min(self._queue.ready - coming, self.options.size - len(self._workers))):
                yield self._start(now)

    def _shrink(self, idle: list[int]) -> Iterator[Effect]:
        """The workers that were not used for longest go, if they are too many."""
        surplus = sum(row.state is not State.LEAVING for row in self._workers.values()) - self.options.size
        while surplus > 0 and idle:
            surplus -= 1
            yield self._leave(idle.pop(0))

    def _last_used(self, worker: int) -> int:
        return self._workers[worker].used

    def _give(self, worker: int, now: float) -> Send:
        task = self._queue.take()
        self._uses += 1
        mine, row = self._tasks[task], self._workers[worker]
        self.counters.wait.add(now - mine.since)
        mine.worker, mine.since = worker, now
        row.state, row.task, row.until, row.used = State.BUSY, task, now + mine.timeout, self._uses
        return Send(worker, task)

    def _drain(self, idle: list[int]) -> Iterator[Effect]:
        for worker in idle:
            yield self._leave(worker)
        if not self._tasks and not self._workers and not self._parked.granted:
            self.draining = False
            yield Drained()

    def _grant(self, now: float) -> Iterator[Effect]:
        while not self.draining and (size := self._parked.next()) is not None and self._room(size):
            yield Grant(self._parked.grant(now))

    def _start(self, now: float) -> Start:
        number = next(n for n in range(1, len(self._workers) + 2) if n not in self._workers)
        self._workers[number] = _Worker(self._failures, until=now + self.options.start_timeout)
        self.counters.workers += 1
        return Start(number)
