"""The thread that writes: shared commits, answers after the fsync, undone refusals, a full disk, a broken one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.services.store import commits, engine
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.commits import Room
from otpd.agents.services.store.database import open_database
from otpd.agents.services.store.engine import Ending, Engine, StoreBusy, StoreFull
from otpd.agents.services.store.refusals import Refusal
from tests.agents.scenes import scene
from tests.services.test_store_database import SCHEMA


@dataclass
class Told:
    rooms: list[Room] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)
    hanging: list[bool] = field(default_factory=list)

    def hangs(self, seconds: float) -> None:
        self.hanging.append(seconds > 0)


@asynccontextmanager
async def running(directory: Path, ballast: int = 0) -> AsyncIterator[tuple[Engine, Told]]:
    told = Told()
    database = open_database(directory / "store.db", SCHEMA)
    made = Ballast(directory / "store.ballast", ballast)
    made.make()
    made_engine = Engine(database, made, told.rooms.append, told.broken.append, told.hangs)
    await made_engine.alone(lambda it: it.executescript("CREATE TABLE IF NOT EXISTS notes (text UNIQUE)"))
    yield made_engine, told
    await made_engine.close()


def note(text: str) -> Callable[[sqlite3.Connection], int]:
    return lambda it: it.execute("INSERT INTO notes VALUES (?)", (text,)).lastrowid or 0


def notes(it: sqlite3.Connection) -> list[str]:
    return [text for (text,) in it.execute("SELECT text FROM notes ORDER BY rowid")]


@scene
async def many(directory: Path) -> None:
    async with running(directory) as (it, _):
        answers = await asyncio.gather(*(it.commit(note(str(i))) for i in range(100)))
        assert answers == list(range(1, 101))
        assert it.counts.commits == 1, "what one turn of the loop brings goes into one commit"
        later = [it.commit(note(f"{i} later")) for i in range(3)]
        await asyncio.sleep(0)
        later += [it.commit(note(f"{i} meanwhile")) for i in range(3)]
        await asyncio.gather(*later)
        assert (it.counts.commits, it.counts.largest, it.counts.requests, it.seq) == (3, 100, 106, 3)


def test_what_comes_together_is_committed_together_in_its_order(tmp_path: Path) -> None:
    many(tmp_path)


@scene
async def refusals(directory: Path) -> None:
    async with running(directory) as (it, told):

        def refused(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO notes VALUES ('undone')")
            raise Refusal("no")

        found = await asyncio.gather(
            it.commit(note("a")), it.commit(refused), it.commit(note("a")), it.commit(note("b")), return_exceptions=True
        )
        assert [type(each) for each in found] == [int, Refusal, sqlite3.IntegrityError, int]
        assert await it.read(notes) == ["a", "b"]
        assert told.broken == []


def test_a_request_that_is_refused_undoes_itself_and_nobody_else(tmp_path: Path) -> None:
    refusals(tmp_path)


@scene
async def hanging(directory: Path) -> None:
    """What waits in the thread stands in for an fsync that does not return."""
    async with running(directory) as (it, told):
        goes_on = threading.Event()
        for number in range(commits.TRUSTED + 1):
            await it.commit(note(f"quick {number}"), brief=True)
        stuck = it.commit(lambda _: goes_on.wait(60), brief=True)
        while not it.hangs or told.hanging[-1:] != [True]:  # a quick one may have been slow, and told so
            await asyncio.sleep(0.01)
        behind = [it.commit(note(f"{number} behind"), brief=True) for number in range(3)]
        assert it.hangs and not stuck.done(), "the loop has not waited for it"
        goes_on.set()
        assert await stuck is True
        await asyncio.gather(*behind)
        while told.hanging[-1]:
            await asyncio.sleep(0.01)
        assert (it.hangs, told.broken) == (0.0, [])


def test_a_disk_that_hangs_holds_up_its_commits_and_not_the_loop_and_is_told_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK", 0.01)
    monkeypatch.setattr(commits, "QUICK", 60.0)
    hanging(tmp_path)


@scene
async def awaited(directory: Path) -> None:
    async with running(directory) as (it, _):
        for number in range(commits.TRUSTED):
            await it.commit(note(f"quick {number}"), brief=True)
        ended = it.commit(note("at once"), brief=True)
        in_that_turn: list[bool] = []
        asyncio.get_running_loop().call_soon(lambda: in_that_turn.append(ended.done()))
        await ended
        assert in_that_turn == [True]


def test_a_brief_request_alone_is_answered_without_another_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commits, engine):
        monkeypatch.setattr(module, "QUICK", 60.0)
    monkeypatch.setattr(engine, "IDLE", 3600.0)  # no checkpoint in between
    awaited(tmp_path)


@scene
async def questions(directory: Path) -> None:
    async with running(directory) as (it, _):
        await it.commit(note("a"))
        before = it.seq
        assert await asyncio.gather(it.read(notes), it.read(notes)) == [["a"], ["a"]]
        assert it.seq == before, "a commit of questions alone changes nothing"


def test_a_question_is_answered_without_a_commit(tmp_path: Path) -> None:
    questions(tmp_path)


@scene
async def full(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit of pages stands in for a disk: SQLITE_FULL is the same error."""
    monkeypatch.setattr(engine, "LOOK", 0.01)
    monkeypatch.setattr(Ballast, "has_room", lambda _: room)
    room = True
    async with running(directory, ballast=8192) as (it, told):
        await it.commit(note("before"))
        room = False
        pages = await it.alone(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await it.alone(lambda c: c.execute(f"PRAGMA max_page_count = {pages}") and None)
        large = [it.commit(note(f"{i}" * 9000)) for i in range(2)]
        small = it.commit(lambda c: c.execute("DELETE FROM notes").rowcount, grows=False)
        found = await asyncio.gather(*large, small, return_exceptions=True)
        assert [type(each) for each in found] == [StoreFull, StoreFull, int]
        assert not (directory / "store.ballast").exists(), "it was given up"
        assert (told.rooms, it.room) == ([Room.FULL], Room.FULL)
        with pytest.raises(StoreFull, match="the disk is full, nothing new is stored until there is room; free some"):
            await it.commit(note("x"))
        assert await it.read(notes) == []
        await it.alone(lambda c: c.execute("PRAGMA max_page_count = 100000") and None)
        room = True
        while it.room is Room.FULL:
            await asyncio.sleep(0.001)
        assert told.rooms == [Room.FULL, Room.OPEN]
        assert (directory / "store.ballast").stat().st_size == 8192
        await it.commit(note("x" * 9000))
        assert told.broken == []


def test_a_full_disk_refuses_what_is_new_takes_what_makes_room_and_says_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(tmp_path, monkeypatch)


@scene
async def broken(directory: Path) -> None:
    async with running(directory) as (it, told):

        def fails(_: sqlite3.Connection) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        answered: list[Any] = []
        for write in (note("a"), fails):
            it.submit(write, lambda *outcome: answered.append(outcome))
        while not told.broken:
            await asyncio.sleep(0.001)
        assert (str(told.broken[0]), answered) == ("disk I/O error", [])
        it._commits.committed()  # so that it can be closed here; the store ends instead
    again = open_database(directory / "store.db", SCHEMA)
    assert notes(again.connection) == [], "what was not answered is not there"
    again.close()


def test_a_disk_that_fails_is_told_and_answers_nobody(tmp_path: Path) -> None:
    broken(tmp_path)


@scene
async def odd(directory: Path) -> None:
    """Not an error of SQLite's, and not of one request: the transaction itself."""
    async with running(directory) as (it, told):
        it._database.mark.write = lambda _: [][1]  # type: ignore[method-assign, misc]
        it.submit(note("a"), lambda *_: None)
        while not told.broken:
            await asyncio.sleep(0.001)
        assert type(told.broken[0]) is IndexError
        it._commits.committed()


def test_whatever_ends_a_commit_is_told(tmp_path: Path) -> None:
    odd(tmp_path)


@scene
async def unanswerable(directory: Path) -> None:
    async with running(directory) as (it, _):
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
        it.submit(note("a"), lambda *_: [][1])
        assert await it.commit(note("b")) == 2
        assert [type(each) for each in raised] == [IndexError]


def test_an_answer_that_can_t_be_given_keeps_nobody_from_his(tmp_path: Path) -> None:
    unanswerable(tmp_path)


@scene
async def overloaded(directory: Path) -> None:
    async with running(directory) as (it, _):
        with pytest.raises(StoreBusy):
            await it.commit(note("a"), size=commits.MAX_BYTES + 1)
        await it.commit(note("a"), size=commits.MAX_BYTES)


def test_more_than_the_disk_takes_is_refused(tmp_path: Path) -> None:
    overloaded(tmp_path)


@scene
async def between(directory: Path) -> None:
    async with running(directory) as (it, _):
        loop, seen = asyncio.get_running_loop(), []

        def work(connection: sqlite3.Connection, meanwhile: Callable[[], None]) -> str:
            for text in ("a", "b", "c"):
                asyncio.run_coroutine_threadsafe(_submitted(it, text), loop).result(60)
                meanwhile()
                seen.append(notes(connection))
            return "done"

        assert await it.alongside(work) == "done"
        assert seen == [["a"], ["a", "b"], ["a", "b", "c"]]
        assert it.counts.commits == 3


async def _submitted(it: Engine, text: str) -> None:
    it.submit(note(text), lambda *_: None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it begins at the end of a turn of the loop


def test_what_is_submitted_is_committed_in_the_middle_of_a_long_work(tmp_path: Path) -> None:
    between(tmp_path)


@scene
async def given_up(directory: Path) -> None:
    async with running(directory) as (it, _):
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def endless(_: sqlite3.Connection, meanwhile: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(begun.set)
            while True:
                meanwhile()
                time.sleep(0.001)

        work = it.alongside(endless)
        await begun.wait()
        last = it.commit(note("last"))
    assert await last == 1
    with pytest.raises(Ending, match="the store ends"):
        await work


def test_a_long_work_is_given_up_when_the_engine_is_closed_and_what_was_submitted_is_not(tmp_path: Path) -> None:
    given_up(tmp_path)
