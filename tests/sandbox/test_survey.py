"""What this machine gives, as people and programs see it."""

from __future__ import annotations

import json

import pytest

from otpd.agents.sandbox import handle
from otpd.agents.sandbox.__main__ import main
from otpd.agents.sandbox.capability import Bound, Capability, Gap, Unavailable
from otpd.agents.sandbox.survey import lines


def test_every_backend_is_tried_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["backend"] for each in found] == ["native", "bwrap", "landlock"]
    assert status == (0 if any("layers" in each for each in found) else 1)


def test_a_worker_that_never_starts_is_the_reason_that_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handle, "START", "import sys; sys.exit(3)")
    assert main([]) == 1
    why = "a worker ended while it was starting (status 3), 3 times in a row. Fix: look at what it printed to stderr."
    assert capsys.readouterr().out.splitlines() == [
        f"{backend}: not here: {why}" for backend in ("native", "bwrap", "landlock")
    ]


def test_a_worker_looks_for_its_modules_where_its_pool_found_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"HOME": "/home/ann", "PYTHONUSERBASE": "/home/ann/.local", "PYTHONPATH": "/srv/lib"}
    for name, value in {**installed, "SECRET": "x"}.items():
        monkeypatch.setenv(name, value)
    kept = handle.clean_environment()
    assert {name: kept.get(name) for name in (*installed, "SECRET")} == {**installed, "SECRET": None}


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
