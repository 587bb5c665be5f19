"""What an endpoint has standing with the broker: monitors, links, subscriptions, groups, keys, questions."""

from __future__ import annotations

import pytest

from otpd.ipc.happenings import Answered, Down, Exit, Gap, Lost, Up, Welcomed
from otpd.ipc.wire import commands
from tests.ipc.hand import Hand, inc


def restored(hand: Hand, epoch: str = "b3.2") -> dict[str, object]:
    """What the endpoint says in the hello to a new broker, which welcomes it."""
    hand.end.lost(0)
    hand.end.connected(epoch, 0)
    (_, frame), _ = hand.sent()
    ((_, told),) = commands(frame)
    hand.welcome(epoch)
    assert isinstance(told, dict)
    return told


# --- monitors ---


def test_a_monitor_is_told_of_one_death() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed")
    assert hand.said() == [["monitor", ref, "feed", False]]
    hand.say(["up", ref, "feed", 4], ["down", ref, "feed", 4, "killed"], ["down", ref, "feed", 5, "killed"])
    assert hand.heard() == [Down(ref, "feed", 4, "killed")]


def test_each_monitor_of_one_name_is_told_by_itself() -> None:
    hand = Hand.live()
    first, second = hand.end.monitor("feed"), hand.end.monitor("feed")
    hand.say(["down", second, "feed", 4, "killed"], ["down", first, "feed", 4, "killed"])
    assert hand.heard() == [Down(second, "feed", 4, "killed"), Down(first, "feed", 4, "killed")]


def test_after_demonitor_nothing_is_heard_not_even_what_has_happened() -> None:
    hand = Hand.live()
    happened, coming, other = (hand.end.monitor("feed") for _ in range(3))
    hand.sent()
    hand.say(["down", other, "feed", 4, "killed"], ["down", happened, "feed", 4, "killed"])
    hand.end.demonitor(happened)
    hand.end.demonitor(coming)
    hand.say(["down", coming, "feed", 4, "killed"])
    assert hand.heard() == [Down(other, "feed", 4, "killed")]
    assert hand.said() == [["demonitor", coming]]


def test_a_monitor_that_follows_is_told_of_each_life_and_death_once() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed", follow=True)
    for generation in (4, 5):
        hand.say(["up", ref, "feed", generation], ["up", ref, "feed", generation])
        hand.say(["down", ref, "feed", generation, "killed"], ["down", ref, "feed", generation, "killed"])
    assert hand.heard() == [
        Up(ref, "feed", 4),
        Down(ref, "feed", 4, "killed"),
        Up(ref, "feed", 5),
        Down(ref, "feed", 5, "killed"),
    ]


LIVES = [[4, None], [4, "killed"], [5, None], [5, "normal"], [6, None], [6, "killed"]]


@pytest.mark.parametrize(
    ("first", "late"), [(2, 1), (3, 1), (3, 2), (4, 1), (5, 1), (5, 2), (5, 3), (5, 4)]
)
def test_words_that_the_data_lane_brought_before_older_ones_wait_for_them(first: int, late: int) -> None:
    """Invariant 17: a follower hears of each life and death once, in order, though the lanes are two. From the word `first`
    on all came by the data lane, and have overtaken so many `late` ones on the system lane."""
    words = [*LIVES[: first - late], *LIVES[first:], *LIVES[first - late : first]]
    hand = Hand.live()
    ref = hand.end.monitor("feed", follow=True)
    for generation, reason in words:
        hand.say(["down", ref, "feed", generation, reason] if reason else ["up", ref, "feed", generation])
    assert hand.heard() == [Down(ref, "feed", g, reason) if reason else Up(ref, "feed", g) for g, reason in LIVES]


def test_a_monitor_that_follows_hears_once_that_nobody_is_there_also_over_a_new_broker() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed", follow=True)
    hand.say(["down", ref, "feed", 0, "noproc"])
    assert restored(hand)["monitors"] == [[ref, "feed", None, True]]
    hand.say(["down", ref, "feed", 0, "noproc"], ["up", ref, "feed", 1])
    assert hand.heard() == [Down(ref, "feed", 0, "noproc"), Lost(), Welcomed("b3.2"), Up(ref, "feed", 1)]


def test_a_new_broker_that_restores_a_monitor_tells_nothing_new_of_the_same_life() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed", follow=True)
    hand.say(["up", ref, "feed", 4])
    assert restored(hand)["monitors"] == [[ref, "feed", inc(4), True]]
    hand.say(["up", ref, "feed", 4])
    assert hand.heard() == [Up(ref, "feed", 4), Lost(), Welcomed("b3.2")]


def test_a_death_while_there_was_no_broker_is_told_once() -> None:
    hand = Hand.live()
    ref = hand.end.monitor("feed")
    hand.say(["up", ref, "feed", 4])
    assert restored(hand)["monitors"] == [[ref, "feed", inc(4), False]]
    hand.say(["down", ref, "feed", 4, "killed"])
    assert hand.heard() == [Lost(), Welcomed("b3.2"), Down(ref, "feed", 4, "killed")]
    assert restored(hand, "b3.3")["monitors"] == []


