"""What `otpd doctor` says of the store, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otpd.cli.checkup import Level
from otpd.cli.storecheck import examine


def told(directory: Path, **report: Any) -> tuple[Level, str]:
    (directory / "store.report").write_text(json.dumps(report))
    found = examine(directory)
    return found.level, f"{found.what} | {found.advice}"


def test_nothing_is_stored_before_the_first_start(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert (found.level, found.what.split(";")[0]) == (Level.OK, "nothing is stored yet")
    (tmp_path / "store.report").write_text("{")
    assert examine(tmp_path).level is Level.OK, "a report that a crash has cut says nothing"


@pytest.mark.parametrize(
    ("report", "level", "words"),
    [
        ({"commits": 7, "room": "open", "problems": [], "loss": None}, Level.OK, "7 commits; SQLite 3."),
        ({"unusable": "it is of a newer otpd"}, Level.FAIL, "it is of a newer otpd | it is tried again by itself"),
        ({"loss": "yesterday", "problems": ["3 to 4 are lost"]}, Level.FAIL, "3 to 4 are lost | what was lost"),
        ({"loss": "yesterday: a page", "problems": []}, Level.FAIL, "yesterday: a page | "),
        ({"room": "full", "problems": []}, Level.FAIL, "the disk is full, nothing new is stored | free some: df "),
        ({"room": "open", "problems": [], "checked": False}, Level.WARN, "read through while it is used, which has"),
        ({"room": "open", "problems": ["store.hwm is damaged"]}, Level.WARN, "store.hwm is damaged; SQLite"),
    ],
)
def test_each_finding_of_its_last_start_has_its_level_and_the_next_step(
    tmp_path: Path, report: dict[str, Any], level: Level, words: str
) -> None:
    found, text = told(tmp_path, **report)
    assert found is level
    assert words in text


def test_what_lies_in_quarantine_is_named_until_somebody_has_looked(tmp_path: Path) -> None:
    (tmp_path / "quarantine" / "store-1").mkdir(parents=True)
    level, text = told(tmp_path, commits=1, problems=[], loss=None)
    assert (level, "in quarantine: store-1" in text, "look at them, then remove them" in text) == (Level.WARN, True, True)
