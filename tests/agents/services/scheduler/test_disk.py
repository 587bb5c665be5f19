"""What of the schedules is on disk, all of it or a reason, whatever has happened to the file; and the wall clock's alarm."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.agents.services.scheduler import disk as module
from otpd.agents.services.scheduler.alarm import WallAlarm
from otpd.agents.services.scheduler.disk import Disk, Newer
from otpd.agents.services.scheduler.effects import Record
from tests.helpers import eventually

LIFE = 7
TIMER = Record("a/ring/1", "a", "ring", "once", None, 5, 3, False, 5, False, 900, None, b"\x81")
LINE = Record("a/nightly", "a", "nightly", "declared", 1_774_744_380_000_000_000, None, 0, True, wall=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scheduler.db"


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    made = Disk(path, LIFE)
    yield made
    made.close()


def write(disk: Disk, **changes: Record | None) -> str | None:
    told: list[str | None] = []
    disk.write({(record or TIMER).id if record else key: record for key, record in changes.items()}, told.append)
    eventually(lambda: told, 60)
    return told[0]


def put(path: Path, *records: Record) -> None:
    made = Disk(path, LIFE)
    assert write(made, **{f"r{n}": record for n, record in enumerate(records)}) is None
    made.close()


def loaded(path: Path, life: int = LIFE) -> tuple[list[Record], list[str]]:
    made = Disk(path, life)
    try:
        return sorted(made.load(), key=lambda record: record.id), made.problems
    finally:
        made.close()


def test_what_was_written_is_there_for_the_next_life_and_what_is_forgotten_is_not(path: Path) -> None:
    put(path, TIMER, LINE)
    assert loaded(path) == ([LINE, TIMER], [])
    made = Disk(path, LIFE)
    made.write({TIMER.id: None}, lambda why: None)
    made.close()
    assert loaded(path) == ([LINE], []), "what was given is on disk when it is closed"


def test_generations_of_another_life_of_root_are_nobody_s(path: Path) -> None:
    put(path, TIMER)
    ((found,), _) = loaded(path, LIFE + 1)
    assert (found.run, found.generation) == (5, 0)


def test_after_a_reboot_after_goes_on_by_the_wall_clock(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, TIMER, LINE)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(module, "_BOOT", boot)
    before = time.monotonic_ns() - time.time_ns()
    (line, timer), problems = loaded(path)
    assert (line, problems) == (LINE, [])
    assert abs(timer.due - TIMER.due_wall - before) < 60e9
    assert loaded(path)[0] == [line, timer], "once for each boot"


@pytest.mark.parametrize(
    "change",
    [
        "name = 'b'", "due = due + 1", "run = NULL", "id = CAST(x'e12f72696e672f31' AS TEXT)", "kind = 'declared'",
        "generation = 'x'", "args = NULL",
    ],
)  # fmt: skip
def test_a_row_that_was_changed_is_left_out_and_told_and_no_reboot_makes_it_sound(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    put(path, TIMER, LINE)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE schedules SET {change} WHERE id = ?", (TIMER.id,))
    db.close()
    left_out = ([LINE], [f"schedules left out because they were damaged: 1 of {path}"])
    assert loaded(path) == left_out
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(module, "_BOOT", boot)
    assert loaded(path) == left_out


def test_a_damaged_file_is_put_aside_whole(path: Path) -> None:
    put(path, TIMER)
    content = bytearray(path.read_bytes())
    content[100:3000] = b"\xff" * 2900
    path.write_bytes(content)
    found, problems = loaded(path)
    assert found == []
    (aside,) = (path.parent / "quarantine").iterdir()
    assert aside.read_bytes() == bytes(content)
    assert "its schedules are lost" in problems[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DROP TABLE facts", "no such table: facts"),
        ("DROP TABLE schedules", "no such table: schedules"),
        ("ALTER TABLE schedules RENAME COLUMN due TO d5e", "no such column: due"),
    ],
)
def test_a_file_of_which_a_part_is_gone_is_put_aside(path: Path, change: str, why: str) -> None:
    put(path, TIMER)
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    found, (problem,) = loaded(path)
    assert (found, why in problem) == ([], True)
    put(path, LINE)
    assert loaded(path) == ([LINE], [])


def test_the_file_of_a_later_otpd_is_left_alone(path: Path) -> None:
    put(path, TIMER)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    content = path.read_bytes()
    with pytest.raises(Newer, match="written by a later otpd"):
        Disk(path, LIFE)
    assert path.read_bytes() == content
    assert not (path.parent / "quarantine").exists()


def test_what_can_t_be_written_is_told_and_the_next_one_is_written(disk: Disk) -> None:
    wrong = Record("a/x", "a", "x", "once", due=1 << 70)
    assert "too large" in str(write(disk, x=wrong))
    assert write(disk, x=TIMER) is None


def test_a_directory_that_is_a_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Disk(tmp_path / "file" / "scheduler.db", LIFE)


def test_many_writers_share_a_commit(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    commit, hold = Disk._commit, threading.Event()

    def counted(self: Disk, orders: object) -> str | None:
        hold.wait(60)
        given = list(orders)  # type: ignore[call-overload]
        commits.append(len(given))
        return commit(self, given)

    monkeypatch.setattr(Disk, "_commit", counted)
    told: list[str | None] = []
    for _ in range(50):
        disk.write({TIMER.id: TIMER}, told.append)
    hold.set()
    eventually(lambda: len(told) == 50, 60)
    assert sum(commits) == 50
    assert len(commits) <= 3


# --- the alarm ---


def test_the_alarm_rings_when_its_time_has_come_and_not_before() -> None:
    async def play() -> tuple[int, int]:
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        alarm = WallAlarm(loop, rung.set)
        try:
            alarm.set(time.time_ns() + 3_600_000_000_000)
            due = time.time_ns() + 30_000_000
            alarm.set(due)
            await asyncio.wait_for(rung.wait(), 60)
            return due, time.time_ns()
        finally:
            alarm.close()

    due, rung = asyncio.run(play())
    assert rung >= due


def test_a_time_that_has_passed_rings_at_once_each_time() -> None:
    async def play() -> int:
        rings = 0
        rung = asyncio.Event()
        alarm = WallAlarm(asyncio.get_running_loop(), rung.set)
        try:
            for _ in range(3):
                alarm.set(1)
                await asyncio.wait_for(rung.wait(), 60)
                rung.clear()
                rings += 1
            return rings
        finally:
            alarm.close()

    assert asyncio.run(play()) == 3
