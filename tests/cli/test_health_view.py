"""`otpd health`: the words."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.cli.health_view import render
from otpd.cli.output import plain

ROW: dict[str, Any] = {
    "name": "feed", "generation": 2, "since_s": 5.0, "check": "call", "interval": 10.0, "action": "report", "checks": 7,
    "used": {}, "allowed": {}, "passed": 0,
}  # fmt: skip
HOST = {"cpu": 10.0, "load": 0.5}


@pytest.mark.parametrize(
    ("state", "failed", "last", "shown"),
    [
        ("healthy", 0, {"passed": True}, "passed"),
        ("healthy", 1, {"passed": False, "why": "tired"}, "tired, 1 in a row"),
        ("unhealthy", 3, {"passed": False, "why": "tired"}, "tired"),
        ("unknown", 0, None, "-"),
    ],
)
def test_a_failure_that_is_not_enough_says_how_many_there_were(state: str, failed: int, last: Any, shown: str) -> None:
    row = {**ROW, "state": state, "failed": failed, "last": last}
    lines = [plain(line) for line in render({"children": [row], "host": HOST, "alerts": ["load"]})]
    assert lines[1].split(" - ", 1)[1].strip() == shown
    assert lines[-1] == "host  cpu 10%  load 0.5 per core  alerts: load"
