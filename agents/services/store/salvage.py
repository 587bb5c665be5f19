"""What can be read of a database that SQLite can't read, or that is not as it was written."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from otpd.agents.services import sqlite
from otpd.agents.services.store.schema import Table


def damaged(connection: sqlite3.Connection, table: Table) -> list[sqlite3.Row]:
    """The rows that are not as they were written."""
    return [row for row in rows(connection, f"SELECT * FROM {table.name}") if not table.intact(row)]


def copy(old: sqlite3.Connection, new: sqlite3.Connection, table: Table) -> int:
    """How many rows. What lies behind an unreadable page from one end may be in front of it from the other."""
    before = new.total_changes
    for direction in ("ASC", "DESC"):
        for row in rows(old, f"SELECT * FROM {table.name} NOT INDEXED ORDER BY {table.key} {direction}"):
            if table.intact(row):
                new.execute(f"INSERT OR IGNORE INTO {table.name} VALUES ({', '.join('?' * len(row))})", tuple(row))
    return new.total_changes - before


def readable(connection: sqlite3.Connection, query: str) -> list[sqlite3.Row]:
    """The rows up to the first that can't be read."""
    return list(rows(connection, query))


def rows(connection: sqlite3.Connection, query: str) -> Iterator[sqlite3.Row]:
    """As `readable`, one by one."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    with any_text(connection), contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        yield from cursor.execute(query)


@contextlib.contextmanager
def any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Meanwhile what is no UTF-8 is read, too: with escapes."""
    before, connection.text_factory = connection.text_factory, sqlite.any_text
    try:
        yield
    finally:
        connection.text_factory = before
