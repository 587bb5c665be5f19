"""Which command goes to which worker, and when workers come and go. Pure: told what happens and when, answers with effects.

A worker belongs to one key (settings and tenant) for its life, because its network, its kernel keys and its uid are
shared by what it runs one after the other. A run waits in the queue of its caller; callers take turns.

    worker   STARTING -ready-> IDLE -send-> BUSY -done-> IDLE ... -stop-> LEAVING -gone->
             STARTING -late-> LEAVING -gone->

A worker that is not ready in time is tried again after a rest that grows, and what waits for one goes on waiting; after
`ATTEMPTS` such rounds it waits no longer than anybody in a queue.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

#: How often a run is given to another worker when one dies before it has begun.
ATTEMPTS: Final = 3
#: Seconds without a start after a worker was not ready in time; they double with each round, up to the second.
REST, _MAX_REST = 1.0, 30.0


class State(enum.Enum):
    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    LEAVING = enum.auto()


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker of this number for this key."""

    worker: int
    key: Hashable


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a run to an idle worker."""

    worker: int
    run: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End a worker; then report it `gone`."""

    worker: int


@dataclass(frozen=True, slots=True)
class Expire:
    """A run has waited in the queue for too long."""

    run: int


Effect: TypeAlias = Start | Send | Stop | Expire


class Full(Exception):
    """The run is not accepted. Args: how many wait, and whose queue is full ("pool" or the caller)."""


def may_go_again(*, begun: bool, unwanted: bool, attempts: int) -> bool:
    """Whether a run whose worker has died goes to another one: never what may have been carried out, or is to end anyway."""
    return not begun and not unwanted and attempts < ATTEMPTS


@dataclass(slots=True)
class _Worker:
    key: Hashable
    state: State = State.STARTING
    run: int | None = None
    until: float = 0.0  # of its run, when that is to be in the queue again
    served: int = 0
    used: int = 0  # a count that grows with each use: the least is the one unused for longest


@dataclass(frozen=True, slots=True)
class _Waiting:
    run: int
    key: Hashable
    until: float


