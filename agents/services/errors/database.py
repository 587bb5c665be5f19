"""errors.db: records and groups in one SQLite file, together with how far root's journal has been read.

Records and cursor are committed at once: after a crash, or a power cut that took the last commits, the journal is read on
from where this file is, and nothing is counted twice. It has its own file, so that a storm of errors delays no message.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from otpd.agents.services.errors.records import HARMLESS, Lines, Record, exception, regrouped
from otpd.agents.services.journal import Cursor
from otpd.agents.services.sqlite import any_text, passes

FILE: Final = "errors.db"
VERSION: Final = 1
_ASIDE: Final = 3
_SCHEMA: Final = """
CREATE TABLE progress (life INTEGER NOT NULL, seq INTEGER NOT NULL, alive INTEGER NOT NULL);
INSERT INTO progress VALUES (0, 0, 0);
CREATE TABLE groups (
  fingerprint TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, summary TEXT NOT NULL,
  first_seen REAL NOT NULL, last_seen REAL NOT NULL, count INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE records (
  id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL,
  name TEXT NOT NULL, path TEXT NOT NULL, generation INTEGER NOT NULL, life INTEGER NOT NULL, seq INTEGER NOT NULL,
  summary TEXT NOT NULL, weight INTEGER NOT NULL, detail TEXT NOT NULL, lines TEXT
);
CREATE INDEX records_of_group ON records (fingerprint, id);
CREATE INDEX records_of_name ON records (name, life, generation);
PRAGMA user_version = 1;
"""
_ROW: Final = "id, fingerprint, kind, at, name, path, generation, life, summary, weight, detail, lines"


class Unusable(Exception):
    """The file can't be used as it is: damaged, or written by a newer otpd."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept. `per_group`: records of one fingerprint; its count goes on. `age` in seconds."""

    records: int = 5000
    per_group: int = 50
    groups: int = 2000
    age: float = 30 * 86_400.0


class Database:
    """One connection; only one process writes. Every sqlite3.Error of a write means: nothing of it has happened. A text that
    is damaged is read with escapes: it must not hide the others."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        connection.row_factory = sqlite3.Row
        connection.text_factory = any_text

    @classmethod
    def open(cls, path: str) -> Self:
        """For the service. Unusable: not as it is, and why; sqlite3.Error that `passes`: not now."""
        with _closed_unless_good(_connected(path)) as db:
            try:
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise Unusable("it is damaged")
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                return cls._of_version(db)
            except sqlite3.DatabaseError as error:
                if passes(error):
                    raise
                raise Unusable(f"it is damaged: {error}") from error

    @classmethod
    def look(cls, path: str) -> Self:
        """For a reader that leaves it alone. Empty when there is none; Unusable as for `open`."""
        if not os.path.exists(path):
            return cls._of_version(sqlite3.connect(":memory:", isolation_level=None))
        with _closed_unless_good(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)) as db:
            try:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # the service is about to make it
                    db.close()
                    return cls._of_version(sqlite3.connect(":memory:", isolation_level=None))
                return cls._of_version(db)
            except sqlite3.DatabaseError as error:
                raise Unusable(f"it can't be read: {error}") from error

    def copy(self) -> Self:
        """In memory, to be changed."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self._db.backup(copy)
        return type(self)(copy)

    @classmethod
    def _of_version(cls, db: sqlite3.Connection) -> Self:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise Unusable(f"it was written by a newer otpd (version {version}, this one knows {VERSION})")
        if version == 0:
            db.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        return cls(db)

    def close(self) -> None:
        self._db.close()

    # --- writing ---

    def progress(self) -> tuple[Cursor, int]:
        """How far the journal has been read, and the state of `records.Machine` there. Unusable when it does not say."""
        row = self._db.execute("SELECT life, seq, alive FROM progress").fetchone()
        if row is None or not all(isinstance(each, int) for each in row):
            raise Unusable("it is damaged: it does not say how far the journal was read")
        life, seq, alive = row
        return Cursor(life, seq), alive

    def apply(self, items: Iterable[Record | Lines], cursor: Cursor, alive: int) -> None:
        """All of it and the cursor, or nothing."""
        with self._transaction():
            for item in items:
                self._add(item) if isinstance(item, Record) else self._add_lines(item)
            self._db.execute("UPDATE progress SET life = ?, seq = ?, alive = ?", (*cursor, alive))

    def prune(self, limits: Limits, now: float) -> int:
        """Forget what is too old or too much, the oldest first; gives how many records."""
        before = now - limits.age
        with self._transaction():
            gone = self._delete("at < ?", before)
            gone += self._delete(
                "id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY fingerprint ORDER BY id DESC) AS n "
                "FROM records) WHERE n > ?)",
                limits.per_group,
            )
            gone += self._delete("id <= (SELECT id FROM records ORDER BY id DESC LIMIT 1 OFFSET ?)", limits.records)
            self._db.execute("DELETE FROM groups WHERE last_seen < ?", (before,))
            self._db.execute(
                "DELETE FROM groups WHERE fingerprint IN (SELECT fingerprint FROM groups ORDER BY last_seen DESC, "
                "fingerprint LIMIT -1 OFFSET ?)",
                (limits.groups,),
            )
            return gone + self._delete("fingerprint NOT IN (SELECT fingerprint FROM groups)")

    def _delete(self, where: str, *values: float) -> int:
        return self._db.execute(f"DELETE FROM records WHERE {where}", values).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _count(self, fingerprint: str, kind: str, name: str, summary: str, at: float, weight: int) -> None:
        self._db.execute(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET count = count + "
            "excluded.count, last_seen = excluded.last_seen, summary = excluded.summary",
            (fingerprint, kind, name, summary, at, at, weight),
        )

    def _add(self, record: Record) -> None:
        self._count(record.fingerprint, record.kind, record.name, record.summary, record.at, record.weight)
        self._db.execute(
            "INSERT INTO records (fingerprint, kind, at, name, path, generation, life, seq, summary, weight, detail) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.fingerprint, record.kind, record.at, record.name, record.path, record.generation, record.life,
                record.seq, record.summary, record.weight, json.dumps(record.detail, default=repr),
            ),
        )  # fmt: skip

    def _add_lines(self, found: Lines) -> None:
        row = self._db.execute(
            f"SELECT {_ROW} FROM records WHERE name = ? AND life = ? AND generation = ? "
            "AND kind IN ('crash', 'unclean_stop', 'end') ORDER BY id DESC LIMIT 1",
            (found.name, found.life, found.generation),
        ).fetchone()
        if row is None:
            return
        self._db.execute("UPDATE records SET lines = ? WHERE id = ?", (json.dumps(found.lines), row["id"]))
        better = regrouped(row["kind"], row["name"], _parsed(row["detail"], {}), found.lines)
        if better is not None:
            self._move(row, *better)

    def _move(self, row: sqlite3.Row, fingerprint: str, summary: str) -> None:
        """To the group that it turns out to belong to."""
        old, weight, at = row["fingerprint"], row["weight"], row["at"]
        self._db.execute("UPDATE records SET fingerprint = ?, summary = ? WHERE id = ?", (fingerprint, summary, row["id"]))
        self._db.execute(
            "UPDATE groups SET count = count - ?, last_seen = coalesce((SELECT max(at) FROM records WHERE "
            "records.fingerprint = groups.fingerprint), last_seen) WHERE fingerprint = ?",
            (weight, old),
        )
        self._db.execute("DELETE FROM groups WHERE fingerprint = ? AND count <= 0", (old,))
        self._count(fingerprint, row["kind"], row["name"], summary, at, weight)

    # --- reading ---

    def groups(
        self, names: Sequence[str] = (), since: float = 0.0, kinds: Sequence[str] = (), most: int = 50
    ) -> list[dict[str, Any]]:
        """The latest first; without `kinds` all but those that nobody has to look at. `since` is a unix time."""
        where, values = _chosen(names, kinds)
        rows = self._db.execute(
            f"SELECT fingerprint, kind, name, summary, first_seen, last_seen, count, (SELECT max(id) FROM records WHERE "
            f"records.fingerprint = groups.fingerprint) AS latest FROM groups WHERE last_seen >= ? AND {where} "
            "ORDER BY last_seen DESC, fingerprint LIMIT ?",
            (since, *values, most),
        )
        return [dict(row) for row in rows]

    def records(
        self, names: Sequence[str] = (), since: float = 0.0, kinds: Sequence[str] = (), most: int = 50
    ) -> list[dict[str, Any]]:
        """The latest first."""
        where, values = _chosen(names, kinds)
        rows = self._db.execute(
            f"SELECT {_ROW} FROM records WHERE at >= ? AND {where} ORDER BY id DESC LIMIT ?", (since, *values, most)
        )
        return [_whole(row) for row in rows]

    def show(self, which: str) -> dict[str, Any] | None:
        """One record by its number, or the latest of a group by its fingerprint or the beginning of one."""
        if which.isdecimal():
            row = self._db.execute(f"SELECT {_ROW} FROM records WHERE id = ?", (min(int(which), 2**63 - 1),)).fetchone()
            if row is not None:
                return _whole(row)
        row = self._db.execute(
            f"SELECT {_ROW} FROM records WHERE substr(fingerprint, 1, ?) = ? ORDER BY id DESC LIMIT 1", (len(which), which)
        ).fetchone()
        return None if row is None else _whole(row)

    def group(self, fingerprint: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT * FROM groups WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return None if row is None else dict(row)


@contextlib.contextmanager
def _closed_unless_good(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _connected(path: str) -> sqlite3.Connection:
    """For its owner's eyes: last lines and tracebacks may hold secrets. SQLite gives -wal and -shm the same mode."""
    with contextlib.suppress(OSError):  # SQLite says better what is wrong
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, isolation_level=None)


def set_aside(path: str) -> Path:
    """Move a file that can't be used out of the way, with what belongs to it; gives its new name. The first two and the
    last are kept."""
    number = next((n for n in range(1, _ASIDE) if not os.path.exists(f"{path}.unusable-{n}")), _ASIDE)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path + suffix, f"{path}.unusable-{number}{suffix}")
    return Path(f"{path}.unusable-{number}")


def _chosen(names: Sequence[str], kinds: Sequence[str]) -> tuple[str, list[str]]:
    """A condition and its values."""
    terms, values = [], list[str]()
    if names:
        terms.append(f"name IN ({', '.join('?' * len(names))})")
        values += names
    if kinds:
        terms.append(f"kind IN ({', '.join('?' * len(kinds))})")
        values += kinds
    else:
        terms.append(f"kind NOT IN ({', '.join('?' * len(HARMLESS))})")
        values += sorted(HARMLESS)
    return " AND ".join(terms), values


def _whole(row: sqlite3.Row) -> dict[str, Any]:
    found = dict(row)
    detail, lines = _parsed(found.pop("detail"), {}), list(map(str, _parsed(found.pop("lines"), [])))
    if "exception" not in detail:
        detail |= exception("\n".join(lines))  # of a program, which could only print it
    return {**found, "detail": detail, "lines": lines}


def _parsed(text: Any, empty: Any) -> Any:
    """`empty` for what is missing or damaged: rows have no checksum, and one of them must not hide the others."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return empty
    return found if isinstance(found, type(empty)) else empty
