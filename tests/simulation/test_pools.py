"""Task pools in the simulated world: seeds that must hold, what must happen in them, and bugs that must be found (44)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pytest import MonkeyPatch

from otpd.agents.tasks import desk, dispatch, machine, waiting
from otpd.agents.tasks.effects import End, Send, Settled
from otpd.agents.tasks.machine import State
from tests.simulation.pools.world import FAULTS, World
from tests.simulation.smallworlds import is_found, lived

SEEDS = 40


def test_invariant_44_holds_whoever_dies_or_stands_still() -> None:
    sometimes: Counter[str] = Counter()
    for world in lived(World, SEEDS):
        sometimes.update(world.sometimes)
    outcomes = {f"told {how}" for how in ("ok", "error", "timeout", "killed", "cancelled", "overloaded")}
    assert outcomes | {*FAULTS} <= sometimes.keys(), "what never happens proves nothing"


def test_a_seed_is_one_history() -> None:
    def history(seed: int) -> tuple[int, Any]:
        world = World(seed)
        world.run()
        return world.clock.digest, sorted(world.sometimes.items())

    assert history(7) == history(7)


def the_death_of_a_worker_ends_all_tasks(patch: MonkeyPatch) -> None:
    gone = machine.Pool.gone

    def all_of_them(self: Any, worker: int, now: float, why: str = "") -> list[Any]:
        effects = gone(self, worker, now, why)
        running = [row for row in self._tasks.values() if row.worker and not row.fate]
        return effects + [self._end_with_worker(row, End.KILLED) for row in running]

    patch.setattr(machine.Pool, "gone", all_of_them)


def what_died_with_its_worker_is_run_again(patch: MonkeyPatch) -> None:
    def again(self: Any, worker: int, now: float, why: str = "") -> list[Any]:
        row = self._workers.pop(worker, None)
        if row is not None and row.task is not None:
            mine = self._tasks[row.task]
            mine.worker, mine.fate = None, None
            self._queue.add(row.task, mine.owner, 0)
        return [*self._assign(now)]

    patch.setattr(machine.Pool, "gone", again)


def a_task_is_said_to_be_over_before_it_is(patch: MonkeyPatch) -> None:
    withdraw = machine.Pool.withdraw

    def at_once(self: Any, task: int, now: float) -> list[Any]:
        row = self._tasks.get(task)
        if row is None or row.worker is None or row.fate is not None:
            return withdraw(self, task, now)
        self._workers[row.worker].task = None
        return [self._settle(task, End.CANCELLED), self._leave(row.worker)]

    patch.setattr(machine.Pool, "withdraw", at_once)


def the_queue_has_no_bound(patch: MonkeyPatch) -> None:
    patch.setattr(machine.Pool, "_room", lambda self, size: True)


def arguments_are_bounded_in_number_alone(patch: MonkeyPatch) -> None:
    room = machine.Pool._room
    patch.setattr(machine.Pool, "_room", lambda self, size: room(self, -self._queue.bytes - self._parked.bytes))


def results_that_nobody_reads_are_unbounded(patch: MonkeyPatch) -> None:
    patch.setattr(waiting.Queue, "unread", lambda self, owner, size: None)


def there_is_one_worker_too_many(patch: MonkeyPatch) -> None:
    assign = machine.Pool._assign

    def more(self: Any, now: float) -> Any:
        yield from assign(self, now)
        if self._queue.count and len(self._workers) == self.options.size:
            yield self._start(now)

    patch.setattr(machine.Pool, "_assign", more)


def a_worker_that_is_busy_is_taken_for_idle(patch: MonkeyPatch) -> None:
    give = machine.Pool._give

    def idle_still(self: Any, worker: int, now: float) -> Send:
        sent = give(self, worker, now)
        self._workers[worker].state = State.IDLE
        return sent

    patch.setattr(machine.Pool, "_give", idle_still)


def the_tasks_of_a_dead_owner_go_on(patch: MonkeyPatch) -> None:
    patch.setattr(machine.Pool, "owner_gone", lambda self, owner, now: [])


def what_is_taken_back_is_not_told(patch: MonkeyPatch) -> None:
    tell = dispatch.Dispatch._tell

    def silent(self: Any, row: Any, message: list[Any]) -> None:
        if message[:1] != ["over"] or message[2] != "cancelled":
            tell(self, row, message)

    patch.setattr(dispatch.Dispatch, "_tell", silent)


def tasks_of_a_lost_pool_are_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(desk.Desk, "lost", lambda self, why: self._open.clear())


def room_is_never_granted(patch: MonkeyPatch) -> None:
    patch.setattr(machine.Pool, "_grant", lambda self, now: iter(()))


def a_task_has_no_end_in_time(patch: MonkeyPatch) -> None:
    submit = machine.Pool.submit

    def endless(self: Any, task: int, owner: Any, now: float, _timeout: Any = None, *how: Any) -> list[Any]:
        return submit(self, task, owner, now, machine.NEVER, *how)

    patch.setattr(machine.Pool, "submit", endless)


def an_end_is_counted_twice(patch: MonkeyPatch) -> None:
    settle = machine.Pool._settle

    def twice(self: Any, task: int, end: End, why: str = "") -> Settled:
        self.counters.done += end is End.FAILED
        return settle(self, task, end, why)

    patch.setattr(machine.Pool, "_settle", twice)


BUGS: list[Callable[[MonkeyPatch], None]] = [
    the_death_of_a_worker_ends_all_tasks,
    what_died_with_its_worker_is_run_again,
    a_task_is_said_to_be_over_before_it_is,
    the_queue_has_no_bound,
    arguments_are_bounded_in_number_alone,
    results_that_nobody_reads_are_unbounded,
    there_is_one_worker_too_many,
    a_worker_that_is_busy_is_taken_for_idle,
    the_tasks_of_a_dead_owner_go_on,
    what_is_taken_back_is_not_told,
    tasks_of_a_lost_pool_are_forgotten,
    room_is_never_granted,
    a_task_has_no_end_in_time,
    an_end_is_counted_twice,
]


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__.replace("_", " "))
def test_a_planted_bug_is_found(monkeypatch: MonkeyPatch, plant: Callable[[MonkeyPatch], None]) -> None:
    plant(monkeypatch)
    assert is_found(World, SEEDS, KeyError, StopIteration)
