"""The store in the simulated world: no seed loses what was acknowledged, and what somebody could get wrong is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pytest import MonkeyPatch

from otpd.agents.services.store import state
from otpd.agents.services.store.commits import Commits
from otpd.agents.services.store.refusals import Stale
from otpd.agents.services.store.state import Fence, State
from tests.simulation import store
from tests.simulation.scenario import MODES, Mode, draw
from tests.simulation.store import Disk, SimulatedStore
from tests.simulation.stored import FAULTS, StoredWorld

pytestmark = pytest.mark.timeout(900)
SEEDS = 10


def test_no_seed_breaks_an_invariant_and_everything_worth_happening_happens() -> None:
    sometimes: Counter[str] = Counter()
    saves = 0
    for seed in range(SEEDS):
        for mode in MODES:
            world = StoredWorld(draw(seed, mode))
            assert world.run_checked() is None, (seed, mode)
            sometimes.update(world.sometimes)
            saves += len(world.states.done)
    wanted = [f"fault: {kind}" for kind in FAULTS] + ["a save is said again", "the disk is full", "there is room again"]
    assert [what for what in wanted if not sometimes[what]] == []
    assert saves > 1000


# --- planted bugs ---


def a_save_that_is_said_again_is_not_known(patch: MonkeyPatch) -> None:
    def decide(row: State | None, inc: int, expected: int | None, body: bytes | None) -> State:
        there = row or State(0, 0, None)
        if inc < there.inc or (expected is not None and expected != there.version):
            raise Stale("no")
        return State(there.version + 1, inc, body)

    patch.setattr(store, "decide", decide)


def the_expected_version_is_not_looked_at(patch: MonkeyPatch) -> None:
    real = state.decide
    patch.setattr(store, "decide", lambda row, inc, _expected, body: real(row, inc, None, body))


def versions_skip_numbers(patch: MonkeyPatch) -> None:
    def decide(row: State | None, inc: int, expected: int | None, body: bytes | None) -> State:
        found = state.decide(row, inc, expected, body)
        return found if found is row else State(found.version + 1, found.inc, found.body)

    patch.setattr(store, "decide", decide)


def an_incarnation_is_let_in_once(patch: MonkeyPatch) -> None:
    def admits(self: Fence, name: str, inc: int) -> bool:
        known, self._incs[name] = self._incs.get(name, 0), inc
        return inc > known

    patch.setattr(Fence, "admits", admits)


def two_commits_are_written_at_once(patch: MonkeyPatch) -> None:
    def begin(self: Commits) -> list[Any]:
        self._writing, self._waiting = self._waiting, []
        return self._writing

    patch.setattr(Commits, "begin", begin)


def a_full_disk_stays_full(patch: MonkeyPatch) -> None:
    patch.setattr(Commits, "made_room", lambda self: None)


def a_commit_that_a_full_disk_refuses_never_ends(patch: MonkeyPatch) -> None:
    patch.setattr(Commits, "full", lambda self: [])


def answers_come_before_the_fsync(patch: MonkeyPatch) -> None:
    """What synchronous = NORMAL would be."""
    real = Disk.takes

    def takes(self: Disk) -> tuple[int, int]:
        written, _ = real(self)
        return written, written

    def synced(self: Disk, image: Any) -> None:
        if image.seq > self.durable.seq + 5:
            self.durable = image

    patch.setattr(Disk, "takes", takes)
    patch.setattr(Disk, "synced", synced)


def the_mark_is_written_before_the_commit(patch: MonkeyPatch) -> None:
    real = SimulatedStore._write

    def write(self: SimulatedStore, jobs: Any, until_synced: int) -> None:
        self._disk.mark = self._disk.cache.seq + 1
        real(self, jobs, until_synced)

    patch.setattr(SimulatedStore, "_write", write)


#: With a seed that finds it, and the invariants that may be the first to see it; 0 is an exception in a machine.
BUGS: list[tuple[Callable[[MonkeyPatch], None], int, Mode, str]] = [
    (a_save_that_is_said_again_is_not_known, 7, "liveness", "45"),
    (the_expected_version_is_not_looked_at, 7, "liveness", "45"),
    (versions_skip_numbers, 14, "safety", "45"),
    (an_incarnation_is_let_in_once, 37, "safety", "45"),
    (two_commits_are_written_at_once, 31, "safety", "0"),
    (a_full_disk_stays_full, 3, "liveness", "46"),
    (a_commit_that_a_full_disk_refuses_never_ends, 3, "liveness", "46"),
    (answers_come_before_the_fsync, 9, "safety", "25 32"),
    (the_mark_is_written_before_the_commit, 5, "liveness", "32"),
]


@pytest.mark.parametrize(("plant", "seed", "mode", "numbers"), BUGS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_planted_bug_is_found(plant: Callable[[MonkeyPatch], None], seed: int, mode: Mode, numbers: str) -> None:
    with MonkeyPatch.context() as patch:
        plant(patch)
        found = StoredWorld(draw(seed, mode)).run_checked()
    assert found is not None and found.split(":")[0] in numbers.split(), found
    assert StoredWorld(draw(seed, mode)).run_checked() is None, "so it is the bug that was found"
