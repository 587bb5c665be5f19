"""errors.db: records and groups in one SQLite file, together with how far root's journal has been read.

Records and cursor are committed at once: after a crash, or a power cut that took the last commits, the journal is read on
from where this file is, and nothing is counted twice. It has its own file, so that a storm of errors delays no message.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from otpd.agents.services.errors import schema
from otpd.agents.services.errors.records import HARMLESS, Lines, Record, exception, printed, regrouped
from otpd.agents.services.journal import Cursor
from otpd.agents.services.sqlite import any_text, passes

FILE: Final = "errors.db"
_ASIDE: Final = 3
#: A group of which an instance is among the names.
_ONE_OF: Final = (
    "EXISTS (SELECT 1 FROM instances WHERE instances.fingerprint = groups.fingerprint AND instances.name IN ({}))"
)


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
        self.forgotten = 0  # rows that were damaged when it was opened
        connection.row_factory = sqlite3.Row
        connection.text_factory = any_text

    @classmethod
    def open(cls, path: str) -> Self:
        """For the service; what is damaged in it is forgotten, see `damaged`. Unusable: not as it is, and why; sqlite3.Error
        that `passes`: not now."""
        with _closed_unless_good(_connected(path)) as db:
            try:
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise Unusable("it is damaged")
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                store = cls._of_version(db)
                store._mend()
                return store
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite quotes what it has found
                if isinstance(error, sqlite3.Error) and passes(error):
                    raise
                raise Unusable(f"it is damaged: {error}") from error

    @classmethod
    def look(cls, path: str) -> Self:
        """For a reader that leaves it alone. Empty when there is none; Unusable as for `open`."""
        if not os.path.exists(path):
            return cls._of_version(sqlite3.connect(":memory:", isolation_level=None))
        with _closed_unless_good(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)) as db:
            try:
                return cls._of_version(db) if _is_current(db) else cls._of_version(_in_memory(db))
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                raise Unusable(f"it can't be read: {error}") from error

    def copy(self) -> Self:
        """In memory, to be changed."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self._db.backup(copy)
        return type(self)(copy)

    @classmethod
    def _of_version(cls, db: sqlite3.Connection) -> Self:
        store = cls(db)
        if not _is_current(db):
            schema.migrate(db)
        schema.prove(db)
        return store

    def close(self) -> None:
        self._db.close()

    # --- writing ---

    def progress(self) -> tuple[Cursor, int]:
        """How far the journal has been read, and the state of `records.Machine` there. Unusable when it does not say."""
        row = next(schema.rows(self._db, "progress"), None)
        if row is None or not all(isinstance(each, int) for each in row):
            raise Unusable("it is damaged: it does not say how far the journal was read")
        return Cursor(row["life"], row["seq"]), row["alive"]

    def damaged(self) -> int:
        """Rows that are not as they were written: all else leaves them out."""
        return schema.damaged(self._db)

    def _mend(self) -> None:
        """A group whose row is lost is counted anew from its records, and so is what each instance had of it."""
        self.forgotten = self.damaged()
        if not self.forgotten:
            return
        with self._transaction():
            schema.mend(self._db)
            groups = {row["fingerprint"] for row in schema.rows(self._db, "groups")}
            instances = {(row["fingerprint"], row["name"]) for row in schema.rows(self._db, "instances")}
            for row in (_plain("records", each) for each in schema.rows(self._db, "records", "ORDER BY id")):
                if row["fingerprint"] not in groups:
                    self._count(row)
                if row["instance_of"] and (row["fingerprint"], row["name"]) not in instances:
                    self._count_instance(row)

    def apply(self, items: Iterable[Record | Lines], cursor: Cursor, alive: int) -> None:
        """All of it and the cursor, or nothing."""
        with self._transaction():
            for item in items:
                self._add(item) if isinstance(item, Record) else self._add_lines(item)
            self._db.execute("DELETE FROM progress")
            schema.put(self._db, "progress", *cursor, alive)

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
            self._db.execute("DELETE FROM instances WHERE fingerprint NOT IN (SELECT fingerprint FROM groups)")
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

    def _add(self, record: Record) -> None:
        row = {
            "id": self._next_id(), "fingerprint": record.fingerprint, "kind": record.kind, "at": record.at,
            "name": record.name, "path": record.path, "generation": record.generation, "life": record.life,
            "seq": record.seq, "summary": record.summary, "weight": record.weight,
            "detail": json.dumps(record.detail, default=repr), "lines": None, "instance_of": record.instance_of,
        }  # fmt: skip
        self._put(row)

    def _put(self, row: Mapping[str, Any]) -> None:
        """A record, counted in its group."""
        schema.put(self._db, "records", *row.values())
        self._count(row)
        self._count_instance(row)

    def _next_id(self) -> int:
        """Of a record: none comes twice, also when the last ones are gone."""
        found = "SELECT max(id) FROM records UNION ALL SELECT seq FROM sqlite_sequence WHERE name = 'records'"
        return max((number for (number,) in self._db.execute(found) if isinstance(number, int)), default=0) + 1

    def _count(self, of: Mapping[str, Any]) -> None:
        """In its group, which begins with the first."""
        group = self._group(of["fingerprint"]) or {"first_seen": of["at"], "count": 0}
        name = of["instance_of"] or of["name"]
        times = group["first_seen"], of["at"], group["count"] + of["weight"]
        schema.put(self._db, "groups", of["fingerprint"], of["kind"], name, of["summary"], *times)

    def _count_instance(self, of: Mapping[str, Any]) -> None:
        if of["instance_of"]:
            before = self._instances(of["fingerprint"]).get(of["name"], 0)
            schema.put(self._db, "instances", of["fingerprint"], of["name"], before + of["weight"])

    def _add_lines(self, found: Lines) -> None:
        """To the record of that death; not to one that is damaged."""
        which = (
            "WHERE name = ? AND life = ? AND generation = ? AND kind IN ('crash', 'unclean_stop', 'end') ORDER BY id DESC"
        )
        there = next(schema.rows(self._db, "records", which, (found.name, found.life, found.generation)), None)
        if there is None:
            return
        row = {**_plain("records", there), "lines": json.dumps(found.lines)}
        name = row["instance_of"] or row["name"]
        better = regrouped(row["kind"], name, _parsed(row["detail"], {}), found.lines)
        if better is None:
            schema.put(self._db, "records", *row.values())
        else:
            self._leave(there)
            self._put({**row, "fingerprint": better[0], "summary": better[1]})

    def _leave(self, row: sqlite3.Row) -> None:
        """It turns out to belong to another group than the one where it was counted."""
        old = row["fingerprint"]
        self._db.execute("DELETE FROM records WHERE id = ?", (row["id"],))
        group = self._group(old)
        if group is not None and group["count"] > row["weight"]:
            last = next(schema.rows(self._db, "records", "WHERE fingerprint = ? ORDER BY at DESC", (old,)), None)
            group |= {
                "count": group["count"] - row["weight"],
                "last_seen": group["last_seen"] if last is None else last["at"],
            }
            schema.put(self._db, "groups", *group.values())
        else:
            self._db.execute("DELETE FROM groups WHERE fingerprint = ?", (old,))
        count = self._instances(old).get(row["name"], 0) - row["weight"]
        if count > 0:
            schema.put(self._db, "instances", old, row["name"], count)
        else:
            self._db.execute("DELETE FROM instances WHERE fingerprint = ? AND name = ?", (old, row["name"]))

    # --- reading ---

    def groups(
        self, names: Sequence[str] = (), since: float = 0.0, kinds: Sequence[str] = (), most: int = 50
    ) -> list[dict[str, Any]]:
        """The latest first; without `kinds` all but those that nobody has to look at. `since` is a unix time."""
        where, values = _chosen(names, kinds, _ONE_OF)
        rest = f"WHERE last_seen >= ? AND {where} ORDER BY last_seen DESC, fingerprint"
        found = schema.rows(self._db, "groups", rest, (since, *values))
        return [self._with_instances(row) for row in itertools.islice(found, most)]

    def _with_instances(self, row: sqlite3.Row) -> dict[str, Any]:
        group = _plain("groups", row)
        of_it = schema.rows(self._db, "records", "WHERE fingerprint = ? ORDER BY id DESC", (row["fingerprint"],))
        latest = next((each["id"] for each in of_it if each["fingerprint"] == row["fingerprint"]), None)
        return {**group, "latest": latest, "instances": self._instances(row["fingerprint"])}

    def _instances(self, fingerprint: str) -> dict[str, int]:
        """How often each instance of a group of the config had it, those that had it most first; empty: it is of none."""
        found = schema.rows(self._db, "instances", "WHERE fingerprint = ? ORDER BY count DESC, name", (fingerprint,))
        return {row["name"]: row["count"] for row in found}

    def records(
        self, names: Sequence[str] = (), since: float = 0.0, kinds: Sequence[str] = (), most: int = 50
    ) -> list[dict[str, Any]]:
        """The latest first."""
        where, values = _chosen(names, kinds, "instance_of IN ({})")
        rest = f"NOT INDEXED WHERE at >= ? AND {where} ORDER BY id DESC"
        found = schema.rows(self._db, "records", rest, (since, *values))
        return [_whole(row) for row in itertools.islice(found, most)]

    def show(self, which: str) -> dict[str, Any] | None:
        """One record by its number, or the latest of a group by its fingerprint or the beginning of one."""
        number = min(int(which), 2**63 - 1) if which.isdecimal() else 0
        rest = "NOT INDEXED WHERE id = ? OR substr(fingerprint, 1, ?) = ? ORDER BY id = ? DESC, id DESC"
        row = next(schema.rows(self._db, "records", rest, (number, len(which), which, number)), None)
        return None if row is None else _whole(row)

    def group(self, fingerprint: str) -> dict[str, Any] | None:
        row = self._group(fingerprint)
        return None if row is None else {**row, "instances": self._instances(fingerprint)}

    def _group(self, fingerprint: str) -> dict[str, Any] | None:
        row = next(schema.rows(self._db, "groups", "WHERE fingerprint = ?", (fingerprint,)), None)
        return None if row is None else _plain("groups", row)


