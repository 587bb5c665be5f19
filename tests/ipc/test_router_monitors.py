"""Monitors: exactly one DOWN per incarnation (statements B3, B4, H1-H4; invariants 17-19)."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.ipc import limits
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard, inc_of

GRACE = 20 * MS


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def words(agent: Agent) -> list[list[Any]]:
    return agent.heard("up", "down")


def test_h1_a_death_is_told_once_per_ref(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for ref in (1, 2):
        a.say("monitor", ref, "b", False)
    board.death(b, "error(1)")
    board.wait(GRACE)
    board.death(b, "error(1)")
    board.reborn(board.agent("b", 2))
    board.wait(SECOND)
    assert a.heard("down") == [["down", 1, "b", 1, "error(1)"], ["down", 2, "b", 1, "error(1)"]]


def test_h1_a_monitor_says_which_incarnation_it_watches(board: Switchboard) -> None:
    a, _ = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    assert words(a) == [["up", 1, "b", 1]]


def test_h1_setting_a_ref_twice_is_setting_it_once(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(2):
        a.say("monitor", 1, "b", False)
    board.death(b)
    board.wait(GRACE)
    assert words(a) == [["up", 1, "b", 1], ["down", 1, "b", 1, "killed"]]


@pytest.mark.parametrize("moment", ["before the death", "within the grace", "behind messages of the dead"])
def test_h1_nothing_comes_after_demonitor(board: Switchboard, moment: str) -> None:
    a, b = board.agent("a", window=(1, 1000)), board.agent("b")
    a.say("monitor", 1, "b", False)
    b.cast("a", b"1")
    b.cast("a", b"2")
    if moment == "before the death":
        a.say("demonitor", 1)
    board.death(b)
    if moment == "within the grace":
        a.say("demonitor", 1)
    board.wait(GRACE)
    if moment == "behind messages of the dead":
        a.say("demonitor", 1)
    a.credit()
    assert len(a.casts()) == 2 and a.heard("down") == []


@pytest.mark.parametrize("state", ["unknown", "restarting", "stopped", "starting without a process", "dead"])
def test_h2_without_an_incarnation_it_is_down_noproc_at_once(board: Switchboard, state: str) -> None:
    a, c = board.agents("a", "c")
    if state in ("restarting", "stopped"):
        board.name("b", state, 3)
    elif state == "starting without a process":
        board.name("b", "starting")
    elif state == "dead":
        board.death(c)
    name = "c" if state == "dead" else "b"
    a.say("monitor", 1, name, False)
    assert words(a) == [["down", 1, name, 0, "noproc"]]
    board.agent(name, 4)
    assert len(words(a)) == 1


def test_h2_an_incarnation_that_is_not_ready_yet_can_be_watched(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", state="starting")
    a.say("monitor", 1, "b", False)
    board.death(b, "error(init)")
    board.wait(GRACE)
    assert words(a) == [["up", 1, "b", 1], ["down", 1, "b", 1, "error(init)"]]


def test_h2_a_monitor_that_follows_hears_up_and_down_by_turns(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.say("monitor", 1, "b", True)
    b = board.agent("b", state="starting")
    board.row(b)
    b = board.reborn(b, "killed")
    board.death(b, "normal")
    board.wait(GRACE)
    assert words(a) == [
        ["down", 1, "b", 0, "noproc"],
        ["up", 1, "b", 1],
        ["down", 1, "b", 1, "killed"],
        ["up", 1, "b", 2],
        ["down", 1, "b", 2, "normal"],
    ]
    a.say("demonitor", 1)
    board.agent("b", 3)
    assert len(words(a)) == 5


def test_h2_a_follower_hears_nothing_of_an_incarnation_that_never_was_ready(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", state="starting")
    a.say("monitor", 1, "b", True)
    board.death(b)
    board.wait(GRACE)
    assert words(a) == [["down", 1, "b", 0, "noproc"]]


@pytest.mark.parametrize("reason", ["normal", "shutdown", "killed", "signal(11)", "error(1)", "error(ValueError: no)"])
def test_h3_the_reason_is_roots(board: Switchboard, reason: str) -> None:
    a, b = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    board.death(b, reason)
    board.wait(GRACE)
    assert a.heard("down") == [["down", 1, "b", 1, reason]]


def restored(monitors: list[list[Any]], *packets: list[Any]) -> Agent:
    """A watcher that says hello to a new broker, after root's snapshot."""
    board = Switchboard(snapshot=False)
    board.snapshot(*packets)
    board.agent("living", 2)
    watcher = board.born("a")
    board.row(watcher)
    watcher.hello(monitors=monitors)
    return watcher


def test_h4_a_monitor_of_a_living_incarnation_is_restored_in_silence() -> None:
    watcher = restored([[1, "living", inc_of(2), False], [2, "living", inc_of(2), True]])
    assert words(watcher) == []
    board = watcher._board
    board.root("death", "living", inc_of(2), "killed")
    board.wait(GRACE)
    assert words(watcher) == [["down", 1, "living", 2, "killed"], ["down", 2, "living", 2, "killed"]]


def test_h4_what_died_meanwhile_is_down_with_roots_reason() -> None:
    death = ["death", "living", inc_of(1), "error(7)"]
    watcher = restored([[1, "living", inc_of(1), False], [2, "living", inc_of(1), True]], death)
    assert words(watcher) == [
        ["down", 1, "living", 1, "error(7)"],
        ["down", 2, "living", 1, "error(7)"],
        ["up", 2, "living", 2],
    ]


