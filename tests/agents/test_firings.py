"""Each run is handled once by an incarnation; what could not be, and durations, are said as people write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.durations import nanoseconds, shown
from otpd.agents.firings import REMEMBERED, Declaration, Firings
from otpd.agents.schedules import every_plan

SECOND = 1_000_000_000


def test_a_fixed_delay_is_not_begun_by_two_schedulers() -> None:
    """One dies right after it has sent a run; the next counts from the agent's word, and comes out a little sooner."""
    declared = Declaration("a/poll", "poll", every_plan("10s", fixed="delay"), 0)
    firings = Firings(1, [declared])
    assert firings.take("a/poll", 10_000_000_000, None) == "run"
    assert firings.take("a/poll", 10_003_000_000, None) == "early", "while the other one goes on"
    firings.end("a/poll", 10_000_000_000, "done", 10_100_000_000)
    assert firings.take("a/poll", 10_003_000_000, None) == "early"
    assert firings.take("a/poll", -5, None) == "run", "an operator's"
    firings.end("a/poll", -5, "done", 12 * SECOND)
    assert firings.take("a/poll", 20_100_000_000, None) == "run"


def test_what_is_declared_is_said_with_what_is_known_of_it() -> None:
    firings = Firings(1, [Declaration("a/poll", "poll", every_plan("10s"), 3)])
    firings.take("a/poll", 20, None)
    firings.take("a/poll", -7, None)
    (said,) = firings.declarations()
    assert (said["since"], said["last"], said["running"], said["ended"]) == (3, 20, [-7, 20], None)
    firings.end("a/poll", 20, "done", 99)
    (said,) = firings.declarations()
    assert (said["last"], said["running"], said["ended"]) == (20, [-7], 99)


def test_what_ended_long_ago_is_forgotten_and_what_goes_on_is_not() -> None:
    firings = Firings(1)
    firings.take("a/slow", 1, None)
    for run in range(REMEMBERED + 10):
        firings.take("a/fast", run, None)
        firings.end("a/fast", run, "done", run)
    assert len(firings._runs) == REMEMBERED
    assert firings.take("a/slow", 1, None) == "attach"
    assert firings.take("a/fast", REMEMBERED + 9, None) == "done"


@given(st.lists(st.tuples(st.sampled_from(["take", "end"]), st.integers(1, 4), st.sampled_from([None, 1, 2]))))
def test_no_run_is_begun_twice(steps: list[tuple[str, int, int | None]]) -> None:
    firings, begun = Firings(1), []
    for step, run, only in steps:
        if step == "take" and firings.take("a", run, only) == "run":
            begun.append(run)
        elif step == "end" and run in begun:
            firings.end("a", run, "done", 0)
    assert len(begun) == len(set(begun))


@pytest.mark.parametrize(
    ("written", "found"),
    [("250ms", 250_000_000), ("1.5s", 1_500_000_000), ("2m", 120 * SECOND), ("7d", 604_800 * SECOND), (0.5, SECOND // 2),
     (datetime.timedelta(minutes=1), 60 * SECOND)],
)  # fmt: skip
def test_durations_are_read_as_they_are_written(written: object, found: int) -> None:
    assert nanoseconds("x", written) == found


@pytest.mark.parametrize("wrong", ["", "5", "5 s", "s", -1, True, None, float("nan"), float("inf"), "1e3s", "4000d", b"5s"])
def test_what_is_no_duration_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="x: expected a duration"):
        nanoseconds("x", wrong)


@given(st.integers(1, 10**6).map(lambda n: n * 1_000_000))
def test_a_duration_that_is_shown_can_be_read(span: int) -> None:
    assert nanoseconds("x", shown(span)) == span
