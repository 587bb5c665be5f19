"""Which run goes to which worker, and when workers come and go."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from otpd.agents.sandbox.dispatch import Dispatch, Expire, Full, Send, Start, State, Stop


def dispatch(workers: int = 2, queue: int = 10, caller: int = 10, timeout: float = 5.0, recycle: int = 100) -> Dispatch:
    return Dispatch(workers, queue, caller, timeout, recycle)


def with_idle(key: str = "k", **options: int) -> tuple[Dispatch, int]:
    """One that has an idle worker; its number."""
    found = dispatch(**options)
    (start,) = found.submit(0, key, "", 0.0)
    assert isinstance(start, Start)
    found.ready(start.worker)
    found.done(start.worker, worn=False)
    return found, start.worker


def test_the_first_run_starts_a_worker_and_goes_to_it() -> None:
    found = dispatch()
    (start,) = found.submit(7, "k", "a", 0.0)
    assert isinstance(start, Start)
    assert (start.key, found.ready(start.worker)) == ("k", [Send(start.worker, 7)])
    assert (found.state(start.worker), found.waiting()) == (State.BUSY, 0)


def test_a_worker_that_is_idle_is_used_before_another_is_started() -> None:
    found, worker = with_idle()
    assert found.submit(1, "k", "a", 1.0) == [Send(worker, 1)]


def test_of_idle_workers_the_one_used_last_is_warm() -> None:
    found = dispatch()
    first, second = (found.submit(run, "k", "a", 0.0)[0] for run in (1, 2))
    assert isinstance(first, Start)
    assert isinstance(second, Start)
    for each in (first, second):
        found.ready(each.worker)
    for each in (first, second):
        found.done(each.worker, worn=False)
    assert found.submit(3, "k", "a", 0.0) == [Send(second.worker, 3)]


def test_another_key_makes_an_idle_worker_leave_when_there_is_no_room() -> None:
    found, worker = with_idle("one", workers=1)
    assert found.submit(1, "two", "a", 0.0) == [Stop(worker)]
    (start,) = found.gone(worker)
    assert isinstance(start, Start)
    assert start.key == "two"


def test_a_place_that_is_about_to_be_free_is_no_queue() -> None:
    found, worker = with_idle("one", workers=1, queue=0)
    assert found.submit(1, "two", "a", 0.0) == [Stop(worker)]
    with pytest.raises(Full):
        found.submit(2, "two", "a", 0.0)
    assert found.withdraw(1)
    assert found.submit(3, "two", "a", 0.0) == []


def test_a_busy_worker_of_another_key_is_left_alone() -> None:
    found = dispatch(workers=1)
    (start,) = found.submit(1, "one", "a", 0.0)
    assert isinstance(start, Start)
    found.ready(start.worker)
    assert found.submit(2, "two", "a", 0.0) == []
    assert found.done(start.worker, worn=False) == [Stop(start.worker)]


def test_one_worker_is_started_for_each_that_waits_and_none_twice() -> None:
    found = dispatch(workers=3)
    assert [len(found.submit(run, "k", "a", 0.0)) for run in range(4)] == [1, 1, 1, 0]


def test_a_worker_is_replaced_after_so_many_runs_or_when_it_is_worn() -> None:
    found, worker = with_idle(recycle=2)
    found.submit(1, "k", "a", 0.0)
    assert found.done(worker, worn=False) == [Stop(worker)]
    other, second = with_idle()
    other.submit(1, "k", "a", 0.0)
    assert other.done(second, worn=True) == [Stop(second)]


def test_callers_take_turns() -> None:
    found, worker = with_idle(workers=1)
    found.submit(1, "k", "a", 0.0)
    for run, caller in ((2, "a"), (3, "a"), (4, "b"), (5, "c")):
        found.submit(run, "k", caller, 0.0)
    order = []
    for _ in range(4):
        (send,) = found.done(worker, worn=False)
        assert isinstance(send, Send)
        order.append(send.run)
    assert order == [2, 4, 5, 3]


def test_a_full_queue_refuses_and_changes_nothing() -> None:
    found, _ = with_idle(workers=1, queue=1)
    for run in (1, 2):
        found.submit(run, "k", "a", 0.0)
    with pytest.raises(Full) as full:
        found.submit(3, "k", "b", 0.0)
    assert (full.value.args, found.waiting()) == ((1, "pool"), 1)


def test_waiting_for_a_worker_that_is_coming_is_no_queue() -> None:
    found = dispatch(workers=1, queue=0)
    found.submit(1, "k", "a", 0.0)
    assert (found.due(), found.tick(1e6)) == (float("inf"), [])
    with pytest.raises(Full):
        found.submit(2, "k", "a", 0.0)


def test_without_a_queue_a_free_worker_still_takes_a_run() -> None:
    found, worker = with_idle(queue=0)
    assert found.submit(1, "k", "a", 0.0) == [Send(worker, 1)]


def test_a_caller_has_so_many_runs_and_no_more() -> None:
    found = dispatch(caller=2)
    found.submit(1, "k", "a", 0.0)
    found.submit(2, "k", "a", 0.0)
    with pytest.raises(Full) as full:
        found.submit(3, "k", "a", 0.0)
    assert full.value.args[1] == "a"
    found.withdraw(1)
    found.submit(4, "k", "a", 0.0)


def test_a_run_that_waits_for_too_long_expires() -> None:
    found, _ = with_idle(workers=1)
    found.submit(9, "k", "a", 10.0)
    found.submit(1, "k", "a", 10.0)
    found.submit(2, "k", "b", 11.0)
    assert (found.due(), found.tick(14.9), found.tick(15.0), found.due()) == (15.0, [], [Expire(1)], 16.0)


def test_a_run_whose_worker_died_before_it_began_is_first_again() -> None:
    found = dispatch(workers=1)
    (start,) = found.submit(1, "k", "a", 0.0)
    assert isinstance(start, Start)
    found.ready(start.worker)
    found.submit(2, "k", "a", 0.0)
    (again,) = found.gone(start.worker, again=True)
    assert isinstance(again, Start)
    assert found.ready(again.worker) == [Send(again.worker, 1)]


def test_what_waits_for_a_key_that_can_not_be_had_is_refused() -> None:
    found = dispatch(workers=1)
    found.submit(1, "one", "a", 0.0)
    found.submit(2, "two", "a", 0.0)
    assert (found.refuse("one"), found.refuse(), found.waiting()) == ([1], [2], 0)


class Life(RuleBasedStateMachine):
    """Any order of events: workers are never too many, and each run that was accepted is in exactly one place."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.dispatch = dispatch(workers=3, queue=4, caller=4, timeout=10.0, recycle=3)
        self.now = 0.0
        self.count = 0
        self.workers: dict[int, str] = {}  # starting | idle | busy | leaving
        self.running: dict[int, int] = {}
        self.open: set[int] = set()

    def perform(self, effects: list[object]) -> None:
        for effect in effects:
            match effect:
                case Start(worker, _):
                    self.workers[worker] = "starting"
                case Send(worker, run):
                    assert self.workers[worker] == "idle"
                    assert run in self.open
                    assert run not in self.running.values()
                    self.workers[worker], self.running[worker] = "busy", run
                case Stop(worker):
                    assert self.workers[worker] == "idle"
                    self.workers[worker] = "leaving"
                case Expire(run):
                    assert run not in self.running.values()
                    self.open.remove(run)

    @rule(key=st.sampled_from("ab"), caller=st.sampled_from("xyz"))
    def submit(self, key: str, caller: str) -> None:
        self.count += 1
        try:
            effects = self.dispatch.submit(self.count, key, caller, self.now)
        except Full:
            return
        self.open.add(self.count)
        self.perform(list(effects))

    def some(self, state: str, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(each for each, found in self.workers.items() if found == state)))

    @precondition(lambda self: "starting" in self.workers.values())
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        worker = self.some("starting", data)
        self.workers[worker] = "idle"
        self.perform(list(self.dispatch.ready(worker)))

    @precondition(lambda self: "starting" in self.workers.values())
    @rule(data=st.data())
    def late(self, data: st.DataObject) -> None:
        worker = self.some("starting", data)
        self.workers[worker] = "leaving"
        self.dispatch.late(worker, self.now)

    @precondition(lambda self: "busy" in self.workers.values())
    @rule(data=st.data(), worn=st.booleans())
    def done(self, data: st.DataObject, worn: bool) -> None:
        worker = self.some("busy", data)
        self.workers[worker] = "idle"
        self.open.remove(self.running.pop(worker))
        self.perform(list(self.dispatch.done(worker, worn=worn)))

    @precondition(lambda self: bool(self.workers))
    @rule(data=st.data(), again=st.booleans())
    def gone(self, data: st.DataObject, again: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[worker]
        run = self.running.pop(worker, None)
        if run is not None and not again:
            self.open.remove(run)
        self.perform(list(self.dispatch.gone(worker, again=again)))

    @rule(seconds=st.floats(0, 20))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.perform(list(self.dispatch.tick(self.now)))

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.open)))
        if self.dispatch.withdraw(run):
            assert run not in self.running.values()
            self.open.remove(run)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.workers) <= 3
        assert self.dispatch.waiting() == len(self.open) - len(self.running)

    @invariant()
    def nobody_waits_beside_room(self) -> None:
        if self.dispatch.waiting():
            assert len(self.workers) == 3 or "starting" in self.workers.values() or self.dispatch._rest < float("inf")


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=40)


