"""The store in the simulated world: the real machines of `commits` and `state` around a disk that is slow, full, or cut off.

A commit is written into the page cache, and some time later it is on the disk. A kill leaves the cache, a power cut does
not. What a store that begins finds is what the disk, or the cache, has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from otpd.agents.services.store.commits import Commits, Job, Refused, Room
from otpd.agents.services.store.refusals import Stale
from otpd.agents.services.store.state import Fence, State, decide
from otpd.ipc import happenings
from otpd.ipc.wire import Status
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import MS, SECOND
from tests.simulation.messages import Message

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.stored import StoredWorld
    from tests.simulation.workers import Job as WorkersJob

Rows = dict[str, State]


@dataclass(frozen=True, slots=True)
class Image:
    """What a file holds: the rows, and the number of the last commit."""

    rows: Rows = field(default_factory=dict)
    seq: int = 0


class Disk:
    """`mark`: what the high-water file says; `full`, `slow` (ns that each commit takes more): as faults have it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.cache = self.durable = Image()
        self.mark = self._durable_mark = 0
        self.full, self.slow = False, 0

    def takes(self) -> tuple[int, int]:
        """Nanoseconds until a commit is in the cache, and until it is on the disk."""
        written = self._random.randrange(10_000, MS)
        return written, written + self._random.randrange(100_000, 4 * MS) + self.slow

    def synced(self, image: Image) -> None:
        if image.seq > self.durable.seq:
            self.durable = image

    def cut(self) -> None:
        """What is not on the disk is gone; of the mark an older value may have come there."""
        self.cache = self.durable
        self.mark = self._random.choice((self._durable_mark, self.mark))
        self._durable_mark = self.mark


@dataclass(eq=False, slots=True)
class Ask:
    """What one message to the store asks, and its answer. `number`: of the save, the same when it is said again."""

    kind: str  # load, save
    name: str
    inc: int
    number: int = 0
    expected: int | None = None
    answer: tuple[Any, ...] = ()
    asked_at: int = 0
    known: int = 0  # a load: the version that had been acknowledged when it was said


class SimulatedStore(SimulatedAgent):
    """Requests of agents become jobs; a job is answered after its commit."""

    world: StoredWorld

    def __init__(self, world: StoredWorld, process: Process, job: WorkersJob) -> None:
        super().__init__(world, process, job)
        self._disk, self._commits, self._fence = world.disk, Commits(), Fence()

    def _initialised(self) -> None:
        if self.phase == "init":
            self.world.states.began(self._disk)
            self.phase = "ready"
            self.job.say(["ready"])
            self.work()

    def _handle(self, item: happenings.Delivered | happenings.EventReceived, message: Message) -> None:
        self.world.watch.handled(self, message)
        self.endpoint.handled(1, len(item.body))
        ask = self.world.asks.get(message.number)
        if not isinstance(item, happenings.Delivered) or item.call is None or ask is None:
            return None
        answer = functools.partial(self._answer, item.call, message, ask)
        if not self._fence.admits(item.source, self.inc >> 32 << 32 | item.generation):
            return answer("stale", None)
        refused = self._commits.submit(Job(ask, answer, grows=ask.kind == "save", size=message.size))
        if refused is not None:
            return answer(refused.value, None)
        return self._begin()

    def _answer(self, call: int, message: Message, ask: Ask, answer: Any, error: BaseException | None) -> None:
        ask.answer = ("stale",) if isinstance(error, Stale) else answer if isinstance(answer, tuple) else (answer,)
        self.endpoint.reply(call, Status.OK, message.body())

    # --- commits ---

    def _begin(self) -> None:
        jobs = self._commits.begin()
        if jobs:
            written, synced = self._disk.takes()
            self.process.after(written, self._write, jobs, synced - written)

    def _write(self, jobs: list[Job], until_synced: int) -> None:
        if self._disk.full and any(job.grows for job in jobs):
            return self._full()
        before = self._disk.cache
        rows, outcomes = dict(before.rows), []
        for job in jobs:
            outcomes.append(self._one(job.write, rows))
        image = before if rows == before.rows else Image(rows, before.seq + 1)
        self.world.states.committed(before.rows, image.rows, [job.write for job in jobs])
        self._disk.cache = image
        self.world.clock.after(until_synced, self._disk.synced, image)  # whoever has died meanwhile
        self.process.after(until_synced + 1, self._written, image, outcomes)
        return None

    def _one(self, ask: Ask, rows: Rows) -> tuple[Any, BaseException | None]:
        if ask.kind == "load":
            found = rows.get(ask.name) or State(0, 0, None)
            return ("loaded", found.version, found.body), None
        try:
            found = decide(rows.get(ask.name), ask.inc, ask.expected, b"%d" % ask.number)
        except Stale as error:
            return None, error
        rows[ask.name] = found
        return ("saved", found.version), None

    def _written(self, image: Image, outcomes: list[tuple[Any, BaseException | None]]) -> None:
        self._disk.mark = max(self._disk.mark, image.seq)
        for job, (answer, error) in zip(self._commits.committed(), outcomes, strict=True):
            self._tell(job, answer, error)
        self._begin()
        self.work()

    def _full(self) -> None:
        self.world.sometimes["the disk is full"] += 1
        was = self._commits.room
        for job in self._commits.full():
            self._tell(job, Refused.FULL.value, None)
        if was is Room.OPEN:
            self.process.after(SECOND, self._look)
        self._begin()
        self.work()

    def _look(self) -> None:
        if self._disk.full:
            self.process.after(SECOND, self._look)
        else:
            self._commits.made_room()
            self.world.sometimes["there is room again"] += 1

    @staticmethod
    def _tell(job: Job, answer: Any, error: BaseException | None) -> None:
        then: Callable[..., None] | None = job.then
        if then is not None:
            then(answer, error)
