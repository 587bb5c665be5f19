"""Publish and subscribe (statements F1-F3, F5)."""

from __future__ import annotations

import pytest

from otpd.ipc import limits, topics
from otpd.ipc.topics import TopicError, matches
from otpd.ipc.wire import Flag, Kind, Lane, join, keyed
from tests.ipc.switchboard import MS, Agent, Switchboard


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def seen(agent: Agent) -> list[bytes]:
    return [body for _, _, body in agent.published]


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


@pytest.mark.parametrize(
    ("pattern", "topic", "met"),
    [
        ("orders", "orders", True),
        ("orders", "orders.new", False),
        ("orders.new", "orders", False),
        ("*", "orders", True),
        ("*", "orders.new", False),
        ("orders.*", "orders.new", True),
        ("orders.*.cancelled", "orders.7.cancelled", True),
        ("orders.*.cancelled", "orders.cancelled", False),
        ("**", "orders", True),
        ("**", "orders.new.a.b", True),
        ("orders.**", "orders.new.a", True),
        ("orders.**", "orders", False),
        ("*.new.**", "orders.new.a.b", True),
        ("*.new.**", "orders.old.a.b", False),
        ("größe.*", "größe.ä", True),
    ],
)
def test_f1_star_is_one_word_and_two_stars_are_the_rest(pattern: str, topic: str, met: bool) -> None:
    assert matches(pattern, topic) is met


@pytest.mark.parametrize("pattern", ["", ".", "a.", ".a", "a..b", "**.a", "a.**.b", "a*", "*a.b", "***", ".".join("a" * 33)])
def test_f1_invalid_patterns_are_refused(board: Switchboard, pattern: str) -> None:
    (a,) = board.agents("a")
    a.say_data("subscribe", 1, pattern)
    assert a.answer(1) == ("refused",)
    with pytest.raises(TopicError, match="expected"):
        matches(pattern, "a")


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", "**", "a" * 1020 + ".aaaaa"])
def test_f1_invalid_topics_are_rejected_one_by_one(board: Switchboard, topic: str) -> None:
    a, b = board.agents("a", "b")
    b.say_data("subscribe", 1, "**")
    if len(topic) < 1024:
        a.publish(topic, b"1", b"2")
        assert a.heard("rejected") == [["rejected", 1, "refused", topic], ["rejected", 2, "refused", topic]]
    a.publish("good", b"3")
    assert seen(b) == [b"3"]


