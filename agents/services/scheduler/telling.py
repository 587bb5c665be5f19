"""What is told of schedules, once a second: counts of what has happened to each, and each run that has ended. Pure.

2,000 runs a second are as many counts, of which root's journal gets those that went wrong; the runs with their times are
published together, for telemetry and whoever else wants them, up to `MOST` in a second. Counts leave out none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.agents.services.scheduler.effects import Note

#: Runs that are told one by one, and rows of counts, in one second.
MOST: Final = 500
#: What goes into root's event log, beside the counts that are published.
_NOTED: Final = ("skipped", "overrun", "lost", "gone", "unkept")


@dataclass(slots=True)
class Told:
    """`emits`: kind and measurements; `notes`: kind, name and data; `ran`: what is published, None when nothing ended."""

    emits: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    notes: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    ran: dict[str, Any] | None = None


class Telling:
    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._happened: Counter[tuple[str, str, str]] = Counter()  # kind, schedule, why
        self._late: dict[str, int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()  # schedule without what is its alone, outcome
        self._took: Counter[tuple[str, str]] = Counter()
        self._runs: list[dict[str, Any]] = []
        self._left_out = 0

    def heard(self, note: Note) -> None:
        data, count = note.data, int(note.data.get("count", 1))
        why = str(data.get("why") or data.get("outcome") or "")
        self._happened[note.kind, note.id, why] += count
        if note.kind == "fired":
            self._late[note.id] = max(self._late.get(note.id, 0), data["late"])
        elif note.kind in ("ended", "overrun", "skipped"):
            outcome = why if note.kind == "ended" else note.kind
            self._counts[_schedule(note.id), outcome] += count
            self._took[_schedule(note.id), outcome] += data.get("took", 0)
            if "took" in data:
                self._ran(note.id, outcome, data)

    def _ran(self, id_: str, outcome: str, data: dict[str, Any]) -> None:
        if len(self._runs) >= MOST:
            self._left_out += 1
            return
        what = {"id": id_, "schedule": _schedule(id_), "outcome": outcome, "generation": data["generation"]}
        times = {"start": (data["at"] - data["took"]) / 1e9, "seconds": data["took"] / 1e9, "late_s": data["late"] / 1e9}
        self._runs.append(what | times)

    def take(self) -> Told:
        """All since the last time."""
        told = Told()
        for (kind, id_, why), count in self._happened.items():
            more = {"late_s": self._late.get(id_, 0) / 1e9} if kind == "fired" else {"why": why} if why else {}
            told.emits.append((f"schedule.{kind}", {"schedule": id_, "count": count, **more}))
            if kind in _NOTED or why in ("lost", "raised"):
                data = {"schedule": id_, "why": why, "count": count}
                told.notes.append(("lost" if why == "lost" else kind, id_.partition("/")[0], data))
        if self._counts:
            told.ran = {"counts": self._rows(), "runs": self._runs, "left_out": self._left_out}
        self._begin()
        return told

    def _rows(self) -> list[dict[str, Any]]:
        """The most frequent; what is too much is one row without a schedule."""
        rows = self._counts.most_common()
        named, others = rows[:MOST], rows[MOST:]
        found = [
            {"schedule": schedule, "outcome": outcome, "count": count, "seconds": self._took[schedule, outcome] / 1e9}
            for (schedule, outcome), count in named
        ]
        if others:
            seconds = sum(self._took[key] for key, _ in others) / 1e9
            found.append({"schedule": "", "outcome": "", "count": sum(n for _, n in others), "seconds": seconds})
        return found


def _schedule(id_: str) -> str:
    """Timers of one method are one schedule here.

    >>> _schedule("shop/report"), _schedule("shop/remind/4711")
    ('shop/report', 'shop/remind')
    """
    return "/".join(id_.split("/")[:2])
