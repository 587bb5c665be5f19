"""What the start of the store has found, and how that is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the start has found. `whole`: its pages were checked; `checked`: its rows, too. `lost_commits`: first and last.
    `damaged_rows`: (table, key). Nothing of it is empty talk: an untroubled start has no `problems`."""

    path: str
    sqlite: str = sqlite3.sqlite_version
    version: int = 0
    migrated_from: int | None = None
    seq: int = 0
    checked: bool = True
    whole: bool = True
    quarantine: str | None = None
    why: str | None = None
    saved_rows: Mapping[str, int] = field(default_factory=dict)
    lost_commits: tuple[int, int] | None = None
    damaged_rows: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Each in one sentence, for people."""
        found = list(self.notes)
        if self.saved_rows or (self.why and self.lost_commits is None):
            rows = ", ".join(f"{count} of {table}" for table, count in self.saved_rows.items()) or "none"
            text = f"the database was damaged ({self.why}); rows that could be read: {rows}"
            found.append(f"{text}; it lies in {self.quarantine}")
        if self.lost_commits is not None:
            first, last = self.lost_commits
            kept = f"; what was there lies in {self.quarantine}" if self.quarantine else ""
            found.append(f"commits {first} to {last} were acknowledged and are lost ({self.why}){kept}")
        found += [f"a row of {table} is damaged: {key}" for table, key in self.damaged_rows]
        return found
