"""The table that root keeps of names, and the packets by which a broker learns it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor import addresses
from otpd.supervisor.addresses import Addresses, Presence, Row
from otpd.supervisor.spec import Inbox


def born(name: str, inc: int, **more: Any) -> Row:
    return Row(name=name, kind="agent", inc=inc, pid=1000 + inc, identity=b"i%d" % inc, token=b"t%d" % inc, **more)


def told(table: Addresses) -> list[str]:
    """What the broker hears, as short words."""
    return [_word(packet) for packet in table.news()]


def _word(packet: list[Any]) -> str:
    match packet:
        case ["row", row]:
            return f"row {row['name']} {row['inc']} {row['state']}"
    return " ".join(str(each) for each in packet)


def table_with_broker() -> Addresses:
    table = Addresses()
    table.up("b1.1")
    assert told(table) == ["snapshot b1.1", "snapshot_end"]
    return table


def test_a_life_is_told_step_by_step() -> None:
    table = table_with_broker()
    table.expect("feed", "agent")
    table.born(born("feed", 1))
    table.ready("feed", 1)
    table.died("feed", 1, "killed")
    table.settle("feed", Presence.RESTARTING)
    table.born(born("feed", 2))
    table.ready("feed", 2)
    table.died("feed", 2, "normal")
    table.settle("feed", Presence.STOPPED)
    table.remove("feed")
    assert told(table) == [
        "row feed 0 starting",
        "row feed 1 starting",
        "row feed 1 ready",
        "death feed 1 killed",
        "row feed 1 restarting",
        "row feed 2 starting",
        "row feed 2 ready",
        "death feed 2 normal",
        "row feed 2 stopped",
        "gone feed",
    ]


def test_a_row_says_all_that_the_broker_must_know() -> None:
    table = table_with_broker()
    table.born(born("feed-1", 7, group="feed", inbox=Inbox(messages=5, bytes=2048, policy="drop_oldest")))
    assert list(table.news()) == [
        [
            "row",
            {
                "name": "feed-1", "kind": "agent", "inc": 7, "pid": 1007, "identity": b"i7", "token": b"t7",
                "state": "starting", "group": "feed", "reason": None, "owners": [],
                "inbox": {"messages": 5, "bytes": 2048, "policy": "drop_oldest"},
            },
        ]
    ]  # fmt: skip


def test_secrets_of_the_dead_are_not_told() -> None:
    table = table_with_broker()
    table.born(born("feed", 1))
    table.died("feed", 1, "error(1)")
    table.settle("feed", Presence.RESTARTING)
    row = list(table.news())[-1][1]
    assert (row["identity"], row["token"], row["pid"], row["reason"]) == (None, None, None, "error(1)")


def test_a1_an_incarnation_that_is_no_later_one_is_a_mistake_of_root() -> None:
    table = table_with_broker()
    table.born(born("feed", 2))
    table.died("feed", 2, "killed")
    for inc in (1, 2):
        with pytest.raises(ValueError, match=f"feed: expected an incarnation after 2, got {inc}"):
            table.born(born("feed", inc))


def test_a_second_word_about_an_end_is_not_told() -> None:
    table = table_with_broker()
    table.born(born("feed", 1))
    table.died("feed", 1, "killed")
    table.died("feed", 1, "normal")
    table.died("feed", 9, "normal")
    table.died("nobody", 1, "normal")
    assert told(table) == ["row feed 1 starting", "death feed 1 killed"]


def test_what_becomes_of_a_name_is_told_once_for_each_death() -> None:
    table = table_with_broker()
    for inc in (1, 2):
        table.born(born("feed", inc))
        table.died("feed", inc, "killed")
        table.settle("feed", Presence.RESTARTING)
        table.settle("feed", Presence.RESTARTING)
    assert told(table) == [
        *("row feed 1 starting", "death feed 1 killed", "row feed 1 restarting"),
        *("row feed 2 starting", "death feed 2 killed", "row feed 2 restarting"),
    ]


def test_a_name_that_somebody_has_is_not_settled_by_a_late_word() -> None:
    table = table_with_broker()
    table.born(born("feed", 1))
    table.settle("feed", Presence.STOPPED)
    assert told(table) == ["row feed 1 starting"]


def test_a_change_of_its_inbox_is_told_while_it_runs() -> None:
    table = table_with_broker()
    table.born(born("feed", 1, inbox=Inbox()))
    table.expect("feed", "agent", None, Inbox())
    assert told(table) == ["row feed 1 starting"]
    table.expect("feed", "agent", None, Inbox(messages=7))
    assert [packet[1]["inbox"]["messages"] for packet in table.news()] == [7]


def test_k2_a_new_broker_is_told_everything_and_first_who_has_died() -> None:
    table = Addresses()
    table.born(born("gone", 1))
    table.remove("gone")
    table.born(born("feed", 1))
    table.died("feed", 1, "killed")
    table.born(born("feed", 2))
    table.ready("feed", 2)
    table.expect("later", "agent")
    for epoch in ("b1.1", "b1.2"):
        table.up(epoch)
        assert told(table) == [
            f"snapshot {epoch}",
            "death gone 1 killed",
            "death feed 1 killed",
            "row feed 2 ready",
            "row later 0 starting",
            "snapshot_end",
        ]
        table.down()
        table.ready("feed", 2)
        assert told(table) == []


def test_a_broker_that_does_not_read_is_told_the_whole_table_instead_of_all_the_news() -> None:
    table = table_with_broker()
    table.born(born("feed", 1))
    for messages in range(1, addresses.BACKLOG + 1):
        table.expect("feed", "agent", None, Inbox(messages=messages))
    assert sum(1 for _ in table.news()) == addresses.BACKLOG + 1
    for messages in range(1, addresses.BACKLOG + 100):
        table.expect("feed", "agent", None, Inbox(messages=messages))
    packets = list(table.news())
    assert [packet[0] for packet in packets] == ["snapshot", "row", "snapshot_end"]
    assert packets[1][1]["inbox"]["messages"] == addresses.BACKLOG + 99


def test_only_the_last_deaths_are_kept() -> None:
    table = Addresses()
    for inc in range(1, addresses.DEATHS + 11):
        table.born(born("feed", inc))
        table.died("feed", inc, "killed")
    table.up("b1.1")
    deaths = [packet[2] for packet in table.news() if packet[0] == "death"]
    assert deaths == list(range(11, addresses.DEATHS + 11))


# --- whatever happens, the broker's copy is the table ---

NAMES = ("a", "b", "c")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("born"), st.sampled_from(NAMES)),
        st.tuples(st.just("ready"), st.sampled_from(NAMES)),
        st.tuples(st.just("died"), st.sampled_from(NAMES)),
        st.tuples(st.just("restarting"), st.sampled_from(NAMES)),
        st.tuples(st.just("stopped"), st.sampled_from(NAMES)),
        st.tuples(st.just("remove"), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from(("broker", "read", "read some", "storm")), st.just("")),
    ),
    max_size=60,
)


class Copy:
    """A broker that keeps a copy, and checks the order in which it hears of things."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.dead: dict[str, int] = {}

    def hear(self, packet: list[Any]) -> None:
        match packet:
            case ["snapshot", _]:
                self.rows, self.dead = {}, {}
            case ["row", row]:
                before = self.rows.get(row["name"])
                if before is not None and before["pid"] is not None and row["inc"] != before["inc"]:
                    assert self.dead[row["name"]] >= before["inc"], "a row of the next one before the death"
                assert row["pid"] is None or self.dead.get(row["name"], 0) < row["inc"], "a dead one is alive"
                self.rows[row["name"]] = row
            case ["gone", name]:
                del self.rows[name]
            case ["death", name, inc, reason]:
                assert self.dead.get(name, 0) < inc, "a death that is no later one"
                self.dead[name] = inc
                row = self.rows.get(name)
                if row is not None and row["inc"] == inc:
                    nobody = {"pid": None, "identity": None, "token": None}
                    self.rows[name] = row | nobody | {"state": "restarting", "reason": reason}


@given(steps)
def test_the_copy_of_a_broker_that_reads_in_its_own_time_becomes_the_table(taken: list[tuple[str, str]]) -> None:
    table, copy, incs = Addresses(backlog=3), Copy(), dict.fromkeys(NAMES, 0)
    table.up("b1.1")
    for what, name in taken:
        row = table.row(name)
        match what:
            case "born" if row is None or not row.alive:
                incs[name] += 1
                table.born(born(name, incs[name]))
            case "ready":
                table.ready(name, incs[name])
            case "died":
                table.died(name, incs[name], "killed")
            case "restarting" | "stopped":
                table.settle(name, Presence(what))
            case "remove":
                table.remove(name)
            case "broker":
                table.down()
                table.up("b1.2")
            case "read" | "read some":
                for packet in list(table.news()) if what == "read" else [table.next(), table.next()]:
                    if packet is not None:
                        copy.hear(packet)
            case "storm":
                table.expect("a", "agent")
                for messages in range(1, 6):
                    table.expect("a", "agent", None, Inbox(messages=messages))
    for packet in table.news():
        copy.hear(packet)
    rows = {name: row.packet()[1] for name in table.names() if (row := table.row(name)) is not None}
    assert copy.rows == rows
