"""The table of `otpd schedule`."""

from __future__ import annotations

import datetime

from otpd.cli.output import plain
from otpd.cli.schedule_view import table

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0).astimezone()


def row(**more: object) -> dict[str, object]:
    return {
        "id": "a/tick", "plan": "every 30s", "state": "armed", "next": (NOW + datetime.timedelta(seconds=12)).isoformat(),
        "next_in_s": 12.0, "fired": 3, "skipped": {}, "last": None, **more,
    }  # fmt: skip


def test_a_line_for_each_schedule() -> None:
    ended = {"outcome": "done", "at": (NOW - datetime.timedelta(days=1)).isoformat()}
    away = row(id="b\x1b/x", state="away", next=None, next_in_s=None)
    rows = [row(skipped={"overlap": 2, "misfire": 1}, last=ended), away]
    lines = [plain(line).split("  ") for line in table(rows, NOW.timestamp())]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["ID", "PLAN", "STATE", "NEXT", "IN", "FIRED", "SKIPPED", "LAST"],
        ["a/tick", "every 30s", "armed", "12:00:12", "12s", "3", "2 overlap, 1 misfire", "done 2026-02-28 12:00:00"],
        ["b\\x1b/x", "every 30s", "away", "-", "-", "3", "-", "-"],
    ]


def test_nothing_is_said_in_words() -> None:
    assert [plain(line) for line in table([], NOW.timestamp())] == ["nothing is scheduled"]
