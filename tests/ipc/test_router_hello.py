"""Who may speak: statements A2-A7, K2, K7, K8 of the messaging notes."""

from __future__ import annotations

import pytest

from otpd.ipc import limits
from otpd.ipc.wire import Kind, Lane, join, system
from tests.ipc.switchboard import MS, SECOND, Switchboard, inc_of, row_of


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def test_a2_a_hello_on_both_lanes_is_welcomed_with_epoch_and_credit(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    agent.hello(Lane.SYSTEM)
    assert agent.said == [] and not board.router.knows(agent.identity)
    agent.hello(Lane.DATA)
    assert agent.said == [["welcome", {"epoch": "b3.1", "credit": [1024, 1024 * 1024], "id": 1}]]
    assert board.router.knows(agent.identity)


@pytest.mark.parametrize("wrong", ["token", "pid", "identity"])
def test_a2_a_hello_of_somebody_else_is_stale(board: Switchboard, wrong: str) -> None:
    agent = board.born("feed")
    board.row(agent, **{wrong: 7 if wrong == "pid" else b"another"})
    agent.hello()
    assert [command[0] for command in agent.said] == ["stale"]


def test_a2_a_hello_without_a_known_process_is_stale(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    agent.pid = None  # type: ignore[assignment]
    agent.hello()
    assert [command[0] for command in agent.said] == ["stale"]


@pytest.mark.parametrize(
    "hello",
    [
        ["hello"],
        ["hello", {}],
        ["hello", {"v": 2, "name": "feed", "inc": 1, "token": b"", "lane": "s"}],
        ["hello", {"v": 1, "name": "feed", "inc": 1, "token": b"", "lane": "d"}],
        ["hello", {"v": 1, "name": 5, "inc": 1, "token": b"", "lane": "s"}],
        ["hello", {"v": 1, "name": "feed", "inc": 1, "token": b"", "lane": "s", "monitors": [[1, "a"]]}],
        ["hello", {"v": 1, "name": "feed", "inc": 1, "token": b"", "lane": "s", "groups": [7]}],
        ["monitor", 1, "feed", False],
    ],
)
def test_a7_what_is_no_hello_is_answered_stale_once(board: Switchboard, hello: list[object]) -> None:
    for _ in range(3):
        board.router.frame(b"stranger", Lane.SYSTEM, system(hello), board.now, 5)
    board.flush()
    assert [command[0] for command in board.strangers[b"stranger"]] == ["stale"]


def test_a7_frames_of_a_stranger_reach_nobody(board: Switchboard) -> None:
    (target,) = board.agents("target")
    board.router.frame(b"stranger", Lane.DATA, join(Kind.CAST, 1, [(1, 0, b"evil")]), board.now, 5)
    board.flush()
    assert target.received == [] and [command[0] for command in board.strangers[b"stranger"]] == ["stale"]


def test_a_hello_ahead_of_roots_announcement_is_held_for_it(board: Switchboard) -> None:
    agent = board.born("feed")
    agent.hello()
    board.wait(900 * MS)
    assert agent.said == []
    board.row(agent)
    assert agent.said[0][0] == "welcome"


def test_a_hello_that_root_never_announces_is_stale_after_a_second(board: Switchboard) -> None:
    agent = board.born("feed")
    agent.hello()
    board.wait(SECOND)
    assert [command[0] for command in agent.said] == ["stale"]


def test_a_hello_of_the_next_incarnation_is_held_while_the_last_one_is_announced(board: Switchboard) -> None:
    (old,) = board.agents("feed")
    new = board.born("feed", 2)
    new.hello()
    assert new.said == [] and not old.stale
    board.death(old)
    board.row(new)
    assert new.said[0][0] == "welcome"


def test_one_half_of_a_hello_waits_for_the_other_as_long_as_it_is_current(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    agent.hello(Lane.DATA)
    board.wait(10 * SECOND)
    assert agent.said == []
    agent.hello(Lane.SYSTEM)
    assert agent.said[0][0] == "welcome"


def test_one_half_of_a_hello_is_stale_when_its_incarnation_dies(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    agent.hello(Lane.DATA)
    board.death(agent)
    assert [command[0] for command in agent.said] == ["stale"]


def test_a4_the_death_of_an_incarnation_is_that_of_all_before_it(board: Switchboard) -> None:
    watcher, old = board.agents("watcher", "feed")
    watcher.say("monitor", 1, "feed", False)
    board.root("death", "feed", inc_of(2), "killed")
    board.wait(20 * MS)
    assert watcher.heard("down") == [["down", 1, "feed", 1, "killed"]]
    board.death(old, "normal")
    board.wait(20 * MS)
    assert len(watcher.heard("down")) == 1


def test_a5_a_dead_incarnation_is_refused_for_ever_even_if_root_repeats_its_row(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    board.death(agent)
    board.row(agent)
    agent.hello()
    assert [command[0] for command in agent.said] == ["stale"]


def test_a5_also_when_root_repeats_the_death_of_one_before_it(board: Switchboard) -> None:
    watcher, first = board.agents("watcher", "feed")
    second = board.reborn(first, "error(1)")
    board.death(second)
    board.death(first, "something else")
    board.row(second)
    watcher.say("monitor", 1, "feed", False)
    assert watcher.heard("up", "down") == [["down", 1, "feed", 0, "noproc"]]
    late = board.born("late")
    board.row(late)
    late.hello(monitors=[[1, "feed", inc_of(1), False]])
    assert late.heard("down") == [["down", 1, "feed", 1, "error(1)"]]


def test_a5_also_when_its_name_was_gone_meanwhile(board: Switchboard) -> None:
    agent = board.born("feed")
    board.row(agent)
    board.death(agent)
    board.wait(20 * MS)
    board.root("gone", "feed")
    board.row(agent)
    agent.hello()
    assert [command[0] for command in agent.said] == ["stale"]


def test_a6_k2_nobody_hears_anything_before_roots_snapshot() -> None:
    board = Switchboard(snapshot=False)
    known, unknown = board.born("known"), board.born("unknown")
    known.hello()
    unknown.hello()
    board.router.frame(b"stranger", Lane.DATA, b"junk", board.now, 5)
    board.wait(30 * SECOND)
    board.root("snapshot", "b3.1")
    board.row(known)
    assert known.said == [] and unknown.said == [] and board.strangers == {}
    board.root("snapshot_end")
    assert known.said[0][0] == "welcome" and unknown.said == []
    board.wait(SECOND)
    assert unknown.heard("stale")


def test_a_snapshot_of_another_epoch_is_none() -> None:
    board = Switchboard(snapshot=False)
    agent = board.born("feed")
    agent.hello()
    board.root("snapshot", "b3.0")
    assert agent.said == []


def test_a_second_snapshot_replaces_the_table_and_keeps_who_is_in_both(board: Switchboard) -> None:
    watcher, kept, _ = board.agents("watcher", "kept", "removed")
    watcher.say("monitor", 1, "removed", False)
    board.snapshot(row_of(watcher), row_of(kept))
    board.wait(20 * MS)
    assert watcher.heard("down") == [["down", 1, "removed", 1, "noconnection"]]
    watcher.cast("kept", b"still there")
    assert kept.casts() == [("watcher", b"still there")] and not kept.stale


def test_k8_a_process_that_was_replaced_while_it_stood_still_hears_stale_once(board: Switchboard) -> None:
    target, old = board.agents("target", "feed")
    board.reborn(old)
    for body in (b"1", b"2"):
        old.cast("target", body)
    assert target.received == [] and len(old.heard("stale")) == 1


def test_k7_the_third_strike_within_a_minute_ends_the_conversation(board: Switchboard) -> None:
    agent, target = board.agents("agent", "target")
    agent.send(Lane.DATA, b"too short")
    board.router.stray(agent.identity, board.now)
    agent.cast("target", b"still taken")
    assert not agent.stale
    agent.say("no such verb")
    assert agent.stale
    agent.cast("target", b"not taken")
    target.cast("agent", b"not delivered")
    assert target.casts() == [("agent", b"still taken")] and agent.received == []
    assert [data["count"] for _, data in board.events("strike")] == [1, 2, 3]


def test_k7_strikes_are_forgotten_after_a_minute(board: Switchboard) -> None:
    (agent,) = board.agents("agent")
    for _ in range(4):
        agent.send(Lane.DATA, b"too short")
        board.wait(31 * SECOND)
    assert not agent.stale


_LONG = join(Kind.CAST, 1, [(1, 0, b"x" * 40_000), (2, 0, b"x" * 40_000)])
_BAD_FRAMES = {
    "version": b"\x02" + join(Kind.CAST, 1, [(1, 0, b"")])[1:],
    "kind": b"\x01\x09" + join(Kind.CAST, 1, [(1, 0, b"")])[2:],
    "length": join(Kind.CAST, 1, [(1, 0, b"")]) + b"x",
    "no messages": join(Kind.CAST, 1, []),
    "too many messages": join(Kind.CAST, 1, [(1, 0, b"")] * 129),
    "more messages than bytes": b"\x01\x02\x05\x00" + join(Kind.CAST, 1, [(1, 0, b"")])[4:],
    "batch too large": _LONG,
    "unbound handle": join(Kind.CAST, 99, [(1, 0, b"")]),
    "a call's lengths": join(Kind.CALL, 1, [(1, 0, b"x")])[:16] + b"\xff" + join(Kind.CALL, 1, [(1, 0, b"x")])[17:],
    "one request id twice": join(Kind.CALL, 1, [(1, 0, b"x"), (1, 0, b"x")]),
    "a key that is too long": join(Kind.CALL, 1, [(1, 0, b"\x01\0k"), (2, 0, b"\xff\xff")], 1),
    "an event without a topic": join(Kind.EVENT, 0, [(1, 0, b"\xff\xff")], 1),
    "a status": join(Kind.REPLY, 0, [(1, 9, b"")]),
    "verb": system(["no such verb"]),
    "verb's lane": system(["monitor", 1, "target", False]),
    "arguments": system(["bind", 1, "name"]),
    "kind of address": system(["bind", 1, "street", "target", ""]),
    "policy": system(["bind", 1, "group", "target", "some"]),
    "a second hello": system(["hello", {}]),
    "no command": join(Kind.SYSTEM, 0, [(0, 0, b"\xc1")]),
}


@pytest.mark.parametrize("bad", list(_BAD_FRAMES))
def test_k7_a_malformed_frame_is_dropped_and_is_a_strike_and_costs_no_credit(board: Switchboard, bad: str) -> None:
    agent, target = board.agents("agent", "target")
    agent.handle("target")
    agent.send(Lane.DATA, _BAD_FRAMES[bad])
    assert len(board.events("strike")) == 1 and target.received == []
    assert board.router.rows()[0]["held"] == 0
    agent.cast("target", b"good")
    assert target.casts() == [("agent", b"good")]


@pytest.mark.parametrize("what", ["weather", "whereis", "lookup"])
def test_k7_a_question_that_there_is_not_is_a_strike(board: Switchboard, what: str) -> None:
    (agent,) = board.agents("agent")
    agent.say("ask", 1, what)
    assert len(board.events("strike")) == 1 and agent.answer(1) is None


def test_hellos_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GUESTS", 2)
    board = Switchboard(snapshot=False)
    agents = [board.born(name) for name in ("a", "b", "c")]
    for agent in agents:
        agent.hello()
    board.snapshot(*(row_of(agent) for agent in agents))
    assert [agent.said != [] for agent in agents] == [True, True, False]


def test_two_hellos_of_one_routing_id_must_agree(board: Switchboard) -> None:
    agent = board.born("feed")
    agent.hello(Lane.SYSTEM)
    agent.token = b"another"
    agent.hello(Lane.DATA)
    assert [command[0] for command in agent.said] == ["stale"]
    board.row(agent)
    assert len(agent.said) == 1


def test_a_message_of_two_parts_from_a_stranger_is_answered_stale(board: Switchboard) -> None:
    board.router.stray(b"stranger", board.now)
    board.flush()
    assert [command[0] for command in board.strangers[b"stranger"]] == ["stale"]


def test_strangers_who_were_answered_are_remembered_within_bounds(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STRANGERS", 2)
    for stranger in (b"1", b"2", b"3", b"3", b"1"):
        board.router.stray(stranger, board.now)
    board.flush()
    assert {who: len(said) for who, said in board.strangers.items()} == {b"1": 2, b"2": 1, b"3": 1}


def test_what_is_remembered_of_the_dead_is_bounded(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEATHS", 10)
    for number in range(50):
        board.root("death", f"n{number}", inc_of(1), "killed")
        board.root("row", {"name": f"m{number}", "state": "stopped", "inc": inc_of(1)})
        board.root("gone", f"m{number}")
    table = board.router._table
    assert (len(table._deaths), len(table._tombstones), table.entries) == (10, 10, {})
