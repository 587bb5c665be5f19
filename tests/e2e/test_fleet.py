"""examples/fleet: kill -9 of any worker, of the broker and of the monitor loses no result and doubles none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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


def test_every_file_is_counted_once_whoever_is_killed_meanwhile() -> None:
    with node("", start=False) as fleet:
        shutil.copytree(EXAMPLE / "agents", fleet.home / "agents")
        config = (EXAMPLE / "otpd.toml").read_text()
        fleet.write("otpd.toml", config.replace('report = "var/report.txt"', f'report = "var/report.txt", limit = {FILES}'))
        fleet.start()
        eventually(lambda: progress(fleet).get("workers") == 4, 20, "four workers have registered")
        for victim in ("words-1", "symbols-2", "broker", "words-2", "monitor"):
            fleet.kill(fleet.pid(victim))
        done = {"words": FILES, "symbols": FILES}
        eventually(lambda: progress(fleet).get("done") == done, 60, "all files are counted")
        report = eventually(lambda: fleet.home.joinpath("var/report.txt").read_text(), 10)
        counted = [line.split()[1] for line in report.splitlines() if "counted once each" in line]
        assert [*map(int, counted)] == [FILES, FILES]
        assert fleet.worker("coordinator")["generation"] == 1
