"""A source of events may not fill the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor.flood import Flood


def test_a_burst_and_then_a_rate() -> None:
    flood = Flood(per_second=10.0, burst=5)
    assert [flood.admits(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [flood.admits(0.25) for _ in range(4)] == [True, True, False, False]
    assert flood.take_suppressed() == 4
    assert flood.take_suppressed() == 0


def test_silence_gives_no_more_than_a_burst() -> None:
    flood = Flood(per_second=10.0, burst=5)
    assert [flood.admits(1e9) for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.floats(0.0, 2.0), max_size=200))
def test_nothing_is_lost_from_the_count(gaps: list[float]) -> None:
    flood, now, admitted = Flood(per_second=5.0, burst=3), 0.0, 0
    for gap in gaps:
        now += gap
        admitted += flood.admits(now)
    assert admitted + flood.take_suppressed() == len(gaps)
    assert admitted <= 3 + 5.0 * now + 1e-6
