"""The store as an agent: the database behind its two halves, what is told of it, and its end.

What agents ask is in `keeper` (states) and `couriers` (durable messages): each is answered when its commit is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from otpd.agents import Reject, call, health, run
from otpd.agents.replies import Reply
from otpd.agents.services.notes import note
from otpd.agents.services.store import journal, state
from otpd.agents.services.store.backup import back_up
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.commits import Room
from otpd.agents.services.store.couriers import Couriers
from otpd.agents.services.store.database import Database, Unusable, open_database
from otpd.agents.services.store.engine import Ending, Engine
from otpd.agents.services.store.inspection import check_whole, copy_of, inspect
from otpd.agents.services.store.keeper import Keeper
from otpd.agents.services.store.messages import Bounds
from otpd.agents.services.store.refusals import Refusal
from otpd.agents.services.store.salvage import drop_damaged
from otpd.agents.services.store.schema import Schema, fence, get_meta

SCHEMA: Final = Schema(migrations=(state.MIGRATION, *journal.MIGRATIONS), tables=(state.TABLE, *journal.TABLES))


class Store(Keeper, Couriers):
    """Keeps what must outlive every process of the node: states and durable messages."""

    reading: asyncio.Task[None] | None  # what the start had no time for

    async def init(
        self,
        state_dir: str,
        max_state: int = 2**20,
        ballast: int = 16 * 2**20,
        max_messages: int = 100_000,
        max_message_bytes: int = 256 * 2**20,
        max_attempts: int = 5,
        max_letters: int = 10_000,
        max_age: float = 7 * 86_400.0,
    ) -> None:
        directory = Path(state_dir)
        self._open(directory)
        kept = Ballast(directory / "store.ballast", ballast)
        kept.make()
        bounds = Bounds(
            messages=max_messages, per_target=max(1, max_messages // 2), bytes=max_message_bytes, letters=max_letters,
            letter_bytes=max_message_bytes, max_attempts=max_attempts, age=max_age,
        )  # fmt: skip
        self.loss: str | None = get_meta(self.database.connection, "loss")
        await self.begin(Engine(self.database, kept, self._room_changed, self._broken, self._hanging), bounds, max_state)
        for problem in self.database.report.problems:
            self._problem(problem)
        if not self.database.report.checked:
            self.log.info("the database is so large that it is read through in the background; see: otpd doctor")
            self.reading = asyncio.ensure_future(self._inspect())
        self._report()

    def _open(self, directory: Path) -> None:
        self.told = directory / "store.report"
        try:
            self.database: Database = open_database(directory / "store.db", SCHEMA)
        except Unusable as error:
            self._tell(unusable=str(error))
            raise
        copy_of(directory / "store.db").unlink(missing_ok=True)

    async def begin(self, engine: Any, bounds: Bounds, max_state: int) -> None:
        """With what is on the disk of this engine."""
        self.max_state = max_state
        self.broken: BaseException | None = None
        self.copying: asyncio.Task[None] | None = None  # a backup
        self.reading = None
        self.engine = engine
        self.fence = state.Fence()
        await self.begin_errands(bounds)

    async def terminate(self, reason: str) -> None:
        self.end_errands()
        if self.reading is not None:
            self.reading.cancel()
        if self.broken is None:
            await self.engine.close()

    async def _inspect(self) -> None:
        try:
            damaged = await inspect(self.engine, SCHEMA.tables)
            await self._inspected(tuple(damaged))
            if not self.database.report.whole:
                await check_whole(self.engine, Path(self.database.report.path))
        except sqlite3.Error as error:
            self._broken(error)
        else:
            self.database.report = dataclasses.replace(self.database.report, checked=True, whole=True)
            self._report()

    async def _inspected(self, damaged: tuple[tuple[str, str], ...]) -> None:
        before = self.database.report
        self.database.report = dataclasses.replace(before, damaged_rows=damaged)
        if damaged:
            self.loss = await self._fenced(f"{len(damaged)} damaged rows")
        for problem in self.database.report.problems:
            if problem not in before.problems:
                self._problem(problem)
        if damaged:
            self._report()

    async def _fenced(self, why: str) -> str:
        """However long the disk is full."""
        while True:
            try:
                return str(await self.engine.commit(lambda it: fence(it, why, "otpd logs store"), grows=False))
            except Refusal:
                await asyncio.sleep(1.0)

    # --- what is told of it ---

    def _problem(self, problem: str) -> None:
        self.log.error("%s", problem)
        note(self, "problem", self.name, detail=problem)

    def _report(self) -> None:
        """For `otpd doctor`, which may be asked when nothing runs."""
        found = self.database.report
        problems = found.problems if self.loss else list(found.notes)
        told = {"room": self.engine.room.value, "loss": self.loss, "commits": self.engine.seq, "checked": found.checked}
        self._tell(problems=problems, **told)

    def _tell(self, **told: Any) -> None:
        new = self.told.with_suffix(".new")
        with contextlib.suppress(OSError):  # the disk is full, or read-only: the log and root's events say so
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"at": time.time(), **told}, file)
            os.replace(new, self.told)

    def _room_changed(self, room: Room) -> None:
        if room is Room.FULL:
            self.log.error("the disk is full: nothing new is stored until there is room")
            note(self, "full", self.name)
        else:
            self.log.warning("there is room on the disk again: everything is stored")
            note(self, "room", self.name)
        self._report()

    def _hanging(self, seconds: float) -> None:
        """Not in the report: to write it would hang, too."""
        if seconds:
            self.log.error("the disk has not answered for %.0f s: what is to be stored waits for it", seconds)
            note(self, "stalled", self.name, why=f"the disk has not answered for {seconds:.0f} s")
        else:
            self.log.warning("the disk answers again: what has waited is stored")
            note(self, "resumed", self.name)

    def _broken(self, error: BaseException) -> None:
        """The disk has failed, or the file is damaged: what is on it must be looked at anew."""
        self.broken = error
        self.stop(f"error(the database can't be used: {error})")
        if isinstance(error, sqlite3.Error):
            self.database.suspect(error)
        self.log.error("the database can't be used: %s; starting again from what is on the disk", error)

    @health
    def well(self) -> str | None:
        """For `otpd tree` and `otpd status`."""
        if self.engine.hangs:
            return f"the disk has not answered for {self.engine.hangs:.0f} s, what is to be stored waits for it"
        if self.engine.room is Room.FULL:
            return "the disk is full, nothing new is stored until there is room"
        return f"what was stored may be lost ({self.loss}); see: otpd doctor" if self.loss else None

    # --- people ---

    @call
    async def status(self) -> dict[str, Any]:
        """What it keeps, how it is, what its start has found, and what was lost and is not accepted."""
        report, counts = self.database.report, self.engine.counts
        return {
            "room": self.engine.room.value, "seq": self.engine.seq, "waiting": self.engine.waiting, "loss": self.loss,
            "problems": report.problems, "report": dataclasses.asdict(report), "counts": dataclasses.asdict(counts),
        }  # fmt: skip

    @call
    async def accept_loss(self) -> Any:
        """What was lost is lost: names without a row begin anew, damaged rows are forgotten. How many rows."""
        self._only_operators()
        self.commit(_accept_loss, grows=False, after=self._accepted)

    def _accepted(self) -> None:
        self.loss = None
        self._report()

    @call
    async def backup(self, path: str) -> Any:
        """A copy of the whole database at the absolute `path`, which must not exist; all else goes on meanwhile."""
        self._only_operators()
        if not os.path.isabs(path) or os.path.exists(path):
            raise Reject(f"backup: expected an absolute path where nothing is yet, got {path!r}")
        if self.copying is not None:
            raise Reject("a backup is being written already; try again when it has ended")
        self.copying = asyncio.ensure_future(self._back_up(path, self.defer()))

    async def _back_up(self, path: str, reply: Reply) -> None:
        try:
            await back_up(self.engine, path)
        except (OSError, sqlite3.Error, Ending) as error:
            reply.fail(Reject(f"{path}: {error}"))
        else:
            reply.answer(None)
        finally:
            self.copying = None


def _accept_loss(connection: sqlite3.Connection) -> int:
    """Also of the rows that were found damaged: none of them is what was saved."""
    connection.execute("DELETE FROM meta WHERE key = 'loss'")
    return sum(drop_damaged(connection, table) for table in SCHEMA.tables)


if __name__ == "__main__":
    run(Store)
