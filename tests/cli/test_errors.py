"""`otpd errors`: groups, one error, filters; without a node that runs, and without the service."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.agents.services.errors.database import FILE, Database
from otpd.agents.services.errors.records import Machine
from otpd.agents.services.errors.view import absorb
from otpd.cli import errors, errors_view
from otpd.cli.output import plain
from tests.cli.fake import AT, FakeNode

RECORD: dict[str, Any] = {
    "id": 7, "fingerprint": "0a1b2c3d4e5f", "kind": "crash", "at": AT - 5, "name": "calc", "path": "pricing/calc",
    "generation": 3, "life": 1, "summary": "error(ValueError: no price)", "weight": 1, "lines": ["bye \x1b[31m"],
    "detail": {
        "reason": "error(ValueError: no price)", "status": 1, "signal": None, "asked_by": None, "uptime_s": 61.0,
        "restarts_in_window": 2, "max_restarts": 3, "max_seconds": 5, "exception": "ValueError", "where": "calc.py:4 in f",
        "traceback": "Traceback (most recent call last):\n  ...\nValueError: no price\n", "left": [],
        "resources": {"cpu_user_s": 0.25, "cpu_system_s": 0.5, "max_memory": 12 * 1024 * 1024},
    },
    "group": {"count": 4, "first_seen": AT - 3600, "last_seen": AT - 5, "instances": {}},
}  # fmt: skip
SHOWN = """\
crash of pricing/calc, generation 3 5s ago, at 2027-01-15 07:59:55
error(ValueError: no price)
seen        4 times, first 1h00m ago, last 5s ago
id          7, fingerprint 0a1b2c3d4e5f
reason      error(ValueError: no price)
status      1
exception   ValueError
where       calc.py:4 in f
lived       1m01s
budget      2 of 3 restarts within 5s were used before
used        0.25 s of CPU and 0.5 s in the kernel, at most 12.0MiB of memory
traceback:
| Traceback (most recent call last):
|   ...
| ValueError: no price
last 1 line:
| bye \\x1b[31m"""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def journal(node: FakeNode, *events: dict[str, Any]) -> None:
    """What a root has left behind in the state directory."""
    state = node.home / ".otpd"
    state.mkdir(exist_ok=True)
    lines = (json.dumps({"life": 1, "seq": seq, "path": "", "generation": 1, **each}) for seq, each in enumerate(events, 1))
    (state / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def death(name: str, reason: str, at: float = AT, **more: Any) -> dict[str, Any]:
    return {"at": at, "event": "otpd.child.death", "name": name, "reason": reason, "asked_by": None, **more}


def test_one_error_is_shown_with_all_that_is_known() -> None:
    assert "\n".join(map(plain, errors_view.one(RECORD, AT))) == SHOWN


def test_errors_are_grouped_and_clean_ends_left_out_without_a_node_that_runs(node: FakeNode) -> None:
    two = death("calc", "error(1)"), death("calc", "error(2)", AT + 1)
    journal(node, *two, death("calc", "normal"), death("web", "killed"))
    rows = node.json("errors")
    assert [(row["name"], row["kind"], row["count"], row["summary"]) for row in rows] == [
        ("calc", "crash", 2, "error(2)"), ("web", "crash", 1, "killed"),
    ]  # fmt: skip
    assert [row["name"] for row in node.json("errors", "web", "--each")] == ["web"]
    assert [row["kind"] for row in node.json("errors", "--all", "--each", "-n", "2")] == ["crash", "end"]
    shown = node.json("errors", "show", rows[0]["fingerprint"])
    assert (shown["summary"], shown["group"]["count"]) == ("error(2)", 2)
    head, first, *_ = node.otpd("errors").stdout.splitlines()
    assert head.split() == ["LAST", "COUNT", "KIND", "NAME", "WHAT", "ID"]
    assert first.split()[-5:] == ["2", "crash", "calc", "error(2)", rows[0]["fingerprint"]]


def test_instances_of_a_group_are_one_line_that_any_of_their_names_finds(node: FakeNode) -> None:
    journal(node, *(death(f"feed-{number}", "killed", group="feed") for number in (2, 1, 2)))
    for name in ("feed", "feed-1"):
        (line,) = node.otpd("errors", name).stdout.splitlines()[1:]
        assert " 3      crash  feed (feed-2 2x, feed-1 1x)  killed" in line
    assert "\ninstances   of feed (feed-2 2x, feed-1 1x)\n" in node.otpd("errors", "show", line.split()[-1]).stdout


def test_damaged_rows_are_told_beside_what_is_shown(node: FakeNode) -> None:
    (node.home / ".otpd").mkdir()
    with contextlib.closing(Database.open(str(node.home / ".otpd" / FILE))) as store:
        absorb(store, Machine(), [{**death("calc", "killed"), "life": 1, "seq": 1}])
    with contextlib.closing(sqlite3.connect(node.home / ".otpd" / FILE, isolation_level=None)) as db:
        db.execute("UPDATE records SET name = 'calm'")
    done = node.otpd("errors", "--each", "--json")
    assert json.loads(done.stdout) == []
    assert done.stderr.startswith("otpd: 1 damaged row of errors.db left out; the service forgets")


def test_nothing_wrong_is_said_and_wrong_words_are_explained(node: FakeNode) -> None:
    assert node.otpd("errors").stdout == "nothing went wrong, or it is no longer kept\n"
    assert "there is no error '12'" in node.otpd("errors", "show", "12", code=4).stderr
    assert "expected one of crash, unclean_stop" in node.otpd("errors", "--kind", "crsh", code=2).stderr


def test_a_file_that_cannot_be_read_is_named_with_what_to_do(node: FakeNode) -> None:
    (node.home / ".otpd").mkdir()
    (node.home / ".otpd" / "errors.db").write_bytes(b"x" * 5000)
    done = node.otpd("errors", code=1)
    assert "errors.db: it can't be read" in done.stderr
    assert "otpd restart errors" in done.stderr


def test_a_file_of_which_a_part_is_gone_is_named_and_keeps_no_other_command_from_its_work(node: FakeNode) -> None:
    state = node.home / ".otpd"
    state.mkdir()
    Database.open(str(state / FILE)).close()
    with sqlite3.connect(state / FILE) as db:
        db.execute("DROP TABLE groups")
    db.close()
    done = node.otpd("errors", code=1)
    assert "errors.db: it can't be read: no such table: groups" in done.stderr
    assert "otpd restart errors" in done.stderr
    context: Any = SimpleNamespace(paths=lambda: SimpleNamespace(state_dir=state))
    assert errors.history(context, "calc") == [], "for otpd why"
