"""How the end of a command is told."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from otpd.agents.sandbox.course import Course
from otpd.agents.sandbox.outcome import Seen, outcome
from otpd.agents.sandbox.profile import Limits
from otpd.agents.sandbox.records import Report, Step, Word

CALM = Seen("cmd", oom_killed=False, cpu_limit=5.0)
FULL = Seen("cmd", oom_killed=True, cpu_limit=5.0)


def told(report: Report | None, seen: Seen = CALM, killed_by: str | None = None) -> dict[str, Any]:
    course = Course(Limits(cpu=5.0), 0.5, "truncate", 0.0)
    if killed_by:
        course.end(killed_by, 1.0)
    return outcome(report, course, seen)


def ended(status: int, cpu: float = 0.0) -> Report:
    return Report(Word.ENDED, Step.NONE, 0, 0, status, 2, int(cpu * 1e6), 0, 100)


def failed(step: Step, number: int) -> Report:
    return Report(Word.FAILED, step, 1, number)


@pytest.mark.parametrize("code", [0, 3, 124, 137])
def test_a_status_of_its_own_is_an_exit(code: int) -> None:
    found = told(ended(code << 8))
    assert (found["status"], found["exit_code"], found["killed_by"], found["signal"]) == ("exited", code, None, None)


@pytest.mark.parametrize("number", [9, 11, 24, 25 - 1])
def test_a_signal_of_its_own_is_no_kill(number: int) -> None:
    found = told(ended(number))
    assert (found["status"], found["signal"], found["killed_by"]) == ("signaled", number, None)


def test_what_the_course_has_ended_is_killed_whatever_the_status() -> None:
    found = told(ended(0), killed_by="timeout")
    assert (found["status"], found["killed_by"], found["exit_code"]) == ("killed", "timeout", 0)
    assert found["limit_hits"] == ["timeout"]


@pytest.mark.parametrize(
    ("report", "seen", "reason"),
    [
        (ended(25), CALM, "files"),  # SIGXFSZ
        (ended(24, cpu=5.0), CALM, "cpu"),  # SIGXCPU
        (ended(24, cpu=3.0), CALM, "cpu"),  # the kernel's ticks counted more than was used
        (ended(9, cpu=6.0), CALM, "cpu"),
        (ended(9), FULL, "memory"),
        (None, FULL, "memory"),
        (None, CALM, "worker"),
    ],
)
def test_limits_of_the_kernel_are_told_by_the_signal(report: Report | None, seen: Seen, reason: str) -> None:
    found = told(report, seen)
    assert (found["status"], found["killed_by"]) == ("killed", reason)


@pytest.mark.parametrize(("number", "used"), [(24, 1.0), (9, 3.0)])
def test_a_signal_of_a_limit_that_is_far_away_is_somebody_s_signal(number: int, used: float) -> None:
    found = told(ended(number, cpu=used), CALM)
    assert (found["status"], found["killed_by"], found["signal"]) == ("signaled", None, number)


def test_memory_that_was_short_is_told_also_when_the_command_survived() -> None:
    found = told(ended(0), FULL)
    assert (found["status"], found["limit_hits"]) == ("exited", ["memory"])


@pytest.mark.parametrize(
    ("report", "status", "code"),
    [
        (failed(Step.EXEC, errno.ENOENT), "not_found", "not_found"),
        (failed(Step.EXEC, errno.EACCES), "not_executable", "not_executable"),
        (failed(Step.EXEC, errno.E2BIG), "not_executable", "not_executable"),
        (failed(Step.DIRECTORY, errno.ENOENT), "refused", "setup"),
        (failed(Step.PROTECT, errno.ELOOP), "refused", "setup"),
        (failed(Step.SECCOMP, errno.EINVAL), "setup_failed", "setup"),
    ],
)
def test_what_never_ran_says_why(report: Report, status: str, code: str) -> None:
    found = told(report)
    assert (found["status"], found["error"]["code"], found["killed_by"]) == (status, code, None)
    assert found["error"]["text"].endswith(".")


def test_what_was_asked_to_end_while_it_was_set_up_is_killed() -> None:
    """The init only sees that nobody answers it any more."""
    found = told(failed(Step.PROTOCOL, errno.EPIPE), killed_by="owner")
    assert (found["status"], found["killed_by"], found["error"]) == ("killed", "owner", None)
    assert told(failed(Step.PROTOCOL, errno.EPIPE))["status"] == "setup_failed"
