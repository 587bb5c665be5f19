"""An endpoint's life with brokers: hello, welcome, loss, a new one, the end."""

from __future__ import annotations

import pytest

from otpd.ipc.endpoint import Address, Endpoint, Phase
from otpd.ipc.happenings import (
    Answered,
    CallFailed,
    CastRejected,
    Delivered,
    Down,
    Fenced,
    Happening,
    Lost,
    Replied,
    Welcomed,
)
from otpd.ipc.wire import Flag, Kind, Lane, Status, commands, keyed, parse
from tests.ipc.hand import INC, MS, Hand, inc

FEED, STOCK = Address("feed"), Address("stock")


def test_hello_is_said_on_both_lanes_with_name_inc_and_token() -> None:
    end = Endpoint("me", INC, b"token")
    end.connected("b3.1", 0)
    who = {"v": 1, "name": "me", "inc": INC, "token": b"token"}
    nothing = {"monitors": [], "links": [], "trap": False, "topics": [], "groups": [], "keys": []}
    assert [(lane, list(commands(frame))) for lane, frame in end.outgoing()] == [
        (Lane.SYSTEM, [["hello", {**who, **nothing, "lane": "s"}]]),
        (Lane.DATA, [["hello", {**who, "lane": "d"}]]),
    ]


def test_nothing_but_hello_is_sent_before_the_welcome() -> None:
    hand = Hand()
    hand.end.connected("b3.1", 0)
    hand.sent()
    hand.end.cast(FEED, b"1")
    hand.end.monitor("stock")
    hand.end.join("all")
    hand.end.ask("whereis", "stock")
    assert hand.sent() == []
    hand.welcome()
    assert hand.heard() == [Welcomed("b3.1")]
    assert [parse(frame).kind.name for _, frame in hand.sent()] == ["SYSTEM", "SYSTEM", "CAST", "SYSTEM"]


def test_the_first_word_after_the_welcome_is_credit_for_a_window() -> None:
    hand = Hand()
    hand.end.connected("b3.1", 0)
    hand.sent()
    hand.end.monitor("stock")
    hand.welcome()
    assert hand.said() == [["credit", 512, 262144], ["monitor", 1, "stock", False]]


def test_a_second_welcome_changes_nothing() -> None:
    hand = Hand.live()
    hand.welcome("b3.1", 5, 5)
    assert (hand.heard(), hand.sent()) == ([], [])


def test_casts_said_before_any_broker_was_there_are_sent_in_order() -> None:
    hand = Hand()
    for body in (b"1", b"2", b"3"):
        hand.end.cast(FEED, body)
    assert hand.sent() == []
    hand.end.connected("b3.1", 0)
    hand.sent()
    hand.welcome()
    assert hand.frames() == [("CAST", 1, [b"1", b"2", b"3"])]


def test_calls_that_were_sent_fail_with_broker_lost_maybe_and_the_others_wait() -> None:
    hand = Hand.live(messages=1)
    sent = hand.end.call(FEED, b"sent", 50 * MS, 0)
    kept = hand.end.call(FEED, b"kept", 50 * MS, 0)
    assert hand.frames() == [("CALL", 1, [b"sent"])]
    hand.end.lost(0)
    assert hand.heard() == [CallFailed(sent, "broker_lost", "maybe", "the broker died during the call"), Lost()]
    hand.end.connected("b3.2", 0)
    hand.sent()
    hand.welcome("b3.2")
    assert hand.frames() == [("CALL", 1, [b"kept"])]
    hand.give(Kind.REPLY, 0, (kept, Status.OK, b"value"))
    assert hand.heard() == [Welcomed("b3.2"), Replied(kept, Status.OK, b"value")]


def test_a_reply_that_came_before_the_loss_is_the_outcome() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 50 * MS, 0)
    hand.sent()
    hand.give(Kind.REPLY, 0, (request, Status.OK, b"value"))
    hand.end.lost(0)
    assert hand.heard() == [Replied(request, Status.OK, b"value"), Lost()]


def test_a_call_whose_deadline_has_passed_at_the_loss_timed_out() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 50 * MS, 0)
    hand.sent()
    hand.end.lost(50 * MS)
    assert hand.heard() == [CallFailed(request, "timeout", "maybe", "no reply within the deadline"), Lost()]


def test_confirmed_casts_that_were_sent_are_rejected_with_broker_lost_and_the_others_wait() -> None:
    hand = Hand.live(messages=1)
    sent = hand.end.cast(FEED, b"sent", confirm=True)
    kept = hand.end.cast(FEED, b"kept", confirm=True)
    hand.sent()
    hand.end.lost(0)
    assert hand.heard() == [CastRejected(sent, "broker_lost", "feed"), Lost()]
    hand.end.connected("b3.2", 0)
    hand.sent()
    hand.welcome("b3.2")
    hand.heard()
    assert hand.frames() == [("CAST", 1, [b"kept"])]
    hand.end.lost(0)
    assert hand.heard() == [CastRejected(kept, "broker_lost", "feed"), Lost()]


