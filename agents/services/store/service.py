"""The store as an agent: requests come as calls, and are answered when their commit is on disk."""

from __future__ import annotations

import dataclasses
import functools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from otpd.agents import Agent, Reject, call, run
from otpd.agents.services.notes import note
from otpd.agents.services.store import state
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.commits import Room
from otpd.agents.services.store.database import Database, Schema, damaged, open_database
from otpd.agents.services.store.engine import Engine
from otpd.agents.services.store.refusals import Refusal, Stale, TooLarge

SCHEMA: Final = Schema(migrations=(state.MIGRATION,), tables=(state.TABLE,))


class Store(Agent):
    """Keeps what must outlive every process of the node."""

    async def init(self, state_dir: str, max_state: int = 2**20, ballast: int = 16 * 2**20) -> None:
        self.max_state = max_state
        self.broken: BaseException | None = None
        directory = Path(state_dir)
        self.database: Database = open_database(directory / "store.db", SCHEMA)
        kept = Ballast(directory / "store.ballast", ballast)
        kept.make()
        self.engine = Engine(self.database, kept, self._room_changed, self._broken)
        self.incs: dict[str, int] = {}  # of who has loaded or saved: an older incarnation does neither after that
        for problem in self.database.report.problems:
            self.log.error("%s", problem)
            note(self, "problem", self.name, detail=problem)

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

    def _asker(self) -> tuple[str, int]:
        """Name and inc of who calls. Reject when a newer incarnation has been here: it speaks for nobody any more (A8)."""
        current = self.current
        assert current is not None
        inc = self._otpd.endpoint.inc >> 32 << 32 | current.generation
        if inc < self.incs.get(current.caller, 0):
            raise rejected(Stale(f"{current.caller}: a newer incarnation has taken over"))
        self.incs[current.caller] = inc
        return current.caller, inc

    def _only_operators(self) -> None:
        current = self.current
        assert current is not None
        if not current.caller.startswith("@"):
            raise Reject(f"{current.caller} has only its own state; that of others is for people: otpd state")

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

    def _fits(self, name: str, body: bytes) -> None:
        if len(body) > self.max_state:
            text = (
                f"the state of {name} has {len(body)} bytes, at most {self.max_state} are stored; keep large things in a "
                "file and its path in the state, or raise max_state of [services.store]"
            )
            raise rejected(TooLarge(text))

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


def rejected(refusal: Refusal) -> Reject:
    """The answer; the SDK of who asks makes its own error of the code."""
    return Reject(str(refusal), data={"code": refusal.code})


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
