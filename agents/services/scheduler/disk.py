"""What of the schedules outlives the process: one SQLite file, written by one thread, many records to a commit.

A file of its own and not the store's: timers must fire while the store is down, and the store's commits must not wait for
them. Each row carries a checksum of its own, because SQLite's checks find few of the flipped bytes. Who writes is called
back when it is on disk.

Guarantees: after the call back a record survives the death of anybody, and of the machine if its disk keeps its word; a
damaged file is moved to `quarantine` beside it, never overwritten; a file of a later otpd is left alone (`Newer`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, fields, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from otpd.agents.services.scheduler.effects import Record
from otpd.agents.services.sqlite import any_text, checksum, passes

#: Records by id; None: forget it.
Changes: TypeAlias = dict[str, Record | None]
_VERSION: Final = 1
_NAMES: Final = tuple(each.name for each in fields(Record))
_TABLES: Final = """
CREATE TABLE schedules (
  id TEXT PRIMARY KEY, name TEXT, method TEXT, kind TEXT, last INTEGER, run INTEGER, generation INTEGER, paused INTEGER,
  due INTEGER, wall INTEGER, due_wall INTEGER, grace INTEGER, args BLOB, crc INTEGER
) WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_PUT: Final = f"INSERT OR REPLACE INTO schedules VALUES ({', '.join('?' * (len(_NAMES) + 1))})"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Newer(Exception):
    """The file was written by a later otpd."""


class Disk:
    """`failed`: why nothing can be written any more, or None. `problems`: what was found at the start, for people."""

    def __init__(self, path: Path, life: int) -> None:
        self._path, self._life = path, life
        self._orders: SimpleQueue[tuple[Changes, Callable[[str | None], None]] | None] = SimpleQueue()
        self.problems: list[str] = []
        self._connection = self._opened()
        self._thread = threading.Thread(target=self._work, name="otpd schedules", daemon=True)
        self._thread.start()

    # --- the beginning ---

    def _opened(self) -> sqlite3.Connection:
        """sqlite3.Error or OSError when there can be none; Newer."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect()
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found == "ok":
                self._prepare(connection)
                return connection
        except sqlite3.DatabaseError as error:
            found = str(error)
            if passes(error):
                connection.close()
                raise
        connection.close()
        self._quarantine(found)
        connection = self._connect()
        self._prepare(connection)
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        connection.text_factory = any_text
        os.chmod(self._path, 0o600)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            connection.close()
            text = f"{self._path} was written by a later otpd (version {version}, this one knows {_VERSION})"
            raise Newer(f"{text}; start that one, or move the file away")
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "temp_store = MEMORY", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        if version == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")
        connection.execute("SELECT count(*) FROM facts").fetchone()
        connection.execute(f"SELECT {', '.join(_NAMES)}, crc FROM schedules LIMIT 1").fetchone()
        self._reboot(connection)

    def _reboot(self, connection: sqlite3.Connection) -> None:
        """In another boot of the machine the monotonic clock is another: `after` goes on by the wall clock."""
        boot = _BOOT.read_text().strip()
        known = connection.execute("SELECT value FROM facts WHERE key = 'boot'").fetchone()
        if known == (boot,):
            return
        shift = time.monotonic_ns() - time.time_ns()
        moved = []
        for record, life in self._sound(connection):
            if not record.wall:
                moved.append(_row(in_another_boot(record, shift), life))
        connection.execute("BEGIN")
        connection.executemany(_PUT, moved)
        connection.execute("INSERT OR REPLACE INTO facts VALUES ('boot', ?)", (boot,))
        connection.execute("COMMIT")

    def _quarantine(self, why: str) -> None:
        place = self._path.parent / "quarantine" / f"{self._path.name}.{time.time_ns()}"
        place.parent.mkdir(exist_ok=True)
        for tail in ("", "-wal", "-shm"):
            if (found := self._path.with_name(self._path.name + tail)).exists():
                found.rename(place.with_name(place.name + tail))
        self.problems.append(f"{self._path} was damaged ({why}) and is now {place}; its schedules are lost")

    def load(self) -> Iterator[Record]:
        """All that is sound."""
        sound = 0
        for record, life in self._sound(self._connection):
            sound += 1
            yield of_life(record, life, self._life)
        damaged = self._connection.execute("SELECT count(*) FROM schedules").fetchone()[0] - sound
        if damaged:
            self.problems.append(f"schedules left out because they were damaged: {damaged} of {self._path}")

    @staticmethod
    def _sound(connection: sqlite3.Connection) -> Iterator[tuple[Record, int]]:
        """Records, each with the life of root that its generation is of."""
        for *values, crc in connection.execute("SELECT * FROM schedules"):
            try:
                record, life = _record(values)
            except (TypeError, ValueError):
                continue
            if crc == _crc(record, life):
                yield record, life

    # --- writing ---

    def write(self, changes: Changes, then: Callable[[str | None], None]) -> None:
        """In its thread: `then(None)` when it is on disk, `then(why)` when it is not."""
        self._orders.put((changes, then))

    def close(self) -> None:
        """What was given is on disk when this returns."""
        self._orders.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            orders = [order]
            while not self._orders.empty() and len(orders) < 1000:
                following = self._orders.get()
                if following is None:
                    self._orders.put(None)
                    break
                orders.append(following)
            why = self._commit(each for each, _ in orders)
            for _, then in orders:
                then(why)

    def _commit(self, orders: Iterable[Changes]) -> str | None:
        changes: Changes = {}
        for each in orders:
            changes.update(each)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            gone = [(id_,) for id_, record in changes.items() if record is None]
            self._connection.executemany("DELETE FROM schedules WHERE id = ?", gone)
            kept = [_row(each, self._life if each.generation else 0) for each in changes.values() if each is not None]
            self._connection.executemany(_PUT, kept)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if self._connection.in_transaction:
                self._connection.rollback()
            return str(error)
        return None


def in_another_boot(record: Record, shift: int) -> Record:
    """Of the monotonic clock, which is `shift` ns beside the wall clock now."""
    due = record.due_wall + shift
    return replace(record, due=due, run=None if record.run is None else due)


def of_life(record: Record, life: int, now: int) -> Record:
    """What an earlier life of root had given to an incarnation, none of this life has."""
    return record if life == now else replace(record, generation=0)


def _record(values: list[Any]) -> tuple[Record, int]:
    """TypeError or ValueError for what `_row` has not made."""
    found = dict(zip(_NAMES, values, strict=True))
    life, found["generation"] = divmod(found["generation"], 1 << 32)
    found["paused"], found["wall"] = bool(found["paused"]), bool(found["wall"])
    return Record(**found), life


def _row(record: Record, life: int) -> tuple[Any, ...]:
    values = dict(zip(_NAMES, astuple(record), strict=True)) | {"generation": life << 32 | record.generation}
    return (*values.values(), _crc(record, life))


def _crc(record: Record, life: int) -> int:
    return checksum(*astuple(record), life)
