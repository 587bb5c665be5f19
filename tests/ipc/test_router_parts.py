"""The small machines that the router is made of: timers, credit, trays, hellos."""

from __future__ import annotations

import doctest

import pytest

from otpd.ipc import timers as timers_module
from otpd.ipc import topics
from otpd.ipc.credit import Allowance, Intake
from otpd.ipc.timers import Timers
from tests.ipc import switchboard


@pytest.mark.parametrize("module", [timers_module, topics, switchboard])
def test_examples_run(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_a_timer_that_is_set_again_is_due_at_its_new_time_only() -> None:
    timers = Timers()
    timers.set("a", 10)
    timers.set("a", 30)
    timers.set("b", 20)
    timers.cancel("b")
    assert (timers.pop(29), timers.next, timers.pop(30), timers.pop(99), timers.next) == (None, 30, "a", None, None)


def test_timers_that_were_cancelled_take_no_memory() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.set(("call", number), number)
        timers.cancel(("call", number))
    assert len(timers._heap) < 100


def test_intake_refuses_what_is_beyond_the_totals_and_lets_the_last_message_pass_the_bytes() -> None:
    intake = Intake()
    assert intake.take(1, 1024 * 1024 - 1) and intake.take(1, 5_000_000) and not intake.take(1, 1)
    intake = Intake()
    assert intake.take(1024, 1024) and not intake.take(1, 1)


def test_intake_renews_by_quarters_of_messages_or_bytes() -> None:
    intake = Intake()
    assert [intake.give_back(100, 0) for _ in range(3)] == [False, False, True]
    assert intake.renew() == (1324, 1024 * 1024) and not intake.due
    assert intake.give_back(1, 300_000) and intake.renew() == (1325, 1024 * 1024 + 300_000)


def test_an_allowance_knows_how_much_was_handled_by_what_was_granted_beyond_the_window() -> None:
    allowance = Allowance()
    assert allowance.grant(100, 10_000) and allowance.handled == 0
    allowance.spend(80, 800)
    assert allowance.grant(130, 10_300) and (allowance.handled, allowance.outstanding) == (30, 50)
    assert allowance.fits(50, 9500) and not allowance.fits(51, 100) and not allowance.fits(2, 9501)
    assert allowance.fits(1, 10_000_000)


def test_a_window_without_bytes_is_no_room_to_split_a_batch_for() -> None:
    allowance = Allowance()
    assert allowance.grant(249, 0)
    assert not allowance.fits(1, 1) and not allowance.roomy
    assert allowance.grant(249, 100) and allowance.roomy


def test_a_grant_further_ahead_than_any_window_is_refused() -> None:
    allowance = Allowance()
    assert not allowance.grant(4097, 1) and not allowance.grant(1, 4 * 1024 * 1024 + 1) and allowance.may_messages == 0