def test_monitors_asked_for_without_a_broker_are_in_the_hello_and_those_given_up_are_not() -> None:
    hand = Hand()
    kept, given_up = hand.end.monitor("feed"), hand.end.monitor("stock")
    hand.end.demonitor(given_up)
    assert restored(hand)["monitors"] == [[kept, "feed", None, False]]


# --- links ---


def test_a_link_brings_one_exit_and_is_over_then() -> None:
    hand = Hand.live()
    hand.end.trap(True)
    hand.end.link("feed")
    assert hand.said() == [["trap", True], ["link", "feed"]]
    hand.say(["linked", "feed", 4], ["exit", "feed", 4, "killed"], ["exit", "feed", 4, "killed"])
    assert hand.heard() == [Exit("feed", 4, "killed")]
    assert restored(hand)["links"] == []


def test_a_link_to_nobody_brings_an_exit() -> None:
    hand = Hand.live()
    hand.end.link("nobody")
    hand.say(["exit", "nobody", 0, "noproc"])
    assert hand.heard() == [Exit("nobody", 0, "noproc")]


def test_a_link_that_the_other_side_made_is_restored_and_brings_its_exit() -> None:
    hand = Hand.live()
    hand.say(["linked", "feed", 4])
    assert restored(hand)["links"] == [["feed", inc(4)]]
    hand.say(["exit", "feed", 4, "killed"])
    assert hand.heard()[-1] == Exit("feed", 4, "killed")


def test_a_link_that_ended_in_silence_is_not_restored() -> None:
    hand = Hand.live()
    hand.end.link("feed")
    hand.say(["linked", "feed", 4], ["unlinked", "feed"])
    assert restored(hand)["links"] == []


def test_after_unlink_no_exit_is_heard_not_even_one_that_has_happened() -> None:
    hand = Hand.live()
    for name in ("happened", "coming"):
        hand.end.link(name)
        hand.say(["linked", name, 4])
    hand.say(["exit", "happened", 4, "killed"])
    hand.end.unlink("happened")
    hand.end.unlink("coming")
    hand.say(["exit", "coming", 4, "killed"])
    assert hand.heard() == []


# --- subscriptions, groups, keys, questions ---


def test_a_subscription_is_answered_with_its_revision_and_told_of_gaps() -> None:
    hand = Hand.live()
    ref = hand.end.subscribe("orders.*")
    assert hand.said() == [["subscribe", ref, "orders.*"]]
    hand.say(["answer", ref, 12], ["gap", ref, 5])
    assert hand.heard() == [Answered(ref, True, 12), Gap(ref, 5)]


def test_a_refused_subscription_does_not_stand() -> None:
    hand = Hand.live()
    ref = hand.end.subscribe("orders..x")
    hand.say(["refused", ref, "refused", "words are not empty"])
    assert hand.heard() == [Answered(ref, False, ("refused", "words are not empty"))]
    assert restored(hand)["topics"] == []


def test_an_unsubscribed_topic_is_not_restored_and_its_answer_not_heard() -> None:
    hand = Hand.live()
    answered, unanswered = hand.end.subscribe("a"), hand.end.subscribe("b")
    hand.say(["answer", answered, 1])
    hand.heard()
    hand.end.unsubscribe(answered)
    hand.end.unsubscribe(unanswered)
    hand.say(["answer", unanswered, 2])
    assert (hand.heard(), restored(hand)["topics"], hand.said()) == ([], [], [["credit", 512, 262144]])


def test_a_question_has_one_answer() -> None:
    hand = Hand.live()
    first, second = hand.end.ask("whereis", "feed"), hand.end.ask("lock", "printer")
    assert hand.said() == [["ask", first, "whereis", "feed"], ["ask", second, "lock", "printer"]]
    hand.say(["answer", second, True], ["refused", first, "refused", "why"], ["answer", first, None])
    assert hand.heard() == [Answered(second, True, True), Answered(first, False, ("refused", "why"))]
    assert hand.end.late == 1


def test_keys_stand_from_the_answer_with_their_last_value_until_they_are_given_up() -> None:
    hand = Hand.live()
    refs = [
        hand.end.ask("register", "held", 1),
        hand.end.ask("register", "taken", 1),
        hand.end.ask("register", "given up", 1),
        hand.end.ask("register", "unanswered", 1),
        hand.end.ask("update", "held", 2),
        hand.end.ask("replace", "held", 3, 7),
    ]
    hand.say(["answer", refs[0], True], ["refused", refs[1], "already_registered", "by feed"], ["answer", refs[2], True])
    hand.say(["answer", refs[4], 7], ["answer", refs[5], 8])
    hand.end.ask("unregister", "given up")
    assert restored(hand)["keys"] == [["held", 3]]


def test_groups_are_joined_in_the_order_of_the_data_lane_and_restored() -> None:
    hand = Hand.live()
    hand.end.join("a")
    hand.end.leave("a")
    hand.end.join("b")
    assert hand.said() == [["join", "a"], ["leave", "a"], ["join", "b"]]
    assert restored(hand)["groups"] == ["b"]
