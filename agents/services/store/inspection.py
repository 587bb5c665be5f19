"""The rows of a database that is too large to be read through before its node can start: read while it is used.

The thread that writes reads for a few milliseconds, and then does what waits; between two such steps it rests, so that a
commit seldom meets one. Where a step goes on is a key that is as it was written, and how many damaged rows come after it: a
damaged key can't be asked for.

Rows do not tell what is wrong between pages. A list of free pages that names one which is in use (one flipped byte) looks
well until a later write takes that page, and what stood there is gone, at worst without a trace: its rows are just not found
any more. So SQLite's own check goes over the whole file, too. It can't be done in steps, and no second connection may open
what the store holds: it is made of a copy (as `backup` makes one), which needs as much room as the database until then.

Guarantees: each row that is there from the beginning to the end is read and compared with its checksum; on the way all pages
of all tables are read, and what SQLite can't read raises. So does what its check finds, as soon as there is room for a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from otpd.agents.services.store import salvage
from otpd.agents.services.store.backup import copy
from otpd.agents.services.store.schema import Table

#: Seconds of one step, and between two: what a commit may have to wait, and a fifth of one core at most.
STEP, REST = 0.002, 0.008
#: Seconds between two looks whether there is room for a copy, and how many times its size that is: others need some, too.
_AGAIN, _ROOM = 60.0, 2


async def inspect(engine: Any, tables: Sequence[Table]) -> list[tuple[str, str]]:
    """The damaged rows (table, which). sqlite3.Error: some can't be read at all."""
    inspection = Inspection(tables)
    while await engine.alone(inspection.step):
        await asyncio.sleep(REST)
    return inspection.damaged


async def check_whole(engine: Any, path: Path) -> None:
    """The pages of the database at `path`, and which of them are free. sqlite3.Error: what is wrong with them."""
    aside = copy_of(path)
    while not await _is_copied(engine, path, aside):
        await asyncio.sleep(_AGAIN)
    try:
        await asyncio.to_thread(_check, aside)
    finally:
        aside.unlink(missing_ok=True)


async def _is_copied(engine: Any, path: Path, aside: Path) -> bool:
    """False when there is no room for it now."""
    found = os.statvfs(path.parent)
    if found.f_bavail * found.f_frsize < _ROOM * path.stat().st_size:
        return False
    try:
        await engine.alongside(partial(copy, str(aside)))
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return False
        raise
    return True


def _check(aside: Path) -> None:
    """As it lies there: nobody writes it, and nothing is made beside it."""
    address = f"{aside.absolute().as_uri()}?immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        salvage.quick_check(connection)


def copy_of(path: Path) -> Path:
    """What a kill leaves of it is of no use."""
    return path.with_name(f"{path.name}.checking")


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
