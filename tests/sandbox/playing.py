"""Runs what scripts/escapes runs, for tests, and says what got out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPO = HERE.parents[1]
PUBLIC, OWN = HERE / "public.json", HERE / "own.json"

#: What a fallback lets happen, and the gap of its capability table that says so.
ANNOUNCED = {"D22-devices": "names", "O93-cwd": "names", "O10-inotify": "user_limits"}


def play(file: Path, *options: str) -> dict[str, Any]:
    """The report of a whole run. It closes with status 1 when something escaped, and with another when it could not play."""
    command = [sys.executable, "-P", "-m", "tests.sandbox.escapes", str(file), "--json", "--jobs", "3", *options]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=560)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert "not played" not in done.stderr, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def escaped(report: dict[str, Any]) -> dict[str, list[str]]:
    """Case to what failed, without what the capability table announces."""
    missing = report["capability"]["missing"]
    found = {case["id"]: case["why"] for case in report["cases"] if case["outcome"] == "escaped"}
    return {name: why for name, why in found.items() if ANNOUNCED.get(name) not in missing}


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("this half of the corpus is played by root; the other half is played as you")


def who(user: bool) -> list[str]:
    """Options to play as an ordinary user, whoever starts the tests."""
    return ["--as", "user"] if user and os.geteuid() == 0 else []