# --- workers that are not ready in time ---


def test_a_worker_that_is_late_is_tried_again_after_a_rest_that_grows_and_what_waits_does_not_expire() -> None:
    made = dispatch(timeout=5.0)
    effects, now, rests = made.submit(1, "k", "a", 0.0), 0.0, []
    for number in (1, 2):
        assert effects == [Start(number, "k")]
        now += 30.0
        made.late(number, now)
        assert (made.gone(number), made.tick(now), made.slow) == ([], [], False)
        rests.append(made.due() - now)
        now = made.due()
        effects = made.tick(now)
    assert (rests, effects, made.ready(3)) == ([1.0, 2.0], [Start(3, "k")], [Send(3, 1)])
    assert (made.due(), made.slow) == (float("inf"), False)


def test_what_waits_for_workers_that_are_late_three_times_in_a_row_expires_and_the_next_run_has_one_tried() -> None:
    made, now = dispatch(timeout=5.0), 0.0
    made.submit(1, "k", "a", now)
    for number in (1, 2, 3):
        now += 30.0
        made.late(number, now)
        made.gone(number)
        if number < 3:
            now = made.due()
            made.tick(now)
    assert (made.slow, made.due() <= now, made.tick(now)) == (True, True, [Expire(1)])
    assert (made.submit(2, "k", "a", now), made.due() - now) == ([], 4.0)
    assert made.tick(made.due()) == [Start(4, "k")]


def test_workers_that_are_late_together_count_once_and_one_that_is_ready_too_late_gets_nothing() -> None:
    made = dispatch()
    made.submit(1, "k", "a", 0.0), made.submit(2, "k", "a", 0.0)
    made.late(1, 30.0), made.late(2, 30.0)
    assert (made.ready(1), made.gone(1), made.gone(2), made.due()) == ([], [], [], 31.0)
    assert made.tick(31.0) == [Start(3, "k"), Start(4, "k")]
