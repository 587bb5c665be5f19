"""Invariant 44, held against what really ran: running <= size, queue <= bound, each task one outcome, the death of a worker
is that task's end only, nobody starves; and what was told to be over is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otpd.agents.tasks.machine import MAX_FAILURES, State
from otpd.agents.tasks.values import Ok, Outcome
from tests.simulation.kernel import Process
from tests.simulation.observe import Violation

if TYPE_CHECKING:
    from tests.simulation.pools.world import Line, Plan, Pool, Worker, World


@dataclass(slots=True, eq=False)
class Story:
    """What has become of one task."""

    owner: Process
    pool: Pool
    begun: int = 0
    worker: Worker | None = None  # while it runs
    died_with: bool = False  # its worker died while it ran, by itself
    ended: bool = False  # by itself
    outcomes: list[Outcome] = field(default_factory=list)


class Watch:
    def __init__(self, world: World) -> None:
        self._world = world
        self._stories: dict[int, Story] = {}

    def asked(self, plan: Plan, owner: Process, pool: Pool) -> None:
        self._stories[plan.number] = Story(owner, pool)

    def begins(self, worker: Worker, plan: Plan) -> None:
        story = self._stories[plan.number]
        story.begun += 1
        _check(story.begun == 1, f"task {plan.number} runs {story.begun} times")
        _check(not story.outcomes, f"task {plan.number} begins after it was said to be over")
        busy = [each for each in self._stories.values() if each.worker is worker]
        _check(not busy, "a worker has two tasks at once")
        story.worker = worker

    def ends(self, worker: Worker, plan: Plan) -> None:
        story = self._stories[plan.number]
        story.worker, story.ended = None, plan.ends != "dies"
        story.died_with = plan.ends == "dies"

    def worker_gone(self, worker: Worker) -> None:
        for story in self._stories.values():
            if story.worker is worker:
                story.worker, story.died_with = None, not worker.killed

    def comes_to_nothing(self, pool: Pool) -> None:
        """A worker can't be started. Somebody is told before that has happened all too often."""
        machine = pool.dispatch.pool
        hope = any(state in (State.IDLE, State.BUSY) for state in machine.workers.values())
        pool.fruitless = 0 if hope or not machine.queued else pool.fruitless + 1
        limit = self._world.size * (MAX_FAILURES + 1)  # the rest of the last round may come to nothing after it is told
        _check(pool.fruitless <= limit, f"{pool.fruitless} starts for nothing, and nobody is told")

    def told(self, plan: Plan, outcome: Outcome, line: Line) -> None:
        story = self._stories[plan.number]
        story.outcomes.append(outcome)
        _check(len(story.outcomes) == 1, f"task {plan.number} has two outcomes: {story.outcomes}")
        pool_lives = story.pool.process.alive
        reason = "ok" if isinstance(outcome, Ok) else outcome.reason
        self._world.sometimes[f"told {reason}"] += 1
        if isinstance(outcome, Ok):
            _check(story.ended and outcome.value == plan.number, f"task {plan.number} has a value that it never gave")
        if reason in ("timeout", "killed", "cancelled") and pool_lives:
            _check(story.worker is None, f"task {plan.number} is said to be over ({reason}), and runs on")
        if reason == "killed" and pool_lives and line.pool is story.pool:
            _check(story.died_with or not story.begun, f"task {plan.number} was ended with a worker that was not its own")

    def look(self) -> None:
        """After every event."""
        pool = self._world.pool
        if pool is None:
            return
        living = [each for each in self._world.kernel.living() if each.cookie.name == "worker"]
        _check(len(living) <= self._world.size, f"{len(living)} workers in a pool of {self._world.size}")
        machine = pool.dispatch.pool
        bound = self._world.queue + self._world.size  # those for which workers are coming are no queue
        _check(machine.queued <= bound, f"{machine.queued} tasks wait where {bound} may")
        self._look_at_bytes(pool)
        counters: Any = machine.counters
        _check(counters.submitted == counters.ended + machine.queued + machine.running, "the counters do not add up")

    def _look_at_bytes(self, pool: Pool) -> None:
        world, machine = self._world, pool.dispatch.pool
        waiting, limit = machine.waiting_bytes[0], world.queue_bytes
        _check(waiting <= limit or machine.queued <= world.size, f"{waiting} bytes of arguments wait where {limit} may")
        most = limit + (world.size + 1) * world.largest  # the results of those that ran when it was over the limit
        unread = max((owner.line.unread for owner in world.owners if owner.line is not None), default=0)
        _check(unread <= most, f"{unread} bytes of results are unread where {most} may be")

    def finished(self) -> None:
        """Everybody was given the time to come to an end."""
        for number, story in self._stories.items():
            _check(story.worker is None, f"task {number} still runs")
            _check(story.outcomes or not story.owner.alive, f"task {number} has had no outcome")
        pool = self._world.pool
        assert pool is not None
        machine = pool.dispatch.pool
        _check((machine.queued, machine.running, machine.parked) == (0, 0, 0), "a pool without owners is busy")


def _check(holds: object, text: str) -> None:
    if not holds:
        raise Violation(44, text)
