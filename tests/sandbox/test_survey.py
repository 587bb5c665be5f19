"""What this machine gives, as people and programs see it."""

from __future__ import annotations

import json

import pytest

from otpd.agents.sandbox.__main__ import main
from otpd.agents.sandbox.capability import Bound, Capability, Gap, Unavailable
from otpd.agents.sandbox.survey import lines


def test_every_backend_is_tried_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["backend"] for each in found] == ["native", "bwrap", "landlock"]
    assert status == (0 if any("layers" in each for each in found) else 1)


def test_the_table_says_what_is_missing_and_how_to_get_it() -> None:
    native = Capability(
        "native", {"seccomp": "1", "userns": ""}, {"proc": Gap("masked", "unmask it")}, {"wall": Bound("hard", "x")}
    )
    assert list(lines([native, Unavailable("bwrap", "not installed", "install it")])) == [
        "native (launcher: python)",
        "  layers   seccomp:1, userns",
        "  missing  proc: masked (fix: unmask it)",
        "  limit    wall: hard, by x",
        "bwrap: not here: not installed Fix: install it.",
    ]