def test_f2_one_copy_per_subscriber_in_the_order_of_the_publisher(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    for ref, pattern in enumerate(["orders.*", "orders.**", "**", "orders.new", "orders.new"]):
        b.say_data("subscribe", ref, pattern)
    c.say_data("subscribe", 1, "other")
    a.publish("orders.new", *numbers(1, 3))
    a.publish("orders.old", b"4")
    assert b.published == [("a", "orders.new", body) for body in numbers(1, 3)] + [("a", "orders.old", b"4")]
    assert c.published == []


def test_f2_a_publisher_hears_itself_if_it_subscribed(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.say_data("subscribe", 1, "a")
    a.publish("a", b"1")
    assert a.published == [("a", "a", b"1")]


def test_f2_a_frame_may_hold_events_of_several_topics(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say_data("subscribe", 1, "y.*")
    order = ["x", "y.1", "y.1", "y.2", "x", "y.1"]
    batch = [(number, 0, keyed(topic, b"%d" % number)) for number, topic in enumerate(order)]
    a.send(Lane.DATA, join(Kind.EVENT, 0, batch, Flag.KEYED))
    assert b.published == [("a", "y.1", b"1"), ("a", "y.1", b"2"), ("a", "y.2", b"3"), ("a", "y.1", b"5")]


def test_f3_a_slow_subscriber_loses_its_oldest_and_sees_the_gap_where_they_were(board: Switchboard) -> None:
    a, slow = board.agent("a"), board.agent("slow", window=(100, 1024 * 1024))
    slow.say_data("subscribe", 9, "x")
    for first in range(1, 1501, 100):
        a.publish("x", *numbers(first, first + 99))
    assert seen(slow) == numbers(1, 100)
    for _ in range(30):
        slow.credit()
    assert seen(slow) == numbers(1, 100) + numbers(501, 1500)
    gap = slow.order.index(["gap", 9, 400])
    assert slow.order[gap - 1][2] == b"100" and slow.order[gap + 1][2] == b"501"
    assert next(row["missed"] for row in board.router.rows() if row["name"] == "slow") == 400
    assert board.router.memory == 0


def test_f3_the_queue_is_bounded_in_bytes(board: Switchboard) -> None:
    a, slow = board.agent("a"), board.agent("slow", window=(0, 0))
    slow.say_data("subscribe", 9, "x")
    for number in range(20):
        a.publish("x", b"%d" % number + b"." * 100_000)
    assert board.router.memory <= limits.EVENT_BYTES
    slow.window = (256, 1024 * 1024)
    slow.credit()
    slow.credit()
    assert slow.heard("gap") == [["gap", 9, 10]] and seen(slow)[0][:2] == b"10"


def test_f3_a_slow_subscriber_holds_up_neither_the_others_nor_the_publisher(board: Switchboard) -> None:
    a, slow, quick = board.agent("a"), board.agent("slow", window=(1, 1)), board.agent("quick")
    for subscriber in (slow, quick):
        subscriber.say_data("subscribe", 1, "x")
    for first in range(1, 5001, 100):
        a.publish("x", *numbers(first, first + 99))
        quick.credit()
    assert seen(quick) == numbers(1, 5000) and a.granted[0] >= 5000


def test_f3_when_the_brokers_memory_is_full_a_subscriber_misses_the_event_itself(board: Switchboard) -> None:
    board.router._table.memory.limit = 1000
    a, b, slow = board.agent("a"), board.agent("b"), board.agent("slow", window=(0, 0))
    slow.say_data("subscribe", 4, "x")
    board.death(b)
    a.cast("b", b"." * 900)
    a.publish("x", b"." * 100)
    slow.window = (10, 10_000)
    slow.credit()
    assert slow.published == [] and slow.heard("gap") == [["gap", 4, 1]]


def test_events_and_casts_share_the_credit_by_turns(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", window=(0, 0))
    b.say_data("subscribe", 1, "x")
    for number in numbers(1, 10):
        a.cast("b", number)
        a.publish("x", number)
    b.window = (10, 1000)
    b.credit()
    assert (len(b.casts()), len(b.published)) == (5, 5)


def test_events_for_a_subscriber_that_is_not_ready_wait(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", state="starting")
    b.say_data("subscribe", 1, "x")
    a.publish("x", b"1")
    assert b.published == []
    board.row(b)
    assert seen(b) == [b"1"]


def test_a_run_that_does_not_fit_is_taken_apart_for_a_small_window(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", window=(10, 1000))
    b.say_data("subscribe", 1, "x")
    a.publish("x", *numbers(1, 25))
    for expected in (10, 20, 25):
        assert seen(b) == numbers(1, expected)
        b.credit()


def test_what_the_broker_tells_itself_nobody_else_may_say(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say_data("subscribe", 1, "otpd.**")
    for topic in ("otpd.name.b", "otpd.group.g", "otpd.key.k"):
        a.publish(topic, b"forged")
    a.publish("otpd.emit.sold", b"own")
    assert seen(b) == [b"own"]
    assert [command[2:] for command in a.heard("rejected")] == [
        ["refused", "otpd.name.b"], ["refused", "otpd.group.g"], ["refused", "otpd.key.k"],
    ]  # fmt: skip


def test_f5_what_is_published_after_the_revision_is_matched(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.publish("x", b"before")
    b.say_data("subscribe", 1, "x")
    assert b.answer(1) == 1
    a.publish("x", b"after")
    b.say_data("subscribe", 2, "y")
    b.say_data("unsubscribe", 1)
    b.say_data("subscribe", 3, "z")
    a.publish("x", b"unsubscribed")
    assert (b.answer(2), b.answer(3)) == (2, 4) and seen(b) == [b"after"]


def test_a_ref_that_is_in_use_is_refused_and_subscriptions_are_bounded(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS", 2)
    (a,) = board.agents("a")
    for ref in (1, 1, 2, 3):
        a.say_data("subscribe", ref, "x")
    assert [command[:2] for command in a.heard("answer", "refused")] == [
        ["answer", 1],
        ["refused", 1],
        ["answer", 2],
        ["refused", 3],
    ]


def test_a_dead_subscribers_queue_is_thrown_away(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", window=(0, 0))
    b.say_data("subscribe", 1, "x")
    a.publish("x", b"1")
    new = board.reborn(b)
    assert new.published == [] and board.router.memory == 0
    a.publish("x", b"2")
    assert new.published == []


def test_a_hello_restores_subscriptions(board: Switchboard) -> None:
    (a,) = board.agents("a")
    b = board.born("b")
    board.row(b)
    b.hello(topics=[[5, "x.*"], [6, "bad..pattern"]])
    b.credit()
    a.publish("x.1", b"1")
    assert seen(b) == [b"1"] and [command[:3] for command in b.heard("answer", "refused")] == [["refused", 6, "refused"]]


def test_what_topics_met_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_REMEMBERED", 2)
    trie: topics.Trie[str] = topics.Trie()
    trie.add("a.*", "who")
    for _ in range(2):
        for word in "bcdef":
            assert trie.find(f"a.{word}") == ["who"]
    trie.remove("a.*", "who")
    assert trie.find("a.b") == [] and trie.empty


def test_the_grace_of_a_dead_publisher_still_delivers_what_it_wrote(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say_data("subscribe", 1, "x")
    board.death(a)
    a.publish("x", b"last")
    board.wait(20 * MS)
    assert seen(b) == [b"last"]
