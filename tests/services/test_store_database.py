"""How the database is opened: migrations, refusals, quarantine, and no loss without a word."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.services.sqlite import checksum
from otpd.agents.services.store import database as module
from otpd.agents.services.store import journal, service, state
from otpd.agents.services.store.database import Database, Unusable, connect, open_database
from otpd.agents.services.store.refusals import DamagedState
from otpd.agents.services.store.schema import Schema
from otpd.agents.services.store.state import get_state, put_state
from otpd.agents.services.store.watermark import HighWater
from tests.helpers import open_below

SCHEMA = Schema(migrations=(state.MIGRATION,), tables=(state.TABLE,))
BODY = bytes(range(256)) * 2


def opened(directory: Path, schema: Schema = SCHEMA) -> Database:
    return open_database(directory / "store.db", schema)


def saved(database: Database, *commits: list[str] | str) -> None:
    """One commit for each, as the engine does it."""
    for names in commits:
        database.connection.execute("BEGIN IMMEDIATE")
        for name in [names] if isinstance(names, str) else names:
            put_state(database.connection, name, 1, None, name.encode() + BODY, 1.0)
        database.seq += 1
        database.connection.execute("UPDATE meta SET value = ? WHERE key = 'seq'", (database.seq,))
        database.connection.execute("COMMIT")
        database.mark.write(database.seq)


def left_behind(source: Path, target: Path) -> Path:
    """The files as they are on the disk now, as a kill leaves them."""
    target.mkdir()
    for name in ("store.db", "store.db-wal", "store.hwm"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    return target


def bodies(database: Database) -> dict[str, bytes | None]:
    rows = database.connection.execute("SELECT name FROM state").fetchall()
    return {name: get_state(database.connection, name).body for (name,) in rows}


@pytest.fixture(autouse=True)
def nothing_stays_open(tmp_path: Path) -> Iterator[None]:
    yield
    assert open_below(tmp_path) == []


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """Of a store that was killed: five names in the database, five more in the log alone."""
    home = tmp_path / "home"
    home.mkdir()
    database = opened(home)
    saved(database, *"abcde")
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    saved(database, *"fghij")
    found = left_behind(home, tmp_path / "killed")
    database.close()
    return found


def test_a_new_one_is_ready_and_an_old_one_is_as_it_was_left(tmp_path: Path) -> None:
    database = opened(tmp_path)
    assert (database.report.problems, database.seq, database.report.version) == ([], 0, 2)
    saved(database, "a")
    database.close()
    again = opened(tmp_path)
    assert (again.report.problems, again.seq, bodies(again)) == ([], 1, {"a": b"a" + BODY})
    assert again.connection.execute("PRAGMA synchronous").fetchone() == (2,), "full"
    assert again.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    again.close()
    assert sorted(os.listdir(tmp_path)) == ["store.db", "store.hwm", "store.lock"], "a clean end leaves no log"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_kill_loses_nothing(wal: Path) -> None:
    database = opened(wal)
    assert (database.report.problems, database.seq) == ([], 10)
    assert bodies(database) == {name: name.encode() + BODY for name in "abcdefghij"}
    database.close()


def test_two_stores_never_hold_it_together(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(Unusable, match=r"another store holds .*store\.lock; it must end first"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_nobody_else_writes_there(tmp_path: Path) -> None:
    opened(tmp_path).close()
    other = connect(tmp_path / "store.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unusable, match=r"another process has .*store\.db open \(database is locked\); close it"):
        opened(tmp_path)
    other.close()


# --- migrations ---

SECOND = "ALTER TABLE state ADD COLUMN more; UPDATE state SET more = name;"


def test_an_older_schema_is_led_to_this_one_with_its_rows(tmp_path: Path) -> None:
    database = opened(tmp_path)
    saved(database, "a", "b")
    database.close()
    newer = Schema((*SCHEMA.migrations, SECOND), SCHEMA.tables)
    found = opened(tmp_path, newer)
    assert (found.report.migrated_from, found.report.version) == (2, 3)
    assert found.connection.execute("SELECT name, more FROM state").fetchall() == [("a", "a"), ("b", "b")]
    found.close()
    with pytest.raises(Unusable, match="is of a newer otpd: its schema has version 3, this otpd knows 2; start the newer"):
        opened(tmp_path)
    opened(tmp_path, newer).close()


def test_messages_that_an_older_otpd_has_kept_begin_to_wait_anew(tmp_path: Path) -> None:
    old = Schema((state.MIGRATION, journal.MIGRATIONS[0]), (state.TABLE, *journal.TABLES))
    database = opened(tmp_path, old)
    database.connection.execute("UPDATE minutes SET minute = 7")
    fixed = (1, "a", "k", "s", "", 0, "do", 1.0, 5, 0)
    row = (*fixed, 0, 0, 0, b"body", zlib.crc32(b"body", checksum(*fixed[:7])))
    database.connection.execute(f"INSERT INTO messages VALUES ({', '.join('?' * len(row))})", row)
    database.close()
    found = opened(tmp_path, service.SCHEMA)
    (message,) = journal.recover(found.connection).messages
    assert (found.report.problems, message.name, message.since) == ([], "do", 7)
    found.close()


def test_a_migration_that_fails_has_changed_nothing(tmp_path: Path) -> None:
    database = opened(tmp_path)
    saved(database, "a")
    database.close()
    with pytest.raises(Unusable, match="can't be used: no such table: nonsense"):
        opened(tmp_path, Schema((*SCHEMA.migrations, SECOND + "INSERT INTO nonsense VALUES (1);"), SCHEMA.tables))
    again = opened(tmp_path)
    assert (again.report.migrated_from, bodies(again)) == (None, {"a": b"a" + BODY})
    again.close()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    theirs = sqlite3.connect(tmp_path / "store.db")
    theirs.execute("CREATE TABLE theirs (a)")
    theirs.commit()
    theirs.close()
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(Unusable, match="is a database, but not one of otpd; move it away"):
        opened(tmp_path)
    assert (tmp_path / "store.db").read_bytes() == before


# --- damage ---


def test_what_is_no_database_goes_to_quarantine_and_its_commits_are_reported_lost(wal: Path) -> None:
    (wal / "store.db").write_bytes(b"not a database at all" * 1000)
    (wal / "store.db-wal").unlink()
    database = opened(wal)
    quarantine = Path(database.report.quarantine or "")
    assert (quarantine / "store.db").read_bytes().startswith(b"not a database at all")
    assert database.report.lost_commits == (1, 10)
    assert (bodies(database), database.seq) == ({}, 10)
    with pytest.raises(DamagedState):
        get_state(database.connection, "a")
    saved(database, "k")
    database.close()
    again = opened(wal)
    assert (again.report.problems, again.seq) == ([], 11), "told once; that names are fenced is in the database"
    with pytest.raises(DamagedState):
        get_state(again.connection, "a")
    again.close()


def test_a_file_that_is_gone_is_not_taken_for_a_new_node(wal: Path) -> None:
    (wal / "store.db").unlink()
    database = opened(wal)
    assert database.report.lost_commits == (1, 10)
    assert os.listdir(database.report.quarantine or "") == ["store.db-wal"]
    with pytest.raises(DamagedState):
        get_state(database.connection, "a")
    database.close()


@pytest.mark.parametrize("what", ["deleted", "cut", "an older copy"])
def test_commits_that_are_missing_in_the_log_are_named(wal: Path, what: str) -> None:
    """Invariant 32."""
    log = wal / "store.db-wal"
    data = log.read_bytes()
    if what == "deleted":
        log.unlink()
    else:
        log.write_bytes(data[: len(data) // 2] if what == "cut" else data[: 32 + (4096 + 24) * 2])
    database = opened(wal)
    first, last = database.report.lost_commits or (0, 0)
    assert (5 < first <= 10, last) == (True, 10)
    assert sorted(bodies(database)) == list("abcdefghij"[: first - 1])
    assert (Path(database.report.quarantine or "") / "store.db").exists()
    assert database.report.problems[0].startswith(f"commits {first} to 10 were acknowledged and are lost")
    with pytest.raises(DamagedState):
        get_state(database.connection, "j")
    database.close()


def test_a_mark_that_is_damaged_is_told_and_made_anew(wal: Path) -> None:
    (wal / "store.hwm").write_bytes(b"otpd.hwm" + b"\xff" * 12)
    database = opened(wal)
    assert database.report.problems == [
        "store.hwm is damaged: whether the database has lost commits can't be told this time"
    ]
    saved(database, "k")
    database.close()
    mark = HighWater(wal / "store.hwm")
    assert (mark.seq, mark.problem) == (11, None)
    mark.close()


def test_rows_that_can_be_read_are_saved_from_a_database_that_can_t(tmp_path: Path) -> None:
    """A page in the middle is overwritten: all but its rows are in the new one."""
    database = opened(tmp_path)
    names = [f"{i:04}" for i in range(300)]
    saved(database, names)
    database.close()
    data = bytearray((tmp_path / "store.db").read_bytes())
    data[20 * 4096 : 21 * 4096] = b"\xa5" * 4096
    (tmp_path / "store.db").write_bytes(data)
    found = opened(tmp_path)
    kept = bodies(found)
    assert 280 < len(kept) < 300
    assert all(body == name.encode() + BODY for name, body in kept.items())
    assert found.report.saved_rows == {"state": len(kept)}
    assert found.report.problems[0].startswith("the database was damaged (")
    assert found.seq == 1
    with pytest.raises(DamagedState):
        get_state(found.connection, next(name for name in names if name not in kept))
    found.close()


def test_what_is_found_damaged_while_it_is_used_is_saved_at_the_next_start_alone(wal: Path) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    first = opened(wal)
    assert first.suspect(error)
    first.close()
    second, whole = opened(wal), {name: name.encode() + BODY for name in "abcdefghij"}
    assert (second.report.why, second.report.saved_rows, bodies(second)) == (str(error), {"state": 10}, whole)
    second.close()
    third = opened(wal)
    assert (third.report.quarantine, bodies(third)) == (None, whole)
    third.close()


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["store.db", "store.db-wal"])
def test_one_flipped_byte_anywhere_is_never_a_silent_loss(wal: Path, tmp_path: Path, name: str) -> None:
    """What each name is given is what was saved, or an error; and whatever is missing was reported."""
    chance, size = random.Random(name), (wal / name).stat().st_size
    for number in range(25):
        copy = left_behind(wal, tmp_path / f"{name}{number}")
        flipped(copy / name, chance.randrange(size))
        try:
            database = opened(copy)
        except Unusable:
            continue
        for letter in "abcdefghij":
            found = given(database, letter)
            assert found in (letter.encode() + BODY, DamagedState), (number, letter, database.report)
            assert found is not DamagedState or database.report.problems, (number, letter)
        database.close()


@pytest.mark.parametrize("pages", [0.0, 0.01, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("log", ["whole", "gone"])
def test_a_database_that_was_cut_is_never_a_silent_loss(wal: Path, log: str, pages: float) -> None:
    """A whole log has what is missing, unless there is no file to which it belongs."""
    os.truncate(wal / "store.db", int(pages * 4096))
    if log == "gone":
        (wal / "store.db-wal").unlink()
    database = opened(wal)
    problems, seq = database.report.problems, database.seq
    found = {letter: given(database, letter) for letter in "abcdefghij"}
    database.close()
    whole = {letter: letter.encode() + BODY for letter in found}
    assert seq == 10, "no number of a commit is used again"
    assert bool(problems) == (log == "gone" or pages == 0.0)
    assert found == (dict.fromkeys(found, DamagedState) if problems else whole)


def given(database: Database, name: str) -> Any:
    try:
        return get_state(database.connection, name).body
    except DamagedState:
        return DamagedState


def test_a_large_database_is_not_read_through_before_the_node_can_start(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKED_AT_START", 1000)
    monkeypatch.setattr(module, "ROWS_CHECKED_AT_START", 1000)
    database = opened(wal)
    assert (database.report.checked, database.report.problems) == (False, [])
    database.close()


def test_a_directory_that_can_t_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Whoever runs this as root may write everywhere; a file where the directory should be stops root, too."""
    (tmp_path / "state").write_text("")
    with pytest.raises(Unusable, match=r"store\.db can't be written: Not a directory; state and durable messages need it"):
        opened(tmp_path / "state")
