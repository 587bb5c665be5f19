"""The command pool in the simulated world: seeds that must hold, what must happen in them, bugs that must be found (44)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pytest import MonkeyPatch

from otpd.agents.sandbox import dispatch
from otpd.agents.services.commands import book
from tests.simulation.commandpool.world import FAULTS, World
from tests.simulation.smallworlds import is_found, lived

SEEDS = 40


def test_every_command_has_one_outcome_and_runs_at_most_once_whoever_dies() -> None:
    sometimes: Counter[str] = Counter()
    for world in lived(World, SEEDS):
        sometimes.update(world.sometimes)
    outcomes = {f"told {how}" for how in ("done", "timeout", "worker", "signaled", "cancelled", "busy", "refused", "exited")}
    assert outcomes | {*FAULTS, "given to another worker"} <= sometimes.keys(), "what never happens proves nothing"


def what_may_have_run_is_run_again(patch: MonkeyPatch) -> None:
    patch.setattr(dispatch, "may_go_again", lambda *, attempts, **_: attempts < dispatch.ATTEMPTS)


def a_run_that_goes_again_is_forgotten(patch: MonkeyPatch) -> None:
    gone = dispatch.Dispatch.gone
    patch.setattr(dispatch.Dispatch, "gone", lambda self, worker, again=False: gone(self, worker))


def the_queue_has_no_bound(patch: MonkeyPatch) -> None:
    patch.setattr(dispatch.Dispatch, "_capacity", lambda self: 1000)


def a_caller_has_no_share(patch: MonkeyPatch) -> None:
    submit = dispatch.Dispatch.submit

    def endless(self: Any, *order: Any) -> Any:
        self.max_per_caller = 1000
        return submit(self, *order)

    patch.setattr(dispatch.Dispatch, "submit", endless)


def there_is_one_worker_too_many(patch: MonkeyPatch) -> None:
    room = dispatch.Dispatch._make_room

    def more(self: Any) -> Any:
        yield from room(self)
        if self.waiting() and len(self._rows) == self.workers:
            yield self._start("a")

    patch.setattr(dispatch.Dispatch, "_make_room", more)


def a_worker_that_is_busy_is_taken_for_idle(patch: MonkeyPatch) -> None:
    give = dispatch.Dispatch._give

    def idle_still(self: Any, worker: int, waiting: Any) -> Any:
        sent = give(self, worker, waiting)
        self._rows[worker].state = dispatch.State.IDLE
        return sent

    patch.setattr(dispatch.Dispatch, "_give", idle_still)


def a_slot_stays_busy_when_its_run_is_over(patch: MonkeyPatch) -> None:
    patch.setattr(dispatch.Dispatch, "done", lambda self, worker, worn: [])


def what_is_taken_out_of_the_queue_stays_in_it(patch: MonkeyPatch) -> None:
    def withdraw(self: Any, run: int) -> bool:
        return any(run == each.run for queue in self._queues.values() for each in queue)

    patch.setattr(dispatch.Dispatch, "withdraw", withdraw)


def what_is_over_is_never_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(book.Book, "forget", lambda self, entry: None)


BUGS: list[Callable[[MonkeyPatch], None]] = [
    what_may_have_run_is_run_again,
    a_run_that_goes_again_is_forgotten,
    the_queue_has_no_bound,
    a_caller_has_no_share,
    there_is_one_worker_too_many,
    a_worker_that_is_busy_is_taken_for_idle,
    a_slot_stays_busy_when_its_run_is_over,
    what_is_taken_out_of_the_queue_stays_in_it,
    what_is_over_is_never_forgotten,
]


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__.replace("_", " "))
def test_a_planted_bug_is_found(monkeypatch: MonkeyPatch, plant: Callable[[MonkeyPatch], None]) -> None:
    plant(monkeypatch)
    assert is_found(World, SEEDS, KeyError)
