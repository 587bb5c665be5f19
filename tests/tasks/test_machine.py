"""Which task goes to which worker, when workers come and go, and what every task ends as."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otpd.agents.tasks.effects import Drained, Effect, End, Grant, Hold, Send, Settled, Start, Stop
from otpd.agents.tasks.machine import GRANT, MAX_FAILURES, PAUSE, Options, Pool, State

MIB = 1024 * 1024
#: Of arguments that wait, and of results that an owner leaves unread.
BYTES = 100


def pool(size: int = 2, queue: int = 10, **options: Any) -> Pool:
    return Pool(Options(size=size, queue=queue, **options))


def with_idle(size: int = 1, **options: Any) -> Pool:
    """One whose worker 1 is idle."""
    found = pool(size, **options)
    found.submit(0, 1, 0.0)
    found.ready(1, 0.0)
    found.done(1, 0.0)
    return found


def test_the_first_task_starts_a_worker_and_goes_to_it() -> None:
    found = pool()
    assert found.workers == {}
    assert found.submit(7, 1, 0.0) == [Start(1)]
    assert found.ready(1, 0.1) == [Send(1, 7)]
    assert (found.workers, found.queued, found.running) == ({1: State.BUSY}, 0, 1)


def test_a_worker_that_is_idle_is_used_before_another_is_started_and_goes_when_it_is_idle_for_long() -> None:
    found = with_idle(size=2, idle=5.0)
    assert found.submit(1, 1, 1.0) == [Send(1, 1)]
    found.done(1, 2.0)
    assert found.due() == 7.0
    assert found.tick(6.9) == []
    assert found.tick(7.0) == [Stop(1)]
    assert (found.gone(1, 7.1), found.workers, found.due()) == ([], {}, float("inf"))


def test_owners_take_turns() -> None:
    found = with_idle()
    for task, owner in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 3)):
        found.submit(task, owner, 0.0)
    assert [found.done(1, 0.0)[1] for _ in range(4)] == [Send(1, 2), Send(1, 4), Send(1, 5), Send(1, 3)]


def test_the_death_of_a_worker_is_the_end_of_its_task_alone() -> None:
    found = pool(size=2)
    for task in (1, 2, 3):
        found.submit(task, 1, 0.0)
    found.ready(1, 0.0), found.ready(2, 0.0)
    assert found.gone(1, 1.0, "killed") == [Settled(1, End.KILLED, "killed"), Start(1)]
    assert found.ready(1, 1.1) == [Send(1, 3)]
    assert (found.counters.killed, found.running) == (1, 2)


def test_an_idle_worker_that_is_ending_gets_no_task_and_a_busy_one_takes_its_own_with_it() -> None:
    found = with_idle()
    assert (found.ending(1, 1.0), found.submit(1, 1, 1.0)) == ([], [])
    assert found.gone(1, 1.1, "killed") == [Start(1)]
    assert found.ready(1, 1.2) == [Send(1, 1)]
    assert (found.ending(1, 2.0), found.due()) == ([], float("inf"))
    assert found.gone(1, 2.1, "killed") == [Settled(1, End.KILLED, "killed")]


def test_a_worker_that_ends_while_it_starts_has_failed_to_start() -> None:
    found = pool(size=1)
    found.submit(1, 1, 0.0)
    found.ending(1, 0.0)
    assert (found.gone(1, 0.0), found.due()) == ([], PAUSE)


def test_a_task_over_its_time_ends_with_its_worker_and_is_told_when_that_is_gone() -> None:
    found = with_idle()
    found.submit(1, 1, 10.0, timeout=2.0)
    assert (found.due(), found.tick(12.0)) == (12.0, [Stop(1)])
    assert found.gone(1, 12.1, "killed") == [Settled(1, End.TIMED_OUT, "killed")]
    assert (found.counters.timed_out, found.counters.killed) == (1, 0)


def test_time_begins_when_the_task_begins() -> None:
    found = with_idle(timeout=5.0)
    found.submit(1, 1, 0.0)
    found.submit(2, 1, 0.0)
    assert found.done(1, 4.0)[1] == Send(1, 2)
    assert found.due() == 9.0


def test_a_reply_after_the_time_is_too_late_and_one_before_a_withdrawal_has_taken_effect_counts() -> None:
    found = with_idle()
    found.submit(1, 1, 0.0, timeout=1.0)
    found.tick(1.0)
    assert found.done(1, 1.1) == [Settled(1, End.TIMED_OUT)]
    other = with_idle()
    other.submit(1, 1, 0.0)
    assert other.withdraw(1, 0.5) == [Stop(1)]
    assert other.done(1, 0.6) == [Settled(1, End.DONE)]


def test_what_is_withdrawn_leaves_the_queue_or_ends_with_its_worker() -> None:
    found = with_idle()
    found.submit(1, 1, 0.0)
    found.submit(2, 1, 0.0)
    assert found.withdraw(2, 0.1) == [Settled(2, End.CANCELLED)]
    assert found.withdraw(1, 0.1) == [Stop(1)]
    assert (found.withdraw(1, 0.2), found.gone(1, 0.3)) == ([], [Settled(1, End.CANCELLED)])


def test_the_death_of_an_owner_ends_its_tasks_and_nobody_elses() -> None:
    found = pool(size=1, queue=2)
    found.submit(1, 7, 0.0)
    found.ready(1, 0.0)
    found.submit(2, 8, 0.0), found.submit(3, 7, 0.0), found.submit(4, 7, 0.0, patient=True)
    assert found.owner_gone(7, 1.0) == [Settled(4, End.CANCELLED), Stop(1), Settled(3, End.CANCELLED)]
    assert found.gone(1, 1.1) == [Settled(1, End.CANCELLED), Start(1)]
    assert found.ready(1, 1.2) == [Send(1, 2)]


def test_a_task_of_nobody_outlives_everybody() -> None:
    found = with_idle()
    found.submit(1, 1, 0.0, detached=True)
    assert (found.owner_gone(1, 0.1), found.running) == ([], 1)


def test_a_task_that_is_to_be_nobodys_goes_with_its_owner_as_long_as_it_waits_for_room() -> None:
    """Rule 110."""
    found = with_idle(queue=0)
    found.submit(1, 1, 0.0)
    for task in (2, 3, 4):
        assert found.submit(task, 2, 0.0, patient=True, detached=True) == [Hold(task)]
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Grant(2)]
    assert found.tick(1.0 + GRANT) == [Grant(3)], "2 is late, 3 granted, 4 parked"
    assert found.owner_gone(2, 3.0) == [Settled(task, End.CANCELLED) for task in (4, 2, 3)]
    assert (found.parked, found.submit(5, 1, 3.0)) == (0, [Send(1, 5)])


def test_a_full_queue_refuses_the_impatient_and_parks_the_patient_until_there_is_room() -> None:
    found = with_idle(queue=1)
    found.submit(1, 1, 0.0)
    found.submit(2, 1, 0.0)
    assert found.submit(3, 1, 0.0) == [Settled(3, End.FULL)]
    assert found.submit(4, 2, 0.0, patient=True) == [Hold(4)]
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Send(1, 2), Grant(4)]
    assert found.submit(5, 1, 1.0) == [Settled(5, End.FULL)], "the room is kept"
    assert found.submit(4, 2, 1.0, patient=True) == []
    assert (found.queued, found.parked, found.counters.refused) == (1, 0, 2)


def test_room_that_is_not_used_in_time_is_given_to_the_next() -> None:
    found = with_idle(queue=0)
    found.submit(1, 1, 0.0)
    found.submit(2, 2, 0.0, patient=True), found.submit(3, 3, 0.0, patient=True)
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Grant(2)]
    assert found.tick(1.0 + GRANT) == [Grant(3)]


def test_who_is_late_is_not_asked_twice_and_gets_what_room_there_is_or_waits_anew() -> None:
    found = with_idle(queue=0)
    found.submit(1, 1, 0.0)
    found.submit(2, 2, 0.0, patient=True)
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Grant(2)]
    assert (found.tick(1.0 + GRANT), found.expects(2), found.parked) == ([], True, 1)
    assert found.submit(3, 1, 3.0) == [Send(1, 3)]
    assert found.submit(2, 2, 3.1, patient=True) == [Hold(2)]
    assert found.done(1, 4.0) == [Settled(3, End.DONE), Grant(2)]
    found.tick(4.0 + GRANT)
    assert found.submit(2, 2, 9.0, patient=True) == [Send(1, 2)]
    assert (found.expects(2), found.parked) == (False, 0)


def test_a_task_that_is_late_can_be_withdrawn_and_goes_with_its_owner() -> None:
    found = with_idle(queue=0)
    found.submit(1, 1, 0.0)
    for task in (2, 3):
        found.submit(task, 2, 0.0, patient=True)
    found.done(1, 1.0), found.tick(1.0 + GRANT), found.tick(1.0 + 2 * GRANT)
    assert (found.expects(2), found.expects(3)) == (True, True)
    assert found.withdraw(2, 9.0) == [Settled(2, End.CANCELLED)]
    assert (found.owner_gone(2, 9.0), found.parked) == ([Settled(3, End.CANCELLED)], 0)


def test_a_worker_is_replaced_after_so_many_tasks_or_when_it_has_kept_too_much_memory() -> None:
    found = with_idle(max_tasks_per_worker=2)
    found.submit(1, 1, 0.0)
    assert found.done(1, 0.0) == [Settled(1, End.DONE), Stop(1)]
    other = with_idle(memory=100 * MIB)
    for task, memory, stop in ((1, 99, []), (2, 101, [Stop(1)])):
        other.submit(task, 1, 0.0)
        assert other.done(1, 0.0, memory=memory * MIB) == [Settled(task, End.DONE), *stop]


def test_workers_that_can_not_start_are_tried_so_often_with_growing_pauses_and_then_the_queue_is_told() -> None:
    found = pool(size=1)
    assert found.submit(1, 1, 0.0) == [Start(1)]
    assert (found.gone(1, 0.0, "no module numpy"), found.due()) == ([], PAUSE)
    assert found.tick(PAUSE) == [Start(1)]
    assert (found.gone(1, 1.0, "no module numpy"), found.due()) == ([], 1.0 + 2 * PAUSE)
    assert found.tick(2.0) == [Start(1)]
    assert found.gone(1, 2.0, "no module numpy") == [Settled(1, End.KILLED, "no module numpy")]
    assert (found.submit(2, 1, 2.0), found.due()) == ([], 2.0 + 4 * PAUSE)
    assert found.tick(3.0) == [Start(1)], "the next task tries again"


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_worker_that_is_not_ready_in_time_is_ended_and_has_failed_to_start(size: int) -> None:
    found, now = pool(size=size, start_timeout=6.0), 0.0
    why = "no worker was ready within 6 s; see what it imports, or raise start_timeout"
    assert found.submit(1, 1, now, timeout=5.0) == [Start(1)]
    for failed in range(1, MAX_FAILURES + 1):
        assert (found.due(), found.tick(now + 5.9)) == (now + 6.0, [])
        told: list[Effect] = [Settled(1, End.KILLED, why)] if failed == MAX_FAILURES else []
        assert found.tick(now + 6.0) == [Stop(1), *told]
        assert (found.ready(1, now + 6.0), found.gone(1, now + 6.0, "killed")) == ([], []), "a word that comes too late"
        now = found.due()
        assert found.tick(now) == ([Start(1)] if failed < MAX_FAILURES else [])
    assert found.workers == {}


def test_workers_of_one_round_that_are_all_overdue_count_once() -> None:
    found = pool(size=2, start_timeout=6.0)
    assert [*found.submit(1, 1, 0.0), *found.submit(2, 1, 0.0)] == [Start(1), Start(2)]
    assert (found.tick(6.0), found.due()) == ([Stop(1), Stop(2)], 6.0 + PAUSE)


def test_what_waits_is_told_also_when_several_workers_can_not_start_at_once() -> None:
    found, now, starts = pool(size=2), 0.0, 2
    assert [*found.submit(1, 1, now), *found.submit(2, 1, now)] == [Start(1), Start(2)]
    told: list[Effect] = []
    while not told and starts < 100:
        told += [*found.gone(1, now, "no"), *found.gone(2, now, "no")]
        now += 10.0
        starts += len(found.tick(now))
    assert (told, starts) == ([Settled(1, End.KILLED, "no"), Settled(2, End.KILLED, "no")], 2 * MAX_FAILURES)


def test_a_worker_that_comes_ends_the_counting_of_those_that_did_not() -> None:
    found = pool(size=3)
    for task in (1, 2, 3):
        found.submit(task, 1, 0.0)
    found.gone(1, 0.0), found.gone(2, 0.0)
    assert (found.ready(3, 0.0), found.due()) == ([Send(3, 1), Start(1), Start(2)], found.options.start_timeout)
    for now in (1.0, 2.0, 3.0, 4.0):
        assert (found.gone(1, now), found.gone(2, now)) == ([], []), "worker 3 will take them"
        found.tick(now + 0.99)
    assert found.done(3, 9.0)[:2] == [Settled(1, End.DONE), Send(3, 2)]


def test_a_smaller_size_ends_idle_workers_now_and_busy_ones_after_their_task() -> None:
    found = pool(size=3)
    for task in (1, 2, 3):
        found.submit(task, 1, 0.0)
    for worker in (1, 2, 3):
        found.ready(worker, 0.0)
    found.done(1, 1.0)
    assert found.resize(1, 2.0) == [Stop(1)]
    assert found.done(2, 3.0) == [Settled(2, End.DONE), Stop(2)]
    assert found.done(3, 3.0) == [Settled(3, End.DONE)]
    assert found.workers[3] is State.IDLE


def test_a_larger_size_starts_workers_for_what_waits() -> None:
    found = with_idle()
    for task in (1, 2, 3):
        found.submit(task, 1, 0.0)
    assert found.resize(9, 1.0) == [Start(2), Start(3)]


def test_drained_is_when_all_that_was_accepted_is_over_and_every_worker_is_gone() -> None:
    found = with_idle()
    found.submit(1, 1, 0.0)
    assert found.drain(0.0) == []
    assert found.submit(2, 1, 0.0) == [Settled(2, End.DRAINING)]
    assert found.submit(3, 1, 0.0, patient=True) == [Hold(3)]
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Stop(1)]
    assert found.gone(1, 1.0) == [Drained(), Grant(3)]
    assert not found.draining


def test_arguments_that_wait_are_bounded_in_bytes_and_who_wants_to_waits_for_room() -> None:
    found = with_idle(queue_bytes=BYTES)
    found.submit(1, 1, 0.0, size=60)  # runs: what waits is counted
    assert found.submit(2, 1, 0.0, size=60) == []
    assert found.submit(3, 1, 0.0, size=41) == [Settled(3, End.FULL, "60 bytes wait, 41 more are over 100")]
    assert found.submit(4, 1, 0.0, patient=True, size=41) == [Hold(4)]
    assert found.submit(5, 1, 0.0, size=1) == [Settled(5, End.FULL)], "nobody comes before one that waits"
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Send(1, 2), Grant(4)]
    assert (found.waiting_bytes, found.counters.refused) == ((0, 0), 2)
    assert found.submit(6, 1, 1.0, size=60) == [Settled(6, End.FULL)], "the room that is granted is taken"


def test_one_task_that_is_larger_than_the_queue_runs_when_a_worker_is_free() -> None:
    found = with_idle(queue_bytes=BYTES)
    assert found.submit(1, 1, 0.0, size=1000) == [Send(1, 1)]
    assert found.submit(2, 1, 0.0, patient=True, size=1000) == [Hold(2)]
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Grant(2)]
    assert found.submit(2, 1, 1.0, patient=True, size=1000) == [Send(1, 2)]


def test_an_owner_that_does_not_read_its_results_is_passed_over_and_others_are_not() -> None:
    found = with_idle(queue_bytes=BYTES)
    found.submit(1, 1, 0.0), found.submit(2, 1, 0.0), found.submit(3, 2, 0.0)
    found.unread(1, BYTES + 1)
    assert found.done(1, 1.0) == [Settled(1, End.DONE), Send(1, 3)]
    assert found.done(1, 2.0) == [Settled(3, End.DONE)]
    assert (found.queued, found.waiting_bytes) == (1, (0, BYTES + 1))
    assert found.read(1, 1, 3.0) == [Send(1, 2)]


def test_nothing_is_unread_of_an_owner_that_is_gone() -> None:
    found = with_idle(queue_bytes=BYTES)
    found.submit(1, 1, 0.0)
    found.submit(2, 1, 0.0, detached=True)
    found.unread(1, BYTES + 1)
    assert found.owner_gone(1, 1.0) == [Stop(1)]
    assert (found.waiting_bytes, found.gone(1, 2.0)) == ((0, 0), [Settled(1, End.CANCELLED), Start(1)])


class Pools(RuleBasedStateMachine):
    """Against what everybody may rely on, whatever happens in whatever order."""

    @initialize(size=st.integers(1, 3), queue=st.integers(0, 3), wear=st.none() | st.integers(1, 3))
    def begin(self, size: int, queue: int, wear: int | None) -> None:
        bounds = {"queue_bytes": BYTES, "max_tasks_per_worker": wear, "memory": MIB}
        self.pool = pool(size, queue, timeout=5.0, idle=3.0, start_timeout=6.0, **bounds)
        self.sizes: dict[int, int] = {}
        self.unread = dict.fromkeys((1, 2, 3), 0)
        self.now, self.count, self.size = 0.0, 0, size
        self.owners: dict[int, int] = {}  # of tasks that are not over
        self.held: set[int] = set()
        self.asked: set[int] = set()  # granted room, and not submitted again yet
        self.sent: dict[int, int] = {}  # worker -> task
        self.living: set[int] = set()
        self.starting: set[int] = set()
        self.doomed: set[int] = set()  # their lines have ended
        self.ended: dict[int, End] = {}
        self.drained = 0

    def see(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(worker):
                    assert worker not in self.living, "a number means one process at a time"
                    self.living.add(worker), self.starting.add(worker)
                case Send(worker, task):
                    assert worker in self.living - self.starting - self.doomed
                    assert worker not in self.sent
                    assert task in self.owners
                    assert self.unread[self.owners[task]] <= BYTES, "who does not read is passed over"
                    self.sent[worker] = task
                case Stop(worker):
                    assert worker in self.living
                    self.starting.discard(worker)
                case Hold(task):
                    self.held.add(task)
                case Grant(task):
                    assert task in self.held - self.asked, "one grant, one answer"
                    self.asked.add(task)
                case Settled(task, end):
                    assert task not in self.ended, "one outcome"
                    self.ended[task] = end
                    self.owners.pop(task, None), self.held.discard(task), self.asked.discard(task)
                    self.sent = {worker: each for worker, each in self.sent.items() if each != task}
                case Drained():
                    assert not self.living
                    self.drained += 1

    @rule(
        owner=st.integers(1, 3),
        patient=st.booleans(),
        timeout=st.none() | st.floats(0.5, 9),
        size=st.sampled_from((0, BYTES // 2, 2 * BYTES)),
    )
    def submit(self, owner: int, patient: bool, timeout: float | None, size: int) -> None:
        self.count += 1
        self.owners[self.count], self.sizes[self.count] = owner, size
        self.see(self.pool.submit(self.count, owner, self.now, timeout, patient, size=size))

    @rule(owner=st.integers(1, 3))
    def unread_result(self, owner: int) -> None:
        self.unread[owner] += BYTES
        self.pool.unread(owner, BYTES)

    @rule(owner=st.integers(1, 3))
    def read(self, owner: int) -> None:
        size, self.unread[owner] = self.unread[owner], 0
        self.see(self.pool.read(owner, size, self.now))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def use_the_room(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.asked)))
        self.held.discard(task), self.asked.discard(task)
        assert self.pool.expects(task)
        self.see(self.pool.submit(task, self.owners[task], self.now, None, True, size=self.sizes[task]))

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.starting)))
        self.starting.discard(worker)
        self.see(self.pool.ready(worker, self.now))

    @precondition(lambda self: self.sent.keys() - self.doomed)
    @rule(data=st.data(), failed=st.booleans(), memory=st.sampled_from((0, 2 * MIB)))
    def done(self, data: st.DataObject, failed: bool, memory: int) -> None:
        worker = data.draw(st.sampled_from(sorted(self.sent.keys() - self.doomed)))
        self.see(self.pool.done(worker, self.now, failed=failed, memory=memory))

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.living)))
        self.living.discard(worker), self.starting.discard(worker), self.doomed.discard(worker)
        running = self.sent.get(worker)
        before = set(self.owners) - set(self.sent.values())
        self.see(self.pool.gone(worker, self.now, "killed"))
        assert running is None or running in self.ended
        alone = not (before - set(self.owners)) or all(self.ended[each] is End.KILLED for each in before - set(self.owners))
        assert alone, "nobody else's task ends but those for which no worker can be had"

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def ending(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.living)))
        self.starting.discard(worker), self.doomed.add(worker)
        self.see(self.pool.ending(worker, self.now))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.see(self.pool.withdraw(data.draw(st.sampled_from(sorted(self.owners))), self.now))

    @rule(owner=st.integers(1, 3))
    def owner_gone(self, owner: int) -> None:
        self.unread[owner] = 0
        self.see(self.pool.owner_gone(owner, self.now))
        left = {task for task, who in self.owners.items() if who == owner}
        assert left <= set(self.sent.values()), "what is left of it ends with its worker"

    @rule(seconds=st.floats(0.1, 4))
    def time(self, seconds: float) -> None:
        self.now += seconds
        self.see(self.pool.tick(self.now))
        assert self.pool.due() > self.now

    @rule(size=st.integers(1, 3))
    def resize(self, size: int) -> None:
        self.size = max(self.size, size)
        self.see(self.pool.resize(size, self.now))

    @rule()
    def drain(self) -> None:
        self.see(self.pool.drain(self.now))

    @invariant()
    def bounds(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert len(self.living) <= self.size
        assert self.pool.queued <= self.pool.options.queue + self.size
        assert self.pool.waiting_bytes[0] <= BYTES or self.pool.queued <= self.size, "what could run at once is no queue"
        assert set(self.pool.workers) == self.living

    @invariant()
    def counters_are_true(self) -> None:
        if not hasattr(self, "pool"):
            return
        counters = self.pool.counters
        assert counters.submitted == counters.ended + self.pool.queued + self.pool.running
        assert self.pool.running == len(self.sent)
        assert self.pool.queued + self.pool.running + self.pool.parked == len(self.owners)

    def teardown(self) -> None:
        """Without disturbance everything comes to its end: nothing starves."""
        if not hasattr(self, "pool"):
            return
        for owner in self.unread:
            self.read(owner)
        for _ in range(20 * (self.count + 5)):
            if not self.owners and not self.pool.draining:
                break
            if self.pool._pause < float("inf"):
                self.now = max(self.now, self.pool._pause)
                self.see(self.pool.tick(self.now))
            for worker in sorted(self.starting):
                self.starting.discard(worker)
                self.see(self.pool.ready(worker, self.now))
            for worker in sorted(self.sent.keys() - self.doomed):
                self.see(self.pool.done(worker, self.now))
            leaving = {number for number, state in self.pool.workers.items() if state in (State.LEAVING, State.OVERDUE)}
            for worker in sorted(leaving | self.doomed):
                self.living.discard(worker), self.starting.discard(worker), self.doomed.discard(worker)
                self.see(self.pool.gone(worker, self.now))
            for task in sorted(self.asked):
                self.held.discard(task), self.asked.discard(task)
                self.see(self.pool.submit(task, self.owners[task], self.now, None, True, size=self.sizes[task]))
        assert (self.owners, self.pool.draining) == ({}, False)


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=60, stateful_step_count=40)
