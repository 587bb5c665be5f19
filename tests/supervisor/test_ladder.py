"""The stop ladder, as values; the numbers are seconds of a clock that the test owns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor.ladder import (
    KILL_PATIENCE,
    SWEEP_PATIENCE,
    Ask,
    Died,
    Done,
    Effect,
    Event,
    Kill,
    Ladder,
    Process,
    Reap,
    State,
    Stop,
    Sweep,
    Swept,
    Tick,
    handle,
)
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Shutdown

MAIN = Process(7, 100, "feed")
STRAY = Process(8, 101, "helper")


def play(ladder: Ladder, *script: tuple[float, Event]) -> tuple[Ladder, list[list[Effect]]]:
    effects = []
    for now, event in script:
        ladder, produced = handle(ladder, event, now)
        effects.append(produced)
    return ladder, effects


def test_asked_it_dies_and_left_nothing() -> None:
    end, effects = play(Ladder(MAIN, stop_signal=2), (0, Stop(5.0)), (1, Died()), (1, Swept()))
    assert effects == [[Ask(2)], [Reap(group=True), Sweep(kill=True)], [Done()]]
    assert (end.state, end.deadline) == (State.DONE, None)


def test_ignoring_the_request_it_is_killed_at_its_deadline_and_not_before() -> None:
    _, effects = play(Ladder(MAIN), (0, Stop(5.0)), (4.9, Tick()), (5.0, Tick()), (5.1, Died()), (5.1, Swept()))
    assert effects == [[Ask(15)], [], [Kill(group=True)], [Reap(group=True), Sweep(kill=True)], [Done()]]


def test_brutal_kill_skips_the_request() -> None:
    assert play(Ladder(MAIN), (0, Stop(BRUTAL_KILL)))[1] == [[Kill(group=True)]]


def test_infinity_never_kills() -> None:
    """Rule 55."""
    ladder, effects = play(Ladder(MAIN), (0, Stop(INFINITY)), (1e9, Tick()))
    assert (ladder.deadline, effects) == (None, [[Ask(15)], []])


@pytest.mark.parametrize(
    ("first", "then", "deadline"), [(INFINITY, 5.0, 6.0), (10.0, 2.0, 3.0), (2.0, 10.0, 2.0), (2.0, INFINITY, 2.0)]
)
def test_a_second_request_can_only_make_it_sooner(first: Shutdown, then: Shutdown, deadline: float) -> None:
    ladder, effects = play(Ladder(MAIN), (0, Stop(first)), (1, Stop(then)))
    assert (ladder.deadline, effects[1]) == (deadline, [])


def test_a_second_request_that_is_brutal_kills_at_once() -> None:
    """Rule 55: also one that was given all the time there is."""
    assert play(Ladder(MAIN), (0, Stop(INFINITY)), (1, Stop(BRUTAL_KILL)))[1] == [[Ask(15)], [Kill(group=True)]]


def test_an_unasked_death_clears_up_the_same_way() -> None:
    ladder, effects = play(Ladder(MAIN), (0, Died()), (0, Swept((STRAY,))), (0.001, Tick()), (0.002, Tick()))
    assert effects == [[Reap(group=True), Sweep(kill=True)], [], [], [Sweep(kill=True)]]
    assert play(ladder, (0.002, Swept()))[1] == [[Done()]]


def test_dead_already_when_asked_it_is_only_cleared() -> None:
    assert play(Ladder(MAIN), (0, Died()), (0, Stop(5.0)), (0, Swept()))[1][1:] == [[], [Done()]]


def test_a_stray_that_cant_be_ended_is_reported_in_the_end() -> None:
    ladder, now, done = handle(Ladder(MAIN), Died(), 0.0)[0], 0.0, []
    while not done:
        ladder, effects = handle(ladder, Swept((STRAY,)), now)
        done = [effect for effect in effects if isinstance(effect, Done)]
        now = ladder.deadline or now
        ladder, _ = handle(ladder, Tick(), now)
    assert done == [Done((STRAY,))]
    assert SWEEP_PATIENCE <= now < SWEEP_PATIENCE + 0.1


def test_a_main_process_in_state_d_is_reported_and_reaped_whenever_it_comes_back() -> None:
    script = ((0, Stop(1.0)), (1, Tick()), (1 + KILL_PATIENCE, Tick()), (99, Died()), (99, Swept((STRAY,))))
    ladder, effects = play(Ladder(MAIN), *script)
    assert effects == [[Ask(15)], [Kill(group=True)], [Done((MAIN,))], [Reap(group=True)], []]
    assert ladder.state is State.DONE


def test_detached_helpers_are_left_alone_and_reported() -> None:
    _, effects = play(Ladder(MAIN, detach=True), (0, Stop(1.0)), (1, Tick()), (1, Died()), (1, Swept((STRAY,))))
    assert effects == [
        [Ask(15)],
        [Kill(group=False)],
        [Reap(group=False), Sweep(kill=False)],
        [Done((STRAY,), detached=True)],
    ]


SHUTDOWNS = st.sampled_from([BRUTAL_KILL, INFINITY, 0.0, 0.5, 5.0])
EVENTS = st.one_of(
    st.builds(Stop, SHUTDOWNS), st.just(Died()), st.just(Tick()), st.sampled_from([Swept(), Swept((STRAY,))])
)


@given(st.lists(st.tuples(st.floats(0, 2), EVENTS), max_size=40), st.booleans())
def test_it_always_ends_once_and_is_silent_afterwards(events: list[tuple[float, Event]], detach: bool) -> None:
    """Whatever comes: one Done; no signal after a Done with nothing left; killed and waited for, it ends in time."""
    ladder, now, all_effects = Ladder(MAIN, detach=detach), 0.0, []
    for delay, event in events:
        now += delay
        ladder, effects = handle(ladder, event, now)
        all_effects += effects
    ladder, effects = handle(ladder, Stop(BRUTAL_KILL), now)
    all_effects += effects
    killed = now
    while ladder.state not in (State.DONE, State.STUCK):
        now = ladder.deadline if ladder.deadline is not None else now
        for event in (Tick(), Swept((STRAY,))):
            ladder, effects = handle(ladder, event, now)
            all_effects += effects
    assert now - killed <= KILL_PATIENCE + SWEEP_PATIENCE + 0.1
    done = [index for index, effect in enumerate(all_effects) if isinstance(effect, Done)]
    assert len(done) == 1
    assert all(isinstance(effect, Reap) for effect in all_effects[done[0] + 1 :])
