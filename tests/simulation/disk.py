"""The disk of the simulated world: what the store has written survives its death, what it has synced the loss of power, too.

Both are the real journal in SQLite, in memory; a unit that was written and not synced is in one of them only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from otpd.agents.services.store import journal
from otpd.agents.services.store.queue import MEMORY
from otpd.agents.services.store.refusals import Refusal
from otpd.agents.services.store.schema import META
from otpd.agents.services.store.state import MIGRATION, put_state

#: Beside the tables of the store: which labels were ever inserted, whose effect has taken place, and in whose state.
_BOOKS = "CREATE TABLE inserted (label); CREATE TABLE effects (label); CREATE TABLE stated (name);"


class Writes(Protocol):
    def apply(self, connection: sqlite3.Connection) -> Any:
        """Its answer; a Refusal when nothing of it takes place."""


@dataclass(frozen=True, slots=True)
class Written:
    """One unit, and what the books say of it. `state`: name, incarnation, body and the version that it replaces."""

    rows: journal.Rows
    inserted: Sequence[int]
    effects: Sequence[int]
    state: tuple[str, int, bytes, int] | None = None

    def apply(self, connection: sqlite3.Connection) -> Any:
        more = None
        if self.state is not None:
            name, inc, body, version = self.state
            more = put_state(connection, name, inc, version, body, 0.0)
            connection.executemany("INSERT INTO stated VALUES (?)", [(name,) for _ in self.effects])
        journal.write(connection, self.rows, MEMORY, more)
        connection.executemany("INSERT INTO inserted VALUES (?)", [(label,) for label in self.inserted])
        connection.executemany("INSERT INTO effects VALUES (?)", [(label,) for label in self.effects])
        return more


class Disk:
    def __init__(self) -> None:
        self.full = False
        self.cuts = 0
        self._synced, self.content = _new(), _new()
        self._tail: list[Writes] = []

    def write(self, units: Sequence[Writes]) -> list[Any]:
        """One commit, but for those that are refused: the answer of each."""
        answers = _commit(self.content, units)
        self._tail += [unit for unit, answer in zip(units, answers, strict=True) if not isinstance(answer, Refusal)]
        return answers

    def sync(self) -> None:
        if self._tail:
            _commit(self._synced, self._tail)
            self._tail = []

    @property
    def is_committing(self) -> bool:
        """Something is written and not synced."""
        return bool(self._tail)

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

    def state(self, name: str) -> tuple[int, int, bytes | None]:
        """Version, incarnation and body; 0, 0 and None when there is none."""
        found = self.content.execute("SELECT version, inc, body FROM state WHERE name = ?", (name,)).fetchone()
        return found or (0, 0, None)

    def stated(self, name: str) -> int:
        """How many effects have taken place in its state."""
        (count,) = self.content.execute("SELECT count(*) FROM stated WHERE name = ?", (name,)).fetchone()
        return int(count)

    def effects(self) -> set[int]:
        return {label for (label,) in self.content.execute("SELECT label FROM effects")}


def body_of(label: int) -> bytes:
    return label.to_bytes(8, "big")


def label_of(body: bytes) -> int:
    return int.from_bytes(body, "big")


def _new() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript("".join((META, MIGRATION, *journal.MIGRATIONS, _BOOKS)))
    return connection


def _commit(connection: sqlite3.Connection, units: Sequence[Writes]) -> list[Any]:
    connection.execute("BEGIN")
    answers = [_apply(connection, unit) for unit in units]
    connection.execute("COMMIT")
    return answers


def _apply(connection: sqlite3.Connection, unit: Writes) -> Any:
    """A refusal comes before anything is written."""
    try:
        return unit.apply(connection)
    except Refusal as refusal:
        return refusal
