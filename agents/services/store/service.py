"""The store as an agent: requests come as calls, and are answered when their commit is on disk."""

from __future__ import annotations

import dataclasses
import functools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from otpd.agents import Reject, call, run
from otpd.agents.services.notes import note
from otpd.agents.services.store import journal, state
from otpd.agents.services.store.asked import rejected
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.commits import Room
from otpd.agents.services.store.couriers import Couriers
from otpd.agents.services.store.database import Database, Schema, damaged, open_database
from otpd.agents.services.store.engine import Engine
from otpd.agents.services.store.messages import Bounds
from otpd.agents.services.store.refusals import Refusal

SCHEMA: Final = Schema(migrations=(state.MIGRATION, journal.MIGRATION), tables=(state.TABLE, *journal.TABLES))


class Store(Couriers):
    """Keeps what must outlive every process of the node: states, here; durable messages, in `couriers`."""

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
        self.database: Database = open_database(directory / "store.db", SCHEMA)
        kept = Ballast(directory / "store.ballast", ballast)
        kept.make()
        bounds = Bounds(
            messages=max_messages, per_target=max(1, max_messages // 2), bytes=max_message_bytes, letters=max_letters,
            max_attempts=max_attempts, age=max_age,
        )  # fmt: skip
        await self.begin(Engine(self.database, kept, self._room_changed, self._broken), bounds, max_state)
        for problem in self.database.report.problems:
            self.log.error("%s", problem)
            note(self, "problem", self.name, detail=problem)

    async def begin(self, engine: Any, bounds: Bounds, max_state: int) -> None:
        """With what is on the disk of this engine."""
        self.max_state = max_state
        self.broken: BaseException | None = None
        self.engine = engine
        self.incs = {}
        await self.begin_couriers(bounds)

    async def terminate(self, reason: str) -> None:
        if self.broken is None:
            await self.engine.close()

    # --- what goes wrong ---

    def _room_changed(self, room: Room) -> None:
        if room is Room.FULL:
            self.log.error("the disk is full: nothing new is stored until there is room")
        else:
            self.log.warning("there is room on the disk again: everything is stored")
        note(self, "full" if room is Room.FULL else "room", self.name)

    def _broken(self, error: BaseException) -> None:
        """The disk has failed: what is on it must be looked at anew."""
        self.broken = error
        self.log.error("the database can't be written: %s; starting again from what is on the disk", error)
        self.stop(f"error(the database can't be written: {error})")

    # --- how requests are answered ---

    def commit(self, write: Callable[[sqlite3.Connection], Any], *, grows: bool = True, size: int = 0) -> None:
        """The call that is being handled is answered with what `write` returns, after its commit."""
        reply = self.defer()

        def then(answer: Any, error: BaseException | None) -> None:
            if error is None:
                reply.answer(answer)
            else:
                reply.fail(rejected(error) if isinstance(error, Refusal) else error)

        self.engine.submit(write, then, grows=grows, size=size)

    # --- state of agents ---

    @call
    async def load_state(self) -> Any:
        """[version, body] of who calls; [0, None] when there is none."""
        name, _ = self._asker()
        self.commit(functools.partial(_load, name), grows=False)

    @call
    async def save_state(self, body: bytes, expected: int | None = None) -> Any:
        """The new version. `expected`: the version that it replaces, None for whatever is there."""
        name, inc = self._asker()
        self._fits(name, body)
        write = functools.partial(_save, name=name, inc=inc, expected=expected, body=body, now=time.time())
        self.commit(write, size=len(body))

    # --- for people ---

    @call
    async def states(self) -> Any:
        """Who has a state: name, version, bytes, at, intact."""
        self._only_operators()
        self.commit(state.list_states, grows=False)

    @call
    async def state_of(self, name: str) -> Any:
        """[version, body] of a name."""
        self._only_operators()
        self.commit(functools.partial(_load, name), grows=False)

    @call
    async def import_state(self, name: str, body: bytes) -> Any:
        """Put a state in the place of what there is. Its new version."""
        self._only_operators()
        self._fits(name, body)
        self.commit(lambda it: state.replace_state(it, name, body, time.time()), size=len(body))

    @call
    async def drop_state(self, name: str) -> Any:
        """Forget the state of a name, damaged or not. Its new version."""
        self._only_operators()
        self.commit(lambda it: state.replace_state(it, name, None, time.time()), grows=False)

    @call
    async def accept_loss(self) -> Any:
        """What was lost is lost: names without a row begin anew, damaged rows are forgotten. How many rows."""
        self._only_operators()
        self.commit(_accept_loss, grows=False)

    @call
    async def backup(self, path: str) -> None:
        """A copy of the whole database at `path`, which must not exist."""
        self._only_operators()
        reply = self.defer()

        def done(future: Any) -> None:
            error = future.exception()
            if error is None:
                reply.answer(None)
            else:
                reply.fail(Reject(f"{path}: {error}"))

        self.engine.alone(lambda it: it.execute("VACUUM INTO ?", (path,)) and None).add_done_callback(done)

    @call
    async def status(self) -> dict[str, Any]:
        """What it keeps, how it is, and what its start has found."""
        report, counts = self.database.report, self.engine.counts
        return {
            "room": self.engine.room.value, "seq": self.engine.seq, "waiting": self.engine.waiting,
            "problems": report.problems, "report": dataclasses.asdict(report), "counts": dataclasses.asdict(counts),
        }  # fmt: skip


def _load(name: str, connection: sqlite3.Connection) -> list[Any]:
    found = state.get_state(connection, name)
    return [found.version, found.body]


def _save(
    connection: sqlite3.Connection, name: str, inc: int, expected: int | None, body: bytes, now: float
) -> int:
    return state.put_state(connection, name, inc, expected, body, now)


def _accept_loss(connection: sqlite3.Connection) -> int:
    """Also those that a start has found: none of them can be what was saved."""
    count = 0
    for table in SCHEMA.tables:
        for row in damaged(connection, table):
            count += connection.execute(f"DELETE FROM {table.name} WHERE {table.key} = ?", (row[table.key],)).rowcount
    connection.execute("DELETE FROM meta WHERE key = 'loss'")
    return count


if __name__ == "__main__":
    run(Store)
