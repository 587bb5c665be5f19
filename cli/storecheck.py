"""What `otpd doctor` finds out about the store: from its files, so that it also works when nothing runs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Final

from otpd.cli.checkup import Finding, Level

#: The first version whose log has no bug when two connections write at once (sqlite.org/wal.html#walresetbug).
_FIXED: Final = (3, 51, 3)
_ACCEPT: Final = "what was lost and which files hold it is said above; go on without it: otpd state accept-loss"

_UNCHECKED: Final = (
    "its file is so large that it is read through while it is used, which has not ended yet; until then each row is checked "
    "when somebody asks for it"
)
_CHECK: Final = "ask again in a minute or two: it is told here how that has ended"


def examine(state_dir: Path) -> Finding:
    """What its last start has found, and whether something waits for a decision."""
    told = _report(state_dir / "store.report")
    if told is None:
        return Finding("store", Level.OK, f"nothing is stored yet; {_sqlite()}")
    problems = "; ".join(told.get("problems", []))
    if told.get("unusable"):
        return Finding("store", Level.FAIL, str(told["unusable"]), "it is tried again by itself; see: otpd why store")
    if told.get("loss"):
        return Finding("store", Level.FAIL, problems or str(told["loss"]), _ACCEPT)
    if told.get("room") == "full":
        return Finding("store", Level.FAIL, "the disk is full, nothing new is stored", f"free some: df {state_dir}")
    quarantine = sorted(each.name for each in (state_dir / "quarantine").glob("*"))
    if problems or quarantine:
        kept = f"; in quarantine: {', '.join(quarantine)}" if quarantine else ""
        advice = f"look at them, then remove them: {state_dir / 'quarantine'}" if quarantine else "otpd restart store"
        return Finding("store", Level.WARN, f"{problems or 'well'}{kept}; {_sqlite()}", advice)
    if told.get("checked") is False:
        return Finding("store", Level.WARN, f"{_UNCHECKED}; {_sqlite()}", _CHECK)
    return Finding("store", Level.OK, f"{told.get('commits', 0)} commits; {_sqlite()}")


def _report(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _sqlite() -> str:
    text = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _FIXED:
        return f"{text} (its WAL-reset bug needs two writing connections; the store has one, exclusively)"
    return text
