"""The tables of errors.db, how they became what they are, and what is done about rows that are not as they were written.

The last column of each row is the checksum of the others (`sqlite.sealed`). What is damaged is never shown: whoever reads
leaves it out, and the service forgets it when it starts (`mend`), counts it and tells. A group whose own row is lost is
counted anew from the records of it that are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from otpd.agents.services.sqlite import checksum, intact, sealed

#: By version: what leads to it from the one before; a script that was released is never changed.
_SCRIPTS: Final = (
    """
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
""",
    """
CREATE TABLE instances (
  fingerprint TEXT NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, crc INTEGER NOT NULL,
  PRIMARY KEY (fingerprint, name)
) WITHOUT ROWID;
ALTER TABLE records ADD COLUMN instance_of TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE groups ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE progress ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
""",
)
VERSION: Final = len(_SCRIPTS)
#: By table: its columns, in the order of the checksum.
COLUMNS: Final[Mapping[str, str]] = {
    "progress": "life, seq, alive, crc",
    "groups": "fingerprint, kind, name, summary, first_seen, last_seen, count, crc",
    "instances": "fingerprint, name, count, crc",
    "records": "id, fingerprint, kind, at, name, path, generation, life, seq, summary, weight, detail, lines, "
    "instance_of, crc",
}
#: Tables of the version without checksums, with their keys.
_SEALED: Final[Mapping[str, str]] = {"progress": "rowid", "groups": "fingerprint", "records": "id"}
#: What may be left out; without its progress a file is useless.
TABLES: Final = ("groups", "instances", "records")


def migrate(db: sqlite3.Connection) -> None:
    """From whatever version it has, in one transaction. sqlite3.Error: it is as it was, and not what its version says."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in (each for script in _SCRIPTS[version:] for each in script.split(";\n") if each.strip()):
            db.execute(statement)
        if version < VERSION:
            for table, key in _SEALED.items():
                _seal_all(db, table, key)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _seal_all(db: sqlite3.Connection, table: str, key: str) -> None:
    """What was written without a checksum: it is taken as it is."""
    for row in db.execute(f"SELECT {key}, {COLUMNS[table]} FROM {table}").fetchall():
        db.execute(f"UPDATE {table} SET crc = ? WHERE {key} = ?", (checksum(*row[1:-1]), row[0]))


def prove(db: sqlite3.Connection) -> None:
    """sqlite3.Error, or UnicodeDecodeError for what SQLite wants to say: its tables are not as they are made here."""
    for table, columns in COLUMNS.items():
        db.execute(f"SELECT {columns} FROM {table} LIMIT 0")


def put(db: sqlite3.Connection, table: str, *values: Any) -> None:
    """A whole row, without its checksum, in place of the one with its key."""
    row = sealed(*values)
    db.execute(f"INSERT OR REPLACE INTO {table} ({COLUMNS[table]}) VALUES ({', '.join('?' * len(row))})", row)


def rows(db: sqlite3.Connection, table: str, rest: str = "", values: Any = ()) -> Iterator[sqlite3.Row]:
    """The rows that are as they were written; `rest`: what follows the name of the table."""
    return (row for row in db.execute(f"SELECT {COLUMNS[table]} FROM {table} {rest}", values) if intact(row))


def damaged(db: sqlite3.Connection) -> int:
    """How many rows are not as they were written."""
    found = (row for table in TABLES for row in db.execute(f"SELECT {COLUMNS[table]} FROM {table} NOT INDEXED"))
    return sum(not intact(row) for row in found)


def mend(db: sqlite3.Connection) -> None:
    """Within a transaction. Each table is written anew from what is intact: a damaged key may hide its neighbours."""
    kept = {table: [tuple(row) for row in rows(db, table, "NOT INDEXED")] for table in TABLES}
    for table in TABLES:
        db.execute(f"DELETE FROM {table}")
        marks = ", ".join("?" * len(COLUMNS[table].split(", ")))
        db.executemany(f"INSERT OR IGNORE INTO {table} ({COLUMNS[table]}) VALUES ({marks})", kept[table])
