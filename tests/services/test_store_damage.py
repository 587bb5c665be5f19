"""What becomes of rows of the journal that are not as they were written: the store starts, and says what it has lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.services.store import journal
from otpd.agents.services.store.database import Unusable, open_database
from otpd.agents.services.store.messages import Bounds, Recovered
from otpd.agents.services.store.queue import MEMORY, Queue
from otpd.agents.services.store.service import SCHEMA
from tests.services.durable_world import Submission, World, cast, event

_BROKEN = "CAST(x'61ff' AS TEXT)"  # no UTF-8


def written() -> World:
    """Two messages that wait, one with an id that has ended, two receipts, one subscription."""
    world = World()
    world.queue.subscribe(None, "b", ["news"])
    world.up("a")
    world.submit(Submission("s", 1, 1, [cast("a", id="o1")]))
    world.commit_all()
    world.handle("a", "ok")
    world.commit_all()
    world.down("a", "shutdown")
    world.submit(Submission("s", 1, 2, [cast("a"), cast("a")]))
    world.submit(Submission("t", 2, 1, [event("news")]))
    world.commit_all()
    return world


def recovered(world: World) -> Recovered:
    return journal.recover(world.disk, 5.0)


def rows(world: World, table: str) -> int:
    (count,) = world.disk.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


CONTENT = [f"target = {_BROKEN}", f"key = {_BROKEN}", f"name = {_BROKEN}", "target = 'x'", "body = x'00'", "crc = 1"]
COUNTERS = ["kind = 7", "at = 'never'", "attempts = x'00'", "max_attempts = 'ten'"]


@pytest.mark.parametrize("change", [*CONTENT, *COUNTERS])
def test_a_damaged_message_is_a_dead_letter_and_replayed_only_if_its_content_is_what_was_sent(change: str) -> None:
    world = written()
    world.disk.execute(f"UPDATE messages SET {change} WHERE seq = 2")
    found = recovered(world)
    assert [message.seq for message in found.messages] == [3, 4]
    assert (list(found.letters), [message.seq for message in found.corrupt]) == ([2], [2])
    (shown,) = journal.letters(world.disk)
    assert (shown["seq"], shown["reason"], shown["died_at"]) == (2, "corrupt", 5.0)
    whole = journal.letter(world.disk, 2)
    assert whole is not None
    assert (whole[0]["seq"], whole[1] is not None) == (2, change in COUNTERS)
    again = recovered(world)
    assert ([message.seq for message in again.messages], again.corrupt, list(again.letters)) == ([3, 4], [], [2])


def test_it_is_told_by_the_store_that_begins() -> None:
    world = written()
    world.disk.execute("UPDATE messages SET body = x'00' WHERE seq = 2")
    world.kill_store()
    assert [(each.event, each.data["letter"], each.data["reason"]) for each in world.told] == [("letter.dead", 2, "corrupt")]


@pytest.mark.parametrize(("table", "change", "where"), [
    ("receipts", "answer = x'c1'", "sender = 's'"),
    ("receipts", f"sender = {_BROKEN}", "sender = 's'"),
    ("receipts", "number = 'one'", "sender = 's'"),
    ("subscriptions", f"pattern = {_BROKEN}", "name = 'b'"),
    ("subscriptions", "name = 'c'", "name = 'b'"),
])  # fmt: skip
def test_a_damaged_row_of_what_is_remembered_is_dropped_and_the_others_stay(table: str, change: str, where: str) -> None:
    world = written()
    before = rows(world, table)
    world.disk.execute(f"UPDATE {table} SET {change} WHERE {where}")
    found = recovered(world)
    assert rows(world, table) == before - 1
    assert [message.seq for message in found.messages] == [2, 3, 4]
    assert [each.sender for each in found.receipts] == (["t"] if table == "receipts" else ["s", "t"])
    assert found.subscriptions == ({} if table == "subscriptions" else {"b": ("news",)})


@pytest.mark.parametrize("change", [f"target = {_BROKEN}", "seq = 9", "minute = 99"])
def test_a_damaged_row_of_ids_that_have_ended_says_nothing_and_no_start_looks_for_it(change: str) -> None:
    """There may be millions of them."""
    world = written()
    assert journal.finished(world.disk, [("s", "o1")]) == {("s", "o1", "a"): 1}
    world.disk.execute(f"UPDATE finished SET {change} WHERE id = 'o1'")
    asked: list[str] = []
    world.disk.set_trace_callback(asked.append)
    recovered(world)
    assert [each for each in asked if "finished" in each] == []
    assert journal.finished(world.disk, [("s", "o1")]) == {}


@pytest.mark.parametrize("change", ["UPDATE minutes SET minute = 'x'", "DELETE FROM minutes"])
def test_numbers_go_on_whatever_has_become_of_the_counters(change: str) -> None:
    world = written()
    world.disk.execute(change)
    world.disk.execute("UPDATE sqlite_sequence SET seq = 'many'")
    found: Any = recovered(world)
    assert (found.minute, found.next_seq) == (0, 5)


def stored(home: Path) -> bytes:
    """The file of a whole store: forty messages, twenty letters, receipts, ids that have ended."""
    database = open_database(home / "store.db", SCHEMA)
    queue = Queue(journal.recover(database.connection), Bounds(max_attempts=1), 0, 1.0)
    queue.subscribe(None, "b", ["news"])
    for number in range(40):
        queue.submit(None, f"s{number}", 1, 1, [cast("a", body=b"%d" % number * 50, id=f"o{number}"), event("news")])
    for unit in queue.take():
        journal.write(database.connection, journal.rows(unit, 1.0, 0), MEMORY)
    database.close()
    return (home / "store.db").read_bytes()


def test_a_column_that_has_another_name_is_damage(tmp_path: Path) -> None:
    good = stored(tmp_path)
    damaged = good.replace(b"attempts INTEGER NOT NULL, lease", b"attenpts INTEGER NOT NULL, lease")
    (tmp_path / "store.db").write_bytes(damaged)
    database = open_database(tmp_path / "store.db", SCHEMA)
    assert (database.report.why, database.report.saved_rows["messages"]) == ("its tables are not as otpd makes them", 40)
    assert len(journal.recover(database.connection).messages) == 40
    database.close()


def test_one_flipped_bit_anywhere_in_the_file_lets_the_store_begin_and_lose_no_other_message(tmp_path: Path) -> None:
    """Each message is there, or is a letter, or it was reported that something is lost."""
    good = stored(tmp_path)
    chance = random.Random(15)
    for number in range(60):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= chance.choice([0x01, 0x10, 0x80])
        home = tmp_path / str(number)
        home.mkdir()
        (home / "store.db").write_bytes(data)
        try:
            database = open_database(home / "store.db", SCHEMA)
        except Unusable:
            continue
        found = journal.recover(database.connection, 5.0)
        left = {message.seq for message in found.messages} | set(found.letters)
        assert len(left) == 40 or database.report.problems, (number, database.report)
        assert len(journal.letters(database.connection)) == len(found.letters)
        database.close()
