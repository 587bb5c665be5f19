"""A backup: whole, its owner's alone, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.services.store import backup
from otpd.agents.services.store.backup import back_up
from otpd.agents.services.store.database import Database
from tests.services.test_store_database import bodies, opened, saved


class Alongside:
    """In the place of an engine: it commits a name in each step of the work."""

    def __init__(self, database: Database, each: Callable[[Database, int], None]) -> None:
        self.steps, self._database, self._each = 0, database, each

    async def alongside(self, work: Callable[[sqlite3.Connection, Callable[[], None]], Any]) -> Any:
        return work(self._database.connection, self._meanwhile)

    def _meanwhile(self) -> None:
        self.steps += 1
        self._each(self._database, self.steps)


def saves(database: Database, step: int) -> None:
    saved(database, [f"meanwhile {step}", "first"])
    if step == 2:
        database.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def test_saves_go_on_in_the_middle_of_a_backup_and_it_has_all_of_them_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES", 4)
    (tmp_path / "home").mkdir()
    database = opened(tmp_path / "home")
    saved(database, [f"{number:03}" for number in range(300)] + ["first"])
    engine = Alongside(database, saves)
    asyncio.run(back_up(engine, str(tmp_path / "store.db")))
    database.close()
    assert engine.steps > 3
    assert sorted(os.listdir(tmp_path)) == ["home", "store.db"]
    assert (tmp_path / "store.db").stat().st_mode & 0o777 == 0o600
    copy = opened(tmp_path)
    there = [name for name in bodies(copy) if name.startswith("meanwhile")]
    assert (copy.report.problems, copy.seq, len(there)) == ([], engine.steps, engine.steps - 1), "none after its last page"
    copy.close()


def test_a_backup_replaces_nothing_and_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    database = opened(tmp_path / "home")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError):
        asyncio.run(back_up(Alongside(database, lambda *_: None), str(tmp_path / "there")))
    with pytest.raises(FileNotFoundError):
        asyncio.run(back_up(Alongside(database, lambda *_: None), str(tmp_path / "no" / "such")))
    database.close()
    assert (sorted(os.listdir(tmp_path)), (tmp_path / "there").read_text()) == (["home", "there"], "mine")
