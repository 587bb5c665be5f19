"""The error store as an agent: reads root's journal from where it was, and keeps what is an error in errors.db.

It decides nothing (`records` does) and remembers nothing: whoever kills it loses nothing. A disk that is full or read-only
stops it from storing, not from living: it tries again each second, and reads on from the cursor on disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import aclosing, closing
from typing import Any, Final

from otpd.agents import Agent, call, run
from otpd.agents.services.errors.database import FILE, Database, Limits, Unusable, set_aside
from otpd.agents.services.errors.records import Machine
from otpd.agents.services.errors.view import absorb
from otpd.agents.services.feed import Feed
from otpd.agents.services.journal import Reader
from otpd.agents.services.notes import note
from otpd.agents.services.sqlite import passes

#: Records between looks at what is too much.
_PRUNE_EVERY: Final = 200
#: Events that are stored in one go: a beat must be possible in between.
_SLICE: Final = 500
#: Seconds until a disk that can't be written is tried again.
_AGAIN: Final = 1.0
#: Seconds without a refusal after which it takes everything again: a full one still takes what fits into its last pages.
_CALM: Final = 5.0


class Errors(Agent):
    """Keeps what died or went wrong in this node, why, and how often."""

    async def init(self, state_dir: str, max_records: int = 5000, max_age: float = 30 * 86_400.0) -> None:
        self._path = os.path.join(state_dir, FILE)
        self._state_dir, self._limits = state_dir, Limits(records=max_records, age=max_age)
        self._database: Database | None = None
        self._stalled: str | None = None
        self._since_pruned = 0
        self._working = asyncio.create_task(self._work())

    async def terminate(self, reason: str) -> None:
        self._working.cancel()
        await asyncio.wait((self._working,))

    @call
    async def groups(self, names: list[str] | None = None, since: float = 0.0, most: int = 50) -> list[dict[str, Any]]:
        """Errors that are the same as one row with their count, the latest first; `since` is a unix time."""
        return [] if self._database is None else self._database.groups(names or (), since, (), most)

    @call
    async def records(self, names: list[str] | None = None, since: float = 0.0, most: int = 50) -> list[dict[str, Any]]:
        """Each error by itself, the latest first."""
        return [] if self._database is None else self._database.records(names or (), since, (), most)

    @call
    async def status(self) -> dict[str, Any]:
        """How far root's journal has been read, and why nothing can be stored now."""
        cursor = self._database.progress()[0] if self._database is not None else (0, 0)
        return {"life": cursor[0], "seq": cursor[1], "stalled": self._stalled}

    async def _work(self) -> None:
        while True:
            try:
                await self._keep()
            except (sqlite3.DatabaseError, Unusable) as error:
                if isinstance(error, sqlite3.Error) and passes(error):
                    self._stall(str(error))
                else:
                    self._set_aside(str(error))
            await asyncio.sleep(_AGAIN)

    async def _keep(self) -> None:
        """Read and store, from the cursor on, until a disk does not take it."""
        with closing(Database.open(self._path)) as database:
            self._database = database
            calm = asyncio.get_running_loop().call_later(_CALM, self._resume)
            try:
                self._tell_forgotten(database.forgotten)
                database.prune(self._limits, time.time())
                await self._follow(database)
            finally:
                calm.cancel()
                self._database = None

    async def _follow(self, database: Database) -> None:
        cursor, alive = database.progress()
        reader, machine = Reader(cursor), Machine(alive)
        async with aclosing(aiter(Feed(self._state_dir, os.environ["OTPD_CONTROL"], reader))) as feed:
            async for events in feed:
                for first in range(0, len(events), _SLICE):
                    self._since_pruned += absorb(database, machine, events[first : first + _SLICE])
                    await asyncio.sleep(0)
                self._prune(database)
                self._tell_missed(reader)

    def _tell_forgotten(self, count: int) -> None:
        if count:
            self.log.error("%s: %d rows were damaged and are forgotten", self._path, count)
            note(self, "damaged", self.name, count=count, file=self._path)

    def _tell_missed(self, reader: Reader) -> None:
        if reader.missed:
            note(self, "missed", self.name, count=reader.missed)
            reader.missed = 0

    def _prune(self, database: Database) -> None:
        if self._since_pruned >= _PRUNE_EVERY:
            self._since_pruned = 0
            database.prune(self._limits, time.time())

    def _set_aside(self, why: str) -> None:
        """The journal still has the latest events; what was in the file is kept beside it."""
        try:
            aside = set_aside(self._path)
        except OSError as error:
            self._stall(f"{why}; it can't be set aside: {error}")
            return
        self.log.error("%s: %s; it is now %s, and begun anew", self._path, why, aside)
        note(self, "quarantined", self.name, file=self._path, why=why, moved_to=str(aside))

    def _stall(self, why: str) -> None:
        if self._stalled is None:
            self.log.error("%s: %s; tried again each second, nothing is lost while events.jsonl is kept", self._path, why)
            note(self, "stalled", self.name, why=why)
        self._stalled = why

    def _resume(self) -> None:
        if self._stalled is not None:
            self._stalled = None
            note(self, "resumed", self.name)


if __name__ == "__main__":
    run(Errors)
