"""Writes the database: takes the next commit from `commits`, writes it, and tells who asked.

A thread does it, and the loop of the store goes on meanwhile: its heart beats, and requests come in for the next commit. No
other touches the connection. For a commit that `commits` says is soon done the loop waits a moment (`_wait`).

Whoever submits is answered after the fsync, on the loop. A `write` gets the connection and returns the answer; what it
raises undoes what it alone has done (a savepoint), and is its answer.

Guarantees: what was answered is on disk; a commit that failed was answered to nobody as done. What a disk does wrong, but
being full, ends the engine (`broken`): the store starts again from what is on disk. A disk that hangs holds up the thread
and nobody else: `hanging` is told, and when it goes on, so does everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.commits import QUICK, Commits, Job, Refused, Room
from otpd.agents.services.store.database import Database
from otpd.agents.services.store.refusals import Refusal, StoreBusy, StoreFull

Write: TypeAlias = Callable[[sqlite3.Connection], Any]
Outcome: TypeAlias = tuple[Any, BaseException | None]
#: Seconds without a request after which the log is written back into the database.
IDLE: Final = 1.0
#: Seconds between two looks at a disk that is full, or that has something to write.
LOOK: Final = 1.0
#: What an error of SQLite's says of the disk and not of the request.
_OF_THE_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip


_FULL: Final = "the disk is full, nothing new is stored until there is room; free some on the file system of node.state_dir"
_BUSY: Final = "more is stored than the disk takes; try again, or store less often"


class Ending(Exception):
    """The engine is closed; what was done alongside it was given up."""


@dataclass(slots=True)
class Counts:
    """Since the start. `largest`: requests that shared one commit."""

    commits: int = 0
    requests: int = 0
    largest: int = 0


class Engine:
    """To be used from the loop it is made on. `changed` is called when the disk is full, and when there is room again,
    `broken` when it can't be written any more, `hanging` when it has not answered for so many seconds, and with 0.0 when it
    goes on."""

    def __init__(
        self,
        database: Database,
        ballast: Ballast,
        changed: Callable[[Room], None],
        broken: Callable[[BaseException], None],
        hanging: Callable[[float], None],
    ) -> None:
        self._database, self._ballast = database, ballast
        self._changed, self._broken, self._hanging = changed, broken, hanging
        self._loop = asyncio.get_running_loop()
        self._commits = Commits()
        self.counts = Counts()
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # what the loop has to do then
        self._waits = False  # the loop, for the next of `_ends`
        self._thread = threading.Thread(target=self._work, name="otpd store writer", daemon=True)
        self._thread.start()
        self._out = 0  # orders that the thread has not done yet
        self._soon = False
        self._idle: asyncio.TimerHandle | None = None
        self._guard: asyncio.TimerHandle | None = None
        self._hung = False  # and it was told

    @property
    def room(self) -> Room:
        return self._commits.room

    @property
    def waiting(self) -> int:
        return len(self._commits)

    @property
    def seq(self) -> int:
        return self._database.seq

    @property
    def hangs(self) -> float:
        """Seconds for which the disk has not answered; 0.0 for one that does, be it slow."""
        return self._commits.hangs(self._loop.time())

    # --- requests ---

    def submit(
        self,
        write: Write,
        then: Callable[[Any, BaseException | None], None],
        *,
        grows: bool = True,
        size: int = 0,
        reads: bool = False,
        brief: bool = False,
    ) -> None:
        """`write` runs in the next commit, in the order of submission; `then(answer, error)` when that is on disk.

        With `grows` it is refused while the disk is full (StoreFull); `size`: bytes that it brings. One that only `reads`
        is never refused for want of room. `brief`: it touches a few rows, however many there are.
        """
        refused = self._commits.submit(Job(write, then, grows and not reads, size, reads, brief))
        if refused is not None:
            error = StoreFull(_FULL) if refused is Refused.FULL else StoreBusy(_BUSY)
            self._loop.call_soon(then, None, error)
        else:
            self._next()

    def commit(
        self, write: Write, *, grows: bool = True, size: int = 0, reads: bool = False, brief: bool = False
    ) -> asyncio.Future[Any]:
        """As `submit`, as a future."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def then(answer: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(answer) if error is None else future.set_exception(error)

        self.submit(write, then, grows=grows, size=size, reads=reads, brief=brief)
        return future

    def read(self, question: Write) -> asyncio.Future[Any]:
        """What the database says after everything that was submitted before."""
        return self.commit(question, reads=True)

    def alongside(self, work: Callable[[sqlite3.Connection, Callable[[], None]], Any]) -> asyncio.Future[Any]:
        """As `alone`, what takes long: it calls its second argument now and then, outside of a transaction, and what was
        submitted meanwhile is committed. That raises Ending when the engine is closed."""
        return self.alone(lambda connection: work(connection, self._meanwhile))

    def alone(self, work: Write) -> asyncio.Future[Any]:
        """Run between two commits, outside of a transaction: checkpoints."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def run() -> None:
            outcome = _outcome(work, self._database.connection)
            self._tell(lambda: _settle(future, outcome))

        self._order(run)
        return future

    async def close(self) -> None:
        """After everything that was submitted; writes the log back."""
        with contextlib.suppress(StoreBusy):
            await self.read(lambda _: None)
        for timer in (self._idle, self._guard):
            if timer is not None:
                timer.cancel()
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- the loop ---

    def _begin(self) -> None:
        self._soon = False
        jobs = self._commits.begin(self._loop.time())
        if not jobs:
            return
        if self._guard is None:
            self._guard = self._loop.call_later(LOOK, self._look_at_disk)
        self._waits = self._commits.awaited and not self._out
        self._order(lambda: self._tell(self._write(jobs)))
        if self._waits:
            self._wait()

    def _order(self, order: Callable[[], None]) -> None:
        self._out += 1
        self._orders.put(order)

    def _wait(self) -> None:
        """Until the thread is done, or it has turned out to take long: then it wakes the loop."""
        try:
            first = self._ends.get(timeout=QUICK)
        except queue.Empty:
            first = None
        self._waits = False
        if first is not None:
            self._done(first)
        self._work_off()  # what came before the thread could see that

    def _work_off(self) -> None:
        while not self._ends.empty():
            self._done(self._ends.get())

    def _done(self, then: Callable[[], None]) -> None:
        self._out -= 1
        then()

    def _look_at_disk(self) -> None:
        """One timer, however many commits there are."""
        self._guard = None
        if not self._commits.idle:
            self._guard = self._loop.call_later(LOOK, self._look_at_disk)
        hangs = self._commits.look(self._loop.time())
        if (hangs > 0) is not self._hung:
            self._hung = not self._hung
            self._hanging(hangs)

    def _written(self, outcomes: list[Outcome], took: float) -> None:
        self._answer(self._commits.committed(took), outcomes)
        self._next()
        self._rest()

    def _next(self) -> None:
        """At the end of this turn of the loop: what it brings besides goes along."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._begin)

    def _answer(self, jobs: list[Job], outcomes: list[Outcome]) -> None:
        counts = self.counts
        counts.commits, counts.requests = counts.commits + 1, counts.requests + len(jobs)
        counts.largest = max(counts.largest, len(jobs))
        for job, (answer, error) in zip(jobs, outcomes, strict=True):
            self._say(job, answer, error)

    def _say(self, job: Job, answer: Any, error: BaseException | None) -> None:
        """Whatever becomes of one answer: the others are given."""
        try:
            if job.then is not None:
                job.then(answer, error)
        except Exception as raised:
            self._loop.call_exception_handler({"message": "an answer of the store was not given", "exception": raised})

    def _is_full(self) -> None:
        """The ballast is gone: those that make room can be written now."""
        was = self._commits.room
        for job in self._commits.full():
            self._say(job, None, StoreFull(_FULL))
        if was is Room.OPEN:
            self._changed(Room.FULL)
            self._loop.call_later(LOOK, self._look)
        self._next()

    def _look(self) -> None:
        if not self._thread.is_alive():
            return
        if self._ballast.make():
            self._commits.made_room()
            self._changed(Room.OPEN)
        else:
            self._loop.call_later(LOOK, self._look)

    def _rest(self) -> None:
        """The log is written back when nobody asks for anything."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(IDLE, self._checkpoint) if self._commits.idle else None

    def _checkpoint(self) -> None:
        self._idle = None

        def work(connection: sqlite3.Connection) -> None:
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk; the log stays as it is
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._database.mark.sync()

        self.alone(work)

    # --- the thread ---

    def _work(self) -> None:
        while True:
            order = self._orders.get()
            if order is None:
                return self._database.close()
            order()

    def _meanwhile(self) -> None:
        """What has come, once: who goes on asking must not keep the work from its end."""
        for _ in range(self._orders.qsize()):
            order = self._orders.get()
            if order is None:
                self._orders.put(None)
                raise Ending("the store ends")
            order()

    def _tell(self, then: Callable[[], None]) -> None:
        self._ends.put(then)
        if not self._waits:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
                self._loop.call_soon_threadsafe(self._work_off)

    def _write(self, jobs: list[Job]) -> Callable[[], None]:
        """What the loop has to do then."""
        began = time.monotonic()
        try:
            outcomes = self._transaction(jobs)
        except sqlite3.Error as error:
            self._undo()
            if _code(error) != sqlite3.SQLITE_FULL:
                return functools.partial(self._broken, error)
            self._ballast.free()
            return self._is_full
        except Exception as error:  # whatever it is: nobody may wait for a thread that has ended
            self._undo()
            return functools.partial(self._broken, error)
        return functools.partial(self._written, outcomes, time.monotonic() - began)

    def _transaction(self, jobs: list[Job]) -> list[Outcome]:
        connection, database = self._database.connection, self._database
        connection.execute("BEGIN IMMEDIATE")
        before = connection.total_changes
        outcomes = [self._one(job.write, connection) for job in jobs]
        if connection.total_changes == before:
            connection.execute("ROLLBACK")  # nothing but questions: no fsync
            return outcomes
        seq = database.seq + 1
        connection.execute("UPDATE meta SET value = ? WHERE key = 'seq'", (seq,))
        connection.execute("COMMIT")
        database.seq = seq
        database.mark.write(seq)
        return outcomes

    def _one(self, write: Write, connection: sqlite3.Connection) -> Outcome:
        connection.execute("SAVEPOINT request")
        try:
            answer = write(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _OF_THE_DISK:
                raise
            connection.execute("ROLLBACK TO request")
            connection.execute("RELEASE request")
            return None, error
        connection.execute("RELEASE request")
        return answer, None

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._database.connection.in_transaction:
                self._database.connection.execute("ROLLBACK")


def _outcome(work: Write, connection: sqlite3.Connection) -> Outcome:
    try:
        return work(connection), None
    except Exception as error:
        return None, error


def _settle(future: asyncio.Future[Any], outcome: Outcome) -> None:
    answer, error = outcome
    if not future.done():
        future.set_result(answer) if error is None else future.set_exception(error)


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


__all__ = ["Counts", "Ending", "Engine", "Refusal", "StoreBusy", "StoreFull"]
