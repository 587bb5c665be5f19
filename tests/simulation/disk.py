"""The disk of the simulated world: what the store has written survives its death, what it has synced the loss of power, too.

Both are the real journal in SQLite, in memory; a unit that was written and not synced is in one of them only.
"""

from __future__ import annotations

import sqlite3

from otpd.agents.services.store import journal
from otpd.agents.services.store.queue import MEMORY

#: Beside the tables of the journal: which labels were ever inserted, and whose effect has taken place.
_BOOKS = "CREATE TABLE inserted (label); CREATE TABLE effects (label);"


class Written:
    """One unit, and what the books say of it."""

    __slots__ = ("effects", "inserted", "rows")

    def __init__(self, rows: journal.Rows, inserted: list[int], effects: list[int]) -> None:
        self.rows, self.inserted, self.effects = rows, inserted, effects


class Disk:
    def __init__(self) -> None:
        self.full = False
        self.cuts = 0
        self._synced, self.content = _new(), _new()
        self._tail: list[Written] = []

    def write(self, units: list[Written]) -> None:
        """One commit: all of it or nothing."""
        _commit(self.content, units)
        self._tail += units

    def sync(self) -> None:
        if self._tail:
            _commit(self._synced, self._tail)
            self._tail = []

    def power_cut(self) -> None:
        """The unsynced tail is lost."""
        self.cuts += 1
        self._tail = []
        self.content.close()
        self.content = sqlite3.connect(":memory:", isolation_level=None)
        self._synced.backup(self.content)

    def close(self) -> None:
        self._synced.close()
        self.content.close()

    def labels(self, table: str) -> list[int]:
        """Of the messages in it."""
        return [label_of(body) for (body,) in self.content.execute(f"SELECT body FROM {table}")]

    def doubled(self, book: str) -> list[int]:
        """Labels that are in the book more than once."""
        query = f"SELECT label FROM {book} GROUP BY label HAVING count(*) > 1"
        return [label for (label,) in self.content.execute(query)]

    def effects(self) -> set[int]:
        return {label for (label,) in self.content.execute("SELECT label FROM effects")}


def body_of(label: int) -> bytes:
    return label.to_bytes(8, "big")


def label_of(body: bytes) -> int:
    return int.from_bytes(body, "big")


def _new() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript("".join((*journal.MIGRATIONS, _BOOKS)))
    return connection


def _commit(connection: sqlite3.Connection, units: list[Written]) -> None:
    connection.execute("BEGIN")
    for unit in units:
        journal.write(connection, unit.rows, MEMORY)
        connection.executemany("INSERT INTO inserted VALUES (?)", [(label,) for label in unit.inserted])
        connection.executemany("INSERT INTO effects VALUES (?)", [(label,) for label in unit.effects])
    connection.execute("COMMIT")