def test_a_question_that_was_sent_fails_with_broker_lost_and_one_that_was_not_is_asked_again() -> None:
    hand = Hand.live()
    sent = hand.end.ask("whereis", "feed")
    hand.sent()
    kept = hand.end.ask("whereis", "stock")
    hand.end.lost(0)
    why = "the broker died before it answered 'whereis'; whether it was done is not known"
    assert hand.heard() == [Answered(sent, False, ("broker_lost", why)), Lost()]
    hand.end.connected("b3.2", 0)
    hand.sent()
    hand.welcome("b3.2")
    hand.heard()
    assert hand.said() == [["credit", 512, 262144], ["ask", kept, "whereis", "stock"]]
    hand.say(["answer", kept, None])
    assert hand.heard() == [Answered(kept, True, None)]


def test_a_new_broker_is_told_all_that_stands() -> None:
    hand = Hand.live()
    watched = hand.end.monitor("feed")
    followed = hand.end.monitor("stock", follow=True)
    gone = hand.end.monitor("gone")
    hand.end.demonitor(gone)
    hand.end.link("peer")
    hand.end.link("new")
    hand.end.trap(True)
    topic = hand.end.subscribe("orders.*")
    hand.end.join("all")
    hand.end.join("left")
    hand.end.leave("left")
    key = hand.end.ask("register", "printer", {"dpi": 600})
    hand.sent()
    hand.say(["up", watched, "feed", 4], ["linked", "peer", 2], ["linked", "other", 9])
    hand.say(["answer", topic, 1], ["answer", key, True])
    hand.end.lost(0)
    hand.end.connected("b3.2", 0)
    (_, frame), _ = hand.sent()
    ((verb, told),) = commands(frame)
    assert verb == "hello"
    assert {key: told[key] for key in ("monitors", "links", "trap", "topics", "groups", "keys")} == {
        "monitors": [[watched, "feed", inc(4), False], [followed, "stock", None, True]],
        "links": [["peer", inc(2)], ["new", None], ["other", inc(9)]],
        "trap": True,
        "topics": [[topic, "orders.*"]],
        "groups": ["all"],
        "keys": [["printer", {"dpi": 600}]],
    }


def test_what_a_hello_restores_is_not_said_again_after_the_welcome() -> None:
    hand = Hand()
    hand.end.monitor("feed")
    hand.end.link("peer")
    hand.end.join("all")
    hand.connect()
    assert hand.sent() == []


def test_a_subscription_without_an_answer_is_made_again_and_answered_once() -> None:
    hand = Hand.live()
    ref = hand.end.subscribe("orders.*")
    hand.sent()
    hand.end.lost(0)
    hand.end.connected("b3.2", 0)
    ((_, frame), _) = hand.sent()
    assert next(commands(frame))[1]["topics"] == []
    hand.welcome("b3.2")
    assert hand.said() == [["credit", 512, 262144], ["subscribe", ref, "orders.*"]]
    hand.say(["answer", ref, 7])
    hand.say(["answer", ref, 7])
    assert hand.heard() == [Lost(), Welcomed("b3.2"), Answered(ref, True, 7)]


def test_handles_are_bound_again_for_a_new_broker() -> None:
    hand = Hand.live()
    hand.end.cast(STOCK, b"1")
    hand.end.cast(FEED, b"1")
    hand.sent()
    hand.end.lost(0)
    hand.connect("b3.2")
    hand.end.cast(FEED, b"2")
    assert hand.said() == [["bind", 1, "name", "feed", ""]]


def test_a_reply_to_a_call_of_an_earlier_broker_is_dropped_and_counted() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CALL, 9, (5, 0, b"?"))
    (old,) = hand.heard()
    hand.end.lost(0)
    hand.heard()
    hand.connect("b3.2")
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CALL, 9, (5, 0, b"?"))
    (new,) = hand.heard()
    assert isinstance(old, Delivered) and isinstance(new, Delivered)
    assert old.call is not None and new.call is not None
    hand.end.reply(old.call, Status.OK, b"old")
    hand.end.reply(new.call, Status.OK, b"new")
    assert (hand.frames(), hand.end.outdated) == ([("REPLY", 0, [b"new"])], 1)


def test_sources_named_by_an_earlier_broker_are_unknown_to_the_next() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.end.lost(0)
    hand.connect("b3.2")
    hand.give(Kind.CAST, 9, (1, 0, b"x"))
    assert (hand.heard(), hand.end.malformed) == ([], 1)


def test_what_an_old_broker_delivered_takes_up_its_part_of_the_new_window() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, *[(1, 0, b"x" * 84)] * 10)
    hand.end.handled(2, 168)
    hand.end.lost(0)
    hand.end.connected("b3.2", 0)
    hand.sent()
    hand.welcome("b3.2")
    assert hand.said() == [["credit", 512 - 8, 262144 - 800]]
    hand.end.handled(8, 8 * 84)
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, *[(1, 0, b"x" * 84)] * 128)
    hand.end.handled(128, 128 * 84)
    assert hand.said() == [["credit", 512 + 128, 262144 + 12800]]


