"""The rows of a database that is too large to be read through before its node can start: read while it is used.

The thread that writes reads for a few milliseconds, and then does what waits; between two such steps it rests, so that a
commit seldom meets one. Where a step goes on is a key that is as it was written, and how many damaged rows come after it: a
damaged key can't be asked for.

Guarantees: each row that is there from the beginning to the end is read and compared with its checksum; on the way all pages
of all tables are read, and what SQLite can't read raises. Pages that are in no table are not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from otpd.agents.services.store import salvage
from otpd.agents.services.store.schema import Table

#: Seconds of one step, and between two: what a commit may have to wait, and a fifth of one core at most.
STEP, REST = 0.002, 0.008


async def inspect(engine: Any, tables: Sequence[Table]) -> list[tuple[str, str]]:
    """The damaged rows (table, which). sqlite3.Error: some can't be read at all."""
    inspection = Inspection(tables)
    while await engine.alone(inspection.step):
        await asyncio.sleep(REST)
    return inspection.damaged


class Inspection:
    def __init__(self, tables: Sequence[Table], clock: Callable[[], float] = time.monotonic) -> None:
        self.damaged: list[tuple[str, str]] = []
        self._tables, self._clock = deque(tables), clock
        self._after: tuple[Any, ...] = ()
        self._skip = 0

    def step(self, connection: sqlite3.Connection) -> bool:
        """At least one row, or the end of a table; whether there is more."""
        until = self._clock() + STEP
        while self._tables:
            table = self._tables[0]
            with contextlib.closing(self._rest_of(connection, table)) as rows:  # no question stays open between two steps
                for row in rows:
                    self._look(table, row)
                    if self._clock() >= until:
                        return True
            self._tables.popleft()
            self._after, self._skip = (), 0
        return False

    def _rest_of(self, connection: sqlite3.Connection, table: Table) -> Generator[sqlite3.Row, None, None]:
        where = f"WHERE ({table.keys}) > ({', '.join('?' * len(self._after))})" if self._after else ""
        query = f"SELECT * FROM {table.name} {where} ORDER BY {table.keys} LIMIT -1 OFFSET ?"
        return salvage.each(connection, query, (*self._after, self._skip))

    def _look(self, table: Table, row: sqlite3.Row) -> None:
        if table.intact(row):
            self._after, self._skip = table.key_of(row), 0
        else:
            self.damaged.append(table.told(row))
            self._skip += 1
