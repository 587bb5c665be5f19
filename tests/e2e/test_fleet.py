"""examples/fleet: kill -9 of anybody, also the coordinator, in the middle of the work loses no result and doubles none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from otpd.agents import OtpdError, connect
from tests.e2e.node import Node, node
from tests.helpers import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet"
FILES = 60


def progress(fleet: Node) -> dict[str, Any]:
    """Nothing while the broker is on its way back."""
    try:
        with connect(fleet.control, timeout=60) as client:
            found: dict[str, Any] = client.call("coordinator", "progress", timeout=60)
            return found
    except OtpdError:
        return {}


@pytest.mark.timeout(400)
def test_every_file_is_counted_once_whoever_is_killed_meanwhile() -> None:
    with node("", start=False, services=("store", "scheduler")) as fleet:
        shutil.copytree(EXAMPLE / "agents", fleet.home / "agents")
        config = (EXAMPLE / "otpd.toml").read_text()
        fleet.write("otpd.toml", config.replace('report = "var/report.txt"', f'report = "var/report.txt", limit = {FILES}'))
        fleet.start()
        for victim in ("coordinator", "words-1", "store", "symbols-2", "broker", "coordinator", "words-2", "monitor"):
            fleet.kill(int(fleet.when(victim, 30, state="running")["pid"]))
        done = {"words": FILES, "symbols": FILES}
        eventually(lambda: progress(fleet).get("done") == done, 120, "all files are counted")
        report = eventually(lambda: (fleet.home / "var/report.txt").exists() and text(fleet), 30, "the schedule writes it")
        counted = [line.split()[1] for line in str(report).splitlines() if "counted once each" in line]
        assert [*map(int, counted)] == [FILES, FILES]
        assert (progress(fleet)["run"], fleet.json("letters", "list")) == (1, [])
        assert fleet.worker("coordinator")["generation"] > 1


def text(fleet: Node) -> str:
    return (fleet.home / "var/report.txt").read_text()