@dataclass(slots=True)
class Dispatch:
    """`workers`, `max_queue`, `max_per_caller` (waiting and running), `queue_timeout` (seconds), `recycle_after` (runs)."""

    workers: int
    max_queue: int
    max_per_caller: int
    queue_timeout: float
    recycle_after: int
    _rows: dict[int, _Worker] = field(default_factory=dict)
    _queues: OrderedDict[str, deque[_Waiting]] = field(default_factory=OrderedDict)
    _callers: dict[int, str] = field(default_factory=dict)  # of runs that wait or run
    _count: int = 0
    _slow: int = 0  # rounds of starts that were not ready in time, one after another
    _rest: float = float("inf")  # until then no worker is started; inf: there is no rest

    # --- questions ---

    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def state(self, worker: int) -> State:
        return self._rows[worker].state

    def due(self) -> float:
        """When `tick` must be called next; inf: not by itself."""
        heads = (queue[0] for queue in self._queues.values())
        return min([self._rest, *(head.until for head in heads if not self._coming(head.key))])

    @property
    def slow(self) -> bool:
        """Workers were not ready in time, again and again."""
        return self._slow >= ATTEMPTS

    # --- events ---

    def submit(self, run: int, key: Hashable, caller: str, now: float) -> list[Effect]:
        """Full when it can't be accepted; nothing has changed then."""
        if self.waiting() >= self._capacity() + self.max_queue:
            raise Full(self.waiting(), "pool")
        if sum(each == caller for each in self._callers.values()) >= self.max_per_caller:
            raise Full(self.waiting(), caller)
        self._callers[run] = caller
        self._queues.setdefault(caller, deque()).append(_Waiting(run, key, now + self.queue_timeout))
        return list(self._assign())

    def _capacity(self) -> int:
        """How many more runs could run at once: they don't count as a queue while their workers are coming, or the place of
        one that leaves is about to be free."""
        return self.workers - sum(row.state is State.BUSY for row in self._rows.values())

    def _coming(self, key: Hashable) -> bool:
        """Whether a worker for this key is being started, or will be: waiting for that is not waiting in a queue."""
        if self._rest < float("inf") and not self.slow:
            return True
        return any(row.state is State.STARTING and row.key == key for row in self._rows.values())

    def withdraw(self, run: int) -> bool:
        """Take a run out of the queue; False when it is not in it."""
        for caller, queue in list(self._queues.items()):
            for each in queue:
                if each.run == run:
                    queue.remove(each)
                    self._forget(run, caller)
                    return True
        return False

    def ready(self, worker: int) -> list[Effect]:
        if self._rows[worker].state is not State.STARTING:  # it is being ended, as it was late
            return []
        self._rows[worker].state = State.IDLE
        self._slow, self._rest = 0, float("inf")
        return list(self._assign())

    def late(self, worker: int, now: float) -> None:
        """It was not ready in time, and is being ended. Those that are late together count once."""
        self._rows[worker].state = State.LEAVING
        if self._rest == float("inf"):
            self._rest = now + min(REST * 2**self._slow, _MAX_REST)
            self._slow = min(self._slow + 1, 10)

    def done(self, worker: int, *, worn: bool) -> list[Effect]:
        """The worker's run is over. `worn`: the worker is not to be used again."""
        row = self._rows[worker]
        self._callers.pop(row.run if row.run is not None else -1, None)
        row.run, row.served = None, row.served + 1
        if row.state is State.BUSY:
            row.state = State.IDLE
        effects: list[Effect] = []
        if row.state is State.IDLE and (worn or row.served >= self.recycle_after):
            effects.append(self._leave(worker))
        return [*effects, *self._assign()]

    def gone(self, worker: int, *, again: bool = False) -> list[Effect]:
        """The process has ended, whatever the reason. Its run, if it had one, is over, or to be given to another one."""
        row = self._rows.pop(worker)
        if row.run is not None and again:
            queue = self._queues.setdefault(self._callers[row.run], deque())
            queue.appendleft(_Waiting(row.run, row.key, row.until))
        elif row.run is not None:
            self._callers.pop(row.run, None)
        return list(self._assign())

    def tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for caller, queue in list(self._queues.items()):
            while queue and queue[0].until <= now and not self._coming(queue[0].key):
                run = queue.popleft().run
                self._forget(run, caller)
                effects.append(Expire(run))
        if self._rest <= now:
            self._rest = float("inf")
            effects += self._assign()
        return effects

    def refuse(self, key: Hashable | None = None) -> list[int]:
        """Take out of the queue what waits for a worker of this key, which can't be had; None: of any. The runs."""
        runs = [each.run for queue in self._queues.values() for each in queue if key is None or each.key == key]
        for run in runs:
            self.withdraw(run)
        return runs

    # --- decisions ---

    def _forget(self, run: int, caller: str) -> None:
        self._callers.pop(run, None)
        if not self._queues[caller]:
            del self._queues[caller]

    def _assign(self) -> Iterator[Effect]:
        """Callers in turn: whose run was taken goes to the end."""
        for caller in list(self._queues):
            queue = self._queues.get(caller)
            while queue:
                worker = self._idle(queue[0].key)
                if worker is None:
                    break
                yield self._give(worker, queue.popleft())
                self._queues.move_to_end(caller)
                if not queue:
                    del self._queues[caller]
                    break
        yield from self._make_room()

    def _idle(self, key: Hashable) -> int | None:
        found = [number for number, row in self._rows.items() if row.state is State.IDLE and row.key == key]
        return max(found, key=lambda number: self._rows[number].used, default=None)

    def _give(self, worker: int, waiting: _Waiting) -> Send:
        self._count += 1
        row = self._rows[worker]
        row.state, row.run, row.until, row.used = State.BUSY, waiting.run, waiting.until, self._count
        return Send(worker, waiting.run)

    def _make_room(self) -> Iterator[Effect]:
        """A worker for each waiting run that none is coming for; where there is no room, an idle one of another key goes."""
        if self._rest < float("inf"):
            return
        wanted: dict[Hashable, int] = {}
        for queue in self._queues.values():
            for each in queue:
                wanted[each.key] = wanted.get(each.key, 0) + 1
        for key, count in wanted.items():
            coming = sum(row.state is State.STARTING and row.key == key for row in self._rows.values())
            for _ in range(count - coming):
                if len(self._rows) < self.workers:
                    yield self._start(key)
                    continue
                leaving = sum(row.state is State.LEAVING for row in self._rows.values())
                idle = [number for number, row in self._rows.items() if row.state is State.IDLE and row.key != key]
                if idle and not leaving:
                    yield self._leave(min(idle, key=lambda number: self._rows[number].used))

    def _start(self, key: Hashable) -> Start:
        self._count += 1
        self._rows[self._count] = _Worker(key, used=self._count)
        return Start(self._count, key)

    def _leave(self, worker: int) -> Stop:
        self._rows[worker].state = State.LEAVING
        return Stop(worker)
