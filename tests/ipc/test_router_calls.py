"""Calls: exactly one outcome each (statements B3, D1-D6, J1-J3; rules 122-124; invariants 10-16)."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.ipc import limits
from otpd.ipc.wire import Kind, Lane, join
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
def pair(board: Switchboard) -> tuple[Agent, ...]:
    return board.agents("a", "b")


Pair = tuple[Agent, Agent]


# --- outcomes (D1-D3) ---


def test_d1_a_reply_reaches_the_caller_under_its_request_id(pair: Pair) -> None:
    a, b = pair
    request = a.call("b", b"question")
    assert [body for _, body in b.calls()] == [b"question"]
    b.reply(b"answer")
    assert a.replies == [(request, 0, b"answer")] and a.failed() == []


@pytest.mark.parametrize("status", [1, 2])
def test_d1_an_exception_and_a_rejection_are_replies(pair: Pair, status: int) -> None:
    a, b = pair
    request = a.call("b")
    b.reply(b"why", status)
    assert a.replies == [(request, status, b"why")]


def test_replies_travel_on_the_system_lane_and_large_ones_on_the_data_lane(pair: Pair) -> None:
    a, b = pair
    for size in (65_536, 65_537):
        a.call("b")
        b.reply(b"x" * size)
    assert [frame.lane for frame in a.frames if frame.frame[1] == Kind.REPLY] == [Lane.SYSTEM, Lane.DATA]


def test_the_deadline_travels_with_the_call(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b", timeout=3 * SECOND)
    a.call("b", timeout=0)
    assert [message.deadline for message in b.received] == [board.now + 3 * SECOND, 0]


def test_d2_a_call_to_nobody_fails_at_once_and_was_not_executed(pair: Pair) -> None:
    a, _ = pair
    assert a.call("nobody") and a.failed() == [(1, "noproc", "no")]


def test_d2_a_call_to_oneself_fails_at_once(pair: Pair) -> None:
    a, _ = pair
    a.call("a")
    assert a.failed() == [(1, "deadlock", "no")] and a.received == []


def test_d2_a_call_whose_deadline_has_passed_is_not_delivered(pair: Pair) -> None:
    a, b = pair
    a.call("b", timeout=-1)
    assert a.failed() == [(1, "expired", "no")] and b.received == []


def test_d2_a_full_restart_buffer_is_overloaded(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(b)
    requests = [a.call("b") for _ in range(101)]
    assert a.failed() == [(requests[-1], "overloaded", "no")]


def test_d2_a_full_inbox_is_overloaded(board: Switchboard) -> None:
    (a, s1, s2), b = board.agents("a", "s1", "s2"), board.agent("b", window=(0, 0))
    for sender in (s1, s2):
        for _ in range(8):
            sender.cast("b", *[b"x"] * 128)
    a.call("b")
    assert a.failed() == [(1, "overloaded", "no")] and b.received == []


def test_d2_a_caller_has_a_bounded_number_of_open_calls(board: Switchboard, pair: Pair, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "OPEN_CALLS", 3)
    a, _ = pair
    requests = [a.call("b") for _ in range(4)]
    assert a.failed() == [(requests[3], "overloaded", "no")]


def test_a_call_waits_for_a_name_that_restarts(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(b)
    request = a.call("b")
    new = board.agent("b", 2)
    new.reply(b"back")
    assert a.replies == [(request, 0, b"back")]


def test_a_request_id_without_an_outcome_cannot_be_used_again(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    handle = a.handle("b")
    for _ in range(2):
        a.send(Lane.DATA, join(Kind.CALL, handle, [(7, 0, b"?")]))
    assert len(b.received) == 1 and len(board.events("strike")) == 1


# --- deadlines (D4) ---


def test_d1_d3_a_call_that_was_delivered_times_out_at_its_deadline(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    request = a.call("b", timeout=2 * SECOND)
    board.wait(2 * SECOND - MS)
    assert a.failed() == []
    board.wait(MS)
    assert a.failed() == [(request, "timeout", "maybe")] and len(b.calls()) == 1


def test_d4_a_call_that_expires_in_a_restart_buffer_is_never_delivered(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(b)
    request = a.call("b", timeout=SECOND)
    board.wait(SECOND)
    assert a.failed() == [(request, "expired", "no")] and board.router.memory == 0
    assert board.agent("b", 2).received == []


def test_d4_a_call_that_expires_in_an_inbox_is_never_delivered(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", window=(1, 1000))
    requests = [a.call("b", timeout=SECOND) for _ in range(3)]
    board.now += SECOND  # the clock has passed the deadline, the timers have not been looked at
    b.credit()
    assert a.failed() == [(requests[1], "expired", "no"), (requests[2], "expired", "no")]
    board.wait(MS)
    assert a.failed()[2] == (requests[0], "timeout", "maybe") and len(b.received) == 1


def test_a_call_without_a_deadline_waits_for_ever(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    request = a.call("b", timeout=0)
    board.wait(3600 * SECOND)
    b.reply(b"at last")
    assert a.replies == [(request, 0, b"at last")]


def test_d5_rule_122_a_late_reply_is_dropped_and_counted(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b", timeout=SECOND)
    board.wait(SECOND)
    b.reply(b"late")
    assert a.replies == [] and board.router.late_replies == 1


def test_a_second_reply_is_a_late_one(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b")
    b.reply(b"1")
    b.reply(b"2")
    assert [body for _, _, body in a.replies] == [b"1"] and board.router.late_replies == 1


def test_only_who_was_asked_can_reply(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    a.call("b")
    number = b.calls()[0][0]
    c.reply(b"forged", call=number)
    assert a.replies == [] and board.router.late_replies == 1
    b.reply(b"true")
    assert [body for _, _, body in a.replies] == [b"true"]


# --- cancellation (D5) ---


def test_d5_a_cancelled_call_is_told_to_its_callee_and_heard_of_no_more(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.say("cancel", a.call("b"))
    number = b.calls()[0][0]
    assert b.heard("cancel") == [["cancel", number]]
    b.reply(b"late")
    board.wait(10 * SECOND)
    assert a.replies == [] and a.failed() == [] and board.router.late_replies == 1


def test_d5_a_call_that_is_cancelled_in_the_queue_is_not_delivered(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(b)
    a.say("cancel", a.call("b"))
    new = board.agent("b", 2)
    assert new.received == [] and new.heard("cancel") == [] and board.router.memory == 0


def test_d5_a_cancel_that_overtakes_its_call_is_remembered(pair: Pair) -> None:
    a, b = pair
    handle = a.handle("b")
    a.say("cancel", 1)
    a.send(Lane.DATA, join(Kind.CALL, handle, [(1, 0, b"?"), (2, 0, b"?")]))
    assert [body for _, body in b.calls()] == [b"?"] and a.failed() == []


def test_early_cancels_are_bounded(pair: Pair, board: Switchboard) -> None:
    a, b = pair
    for request in range(1000, 1000 + limits.EARLY_CANCELS + 1):
        a.say("cancel", request)
    a.send(Lane.DATA, join(Kind.CALL, a.handle("b"), [(1000, 0, b"forgotten"), (1001, 0, b"remembered")]))
    assert [body for _, body in b.calls()] == [b"forgotten"]


def test_a_dead_callers_calls_are_cancelled(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    board.death(c)
    a.call("b")
    a.call("c")
    board.death(a)
    board.wait(20 * MS)
    assert [[command[0], *command[2:]] for command in b.heard("cancel")] == [["cancel", "down"]]
    assert board.agent("c", 2).received == []


def test_calls_that_a_dead_one_wrote_before_its_end_are_not_made(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(a)
    a.call("b")
    assert b.received == [] and a.failed() == []


# --- the callee dies (D6) ---


def test_d6_rule_123_a_death_fails_its_calls_with_the_reason_after_the_grace(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    requests = [a.call("b") for _ in range(3)]
    board.death(b, "error(ValueError: no)")
    assert a.failed() == []
    board.wait(20 * MS)
    assert a.failed() == [(request, "down", "maybe") for request in requests]
    assert a.heard("failed")[0][4] == "error(ValueError: no)"


def test_b3_a_reply_that_was_written_just_before_the_end_still_counts(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    request = a.call("b")
    board.death(b)
    b.reply(b"just in time")
    board.wait(SECOND)
    assert a.replies == [(request, 0, b"just in time")] and a.failed() == []


def test_b3_after_the_grace_it_does_not(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b")
    board.death(b)
    board.wait(20 * MS)
    b.reply(b"too late")
    assert a.replies == [] and b.stale


@pytest.mark.parametrize("sign", ["ready", "hello"])
def test_a3_a_newer_incarnation_ends_the_grace_of_the_older(board: Switchboard, pair: Pair, sign: str) -> None:
    a, b = pair
    a.call("b")
    new = board.born("b", 2)
    board.death(b)
    board.row(new, "ready" if sign == "ready" else "starting")
    assert (a.failed() == []) is (sign == "hello")
    new.hello()
    assert a.failed() == [(1, "down", "maybe")]


def test_a3_a_row_of_a_newer_incarnation_is_the_death_of_the_older(board: Switchboard, pair: Pair) -> None:
    a, _ = pair
    a.call("b")
    board.agent("b", 2)
    assert a.failed() == [(1, "down", "maybe")]


def test_nothing_is_routed_to_a_dead_one_within_its_grace(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    board.death(b)
    a.call("b")
    a.cast("b", b"1")
    assert b.received == []


# --- breakers (J1-J3; DESIGN 9.8) ---


def time_out(board: Switchboard, caller: Agent, target: str, times: int) -> None:
    for _ in range(times):
        caller.call(target, timeout=MS)
        board.wait(MS)


def breaker(board: Switchboard, name: str) -> Any:
    return next(row["breaker"] for row in board.router.rows() if row["name"] == name)


def moves(board: Switchboard) -> list[str]:
    return [packet[1].removeprefix("breaker.") for packet in board.told if str(packet[1]).startswith("breaker.")]


def test_j1_five_failures_in_a_row_open_the_breaker(board: Switchboard, pair: Pair) -> None:
    a, _ = pair
    time_out(board, a, "b", 4)
    assert breaker(board, "b") == "closed"
    time_out(board, a, "b", 1)
    assert breaker(board, "b") == "open" and board.events("breaker.opened") == [["b", {"failures": 5, "mode": "auto"}]]


def test_j1_an_answer_between_them_starts_the_count_again(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    for status in (0, 1, 2):
        time_out(board, a, "b", 4)
        a.call("b")
        b.reply(status=status)
        b.credit()
    assert breaker(board, "b") == "closed"


def test_j1_a_death_is_one_failure_however_many_calls_it_ends(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    for _ in range(10):
        a.call("b")
    board.death(b)
    board.wait(20 * MS)
    assert breaker(board, "b") == "closed"


def test_j1_five_deaths_during_calls_open_it(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    for _ in range(5):
        a.call("b")
        b = board.reborn(b)
    assert moves(board) == ["opened", "half_open"]


def test_j1_overload_is_a_failure_and_what_expired_in_a_queue_is_none(board: Switchboard, pair: Pair) -> None:
    a, _b = pair
    board.name("b", "restarting", 1, inbox={"messages": 6})
    time_out(board, a, "b", 6)
    assert breaker(board, "b") == "closed"
    for _ in range(11):
        a.call("b")
    assert breaker(board, "b") == "open"


def test_j3_an_open_breaker_fails_calls_at_once_and_lets_casts_pass(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    time_out(board, a, "b", 5)
    b.received.clear()
    request = a.call("b")
    a.cast("b", b"cast")
    assert a.failed()[-1] == (request, "circuit_open", "no") and b.casts() == [("a", b"cast")] and b.calls() == []


def test_half_open_after_30_s_lets_one_probe_pass_and_its_answer_closes(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    time_out(board, a, "b", 5)
    board.wait(30 * SECOND)
    assert breaker(board, "b") == "half_open"
    b.received.clear()
    probe, other = a.call("b"), a.call("b")
    assert len(b.calls()) == 1 and a.failed()[-1] == (other, "circuit_open", "no")
    b.reply()
    assert a.replies == [(probe, 0, b"!")] and breaker(board, "b") == "closed"
    a.call("b")
    assert len(b.calls()) == 2 and moves(board) == ["opened", "half_open", "closed"]


def test_a_probe_that_fails_opens_it_for_another_30_s(board: Switchboard, pair: Pair) -> None:
    a, _b = pair
    time_out(board, a, "b", 5)
    board.wait(30 * SECOND)
    time_out(board, a, "b", 1)
    assert breaker(board, "b") == "open"
    board.wait(30 * SECOND - MS)
    assert breaker(board, "b") == "open"
    board.wait(MS)
    assert breaker(board, "b") == "half_open"


def test_a_probe_that_is_given_up_leaves_the_place_to_another(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    time_out(board, a, "b", 5)
    board.wait(30 * SECOND)
    b.received.clear()
    a.say("cancel", a.call("b"))
    a.call("b")
    assert len(b.calls()) == 2 and breaker(board, "b") == "half_open"


def test_a_probe_without_a_deadline_is_leased_for_30_s(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    time_out(board, a, "b", 5)
    board.wait(30 * SECOND)
    b.received.clear()
    a.call("b", timeout=0)
    board.wait(30 * SECOND - MS)
    a.call("b")
    assert len(b.calls()) == 1
    board.wait(MS)
    a.call("b")
    assert len(b.calls()) == 2


def test_answers_to_calls_from_before_do_not_close_a_half_open_breaker(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b", timeout=0)
    old = b.calls()[0][0]
    time_out(board, a, "b", 5)
    board.wait(30 * SECOND)
    b.reply(call=old)
    assert breaker(board, "b") == "half_open"


def test_j2_a_new_incarnation_is_probed_at_once(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    time_out(board, a, "b", 5)
    new = board.reborn(b)
    assert breaker(board, "b") == "half_open"
    a.call("b")
    a.call("b")
    assert len(new.calls()) == 1


@pytest.mark.parametrize(("mode", "state"), [("open", "open"), ("close", "closed")])
def test_an_operator_forces_a_breaker_and_gives_it_back(board: Switchboard, pair: Pair, mode: str, state: str) -> None:
    a, b = pair
    board.root("breaker", 1, "b", mode)
    assert board.told[-1] == ["answer", 1, state, True]
    time_out(board, a, "b", 6)
    board.wait(60 * SECOND)
    assert breaker(board, "b") == state and bool(b.calls()) is (mode == "close")
    board.root("breaker", 2, "b", "auto")
    assert breaker(board, "b") == ("half_open" if mode == "open" else "closed")


def test_a_breaker_of_nobody_and_a_mode_that_is_none_are_refused(board: Switchboard, pair: Pair) -> None:
    a, _ = pair
    board.root("breaker", 1, "nobody", "open")
    assert board.told[-1][:2] == ["answer", 1] and board.told[-1][2]["code"] == "noproc"
    assert a.ask("breaker", "b", "ajar") == ("refused",)
    assert a.ask("breaker", "b", "open") == "open"


def test_memory_of_calls_ends_with_them(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    for _ in range(300):
        a.call("b")
        b.reply()
        b.credit()
    assert len(board.router._calls) == 0 and board.router.tick(board.now) is None


def test_call_numbers_begin_anew_after_the_last_and_pass_over_those_in_use(board: Switchboard, pair: Pair) -> None:
    a, b = pair
    a.call("b")
    board.router._calls._number = 0xFFFF_FFFE
    a.call("b")
    a.call("b")
    assert [number for number, _ in b.calls()] == [1, 0xFFFF_FFFF, 2]


# --- questions of the health service ---


def test_the_health_service_passes_an_open_breaker_and_its_outcomes_move_none(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    health = board.agent("health", kind="service")
    time_out(board, a, "b", 5)
    assert breaker(board, "b") == "open"
    for answer in (b"well", None):
        request = health.call("b", timeout=MS)
        assert len(b.calls()) > 0
        if answer is None:
            board.wait(MS)
            assert health.failed()[-1] == (request, "timeout", "maybe")
        else:
            b.reply(answer)
            assert health.replies[-1] == (request, 0, answer)
    assert breaker(board, "b") == "open"
    board.wait(limits.BREAKER_OPEN)
    health.call("b")
    b.reply()
    assert breaker(board, "b") == "half_open", "an answer to it proves nothing about the mailbox"
    a.call("b")
    b.reply()
    assert breaker(board, "b") == "closed"


def test_the_health_service_neither_counts_failures_nor_ends_a_row_of_them(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    health = board.agent("health", kind="service")
    time_out(board, health, "b", 10)
    assert breaker(board, "b") == "closed"
    time_out(board, a, "b", 4)
    health.call("b")
    b.reply()
    health.call("b")
    board.death(b)
    b = board.agent("b", 2)
    assert breaker(board, "b") == "closed"
    time_out(board, a, "b", 1)
    assert breaker(board, "b") == "open"


def test_an_agent_that_is_called_health_is_treated_like_any_other(board: Switchboard) -> None:
    a, _, false = board.agents("a", "b", "health")
    time_out(board, a, "b", 5)
    request = false.call("b")
    assert false.failed() == [(request, "circuit_open", "no")]
