"""The course of a run: what ends it, by which means, in which order."""

from __future__ import annotations

import math

import pytest

from otpd.agents.sandbox.course import FLOOD, Course, Means, State
from otpd.agents.sandbox.profile import Limits
from otpd.agents.sandbox.watch import Usage

LIMITS = Limits(wall=10.0, cpu=5.0, memory=1000, pids=8, tmp=100, tmp_files=10, output=100, disk=500)


def course() -> Course:
    return Course(LIMITS, grace=0.5, on_output="truncate", began=100.0)


def test_nothing_happens_before_its_time() -> None:
    run = course()
    assert (run.tick(109.9), run.state, run.killed_by, run.until) == (None, State.RUNNING, None, 110.0)


def test_when_the_time_is_over_it_is_asked_then_killed_then_forced() -> None:
    run = course()
    means = [run.tick(110.0), run.tick(110.4), run.tick(110.5), run.tick(112.4), run.tick(112.5), run.tick(1e9)]
    assert means == [Means.TERM, None, Means.KILL, None, Means.FORCE, None]
    assert (run.killed_by, run.hits, run.state, run.until) == ("timeout", {"timeout"}, State.FORCED, math.inf)


@pytest.mark.parametrize("reason", ["cancelled", "owner"])
def test_who_has_done_nothing_wrong_is_asked_first(reason: str) -> None:
    run = course()
    assert (run.end(reason, 101.0), run.killed_by, run.until) == (Means.TERM, reason, 101.5)


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (Usage(memory=1001), "memory"),
        (Usage(cpu=5.0), "cpu"),
        (Usage(tasks=9), "pids"),
        (Usage(tmp=101), "files"),
        (Usage(tmp_files=11), "files"),
    ],
)
def test_a_limit_that_is_passed_kills_at_once(usage: Usage, reason: str) -> None:
    run = course()
    assert (run.used(usage, 101.0), run.killed_by, run.hits) == (Means.KILL, reason, {reason})


def test_use_within_the_limits_is_only_counted() -> None:
    run = course()
    assert (run.used(Usage(1000, 8, 4.99, 100, 10), 101.0), run.peak_tasks, run.hits) == (None, 8, {"pids"})


def test_the_first_reason_stays() -> None:
    run = course()
    run.tick(110.0)
    assert (run.end("memory", 110.1), run.killed_by, run.hits) == (Means.KILL, "timeout", {"timeout", "memory"})
    assert run.end("cancelled", 110.2) is None


def test_output_over_the_cap_is_dropped_until_it_is_a_flood() -> None:
    run = course()
    assert (run.wrote(100, 101.0), run.wrote(101, 101.0), run.wrote(100 + FLOOD, 101.0)) == (None, None, None)
    assert (run.hits, run.killed_by) == ({"output"}, None)
    assert (run.wrote(101 + FLOOD, 101.0), run.killed_by) == (Means.KILL, "output")


def test_output_over_the_cap_kills_where_the_profile_says_so() -> None:
    run = Course(LIMITS, 0.5, "kill", 100.0)
    assert (run.wrote(101, 101.0), run.killed_by) == (Means.KILL, "output")


def test_what_is_written_to_disk_is_bounded() -> None:
    run = course()
    assert (run.stored(500, 101.0), run.stored(501, 101.0), run.killed_by) == (None, Means.KILL, "files")
