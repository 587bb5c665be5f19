"""Casts: what is delivered, buffered, refused, lost, and what is counted (statements B1, C1-C6, K6; invariants 1-9)."""

from __future__ import annotations

import pytest

from otpd.ipc import limits
from otpd.ipc.wire import Kind, Lane, join, message, outer
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def ended(board: Switchboard) -> dict[str, int]:
    """The counters of casts that are not 0."""
    counts = board.router.counts()
    rejected = {f"rejected {code}": count for code, count in counts.rejected.items()}
    rest = {key: getattr(counts, key) for key in ("processed", "dropped", "expired", "lost")}
    return {key: count for key, count in (rest | rejected).items() if count}


def bodies(agent: Agent) -> list[bytes]:
    return [body for _, body in agent.casts()]


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


# --- order and batches ---


def test_a_batch_is_passed_on_whole_under_the_senders_source_id(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 64))
    assert a.casts() == [] and b.casts() == [("a", body) for body in numbers(1, 64)]
    assert len([frame for frame in b.frames if frame.lane is Lane.DATA]) == 2  # the source's name, then one frame


def test_batches_of_one_flush_for_one_receiver_are_joined_up_to_128_messages(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    handle = a.handle("b")
    for number in range(200):
        board.router.frame(a.identity, Lane.DATA, join(Kind.CAST, handle, [(number, 0, b"x")]), board.now)
    board.flush()
    assert [frame.frame[2] for frame in b.frames if frame.frame[1] == Kind.CAST] == [128, 72]


def test_a_large_message_travels_alone(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    handle = a.handle("b")
    for body in (b"small", b"x" * 100_000, b"small"):
        board.router.frame(a.identity, Lane.DATA, join(Kind.CAST, handle, [(1, 0, body)]), board.now)
    board.flush()
    assert [frame.frame[2] for frame in b.frames if frame.frame[1] == Kind.CAST] == [1, 1, 1]


def test_b1_order_is_kept_across_the_restart_buffer_the_inbox_and_batches(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 10))
    board.death(b)
    a.cast("b", *numbers(11, 50))
    new = board.born("b", 2)
    board.row(new, "starting")
    new.window = (16, 16 * 1024)
    new.hello()
    new.credit()
    a.cast("b", *numbers(51, 60))
    board.row(new)
    a.cast("b", *numbers(61, 80))
    while len(new.received) < 70:
        before = len(new.received)
        new.credit()
        assert before < len(new.received) <= before + 16
    assert bodies(b) == numbers(1, 10) and bodies(new) == numbers(11, 80)


# --- where a cast ends (C2) ---


def test_c2_a_cast_whose_handler_has_ended_is_processed_and_no_other(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 10))
    assert ended(board) == {}
    b.credit()
    assert ended(board) == {"processed": 10} and board.router.counts().casts == 10