def test_a_mailbox_that_is_over_the_window_gives_a_new_broker_no_credit_until_it_is_worked_off() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, (1, 0, b"x" * 400_000))
    hand.end.lost(0)
    hand.end.connected("b3.2", 0)
    hand.sent()
    hand.welcome("b3.2")
    assert hand.said() == [["credit", 511, 0]]
    hand.end.handled(1, 400_000)
    assert hand.said() == [["credit", 512, 262144]]


def test_connected_without_a_word_of_loss_is_a_loss_as_well() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 50 * MS, 0)
    hand.sent()
    hand.end.connected("b3.2", 0)
    assert hand.heard() == [CallFailed(request, "broker_lost", "maybe", "the broker died during the call"), Lost()]
    assert [parse(frame).kind.name for _, frame in hand.sent()] == ["SYSTEM", "SYSTEM"]


def test_stale_ends_everything_and_each_call_has_its_outcome() -> None:
    hand = Hand.live(messages=1)
    sent = hand.end.call(FEED, b"sent", 50 * MS, 0)
    kept = hand.end.call(FEED, b"kept", 50 * MS, 0)
    question = hand.end.ask("whereis", "feed")
    hand.sent()
    hand.say(["stale", "generation 2 has taken over"])
    why = "generation 2 has taken over"
    assert hand.heard() == [
        CallFailed(sent, "stale", "maybe", why),
        CallFailed(kept, "stale", "no", why),
        Answered(question, False, ("stale", why)),
        Fenced(why),
    ]
    hand.end.cast(FEED, b"x")
    hand.end.connected("b3.2", 0)
    hand.say(["down", 1, "feed", 1, "killed"])
    assert (hand.sent(), hand.heard(), hand.end.phase) == ([], [], Phase.FENCED)


def test_frames_that_come_without_a_broker_mean_nothing() -> None:
    hand = Hand()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.welcome()
    assert (hand.heard(), hand.end.phase) == ([], Phase.OFFLINE)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"x" * 15,
        b"\x02" + b"\0" * 15,
        b"\x01\x02\x01\x00" + b"\0" * 4 + b"\x10" + b"\0" * 7,
        b"\x01\x09\x00\x00" + b"\0" * 4 + b"\x10" + b"\0" * 7,
        b"\x01\x01\x01\x00" + b"\0" * 4 + b"\x21\0\0\0" + b"\0" * 4 + b"\x01" + b"\0" * 15 + b"\xc1",
    ],
    ids=["empty", "short", "version", "count", "kind", "no msgpack"],
)
def test_a_malformed_frame_is_dropped_and_counted(frame: bytes) -> None:
    hand = Hand.live()
    for lane in Lane:
        hand.end.received(lane, frame, 0)
    assert (hand.heard(), hand.sent(), hand.end.malformed) == ([], [], 2)


@pytest.mark.parametrize("word", [["down", "one"], ["failed", 1], ["welcome", {}], ["name"], ["no such verb"]])
def test_a_word_that_can_not_be_read_is_dropped_and_counted(word: list[object]) -> None:
    hand = Hand.live()
    hand.say(word)
    assert (hand.heard(), hand.sent(), hand.end.malformed) == ([], [], 1)


def test_deliveries_that_can_not_be_read_are_dropped_and_give_their_credit_back() -> None:
    hand = Hand.live()
    for _ in range(128):
        hand.give(Kind.CAST, 99, (1, 0, b"x"))
    assert (hand.heard(), hand.end.malformed) == ([], 128)
    assert hand.said() == [["credit", 512 + 128, 262144 + 128 * 17]]
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    for _ in range(64):
        hand.give(Kind.EVENT, 9, (1, 0, b"\xff\xffx"), flags=Flag.KEYED)
        hand.give(Kind.EVENT, 9, (1, 0, keyed("topic", b"x")))
    assert (hand.heard(), hand.end.malformed) == ([], 256)
    assert [word[:2] for word in hand.said()] == [["credit", 512 + 256]]


def test_bye_comes_after_all_that_was_said_on_the_data_lane() -> None:
    hand = Hand.live(messages=1)
    hand.end.cast(FEED, b"1")
    hand.end.cast(FEED, b"2")
    hand.end.bye()
    assert [parse(frame).kind.name for _, frame in hand.sent()] == ["SYSTEM", "CAST"]
    hand.say(["credit", 2, 1000])
    (lane, cast), (last, bye) = hand.sent()
    assert (lane, last, list(commands(bye))) == (Lane.DATA, Lane.DATA, [["bye"]])
    assert parse(cast).kind is Kind.CAST


def test_a_down_that_happened_before_the_loss_is_heard_once() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed")
    hand.sent()
    hand.say(["down", ref, "feed", 4, "killed"])
    hand.end.lost(0)
    hand.end.connected("b3.2", 0)
    (_, frame), _ = hand.sent()
    assert next(commands(frame))[1]["monitors"] == []
    hand.welcome("b3.2")
    hand.say(["down", ref, "feed", 4, "killed"])
    expected: list[Happening] = [Down(ref, "feed", 4, "killed"), Lost(), Welcomed("b3.2")]
    assert hand.heard() == expected
