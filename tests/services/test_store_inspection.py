"""A store that is too large to be read at its start: it is while it is used, a few rows at a time, and none is left out."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from otpd.agents.services.store import database, salvage
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.database import Database, open_database
from otpd.agents.services.store.engine import Engine
from otpd.agents.services.store.inspection import STEP, Inspection, _is_copied, copy_of
from otpd.agents.services.store.refusals import DamagedState
from otpd.agents.services.store.schema import get_meta
from otpd.agents.services.store.service import SCHEMA, Store
from otpd.agents.services.store.state import get_state
from tests.agents.scenes import scene
from tests.services.store_kills import damage_a_page
from tests.services.test_store_damage import stored
from tests.services.test_store_database import BODY, bodies, left_behind, opened, saved

NO_TEXT = "CAST(x'61ff' AS TEXT)"


def inspected(connection: sqlite3.Connection, rows_in_a_step: int) -> tuple[int, list[tuple[str, str]]]:
    """Steps, and the damaged rows."""
    inspection = Inspection(SCHEMA.tables, itertools.count(0, STEP / (rows_in_a_step - 0.5)).__next__)
    steps = 1
    while inspection.step(connection):
        steps += 1
        assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0, "no question stays open"
    return steps, inspection.damaged


@pytest.mark.parametrize("rows_in_a_step", [1, 3, 1000])
def test_each_row_is_read_once_in_steps_whatever_its_key_has_become(tmp_path: Path, rows_in_a_step: int) -> None:
    stored(tmp_path)
    it = open_database(tmp_path / "store.db", SCHEMA)
    saved(it, list("abcdefgh"))
    assert inspected(it.connection, rows_in_a_step)[1] == []
    for change in (
        f"state SET name = {NO_TEXT} WHERE name = 'a'", "state SET body = x'00' WHERE name = 'c'",
        "state SET name = x'ff' WHERE name = 'd'", "state SET version = 9 WHERE name = 'h'",
        "messages SET body = x'' WHERE seq IN (7, 8)", f"receipts SET sender = {NO_TEXT} WHERE sender = 's1'",
    ):  # fmt: skip
        it.connection.execute(f"UPDATE {change}")
    steps, damaged = inspected(it.connection, rows_in_a_step)
    assert sorted(damaged) == [
        ("messages", "7"), ("messages", "8"), ("receipts", "a\\xff"),
        ("state", "a\\xff"), ("state", "b'\\xff'"), ("state", "c"), ("state", "h"),
    ]  # fmt: skip
    assert steps > 20 if rows_in_a_step < 4 else steps == 1
    it.close()


@pytest.mark.parametrize("change", ["body = x'00'", f"name = {NO_TEXT}"])
def test_damaged_rows_are_dropped_and_no_other_whether_or_not_they_can_be_asked_for(tmp_path: Path, change: str) -> None:
    it = opened(tmp_path)
    saved(it, list("abcd"))
    it.connection.execute(f"UPDATE state SET {change} WHERE name = 'b'")
    it.connection.execute("UPDATE state SET crc = 0 WHERE name = 'd'")
    assert [salvage.drop_damaged(it.connection, SCHEMA.tables[0]) for _ in range(2)] == [2, 0]
    assert sorted(bodies(it)) == ["a", "c"]
    it.close()


# --- the store ---


def shell(home: Path, found: Database) -> Any:
    """The store alone, over this database."""
    it: Any = Store.__new__(Store)
    it._otpd, it._host, it.database, it.told, it.loss, it.broken = Mock(), Mock(), found, home / "store.report", None, None
    it.engine = Engine(found, Ballast(home / "store.ballast", 0), it._room_changed, it._broken, it._hanging)
    return it


def told(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "store.report").read_text())
    return found


@scene
async def read_through(home: Path, names: list[str]) -> None:
    it = shell(home, opened(home, SCHEMA))
    it._report()
    assert (it.database.report.checked, told(home)["checked"]) == (False, False)
    reading = asyncio.ensure_future(it._inspect())
    await it.engine.commit(lambda connection: connection.execute("UPDATE meta SET value = value WHERE key = 'seq'"))
    await reading
    problems = [f"a row of state is damaged: {name}" for name in names]
    assert not copy_of(home / "store.db").exists()
    assert (told(home)["checked"], told(home)["problems"]) == (True, problems)
    assert bool(it.loss) == bool(names) and it.loss == await it.engine.read(lambda it: get_meta(it, "loss"))
    await it.engine.close()


@pytest.mark.parametrize("names", [[], ["c"]])
def test_what_the_start_has_not_read_is_told_when_it_is_and_fences_like_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr(database, "ROWS_CHECKED_AT_START", 1000)
    first = opened(tmp_path, SCHEMA)
    saved(first, list("abcd"))
    for name in names:
        first.connection.execute("UPDATE state SET crc = 0 WHERE name = ?", (name,))
    first.close()
    read_through(tmp_path, names)
    if names:
        second = opened(tmp_path, SCHEMA)
        with pytest.raises(DamagedState):
            get_state(second.connection, "nobody")
        second.close()


@scene
async def unreadable(home: Path) -> None:
    it = shell(home, opened(home, SCHEMA))
    it.stop = Mock()
    await it._inspect()
    assert it.stop.call_count == 1
    assert it.broken is not None
    await it.engine.close()


def test_a_page_that_can_t_be_read_ends_the_store_and_the_next_start_saves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ROWS_CHECKED_AT_START", 1000)
    monkeypatch.setattr(database, "CHECKED_AT_START", 1000)
    (tmp_path / "live").mkdir()
    first = opened(tmp_path / "live", SCHEMA)
    saved(first, [f"{number:03}" for number in range(30)])
    first.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    home = left_behind(tmp_path / "live", tmp_path / "home")
    first.close()
    (home / "store.db-wal").write_bytes(b"")
    damage_a_page(home)
    unreadable(home)
    second = opened(home, SCHEMA)
    assert (second.report.why or "").startswith("database disk image is malformed")
    assert 10 < second.report.saved_rows["state"] < 30
    second.close()


def list_a_page_in_use_as_free(path: Path) -> None:
    """The last of those on the first page of the list of free pages: its second word says how many there are."""
    data = bytearray(path.read_bytes())
    at = (int.from_bytes(data[32:36], "big") - 1) * 4096
    last = at + 4 + 4 * int.from_bytes(data[at + 4 : at + 8], "big")
    used = (data.index(BODY) // 4096) + 1
    data[last : last + 4] = used.to_bytes(4, "big")
    path.write_bytes(data)


def test_a_page_that_is_in_use_and_listed_as_free_is_found_before_more_than_a_few_writes_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are well, as long as nobody needs a page."""
    monkeypatch.setattr(database, "ROWS_CHECKED_AT_START", 1000)
    monkeypatch.setattr(database, "CHECKED_AT_START", 1000)
    names = [f"{number:03}" for number in range(60)]
    first = opened(tmp_path, SCHEMA)
    saved(first, names)
    first.connection.execute("DELETE FROM state WHERE name < '030'")
    first.close()
    list_a_page_in_use_as_free(tmp_path / "store.db")
    second = opened(tmp_path, SCHEMA)
    assert inspected(second.connection, 1000)[1] == [] and len(bodies(second)) == 30
    second.close()
    unreadable(tmp_path)
    third = opened(tmp_path, SCHEMA)
    assert (sorted(bodies(third)), bool(third.report.quarantine)) == (names[30:], True)
    with pytest.raises(DamagedState):
        get_state(third.connection, "nobody")
    third.close()


@scene
async def no_room(home: Path) -> None:
    it = shell(home, opened(home, SCHEMA))
    path, aside = home / "store.db", copy_of(home / "store.db")
    inner = it.engine.alongside

    def full(connection: sqlite3.Connection, _: Any) -> None:
        aside.write_bytes(b"as much as there was room for")
        connection.executescript("PRAGMA max_page_count = 1; CREATE TABLE more (x)")

    it.engine.alongside = lambda _: inner(full)
    assert (await _is_copied(it.engine, path, aside), aside.exists()) == (False, False)
    it.engine.alongside = inner
    assert (await _is_copied(it.engine, path, aside), aside.exists()) == (True, True)
    aside.unlink()
    await it.engine.close()


def test_a_disk_without_room_for_a_copy_is_no_damage(tmp_path: Path) -> None:
    no_room(tmp_path)