def test_c2_a_cast_to_nobody_is_rejected_and_among_the_dead_letters(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.cast("nobody", b"hello")
    assert a.heard("rejected") == [["rejected", 1, "noproc", "nobody"]]
    assert ended(board) == {"rejected noproc": 1}
    (letter,) = a.ask("letters")
    assert letter == {
        "at": board.now,
        "source": "a",
        "generation": 1,
        "number": 1,
        "target": "nobody",
        "code": "noproc",
        "size": 5,
        "head": b"hello",
    }


def test_c2_a_name_that_is_stopped_for_good_has_nobody(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("b", "stopped", 4)
    a.cast("b", b"hello")
    assert a.heard("rejected") == [["rejected", 1, "noproc", "b"]]


def test_c2_every_cast_of_a_mixed_history_ends_in_one_counter(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 100))
    b.credit()
    a.cast("b", *numbers(1, 50))
    board.death(b)
    a.cast("b", *numbers(1, 128))
    board.wait(31 * SECOND)
    a.cast("b", *numbers(1, 30))
    board.name("b", "stopped", 1)
    a.cast("b", b"late")
    assert ended(board) == {
        "processed": 100,
        "lost": 50,
        "rejected overloaded": 28,
        "expired": 100,
        "rejected noproc": 31,
    }
    assert board.router.counts().casts == 309 and board.router.memory == 0


def test_c2_counts_of_a_name_that_is_gone_are_kept(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", b"1", b"2")
    b.credit()
    board.root("gone", "b")
    board.wait(SECOND)
    assert ended(board) == {"processed": 2} and board.router.counts().casts == 2
    assert [row["name"] for row in board.router.rows()] == ["a"]


def test_confirmed_casts_are_answered_each(board: Switchboard) -> None:
    a, _ = board.agents("a", "b")
    a.cast("b", b"1", b"2", confirm=True)
    a.cast("nobody", b"3", confirm=True)
    assert a.heard("accepted", "rejected") == [["accepted", 1], ["accepted", 2], ["rejected", 3, "noproc", "nobody"]]


def test_a_cast_that_waits_for_a_restart_is_accepted(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"1", confirm=True)
    assert a.heard("accepted") == [["accepted", 1]]


def test_the_key_of_a_cast_is_not_sent_on_and_its_bytes_are_given_back(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(300):
        a.cast("b", b"body", key="k" * 100)
        b.credit()
    assert set(bodies(b)) == {b"body"}
    assert a.granted[1] - 1024 * 1024 == (a.granted[0] - 1024) * (16 + 2 + 100 + 4)


# --- the restart buffer (C3) ---


def test_c3_casts_wait_for_the_next_incarnation_and_the_101st_is_overloaded(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", *numbers(1, 101))
    assert a.heard("rejected") == [["rejected", 101, "overloaded", "b"]]
    new = board.agent("b", 2)
    assert bodies(new) == numbers(1, 100)


def test_c3_the_buffer_is_bounded_in_bytes(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    for _ in range(12):
        a.cast("b", b"x" * 100_000)
    assert len(a.heard("rejected")) == 2  # 10 of 100,016 bytes are within 1 MiB
    assert board.router.memory == 10 * 100_016


def test_c3_a_message_larger_than_the_whole_buffer_is_overloaded(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"x" * (1024 * 1024))
    assert a.heard("rejected") == [["rejected", 1, "overloaded", "b"]]


def test_c3_drop_oldest_keeps_the_newest_in_order_and_counts(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("b", "restarting", 1, inbox={"messages": 10, "policy": "drop_oldest"})
    a.cast("b", *numbers(1, 8))
    a.cast("b", *numbers(9, 25))
    new = board.agent("b", 2)
    assert bodies(new) == numbers(16, 25) and a.heard("rejected") == []
    assert ended(board) == {"dropped": 15}
    assert [letter["code"] for letter in a.ask("letters")] == ["dropped"] * 15


def test_c3_drop_newest_keeps_the_oldest_and_counts(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("b", "restarting", 1, inbox={"messages": 10, "bytes": None, "policy": "drop_newest"})
    a.cast("b", *numbers(1, 25))
    assert a.heard("rejected") == []
    a.cast("b", b"26", confirm=True)
    assert a.heard("rejected") == [["rejected", 26, "overloaded", "b"]]
    assert bodies(board.agent("b", 2)) == numbers(1, 10) and ended(board) == {"dropped": 16}


def test_c3_a_call_that_makes_room_for_a_cast_fails(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("b", "restarting", 1, inbox={"messages": 1, "policy": "drop_oldest"})
    request = a.call("b")
    a.cast("b", b"newer")
    assert a.failed() == [(request, "overloaded", "no")]


def test_c3_casts_expire_after_30_s_in_the_buffer(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"early")
    board.wait(20 * SECOND)
    a.cast("b", b"late")
    board.wait(15 * SECOND)
    assert ended(board) == {"expired": 1} and [letter["code"] for letter in a.ask("letters")] == ["expired"]
    assert bodies(board.agent("b", 2)) == [b"late"]


def test_c3_credit_for_what_is_buffered_returns_at_once(board: Switchboard) -> None:
    a, _ = board.agents("a", "b")
    board.name("b", "restarting", 1, inbox={"messages": 2000, "bytes": 1 << 30})
    for _ in range(4):
        a.cast("b", *[b"x"] * 128)
    assert a.granted[0] == 1024 + 512


def test_c4_what_waits_for_a_name_that_is_stopped_for_good_becomes_dead_letters(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"1", b"2")
    request = a.call("b")
    board.name("b", "stopped", 1)
    assert a.failed() == [(request, "noproc", "no")]
    assert [(letter["code"], letter["head"]) for letter in a.ask("letters")] == [("noproc", b"1"), ("noproc", b"2")]
    assert ended(board) == {"rejected noproc": 2} and board.router.memory == 0


def test_c4_also_when_the_name_is_gone(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"1")
    board.root("gone", "b")
    board.wait(SECOND)
    assert ended(board) == {"rejected noproc": 1}


def test_c5_what_an_incarnation_was_handed_and_did_not_handle_is_lost_and_never_redelivered(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 20))
    b.say("credit", 256 + 5, 256 * 1024 + 5 * 17)
    new = board.reborn(b)
    assert new.received == [] and ended(board) == {"processed": 5, "lost": 15}


def test_c5_the_last_words_of_credit_count(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *numbers(1, 20))
    board.death(b)
    b.credit()
    board.wait(20 * MS)
    assert ended(board) == {"processed": 20}


def test_what_a_dead_receiver_had_no_credit_for_goes_to_its_next_incarnation(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for first in range(1, 401, 100):
        a.cast("b", *numbers(first, first + 99))
    assert bodies(b) == numbers(1, 200)
    new = board.reborn(b)
    assert bodies(new) == numbers(201, 400)


@pytest.mark.parametrize("state", ["starting", "ready"])
def test_c6_what_waited_comes_before_what_is_sent_later(board: Switchboard, state: str) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"1")
    new = board.born("b", 2)
    board.row(new, state)
    a.cast("b", b"2")
    new.hello()
    new.credit()
    if state == "starting":
        assert new.received == []  # invariant 40: nothing before ready
        a.cast("b", b"3")
        board.row(new)
    a.cast("b", b"4")
    assert bodies(new) == [b"1", b"2", b"3", b"4"] if state == "starting" else [b"1", b"2", b"4"]


# --- credit (invariants 6-8) ---


def test_a_receiver_is_sent_no_more_than_its_credit(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for first in range(1, 1001, 100):
        a.cast("b", *numbers(first, first + 99))
    assert len(b.received) == 200  # a whole batch more would not fit into 256
    b.credit()
    assert len(b.received) == 400


def test_a_receiver_that_has_granted_nothing_is_sent_nothing(board: Switchboard) -> None:
    a = board.agent("a")
    b = board.agent("b", window=(0, 0))
    a.cast("b", b"1")
    assert b.received == []
    b.window = (1, 1)
    b.credit()
    assert bodies(b) == [b"1"]


def test_a_batch_is_split_for_a_receiver_whose_window_it_never_fits(board: Switchboard) -> None:
    a = board.agent("a")
    b = board.agent("b", window=(10, 1000))
    a.cast("b", *numbers(1, 25))
    for expected in (6, 12, 18, 25):  # until less than half the window is left: then it is sure to be renewed
        assert bodies(b) == numbers(1, expected)
        b.credit()


def test_the_last_message_may_pass_the_bytes(board: Switchboard) -> None:
    a = board.agent("a")
    b = board.agent("b", window=(10, 1000))
    a.cast("b", b"x" * 5000)
    a.cast("b", b"y")
    assert [len(body) for body in bodies(b)] == [5000]
    b.credit()
    assert [len(body) for body in bodies(b)] == [5000, 1]


def test_a_receiver_that_still_has_work_of_the_broker_before_is_not_taken_for_a_small_one(board: Switchboard) -> None:
    a = board.agent("a")
    b = board.agent("b", window=(0, 0))
    b.window = (256, 256 * 1024)
    b.say("credit", 10, 10_000)
    b.say("credit", 256, 256 * 1024)
    a.cast("b", *numbers(1, 100))
    a.cast("b", *numbers(101, 200))
    assert bodies(b) == numbers(1, 200)
    b.credit()
    assert ended(board) == {"processed": 200}


def test_an_old_grant_changes_nothing_and_an_absurd_one_is_a_strike(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say("credit", 3, 3)
    a.cast("b", *numbers(1, 100))
    assert len(b.received) == 100 and board.events("strike") == []
    b.say("credit", 1 << 60, 1 << 60)
    assert len(board.events("strike")) == 1


def test_a_sender_beyond_its_credit_is_a_strike_and_what_it_sent_is_dropped(board: Switchboard) -> None:
    a = board.agent("a")
    board.agent("b", window=(0, 0))
    for _ in range(8):
        a.cast("b", *[b"x"] * 128)
    assert board.events("strike") == []
    a.cast("b", b"one more")
    assert len(board.events("strike")) == 1 and board.router.counts().casts == 1024


def test_credit_returns_to_the_sender_by_quarters_of_its_window(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", *[b"x"] * 100)
    b.credit()
    a.cast("b", *[b"x"] * 100)
    b.credit()
    assert a.granted == (1024, 1024 * 1024)
    a.cast("b", *[b"x"] * 100)
    assert a.granted == (1024 + 300, 1024 * 1024 + 300 * 17)


def test_credit_does_not_return_while_messages_wait_in_the_inbox(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(8):
        a.cast("b", *[b"x"] * 128)
    assert len(b.received) == 256 and a.granted[0] == 1024 + 256


def test_credit_returns_after_a_second_behind_a_receiver_that_takes_nothing(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(8):
        a.cast("b", *[b"x"] * 128)
    board.wait(SECOND - MS)
    assert a.granted[0] == 1024 + 256
    board.wait(MS)
    assert a.granted[0] == 1024 + 1024
    a.cast("b", *[b"y"] * 128)
    a.cast("b", *[b"y"] * 128)
    assert a.granted[0] == 1024 + 1024 + 256  # and at once from then on
    b.credit()
    for _ in range(2):
        a.cast("b", *[b"z"] * 128)
    assert a.granted[0] == 1024 + 1024 + 256  # until it takes something again


def test_a_receiver_that_takes_something_now_and_then_does_not_stall(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(8):
        a.cast("b", *[b"x"] * 128)
    for _ in range(5):
        board.wait(600 * MS)
        b.say("credit", len(b.received) + 128, 1024 * 1024)
    assert a.granted[0] < 1024 + 1024


def test_the_inbox_is_bounded_and_what_does_not_fit_is_overloaded(board: Switchboard) -> None:
    senders = board.agents("s1", "s2", "s3")
    b = board.agent("b", window=(0, 0))
    for sender in senders:
        for _ in range(8):
            sender.cast("b", *[b"x"] * 128)
    assert board.router.rows()[3]["inbox"] == 2048 and len(b.received) == 0
    assert [len(sender.heard("rejected")) for sender in senders] == [0, 0, 1024]
    assert senders[2].heard("rejected")[0] == ["rejected", 1, "overloaded", "b"]


def test_the_inbox_is_bounded_in_bytes(board: Switchboard) -> None:
    *senders, b = board.agents(*[f"s{number}" for number in range(8)], "b")
    b.credit()
    for sender in senders:
        for _ in range(12):
            sender.cast("b", b"x" * 100_000)
    assert 4_000_000 < board.router.memory <= 4 * 1024 * 1024
    assert sum(len(sender.heard("rejected")) for sender in senders) > 0


def test_bodies_in_all_queues_are_bounded_together(board: Switchboard) -> None:
    board.router._table.memory.limit = 100_000
    a, b, c = board.agents("a", "b", "c")
    board.death(b)
    board.death(c)
    for target in ("b", "c"):
        for _ in range(6):
            a.cast(target, b"x" * 10_000)
    assert board.router.memory == 9 * 10_016 and len(a.heard("rejected")) == 3


def test_k6_root_is_told_when_a_receiver_falls_far_behind_and_when_it_has_caught_up(board: Switchboard) -> None:
    s1, s2, b = board.agents("s1", "s2", "b")
    for sender in (s1, s2):
        for _ in range(8):
            sender.cast("b", *[b"x"] * 128)
    assert [packet[0] for packet in board.events("inbox.high")] == ["b"]
    oldest = next(row["oldest"] for row in board.router.rows() if row["name"] == "b")
    assert oldest == board.now and board.events("inbox.low") == []
    for _ in range(8):
        b.credit()
    assert [packet[0] for packet in board.events("inbox.low")] == ["b"] and len(board.events("inbox.high")) == 1


# --- what is not looked at ---


def test_a_malformed_batch_that_waits_is_thrown_away_when_it_must_be_taken_apart(board: Switchboard) -> None:
    a = board.agent("a")
    b = board.agent("b", window=(4, 4000))
    a.cast("b", *numbers(1, 4))
    payload = message(1, 0, b"x" * 60) + b"\xff" * 24
    a.send(Lane.DATA, outer(Kind.CAST, 5, a.handle("b"), len(payload)) + payload)
    a.cast("b", b"after")
    b.credit()
    assert bodies(b) == [*numbers(1, 4), b"after"] and ended(board) == {"processed": 4, "rejected malformed": 5}
    assert board.router.memory == 0


def test_dead_letters_keep_the_last_thousand_and_the_first_kib_of_each(board: Switchboard) -> None:
    (a,) = board.agents("a")
    for first in range(1, 1101, 100):
        a.cast("nobody", *[b"%d" % number + b"." * 2000 for number in range(first, first + 30)])
        a.cast("nobody", *[b"x"] * 70)
    letters = a.ask("letters")
    assert len(letters) == limits.LETTERS and letters[0]["number"] == 101
    assert (len(letters[0]["head"]), letters[0]["size"]) == (1024, 2003)


def test_root_hears_of_dead_letters_as_sums_once_per_second(board: Switchboard) -> None:
    (a,) = board.agents("a")
    for _ in range(3):
        a.cast("x", b"1", b"2")
        a.cast("y", b"3")
    assert board.events("dead_letters") == []
    board.wait(SECOND)
    assert board.events("dead_letters") == [["x", {"noproc": 6}], ["y", {"noproc": 3}]]
    board.wait(10 * SECOND)
    assert len(board.events("dead_letters")) == 2


def test_a_handle_can_be_bound_to_another_name(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    for name, body in (("b", b"1"), ("c", b"2")):
        a.say_data("bind", 5, "name", name, "")
        a.send(Lane.DATA, join(Kind.CAST, 5, [(1, 0, body)]))
    assert (bodies(b), bodies(c)) == ([b"1"], [b"2"])


def test_handles_are_bounded(board: Switchboard) -> None:
    (a,) = board.agents("a")
    for handle in range(limits.HANDLES):
        a.say_data("bind", handle, "name", "x", "")
    assert board.events("strike") == []
    a.say_data("bind", limits.HANDLES, "name", "x", "")
    assert len(board.events("strike")) == 1


def test_a_source_id_that_means_somebody_else_is_announced_anew(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", b"1")
    board.root("gone", "a")
    board.wait(SECOND)
    (c,) = board.agents("c")
    c.cast("b", b"2")
    assert c.said[0][1]["id"] == 1 and b.casts() == [("a", b"1"), ("c", b"2")]


def test_a_cast_that_waits_longer_than_its_sender_lives_keeps_the_senders_name(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.death(b)
    a.cast("b", b"1")
    board.root("gone", "a")
    board.wait(SECOND)
    (c,) = board.agents("c")
    c.cast("b", b"2")
    new = board.agent("b", 2)
    assert new.casts() == [("a", b"1"), ("c", b"2")]


def test_a_client_that_says_bye_is_sent_nothing_more_and_what_it_sent_before_arrives(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.cast("b", b"last")
    a.say_data("bye")
    b.cast("a", b"too late")
    assert bodies(b) == [b"last"] and a.received == []


def test_a_message_over_16_mib_is_too_large_for_a_cast_and_for_a_call(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    body = b"x" * (16 * 1024 * 1024 + 1)
    a.cast("b", body)
    a.call("b", body)
    assert a.heard("rejected") == [["rejected", 1, "too_large", "b"]] and a.failed() == [(2, "too_large", "no")]
    assert b.received == []
    a.cast("b", body[1:])
    assert [len(each) for each in bodies(b)] == [16 * 1024 * 1024]


def test_a_malformed_batch_at_the_front_of_a_buffer_is_dropped_whole(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("b", "restarting", 1, inbox={"messages": 3, "policy": "drop_oldest"})
    payload = message(1, 0, b"x" * 60) + b"\xff" * 8
    a.send(Lane.DATA, outer(Kind.CAST, 3, a.handle("b"), len(payload)) + payload)
    a.cast("b", b"good")
    assert ended(board) == {"dropped": 3} and bodies(board.agent("b", 2)) == [b"good"]


def test_dead_letters_of_very_many_targets_are_summed_up(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LETTERS", 2)
    (a,) = board.agents("a")
    for target in ("w", "x", "y", "z"):
        a.cast(target, b"1")
    board.wait(SECOND)
    assert board.events("dead_letters") == [["w", {"noproc": 1}], ["x", {"noproc": 1}], ["*", {"noproc": 2}]]