@contextlib.contextmanager
def _closed_unless_good(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _is_current(db: sqlite3.Connection) -> bool:
    """False: it is older, or about to be made. Unusable: of the future, or its version is not true."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > schema.VERSION:
        raise Unusable(f"it was written by a newer otpd (version {version}, this one knows {schema.VERSION})")
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise Unusable("it is damaged: it says that it is empty, and is not")
    return bool(version == schema.VERSION)


def _in_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    """A copy, in place of the file."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    with contextlib.closing(db):
        db.backup(copy)
    return copy


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


def _chosen(names: Sequence[str], kinds: Sequence[str], instances: str) -> tuple[str, list[str]]:
    """A condition and its values. `instances`: what else finds names, those of instances or of their group."""
    terms, values = [], list[str]()
    if names:
        marks = ", ".join("?" * len(names))
        terms.append(f"(name IN ({marks}) OR {instances.format(marks)})")
        values += [*names, *names]
    if kinds:
        terms.append(f"kind IN ({', '.join('?' * len(kinds))})")
        values += kinds
    else:
        terms.append(f"kind NOT IN ({', '.join('?' * len(HARMLESS))})")
        values += sorted(HARMLESS)
    return " AND ".join(terms), values


def _plain(table: str, row: sqlite3.Row) -> dict[str, Any]:
    """Without its checksum, under the names that are known here: those in the file may be damaged, too."""
    return dict(zip(schema.COLUMNS[table].split(", ")[:-1], row, strict=False))


def _whole(row: sqlite3.Row) -> dict[str, Any]:
    found = _plain("records", row)
    del found["seq"]
    detail, lines = _parsed(found.pop("detail"), {}), list(map(str, _parsed(found.pop("lines"), [])))
    detail |= exception(printed(detail, lines))
    return {**found, "detail": detail, "lines": lines}


def _parsed(text: Any, empty: Any) -> Any:
    """`empty` for what is missing."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return empty
    return found if isinstance(found, type(empty)) else empty