def test_h4_what_nobody_remembers_is_down_noproc_and_what_was_never_set_is_set() -> None:
    watcher = restored([[1, "gone", inc_of(1), False], [2, "living", None, False], [3, "gone", None, True]])
    assert words(watcher) == [["down", 1, "gone", 1, "noproc"], ["up", 2, "living", 2], ["down", 3, "gone", 0, "noproc"]]


def test_b3_down_comes_after_what_the_dead_one_wrote_within_its_grace(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    board.death(b)
    b.cast("a", b"last words")
    board.wait(GRACE)
    assert [getattr(each, "body", each) for each in a.order[-2:]] == [b"last words", ["down", 1, "b", 1, "killed"]]


def test_b3_down_waits_behind_casts_and_events_of_the_dead_that_there_is_no_credit_for(board: Switchboard) -> None:
    a, b, c = board.agent("a", window=(2, 1000)), board.agent("b"), board.agent("c")
    a.say("monitor", 1, "b", False)
    a.say_data("subscribe", 2, "x")
    for number in range(3):
        b.cast("a", b"%d" % number)
        b.publish("x", b"%d" % number)
    c.cast("a", b"of another")
    board.death(b)
    board.wait(10 * SECOND)
    assert a.heard("down") == []
    while not a.heard("down"):
        a.credit()
    assert len(a.casts()) >= 3 and len(a.published) == 3
    assert a.frames[-1].frame[1] == 1 and a.order[-1] == ["down", 1, "b", 1, "killed"]


def test_b3_two_downs_of_one_wait_behind_its_events_and_come_in_order(board: Switchboard) -> None:
    """Each is at the front once: it must not step back behind the other for ever."""
    a, b = board.agent("a", window=(1, 1000)), board.agent("b")
    for ref in (1, 2):
        a.say("monitor", ref, "b", False)
    a.say_data("subscribe", 3, "x")
    for number in range(3):
        b.publish("x", b"%d" % number)
    board.death(b)
    board.wait(SECOND)
    assert a.heard("down") == []
    while not a.heard("down"):
        a.credit()
    assert len(a.published) == 3
    assert a.heard("down") == [["down", ref, "b", 1, "killed"] for ref in (1, 2)]


def test_b3_down_of_one_whose_messages_are_all_delivered_does_not_wait_for_others(board: Switchboard) -> None:
    a, b, c = board.agent("a", window=(1, 1000)), board.agent("b"), board.agent("c")
    a.say("monitor", 1, "b", False)
    b.cast("a", b"1")
    c.cast("a", b"2")
    board.death(b)
    board.wait(GRACE)
    assert a.heard("down") == [["down", 1, "b", 1, "killed"]] and len(a.casts()) == 1


def test_b3_a_notice_is_not_told_to_the_next_incarnation_of_its_watcher(board: Switchboard) -> None:
    a, b = board.agent("a", window=(0, 0)), board.agent("b")
    a.say("monitor", 1, "b", False)
    b.cast("a", b"1")
    board.death(b)
    board.wait(GRACE)
    new = board.reborn(a)
    assert new.casts() == [("b", b"1")] and new.heard("down") == []


def test_b3_a_notice_at_the_front_of_a_buffer_that_drops_its_oldest_is_told(board: Switchboard) -> None:
    a = board.agent("a", state="starting", inbox={"messages": 1, "policy": "drop_oldest"})
    b, c = board.agents("b", "c")
    a.say("monitor", 1, "b", False)
    b.cast("a", b"1")
    board.death(b)
    board.wait(GRACE)
    for body in (b"2", b"3"):
        c.cast("a", body)
    assert a.heard("down") == [["down", 1, "b", 1, "killed"]] and a.received == []


def test_b4_names_groups_keys_and_locks_are_free_before_down(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    b.say_data("join", "g")
    b.ask("register", "key", 1)
    b.ask("lock", "lock")
    board.death(b)
    assert (a.ask("members", "g")[1], a.ask("lookup", "key"), a.ask("lock", "lock")) == ([], None, True)
    assert a.ask("whereis", "b")["state"] == "restarting" and a.heard("down") == []


def test_a_dead_watchers_monitors_are_forgotten(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    new = board.reborn(a)
    board.death(b)
    board.wait(GRACE)
    assert new.heard("down") == [] and board.router._hold.monitors._of == {}


def test_monitors_of_one_peer_are_bounded(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITORS", 2)
    a, _ = board.agents("a", "b")
    for ref in range(5):
        a.say("monitor", ref, "nobody", False)  # they are over at once
    for ref in range(5, 8):
        a.say("monitor", ref, "b", False)
    assert words(a)[-1] == ["down", 7, "b", 0, "overloaded"] and len(a.heard("up")) == 2


def test_b3_up_of_the_next_incarnation_does_not_overtake_down_of_the_one_before(board: Switchboard) -> None:
    a, b = board.agent("a", window=(1, 1000)), board.agent("b")
    a.say("monitor", 1, "b", True)
    for body in (b"1", b"2"):
        b.cast("a", body)
    new = board.reborn(b)
    assert words(a) == [["up", 1, "b", 1]]
    a.credit()
    assert words(a) == [["up", 1, "b", 1], ["down", 1, "b", 1, "killed"], ["up", 1, "b", 2]]
    board.death(new)
    board.wait(GRACE)
    lanes = [frame.lane for frame in a.frames if b"down" in frame.frame or b"up" in frame.frame]
    assert len(words(a)) == 4 and [lane.value for lane in lanes] == ["s", "d", "d"]
