"""What the database of the store consists of: its tables, how it became what it is, and the few values about itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: The first of all migrations: the number of the last commit, and what is known of losses.
META: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('seq', 0);
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What must be known of a table to check and to save it: its primary key, whether a row is as it was written, and the
    column by which people are told of one."""

    name: str
    key: tuple[str, ...]
    intact: Callable[[sqlite3.Row], bool]
    told_by: str

    @property
    def keys(self) -> str:
        return ", ".join(self.key)

    def key_of(self, row: sqlite3.Row) -> tuple[Any, ...]:
        return tuple(row[column] for column in self.key)

    def told(self, row: sqlite3.Row) -> tuple[str, str]:
        """Which row it is, for people."""
        return self.name, str(row[self.told_by])


@dataclass(frozen=True, slots=True)
class Schema:
    """`migrations[n]` is the SQL that leads from version n to n + 1; a script that was released is never changed."""

    migrations: Sequence[str]
    tables: Sequence[Table]

    @property
    def version(self) -> int:
        return len(self.migrations) + 1

    def scripts(self) -> list[str]:
        return [META, *self.migrations]


def get_meta(connection: sqlite3.Connection, key: str) -> Any:
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if found is None else found[0]


def fence(connection: sqlite3.Connection, why: str, where: str) -> str:
    """Until somebody has looked: what has no row may have had one. `where` more can be found. What is told of it."""
    loss = f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {why}; see {where}"
    set_meta(connection, "loss", loss)
    return loss


def set_meta(connection: sqlite3.Connection, key: str, value: Any) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
