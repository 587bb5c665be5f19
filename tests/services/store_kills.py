"""What is done to the files of a store in one go, killed before each of its system calls: what is there must be there after.

`python -m tests.services.store_kills SCENE DIRECTORY`: a process with one thread, because it forks. Prints at how many
points it has killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from otpd.agents.services.store import backup, journal, state
from otpd.agents.services.store.backup import back_up
from otpd.agents.services.store.ballast import Ballast
from otpd.agents.services.store.database import Database
from otpd.agents.services.store.engine import Engine
from otpd.agents.services.store.refusals import DamagedState
from otpd.agents.services.store.schema import Schema
from otpd.agents.services.store.service import SCHEMA
from otpd.agents.services.store.state import get_state, put_state
from tests.services.killing import killed_at, points
from tests.services.test_store_database import BODY, bodies, left_behind, opened, saved
from tests.services.test_store_database import SCHEMA as STATES

OLD: Final = Schema((state.MIGRATION, journal.MIGRATIONS[0]), (state.TABLE, *journal.TABLES))
ROWS: Final = [f"{number:03}" for number in range(30)]
DAMAGE: Final = b"\xa5" * 4096


def killed_store(home: Path, schema: Schema) -> Path:
    """Of a store that was killed: rows in the database, and two commits in the log alone."""
    (home / "live").mkdir()
    database = opened(home / "live", schema)
    saved(database, ROWS)
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    saved(database, "late", "last")
    found = left_behind(home / "live", home / "killed")
    database.close()
    return found


def fresh(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    left_behind(source, target)


def is_whole(database: Database) -> None:
    assert database.seq == 3
    assert sorted(bodies(database)) == [*ROWS, "last", "late"]


def migration(home: Path) -> Iterator[int]:
    before, at = killed_store(home, OLD), home / "at"
    for point in points(lambda: opened(at, SCHEMA).close(), lambda: fresh(before, at)):
        yield point
        found = opened(at, SCHEMA)
        assert (found.report.problems, found.report.version) == ([], SCHEMA.version), point
        is_whole(found)
        found.close()


def damage_a_page(home: Path) -> None:
    """The last that holds rows, and of which the log has no newer one."""
    log, data = (home / "store.db-wal").read_bytes(), bytearray((home / "store.db").read_bytes())
    newer = {int.from_bytes(log[at : at + 4], "big") - 1 for at in range(32, len(log), 24 + 4096)}
    spans = [slice(number * 4096, (number + 1) * 4096) for number in range(len(data) // 4096) if number not in newer]
    data[[span for span in spans if BODY in data[span]][-1]] = DAMAGE
    (home / "store.db").write_bytes(data)


def rescue(home: Path) -> Iterator[int]:
    """One page of the file can't be read, and what the log has besides is acknowledged, too."""
    before, at, once = killed_store(home, STATES), home / "at", home / "once"
    damage_a_page(before)
    fresh(before, once)
    unhurt = opened(once)
    kept = bodies(unhurt)
    assert len(ROWS) > len(kept) > 2
    unhurt.close()

    def begin() -> None:
        fresh(before, at)
        (at / "store.suspect").write_text("a page could not be read")

    for point in points(lambda: opened(at).close(), begin, stride=2):
        yield point
        if point % 5 == 0:
            killed_at(point % 23 + 1, lambda: opened(at).close())
        found = opened(at)
        assert (bodies(found), found.seq) == (kept, 3), point
        (damaged,) = at.glob("quarantine/*/store.db")
        assert DAMAGE in damaged.read_bytes(), point
        assert [damaged.parent] == [*at.glob("quarantine/*")], point
        assert not [*at.glob("*.filling*"), *at.glob("*.rescued*"), *at.glob("*.suspect")], point
        try:
            get_state(found.connection, "nobody")
        except DamagedState as fenced:
            assert str(damaged.parent.parent.name) in str(fenced), point
        else:
            raise AssertionError(f"killed at {point}: who has no row is not told that it may have had one")
        found.close()


def copying(home: Path) -> Iterator[int]:
    """A backup, with saves in its midst; each is told of to who does not die."""
    backup.PAGES = 4
    before, at, copy = killed_store(home, STATES), home / "at", home / "copy" / "store.db"
    acknowledged = home / "acknowledged"

    def begin() -> None:
        fresh(before, at)
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        acknowledged.write_text("")

    for point in points(lambda: asyncio.run(_backed_up(at, copy, acknowledged)), begin, stride=3):
        yield point
        told = acknowledged.read_text().split()
        found = opened(at)
        assert found.report.problems == [], point
        assert {*ROWS, "last", "late", *told} <= set(bodies(found)), point
        found.close()
        if copy.exists():
            whole = opened(copy.parent)
            assert {*ROWS, "last", "late"} <= set(bodies(whole)) and whole.report.problems == [], point
            whole.close()
        elif point % 5 == 0:
            asyncio.run(_backed_up(at, copy, acknowledged))
            assert sorted(os.listdir(copy.parent)) == ["store.db"], point


async def _backed_up(at: Path, copy: Path, acknowledged: Path) -> None:
    engine = Engine(opened(at), Ballast(at / "store.ballast", 0), _never, _never, _never)
    fd = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)

    async def save(name: str) -> None:
        await engine.commit(lambda it: put_state(it, name, 1, None, b"meanwhile" * 500, 1.0))
        os.write(fd, f"{name}\n".encode())

    async def save_all() -> None:
        for number in range(2):
            await save(f"m{number}")

    await asyncio.gather(back_up(engine, str(copy)), save_all())
    await engine.close()
    os.close(fd)


def _never(_: object) -> None:
    raise AssertionError("the disk is well")


SCENES: Final[dict[str, Callable[[Path], Iterator[int]]]] = {
    each.__name__: each for each in (migration, rescue, copying)
}

if __name__ == "__main__":
    try:
        print(sum(1 for _ in SCENES[sys.argv[1]](Path(sys.argv[2]))))
    except PermissionError as error:
        sys.exit(f"skip: {error}")
