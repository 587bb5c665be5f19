"""What root asks of the router and is told by it (protocol, section 8), and how its table is followed."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.ipc.frames import PACKET_LIMIT, pack
from otpd.ipc.router import Router
from tests.ipc.switchboard import MS, SECOND, Switchboard, inc_of


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def row(board: Switchboard, name: str) -> dict[str, Any]:
    return next(row for row in board.router.rows() if row["name"] == name)


def test_stats_tell_of_each_name_what_top_shows(board: Switchboard) -> None:
    a, b = board.agent("a"), board.agent("b", group="g", window=(2, 1000))
    b.say_data("subscribe", 1, "x")
    for _ in range(3):
        a.cast("b", b"1")
    a.call("b")
    a.publish("x", b"2")
    board.root("stats", 77)
    verb, ref, rows, last = board.told[-1]
    assert (verb, ref, last, [each["name"] for each in rows]) == ("answer", 77, True, ["a", "b"])
    assert rows[1] == {
        "name": "b",
        "kind": "agent",
        "state": "ready",
        "generation": 1,
        "connected": True,
        "inbox": 2,
        "inbox_bytes": 34,
        "oldest": board.now,
        "casts": 3,
        "calls": 1,
        "events": 0,
        "processed": 0,
        "replied": 0,
        "failed": 0,
        "rejected": 0,
        "dropped": 0,
        "expired": 0,
        "lost": 0,
        "missed": 0,
        "breaker": "closed",
        "breaker_mode": "auto",
        "groups": ["g"],
        "on_way": 2,
        "serving": 0,
        "asking": 0,
        "held": 0,
        "subscriptions": 1,
        "backlog": 1,
    }
    assert (rows[0]["asking"], rows[0]["held"]) == (1, 2)


def test_stats_come_in_parts_that_fit_into_a_packet(board: Switchboard) -> None:
    for number in range(1200):
        board.name(f"{number:04}" + "n" * 200, "stopped")
    board.told.clear()
    board.root("stats", 1)
    parts = [packet[2] for packet in board.told]
    assert [packet[3] for packet in board.told] == [False] * (len(parts) - 1) + [True]
    assert [each["name"][:4] for part in parts for each in part] == [f"{number:04}" for number in range(1200)]
    assert max(len(pack(packet)) for packet in board.told) < PACKET_LIMIT and max(map(len, parts)) <= 500


def test_stats_of_an_empty_table_are_an_empty_last_part(board: Switchboard) -> None:
    board.root("stats", 1)
    assert board.told == [["answer", 1, [], True]]


def test_a_peer_can_ask_for_them(board: Switchboard) -> None:
    (a,) = board.agents("a")
    assert [each["name"] for each in a.ask("stats")] == ["a"]


def test_whereis_tells_generation_and_state(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    assert a.ask("whereis", "b") == {"name": "b", "generation": 1, "state": "ready", "owners": []}
    board.death(b)
    assert a.ask("whereis", "b")["state"] == "restarting"
    board.name("b", "stopped", 1)
    assert (a.ask("whereis", "b")["state"], a.ask("whereis", "nobody")) == ("stopped", None)


def test_whereis_tells_whose_own_child_it_is(board: Switchboard) -> None:
    (a,) = board.agents("a")
    board.name("x", "ready", 1, owners=["b", "a"])
    assert a.ask("whereis", "x")["owners"] == ["b", "a"]


def test_unknown_packets_are_ignored(board: Switchboard) -> None:
    for packet in (["weather", 1], ["death", "b"], []):
        board.root(*packet)
    assert board.told == []


def test_a_row_that_comes_late_changes_nothing(board: Switchboard) -> None:
    (a,) = board.agents("a")
    new = board.reborn(a)
    board.row(a)
    board.name("a", "restarting", 1)
    board.row(new, "starting")
    assert (row(board, "a")["state"], row(board, "a")["generation"]) == ("ready", 2)
    new.cast("a", b"1")
    assert new.casts() == [("a", b"1")]


def test_a_death_that_comes_twice_or_late_changes_nothing(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    new = board.reborn(b)
    for reason in ("killed", "error(1)"):
        board.death(b, reason)
    a.cast("b", b"1")
    assert new.casts() == [("a", b"1")] and not new.stale


def test_a_death_before_its_row_keeps_that_incarnation_out(board: Switchboard) -> None:
    board.root("death", "b", inc_of(3), "killed")
    b = board.born("b", 3)
    board.row(b)
    b.hello()
    assert b.stale
    assert board.agent("b", 4).said[0][0] == "welcome"


def test_a_row_without_a_process_is_the_death_of_the_one_before(board: Switchboard) -> None:
    a, _b = board.agents("a", "b")
    a.say("monitor", 1, "b", False)
    board.name("b", "restarting", 1, reason="error(2)")
    board.wait(20 * MS)
    assert a.heard("down") == [["down", 1, "b", 1, "error(2)"]]


def test_a_row_without_an_incarnation_keeps_the_last_one(board: Switchboard) -> None:
    (b,) = board.agents("b")
    board.death(b)
    board.root("row", {"name": "b", "kind": "agent", "inc": None, "state": "stopped"})
    assert (row(board, "b")["generation"], row(board, "b")["state"]) == (1, "stopped")


def test_a_name_that_is_gone_and_comes_back_within_the_grace_is_there(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    board.root("gone", "b")
    new = board.agent("b", 2)
    board.wait(SECOND)
    a.cast("b", b"1")
    assert new.casts() == [("a", b"1")] and b.received == []


def test_what_a_client_wrote_before_it_was_gone_arrives(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.handle("b")
    board.root("gone", "a")
    a.cast("b", b"goodbye")
    assert b.casts() == [("a", b"goodbye")]
    board.wait(20 * MS)
    assert [each["name"] for each in board.router.rows()] == ["b"]


def test_names_that_are_gone_leave_nothing_behind(board: Switchboard) -> None:
    a = board.agent("a")
    for generation in range(1, 50):
        client = board.agent(f"client-{generation}", generation, kind="client")
        a.say("monitor", generation, client.name, False)
        client.say_data("subscribe", 1, "x.*")
        client.say_data("join", "g")
        client.ask("register", "key", 1)
        client.cast("a", b"1")
        client.call("a")
        a.cast(client.name, b"1")
        a.credit()
        board.root("gone", client.name)
        board.wait(SECOND)
    router: Router = board.router
    assert len(a.heard("down")) == 49 and len(router._peers) == 1 and len(router._table.entries) == 1
    assert router._numbers == [2] and len(a._sources) <= 3  # source ids are used again
    hold = router._hold
    assert hold.groups._of == hold.groups._groups == hold.registry._keys == hold.monitors._of == hold.links._of == {}
    assert len(router._calls) == 0 and hold.events._trie.empty and router.memory == 0
    assert router._lobby._guests == router._lobby._of == {} and router._lives._graves == {}
    board.wait(60 * SECOND)
    assert router.tick(board.now) is None
