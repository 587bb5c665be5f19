"""The store of a world with durable messages: the real queue and the real group commit, over a disk that may lose power.

It is an agent like the real one. A commit takes its time: first it is written, then synced, and only then is anybody told.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.deliveries import encoded
from otpd.agents.services.store import journal
from otpd.agents.services.store.commits import Commits, Job, Refused, Room
from otpd.agents.services.store.messages import Answer, Bounds, Deliver, Failure, Unit, Watch
from otpd.agents.services.store.queue import Queue
from otpd.agents.services.store.refusals import Refusal
from otpd.ipc import happenings
from otpd.ipc.wire import Kind, Status
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import MS, SECOND, Entry
from tests.simulation.disk import Written, label_of
from tests.simulation.messages import Message
from tests.simulation.parts import Part

if TYPE_CHECKING:
    from tests.simulation.durable import DurableWorld
    from tests.simulation.kernel import Process
    from tests.simulation.workers import Job as Start

BOUNDS: Final = Bounds(messages=60, per_target=40, max_attempts=3, window=8, backoff=0.05, backoff_max=1.0, reminder=5.0)
_GENERATION: Final = 32


class Code(Exception):
    """Why something is not committed, as the answer says it."""


class DurableStore(SimulatedAgent):
    """One incarnation of it."""

    world: DurableWorld

    def __init__(self, world: DurableWorld, process: Process, job: Start) -> None:
        super().__init__(world, process, job)
        self.queue: Queue | None = None
        self._commits = Commits()
        self._refs: dict[int, Message] = {}
        self._monitors: dict[int, str] = {}
        self._targets: dict[int, str] = {}  # of casts that deliver, by request
        self._bell: Entry | None = None
        process.at_exit.append(lambda: world.watch.durable("store died"))

    def _parts(self) -> tuple[Part, ...]:
        return ()

    def _initialised(self) -> None:
        if self.phase != "init":
            return
        world = self.world
        world.watch.durable("recovered", self)
        self.queue = Queue(journal.recover(world.disk.content), BOUNDS, world.clock.now, 0.0)
        self.phase = "ready"
        self.job.say(["ready"])
        self._turn()

    # --- what it hears ---

    def _hear(self, happening: happenings.Happening) -> None:
        super()._hear(happening)
        if self.queue is None or not self.process.alive:
            return
        now = self.world.clock.now
        match happening:
            case happenings.Up(ref=ref, generation=generation) if ref in self._monitors:
                self.queue.up(self._monitors[ref], self.inc >> _GENERATION << _GENERATION | generation, now)
            case happenings.Down(ref=ref, generation=generation, reason=reason) if ref in self._monitors:
                inc = self.inc >> _GENERATION << _GENERATION | generation if generation else 0
                self.queue.down(self._monitors[ref], inc, reason, now)
            case happenings.Welcomed():
                self.queue.remind_all(now)
            case happenings.CastRejected(number=number) if number in self._targets:
                self.queue.overloaded(self._targets[number], now)
            case _:
                return
        self._turn()

    def _hear_payload(self, happening: Any, message: Message) -> None:
        self.endpoint.handled(1, len(happening.body))
        self.world.watch.handled(self, message)
        assert self.queue is not None
        match message.payload:
            case ("submit", number, requests, settles, state):
                self._refs[message.number] = message
                message.request = happening.call
                named = [(message.sender, request.id) for request in requests if request.id]
                finished = journal.finished(self.world.disk.content, named)
                whole = settles is not None
                self.queue.submit(
                    message.number, message.sender, message.inc, number, requests, settles, whole, state, finished
                )
            case ("word", word):
                who, now = (message.sender, word["inc"]), self.world.clock.now
                if "reason" in word:
                    self.queue.refused(word["seq"], word["attempt"], who, Failure(word["reason"]), now)
                else:
                    self.queue.acknowledged(word["seq"], word["attempt"], who, now)
        self._turn()

    # --- what the queue wants ---

    def _turn(self) -> None:
        queue, clock = self.queue, self.world.clock
        assert queue is not None
        due = queue.tick(clock.now, 0.0)
        while queue.effects:
            self._effect(queue.effects.popleft())
        for unit in queue.take():
            self._submit(unit)
        if queue.effects:
            self._turn()
            return
        clock.cancel(self._bell)
        self._bell = clock.at(due, self.process.do, self._rings)
        self.world.watch.durable("turned", self)
        self._flush()

    def _rings(self) -> None:
        self._bell = None
        self._turn()

    def _effect(self, effect: Any) -> None:
        match effect:
            case Deliver(message=message):
                body = journal.body(self.world.disk.content, message)
                assert body is not None, f"the body of {message.seq} is gone"
                packed = encoded(
                    seq=message.seq, attempt=effect.attempt, inc=effect.inc, kind=int(message.kind), name=message.name,
                    body=body, sender=message.sender, id=message.id, at=message.at,
                )  # fmt: skip
                said = self.say(Kind.CAST, message.target, ("durable", packed, message.key))
                self._targets[said.request] = message.target
            case Answer(ref=int(ref)):
                self._answer(self._refs.pop(ref), effect)
            case Watch(target=name, on=True):
                ref = self.endpoint.monitor(name, True)
                self._monitors[ref] = name
                self.world.watch.verb(self, "monitor", ref, name, True)

    def _answer(self, message: Message, answer: Answer) -> None:
        outcomes, more = answer.value or (None, None)
        message.answer = (outcomes, answer.code, more)
        self.endpoint.reply(message.request, Status.OK, message.body())

    # --- commits ---

    def _submit(self, unit: Unit) -> None:
        assert self.queue is not None
        rows = journal.rows(unit, 0.0, self.queue.minute)
        inserted = [label_of(body) for _, body in unit.inserts]
        content = self.world.disk.content
        bodies = [journal.body(content, message) for message in unit.settled if unit.receipt is not None]
        effects = [label_of(body) for body in bodies if body is not None]
        state = None
        if unit.state is not None and unit.receipt is not None:
            state = unit.receipt.sender, unit.receipt.inc, *unit.state
        job = Job(Written(rows, inserted, effects, state), functools.partial(self._decided, unit), grows=rows.grows)
        self._put(job)

    def _put(self, job: Job) -> None:
        refused = self._commits.submit(job)
        if refused is not None:
            self._refuse([job], "store_full" if refused is Refused.FULL else "overloaded")
        elif not self._commits.idle:
            self.process.after(0, self._begin)

    def _decided(self, unit: Unit, more: Any, error: BaseException | None) -> None:
        assert self.queue is not None
        if error is None:
            self.queue.committed(unit, self.world.clock.now, more)
        else:
            self.queue.failed(unit, str(error), str(error), self.world.clock.now)

    def _begin(self) -> None:
        jobs = self._commits.begin()
        if jobs:
            self.process.after(self._takes(), self._write, jobs)

    def _takes(self) -> int:
        """A disk: mostly fast, at times not."""
        return self.random.randrange(50_000, MS) if self.random.random() < 0.95 else self.random.randrange(200 * MS)

    def _write(self, jobs: list[Job]) -> None:
        disk = self.world.disk
        if disk.full and self._commits.room is Room.OPEN:
            self.world.sometimes["the disk is full"] += 1
            self._refuse(self._commits.full(), "store_full")
            self.process.after(SECOND, self._look)
            self._begin()
            self._turn()
            return
        answers = disk.write([job.write for job in jobs])
        self.world.watch.durable("written")
        self.process.after(self._takes(), self._sync, answers)

    def _sync(self, answers: list[Any]) -> None:
        self.world.disk.sync()
        for job, answer in zip(self._commits.committed(), answers, strict=True):
            assert job.then is not None
            if isinstance(answer, Refusal):
                job.then(None, Code("stale"))
            else:
                job.then(answer, None)
        self._begin()
        self._turn()

    def _refuse(self, jobs: list[Job], code: str) -> None:
        for job in jobs:
            assert job.then is not None
            job.then(None, Code(code))

    def _look(self) -> None:
        if self.world.disk.full:
            self.process.after(SECOND, self._look)
        else:
            self._commits.made_room()
