"""What can be read of a database that SQLite can't read, or that is not as it was written; row by row."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from otpd.agents.services import sqlite
from otpd.agents.services.store.schema import Table


def quick_check(connection: sqlite3.Connection) -> None:
    """SQLite's own, of all pages and of which are free. sqlite3.DatabaseError (SQLITE_CORRUPT): what it has found."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
    if found != ["ok"]:
        error = sqlite3.DatabaseError("; ".join(line.replace("\n", " ") for line in found))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def damaged(connection: sqlite3.Connection, table: Table) -> Iterator[sqlite3.Row]:
    """The rows that are not as they were written."""
    return (row for row in rows(connection, f"SELECT * FROM {table.name}") if not table.intact(row))


def copy(old: sqlite3.Connection, new: sqlite3.Connection, table: Table) -> int:
    """How many rows. What lies behind an unreadable page from one end may be in front of it from the other."""
    before = new.total_changes
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{column} {direction}" for column in table.key)
        found = rows(old, f"SELECT * FROM {table.name} NOT INDEXED ORDER BY {order}")
        _fill(new, f"OR IGNORE INTO {table.name}", (row for row in found if table.intact(row)))
    return new.total_changes - before


def drop_damaged(connection: sqlite3.Connection, table: Table) -> int:
    """How many there were. Where the key is what is damaged, it can't be asked for: then the others are written anew."""
    keys = [table.key_of(row) for row in damaged(connection, table)]
    delete = f"DELETE FROM {table.name} WHERE ({table.keys}) = ({', '.join('?' * len(table.key))})"
    if sum(connection.execute(delete, key).rowcount for key in keys) < len(keys):
        _write_anew(connection, table)
    return len(keys)


def _write_anew(connection: sqlite3.Connection, table: Table) -> None:
    """By way of a nameless file, which is gone with its connection."""
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as aside:
        columns = ", ".join(name for _, name, *_ in connection.execute(f"PRAGMA table_info({table.name})"))
        aside.execute(f"CREATE TABLE kept ({columns})")
        aside.execute("BEGIN")
        _fill(aside, "INTO kept", (row for row in rows(connection, f"SELECT * FROM {table.name}") if table.intact(row)))
        connection.execute(f"DELETE FROM {table.name}")
        _fill(connection, f"INTO {table.name}", aside.execute("SELECT * FROM kept"))


def _fill(connection: sqlite3.Connection, into: str, found: Iterable[Iterable[Any]]) -> None:
    for row in map(tuple, found):
        connection.execute(f"INSERT {into} VALUES ({', '.join('?' * len(row))})", row)


def readable(connection: sqlite3.Connection, query: str) -> list[sqlite3.Row]:
    """The rows up to the first that can't be read: of a few."""
    return list(rows(connection, query))


def rows(connection: sqlite3.Connection, query: str) -> Iterator[sqlite3.Row]:
    """As `readable`, one by one."""
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        yield from each(connection, query)


def each(connection: sqlite3.Connection, query: str, values: tuple[Any, ...] = ()) -> Generator[sqlite3.Row, None, None]:
    """Rows whatever is in them; sqlite3.Error where one can't be read."""
    with contextlib.closing(connection.cursor()) as cursor, any_text(connection):
        cursor.row_factory = sqlite3.Row
        yield from cursor.execute(query, values)


@contextlib.contextmanager
def any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Meanwhile what is no UTF-8 is read, too: with escapes."""
    before, connection.text_factory = connection.text_factory, sqlite.any_text
    try:
        yield
    finally:
        connection.text_factory = before
