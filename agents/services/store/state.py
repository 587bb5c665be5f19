"""State of agents: one row per name, with the version by which a save knows that nobody else has saved meanwhile.

`decide` is the rule, without a database: the simulated world and `testing` go by it, too. `put_state`, `get_state` and
`drop_state` carry it out inside a commit.

| the row | who saves | expected version | what becomes of it |
|---|---|---|---|
| none | anybody | None or 0 | version 1 |
| written by a newer incarnation | an older one | any | Stale |
| version v | the same or a newer one | v, or None: whatever is there | version v + 1 |
| version v + 1, the same body and incarnation | again, its answer was lost | v | v + 1: it is done |
| any other version | the same or a newer one | another | Stale |

A row that is dropped keeps its version and who wrote it, without a body, so that versions have no gaps and no old
incarnation comes in again.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass
from typing import Any, Final

from otpd.agents.services.store.refusals import DamagedState, Stale
from otpd.agents.services.store.schema import Table, get_meta

MIGRATION: Final = """
CREATE TABLE state (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class State:
    """What is stored of one name. `body` None: it was dropped. `inc`: of the incarnation that wrote it."""

    version: int
    inc: int
    body: bytes | None


class Fence:
    """The newest incarnation of each name that has been here since the store began: an older one does nothing after it.

    >>> fence = Fence()
    >>> fence.admits("a", 7), fence.admits("a", 6), fence.admits("a", 7), fence.admits("a", 8)
    (True, False, True, True)
    """

    def __init__(self) -> None:
        self._incs: dict[str, int] = {}

    def admits(self, name: str, inc: int) -> bool:
        if name.startswith("@"):  # a client: its name does not come again
            return True
        if inc < self._incs.get(name, 0):
            return False
        self._incs[name] = inc
        return True


def decide(row: State | None, inc: int, expected: int | None, body: bytes | None) -> State:
    """The row after a save by incarnation `inc`; Stale."""
    there = row or State(0, 0, None)
    if inc < there.inc:
        raise Stale("a newer incarnation has saved its state")
    if expected is not None and expected != there.version:
        if there.version == expected + 1 and (there.inc, there.body) == (inc, body):
            return there
        raise Stale(f"its state has version {there.version}, not {expected}: somebody else has changed it since")
    return State(there.version + 1, inc, body)


def checksum(name: str, version: int, inc: int, body: bytes | None) -> int:
    """Over all of a row."""
    head = f"{name}\0{version}\0{inc}\0{body is None}".encode(errors="surrogateescape")
    return zlib.crc32(body or b"", zlib.crc32(head))


def intact(row: sqlite3.Row) -> bool:
    try:
        return bool(checksum(row["name"], row["version"], row["inc"], row["body"]) == row["crc"])
    except (TypeError, IndexError):  # a byte that says what kind of value it is, or that is in the name of a column
        return False


TABLE: Final = Table("state", ("name",), intact, "name")


def put_state(
    connection: sqlite3.Connection, name: str, inc: int, expected: int | None, body: bytes | None, now: float
) -> int:
    """Its new version. `now`: seconds since 1970. Stale; DamagedState when what it would replace is none of its own."""
    there = _row(connection, name)
    found = decide(there, inc, expected, body)
    if found is not there:
        crc = checksum(name, found.version, found.inc, found.body)
        values = (name, found.version, found.inc, now, found.body, crc)
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?)", values)
    return found.version


def get_state(connection: sqlite3.Connection, name: str) -> State:
    """Version 0 without a body when there is none. DamagedState when it can't be told what there was."""
    row = _row(connection, name)
    if row is None:
        loss = get_meta(connection, "loss")
        if loss is not None:
            raise DamagedState(
                f"whether {name} had a state can't be told since the database has lost some ({loss}); to begin anew: "
                f"otpd state drop {name}; for all names: otpd state accept-loss"
            )
        return State(0, 0, None)
    return row


def _row(connection: sqlite3.Connection, name: str) -> State | None:
    found = connection.execute("SELECT version, inc, body, crc FROM state WHERE name = ?", (name,)).fetchone()
    if found is None:
        return None
    version, inc, body, crc = found
    if checksum(name, version, inc, body) != crc:
        raise DamagedState(
            f"the state of {name} is damaged on the disk; put a good one in its place: otpd state import {name} FILE, or "
            f"begin anew: otpd state drop {name}"
        )
    return State(version, inc, body)


def replace_state(connection: sqlite3.Connection, name: str, body: bytes | None, now: float) -> int:
    """Whatever is there, damaged or not: what an operator says. Its new version."""
    found = connection.execute("SELECT version, inc FROM state WHERE name = ?", (name,)).fetchone()
    version, inc = (int(found[0]) + 1, int(found[1])) if found is not None else (1, 0)
    values = (name, version, inc, now, body, checksum(name, version, inc, body))
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?)", values)
    return version


def list_states(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Who has a state, by name: its version, size in bytes, when it was saved, and whether it is as it was written."""
    found = connection.execute("SELECT name, version, inc, at, body, crc FROM state WHERE body IS NOT NULL ORDER BY name")
    return [
        {
            "name": name, "version": version, "bytes": len(body), "at": at,
            "intact": checksum(name, version, inc, body) == crc,
        }
        for name, version, inc, at, body, crc in found
    ]  # fmt: skip
