"""What an endpoint does with casts, calls, events and replies: order, batches, credit, deadlines, outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpd.ipc.endpoint import Address
from otpd.ipc.errors import TooLarge
from otpd.ipc.frames import FrameError
from otpd.ipc.happenings import (
    CallCancelled,
    CallFailed,
    CastAccepted,
    CastRejected,
    Delivered,
    EventReceived,
    Replied,
)
from otpd.ipc.outbox import MAX_HANDLES
from otpd.ipc.wire import MAX_BODY, Flag, Kind, Lane, Status, commands, keyed, messages, parse
from tests.ipc.hand import MS, Hand

FEED, STOCK = Address("feed"), Address("stock")


# --- handles ---


def test_a_handle_is_bound_right_before_its_first_frame_and_only_then() -> None:
    hand = Hand.live()
    hand.end.cast(FEED, b"1")
    hand.end.cast(Address("all", "group", "round_robin"), b"2")
    (_, bind_feed), (_, feed), (_, bind_all), (_, group) = hand.sent()
    assert list(commands(bind_feed)) == [["bind", 1, "name", "feed", ""]]
    assert list(commands(bind_all)) == [["bind", 2, "group", "all", "round_robin"]]
    assert (parse(feed).peer, parse(group).peer) == (1, 2)
    hand.end.cast(FEED, b"3")
    assert [parse(frame).kind for _, frame in hand.sent()] == [Kind.CAST]


def test_a_group_with_another_policy_is_another_destination() -> None:
    hand = Hand.live()
    hand.end.cast(Address("all", "group", "any"), b"1")
    hand.end.cast(Address("all", "group", "all"), b"2")
    assert hand.frames() == [("CAST", 1, [b"1"]), ("CAST", 2, [b"2"])]


def test_the_handle_bound_longest_ago_is_bound_anew_when_all_are_in_use() -> None:
    hand = Hand.live()
    for number in range(MAX_HANDLES):
        hand.end.cast(Address(f"n{number}"), b"")
    hand.sent()
    hand.end.cast(FEED, b"")
    hand.end.cast(Address("n0"), b"")
    hand.end.cast(Address("n2"), b"")
    assert hand.said() == [["bind", 1, "name", "feed", ""], ["bind", 2, "name", "n0", ""]]


# --- order and batches ---


def test_messages_to_one_destination_keep_their_order_across_casts_and_calls() -> None:
    hand = Hand.live()
    for number in range(3):
        hand.end.cast(FEED, b"cast %d" % number)
        hand.end.cast(STOCK, b"other")
        hand.end.call(FEED, b"call %d" % number, 0, 0)
    to_feed = [(kind, bodies) for kind, peer, bodies in hand.frames() if peer == 1]
    assert to_feed == [
        ("CAST", [b"cast 0"]),
        ("CALL", [b"call 0"]),
        ("CAST", [b"cast 1"]),
        ("CALL", [b"call 1"]),
        ("CAST", [b"cast 2"]),
        ("CALL", [b"call 2"]),
    ]


def test_one_flush_makes_one_frame_per_destination() -> None:
    hand = Hand.live()
    for number in range(6):
        hand.end.cast((FEED, STOCK)[number % 2], b"%d" % number)
    assert hand.frames() == [("CAST", 1, [b"0", b"2", b"4"]), ("CAST", 2, [b"1", b"3", b"5"])]


def test_a_batch_ends_at_128_messages() -> None:
    hand = Hand.live()
    for number in range(300):
        hand.end.cast(FEED, b"%d" % number)
    assert [len(bodies) for _, _, bodies in hand.frames()] == [128, 128, 44]


def test_a_batch_ends_at_64_kib_and_a_larger_message_travels_alone_in_its_place() -> None:
    hand = Hand.live()
    for size in (30_000, 30_000, 30_000, 70_000, 1, 2):
        hand.end.cast(FEED, b"x" * size)
    sizes = [[len(body) for body in bodies] for _, _, bodies in hand.frames()]
    assert sizes == [[30_000, 30_000], [30_000], [70_000], [1, 2]]


def test_pending_says_when_a_batch_is_full_and_nothing_keeps_it_back() -> None:
    hand = Hand.live(messages=1)
    seen = []
    for _ in range(128):
        seen.append(hand.end.pending)
        hand.end.cast(FEED, b"x")
    assert (any(seen), hand.end.pending) == (False, True)
    hand.sent()
    assert not hand.end.pending
    hand.say(["credit", 200, 10**6])
    assert hand.end.pending


def test_a_command_keeps_its_place_among_the_messages() -> None:
    hand = Hand.live()
    hand.end.publish("a", b"before")
    hand.end.cast(FEED, b"before")
    hand.end.subscribe("a")
    hand.end.publish("a", b"after")
    kinds = [parse(frame).kind.name for _, frame in hand.sent()]
    assert kinds == ["EVENT", "SYSTEM", "CAST", "SYSTEM", "EVENT"]


def test_everything_but_replies_commands_and_hellos_is_on_the_data_lane() -> None:
    hand = Hand.live()
    hand.end.cast(FEED, b"1")
    hand.end.call(FEED, b"2", 0, 0)
    hand.end.publish("a", b"3")
    hand.end.join("all")
    hand.end.monitor("feed")
    lanes = [(lane.value, parse(frame).kind.name) for lane, frame in hand.sent()]
    assert lanes == [("s", "SYSTEM"), ("d", "SYSTEM"), ("d", "CAST"), ("d", "CALL"), ("d", "EVENT"), ("d", "SYSTEM")]


# --- bodies ---


@pytest.mark.parametrize("key", [None, "k"])
def test_a_body_over_16_mib_raises_before_anything_is_queued(key: str | None) -> None:
    hand = Hand.live()
    body = b"x" * (MAX_BODY + 1)
    to = Address("feed", key=key)
    with pytest.raises(TooLarge, match="cast to feed: expected a message of at most 16777216 bytes"):
        hand.end.cast(to, body, confirm=True)
    with pytest.raises(TooLarge, match="call to feed: expected"):
        hand.end.call(to, body, 5, 0)
    with pytest.raises(TooLarge, match="event topic: expected"):
        hand.end.publish("topic", body[1:])
    with pytest.raises(TooLarge, match="reply: expected"):
        hand.end.reply(1, Status.OK, body)
    with pytest.raises(TooLarge, match="ask register: expected"):
        hand.end.ask("register", "key", body)
    assert (hand.sent(), hand.heard(), hand.end.expire(10)) == ([], [], None)
    hand.end.lost(0)
    assert len(hand.heard()) == 1


def test_a_body_of_exactly_16_mib_is_sent() -> None:
    hand = Hand.live()
    hand.end.cast(FEED, b"x" * MAX_BODY)
    assert [len(bodies[0]) for _, _, bodies in hand.frames()] == [MAX_BODY]


def test_a_topic_over_1024_bytes_raises_before_anything_is_queued() -> None:
    hand = Hand.live()
    with pytest.raises(FrameError, match="expected a key of at most 1024 bytes, got 1025"):
        hand.end.publish("t" * 1025, b"")
    assert hand.sent() == []


def test_events_and_messages_by_hash_carry_their_key() -> None:
    hand = Hand.live()
    hand.end.publish("orders.new", b"1")
    hand.end.publish("orders.gone", b"2")
    hand.end.cast(Address("workers", "group", "hash", "customer 7"), b"3")
    hand.end.cast(Address("workers", "group", "hash", "customer 8"), b"4")
    frames = [frame for _, frame in hand.sent() if parse(frame).kind is not Kind.SYSTEM]
    assert [(parse(frame).peer, parse(frame).flags) for frame in frames] == [(0, Flag.KEYED), (1, Flag.KEYED)]
    assert [[bytes(body) for _, _, body in messages(frame)] for frame in frames] == [
        [keyed("orders.new", b"1"), keyed("orders.gone", b"2")],
        [keyed("customer 7", b"3"), keyed("customer 8", b"4")],
    ]


def test_confirmed_casts_are_frames_of_their_own_in_the_same_order() -> None:
    hand = Hand.live()
    hand.end.cast(FEED, b"1")
    number = hand.end.cast(FEED, b"2", confirm=True)
    hand.end.cast(FEED, b"3")
    frames = [frame for _, frame in hand.sent() if parse(frame).kind is Kind.CAST]
    assert [parse(frame).flags for frame in frames] == [Flag.NONE, Flag.CONFIRM, Flag.NONE]
    hand.say(["accepted", number], ["accepted", number])
    assert hand.heard() == [CastAccepted(number)]


def test_a_rejected_cast_is_named_by_its_number() -> None:
    hand = Hand.live()
    number = hand.end.cast(FEED, b"1")
    hand.sent()
    hand.say(["rejected", number, "overloaded", "feed"])
    assert hand.heard() == [CastRejected(number, "overloaded", "feed")]


# --- credit towards the broker ---


def test_no_more_messages_are_sent_than_credit_was_given_for() -> None:
    hand = Hand.live(messages=3)
    for number in range(5):
        hand.end.cast(FEED, b"%d" % number)
    assert hand.frames() == [("CAST", 1, [b"0", b"1", b"2"])]
    assert (hand.frames(), hand.end.unsent) == ([], 2)
    hand.say(["credit", 4, 10**6])
    assert (hand.frames(), hand.end.unsent) == ([("CAST", 1, [b"3"])], 1)


def test_no_more_bytes_are_sent_than_credit_was_given_for_but_those_of_the_last() -> None:
    hand = Hand.live(size=100)
    for number in range(3):
        hand.end.cast(FEED, b"%d" % number * 44)  # 60 with the header
    assert [len(bodies) for _, _, bodies in hand.frames()] == [2]
    hand.say(["credit", 100, 120])
    assert hand.frames() == []
    hand.say(["credit", 100, 121])
    assert [len(bodies) for _, _, bodies in hand.frames()] == [1]


def test_a_message_larger_than_any_window_is_sent_when_there_is_credit_at_all() -> None:
    hand = Hand.live(size=1)
    hand.end.cast(FEED, b"x" * 1_000_000)
    assert [len(bodies[0]) for _, _, bodies in hand.frames()] == [1_000_000]


def test_an_old_word_about_credit_takes_nothing_away() -> None:
    hand = Hand.live(messages=3)
    hand.say(["credit", 1, 1])
    hand.end.cast(FEED, b"1")
    hand.end.cast(FEED, b"2")
    assert hand.frames() == [("CAST", 1, [b"1", b"2"])]


def test_messages_gather_in_batches_while_credit_is_missing() -> None:
    hand = Hand.live(messages=0)
    for number in range(10):
        hand.end.cast(FEED, b"%d" % number)
        assert hand.sent() == []
    hand.say(["credit", 100, 10**6])
    assert [len(bodies) for _, _, bodies in hand.frames()] == [10]


def test_commands_and_replies_need_no_credit() -> None:
    hand = Hand.live(messages=0)
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    hand.give(Kind.CALL, 9, (5, 0, b"?"), (6, 0, b"?"))
    small, large = hand.heard()
    assert isinstance(small, Delivered) and isinstance(large, Delivered)
    assert small.call is not None and large.call is not None
    hand.end.cast(FEED, b"waits")
    hand.end.reply(small.call, Status.OK, b"small")
    hand.end.reply(large.call, Status.RAISED, b"x" * 65_537)
    hand.end.monitor("feed")
    found = [(lane.value, parse(frame).kind.name) for lane, frame in hand.sent()]
    assert found == [("s", "SYSTEM"), ("s", "REPLY"), ("d", "REPLY")]


def test_replies_leave_in_batches_as_well() -> None:
    hand = Hand.live()
    epoch = 0
    for size in [10] * 300 + [30_000] * 3:
        hand.end.reply(epoch, Status.OK, b"x" * size)
    assert hand.end.pending
    assert [len(bodies) for _, _, bodies in hand.frames()] == [128, 128, 46, 1]
    assert not hand.end.pending


def test_room_ends_at_1024_messages_or_1_mib_that_wait() -> None:
    hand = Hand.live(messages=0)
    for _ in range(1023):
        hand.end.cast(FEED, b"")
    assert hand.end.room
    hand.end.cast(FEED, b"")
    assert not hand.end.room
    hand.say(["credit", 1, 10**6])
    hand.sent()
    assert hand.end.room
    hand.end.cast(FEED, b"x" * 1024 * 1024)
    assert not hand.end.room


# --- credit towards the receiver ---


def test_credit_is_renewed_at_a_quarter_of_the_window_in_messages() -> None:
    hand = Hand.live()
    hand.end.handled(127, 0)
    assert hand.said() == []
    hand.end.handled(1, 0)
    assert hand.said() == [["credit", 512 + 128, 262144 + 128 * 16]]
    hand.end.handled(127, 0)
    assert hand.said() == []


def test_credit_is_renewed_at_a_quarter_of_the_window_in_bytes() -> None:
    hand = Hand.live()
    hand.end.handled(1, 65_519)
    assert hand.said() == []
    hand.end.handled(1, 100)
    assert hand.said() == [["credit", 514, 262144 + 65_519 + 100 + 32]]


def test_the_key_of_an_event_is_handled_when_it_is_read() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 1], lane=Lane.DATA)
    for _ in range(128):
        hand.give(Kind.EVENT, 9, (1, 0, keyed("topic", b"body")), flags=Flag.KEYED)
        hand.end.handled(1, 4)
    assert hand.said() == [["credit", 512 + 128, 262144 + 128 * (16 + 2 + 5 + 4)]]


def test_settle_says_what_is_handled_before_the_end() -> None:
    hand = Hand.live()
    hand.end.handled(3, 30)
    hand.end.settle()
    assert hand.said() == [["credit", 515, 262144 + 78]]
    hand.end.settle()
    assert hand.said() == []  # the broker knows it


# --- what is delivered ---


def test_casts_calls_and_events_are_told_with_their_source_in_order() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 4], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, (1, 0, b"1"), (2, 0, b"2"))
    hand.give(Kind.CALL, 9, (5, 77, b"3"))
    hand.give(Kind.EVENT, 9, (3, 0, keyed("orders.new", b"4")), flags=Flag.KEYED)
    first, second, call, event = hand.heard()
    assert [first, second] == [Delivered("feed", 4, None, 0, b"1"), Delivered("feed", 4, None, 0, b"2")]
    assert isinstance(call, Delivered)
    assert (call.source, call.generation, call.deadline, call.body) == ("feed", 4, 77, b"3")
    assert call.call is not None and call.call & 0xFFFFFFFF == 5
    assert event == EventReceived("orders.new", "feed", 4, b"4")


def test_a_source_that_is_named_anew_is_another_one_from_then_on() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 4], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, (1, 0, b"1"))
    hand.say(["name", 9, "stock", 2], lane=Lane.DATA)
    hand.give(Kind.CAST, 9, (1, 0, b"2"))
    assert hand.heard() == [Delivered("feed", 4, None, 0, b"1"), Delivered("stock", 2, None, 0, b"2")]


def test_what_the_broker_itself_publishes_needs_no_name() -> None:
    hand = Hand.live()
    hand.give(Kind.EVENT, 0, (1, 0, keyed("otpd.group.all", b"x")), flags=Flag.KEYED)
    assert hand.heard() == [EventReceived("otpd.group.all", "broker", 0, b"x")]


def test_a_frame_whose_last_message_is_cut_off_delivers_nothing() -> None:
    hand = Hand.live()
    hand.say(["name", 9, "feed", 4], lane=Lane.DATA)
    whole = b"\x02\0\0\0" + b"\x01\0\0\0" + b"\0" * 8 + b"ab"
    broken = b"\x09\0\0\0" + b"\x02\0\0\0" + b"\0" * 8 + b"ab"
    size = (16 + len(whole) + len(broken)).to_bytes(4, "little")
    hand.end.received(Lane.DATA, b"\x01\x02\x02\0" + b"\x09\0\0\0" + size + b"\0" * 4 + whole + broken, 0)
    assert (hand.heard(), hand.end.malformed) == ([], 1)


def test_a_cancelled_call_is_named_by_the_number_it_was_delivered_with() -> None:
    hand = Hand.live()
    hand.end.lost(0)
    hand.heard()
    hand.connect("b3.2")
    hand.say(["name", 9, "feed", 4], lane=Lane.DATA)
    hand.give(Kind.CALL, 9, (5, 77, b"3"))
    (call,) = hand.heard()
    assert isinstance(call, Delivered) and call.call is not None
    hand.say(["cancel", 5], ["cancel", 5, "down"])
    assert hand.heard() == [CallCancelled(call.call), CallCancelled(call.call, is_dead=True)]


# --- calls ---


def test_a_call_has_the_outcome_that_the_broker_or_the_callee_says() -> None:
    hand = Hand.live()
    first, second, third = (hand.end.call(FEED, b"?", 50, 0) for _ in range(3))
    hand.sent()
    hand.say(["failed", second, "down", "maybe", "killed"])
    hand.give(Kind.REPLY, 0, (third, Status.REJECTED, b"no"), (first, Status.RAISED, b"boom"))
    assert hand.heard() == [
        CallFailed(second, "down", "maybe", "killed"),
        Replied(third, Status.REJECTED, b"no"),
        Replied(first, Status.RAISED, b"boom"),
    ]


def test_a_second_outcome_is_dropped_and_counted() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 50, 0)
    hand.sent()
    assert hand.end.expire(50) is None
    hand.give(Kind.REPLY, 0, (request, Status.OK, b"late"))
    hand.say(["failed", request, "timeout", "maybe", ""])
    assert hand.heard() == [CallFailed(request, "timeout", "maybe", "no reply within the deadline")]
    assert hand.end.late == 2


def test_expire_fails_what_is_due_and_says_what_is_next() -> None:
    hand = Hand.live()
    slow, fast, never = (hand.end.call(FEED, b"?", deadline, 0) for deadline in (90, 40, 0))
    hand.sent()
    assert hand.end.expire(39) == 40
    assert hand.heard() == []
    assert hand.end.expire(40) == 90
    assert hand.heard() == [CallFailed(fast, "timeout", "maybe", "no reply within the deadline")]
    hand.give(Kind.REPLY, 0, (slow, Status.OK, b""), (never, Status.OK, b""))
    assert hand.end.expire(41) is None


def test_a_call_that_expires_before_it_is_sent_is_never_sent() -> None:
    hand = Hand.live(messages=1)
    hand.end.cast(FEED, b"first")
    late = hand.end.call(FEED, b"late", 40, 0)
    soon = hand.end.call(FEED, b"soon", 90, 0)
    hand.sent()
    hand.end.expire(40)
    assert hand.heard() == [CallFailed(late, "expired", "no", "the deadline passed before it was sent")]
    hand.say(["credit", 100, 10**6])
    assert hand.frames() == [("CALL", 1, [b"soon"])]
    hand.give(Kind.REPLY, 0, (soon, Status.OK, b""))
    assert hand.heard() == [Replied(soon, Status.OK, b"")]


def test_deadline_and_request_travel_in_the_header() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 123 * MS, 0)
    ((_, _), (_, frame)) = hand.sent()
    assert [(number, mark) for number, mark, _ in messages(frame)] == [(request, 123 * MS)]


def test_a_cancelled_call_is_never_heard_of_again() -> None:
    hand = Hand.live(messages=2)
    sent, answered, waiting = (hand.end.call(FEED, b"?", 50, 0) for _ in range(3))
    hand.sent()
    hand.give(Kind.REPLY, 0, (answered, Status.OK, b""))
    for request in (sent, answered, waiting):
        hand.end.cancel(request)
    assert hand.said() == [["cancel", sent]]
    hand.give(Kind.REPLY, 0, (sent, Status.OK, b"late"))
    hand.say(["credit", 100, 10**6])
    hand.end.expire(1000)
    hand.end.lost(1000)
    assert (hand.sent(), len(hand.heard()), hand.end.late) == ([], 1, 1)


def test_a_call_to_oneself_fails_at_once_and_is_not_sent() -> None:
    hand = Hand.live()
    request = hand.end.call(Address("me"), b"?", 50, 0)
    assert hand.heard() == [CallFailed(request, "deadlock", "no", "me called itself and would wait for ever")]
    assert (hand.sent(), hand.end.expire(100)) == ([], None)


def test_a_request_id_in_use_is_not_used_again_after_four_billion() -> None:
    hand = Hand.live()
    first = hand.end.call(FEED, b"?", 0, 0)
    hand.end._number = 0xFFFFFFFF
    hand.end.cast(FEED, b"")
    assert hand.end.call(FEED, b"?", 0, 0) == first + 1
    assert first == 1


def test_a_reply_with_a_status_that_is_none_is_dropped_and_counted() -> None:
    hand = Hand.live()
    request = hand.end.call(FEED, b"?", 50, 0)
    hand.sent()
    hand.give(Kind.REPLY, 0, (request, 3, b"?"))
    assert (hand.heard(), hand.end.malformed, hand.end.expire(0)) == ([], 1, 50)


def test_deadlines_of_calls_that_have_ended_are_swept() -> None:
    hand = Hand.live()
    for _ in range(2000):
        request = hand.end.call(FEED, b"?", 10**9, 0)
        hand.give(Kind.REPLY, 0, (request, Status.OK, b""))
    assert len(hand.end._calls._deadlines) < 600


# --- all together ---

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("cast"), st.integers(0, 2), st.sampled_from([0, 10, 1000, 40_000, 70_000])),
        st.tuples(st.just("call"), st.integers(0, 2), st.sampled_from([0, 10, 1000])),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("credit"), st.integers(0, 50), st.integers(0, 100_000)),
        st.tuples(st.just("lost"), st.just(0), st.just(0)),
        st.tuples(st.just("expire"), st.integers(1, 60), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(OPERATIONS)
def test_whatever_happens_order_holds_credit_holds_and_every_call_has_one_outcome(
    operations: list[tuple[str, int, int]],
) -> None:
    run = Run()
    for operation, first, second in operations:
        getattr(run, operation)(first, second)
    run.finish()
    for sent in run.sent.values():
        assert sent == sorted(sent)
    assert sorted(run.outcomes) == sorted(run.calls)
    assert run.casts == {number for sent in run.sent.values() for number in sent if number in run.casts}


class Run:
    """Messages are numbered in the order in which they are said, and the number leads the body."""

    def __init__(self) -> None:
        self.hand = Hand.live(messages=5, size=5000)
        self.now, self.said, self.epoch = 0, 0, 1
        self.may, self.used = [5, 5000], [0, 0]
        self.casts: set[int] = set()
        self.calls: list[int] = []
        self.outcomes: list[int] = []
        self.sent: dict[str, list[int]] = {}
        self.handles: dict[int, str] = {}

    def cast(self, to: int, size: int) -> None:
        self.casts.add(self.said)
        self.hand.end.cast(Address(f"n{to}"), self._body(size))

    def call(self, to: int, size: int) -> None:
        deadline = self.now + 20
        self.calls.append(self.hand.end.call(Address(f"n{to}"), self._body(size), deadline, self.now))

    def _body(self, size: int) -> bytes:
        self.said += 1
        return (self.said - 1).to_bytes(4, "big") + b"x" * size

    def flush(self, *_: int) -> None:
        for _, frame in self.hand.sent():
            head = parse(frame)
            if head.kind is Kind.SYSTEM:
                for command in commands(frame):
                    if command[0] == "bind":
                        self.handles[command[1]] = command[3]
                continue
            assert head.messages <= 128 and (head.messages == 1 or head.length <= 65_536 + 16)
            for _, _, body in messages(frame):
                assert self.used[0] < self.may[0] and self.used[1] < self.may[1], "sent without credit"
                self.used = [self.used[0] + 1, self.used[1] + 16 + len(body)]
                self.sent.setdefault(self.handles[head.peer], []).append(int.from_bytes(body[:4], "big"))

    def credit(self, messages_more: int, bytes_more: int) -> None:
        self.may = [self.may[0] + messages_more, self.may[1] + bytes_more]
        self.hand.say(["credit", *self.may])

    def lost(self, *_: int) -> None:
        self.epoch += 1
        self.may, self.used = [5, 5000], [0, 0]
        self.hand.end.lost(self.now)
        self.hand.end.connected(f"b3.{self.epoch}", self.now)
        self.handles.clear()
        self.hand.sent()
        self.hand.welcome(f"b3.{self.epoch}", *self.may)
        self._hear()

    def expire(self, later: int, _: int) -> None:
        self.now += later
        self.hand.end.expire(self.now)
        self._hear()

    def _hear(self) -> None:
        for happening in self.hand.heard():
            if isinstance(happening, CallFailed):
                self.outcomes.append(happening.request)

    def finish(self) -> None:
        self.credit(10**6, 10**9)
        self.flush()
        self.expire(1000, 0)
