"""What `otpd top` shows and what its keys do. Pure: rows and keys in, lines and wishes out.

| key | does |
|---|---|
| c m n t i s | sorts by cpu, memory, name, as in the tree, inbox, calls per second |
| up, down (j, k) | chooses a row |
| r, then y | restarts the chosen one |
| w, enter | shows why it is as it is; again, or escape: the table |
| q, ^C | ends |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.cli.output import Line, Span, Style, plain
from otpd.cli.status_view import table
from otpd.cli.tree_view import Usage
from otpd.cli.words import count, size

ORDERS: Final = {"c": "cpu", "m": "memory", "n": "name", "t": "tree", "i": "inbox", "s": "calls"}
_KEYS: Final = "c cpu  m memory  n name  t tree  i inbox  s calls/s   ↑↓ choose  r restart  w why  q quit"
_NOTHING: Final = Usage(0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the node. `rates`: calls per second by name, where two looks gave them."""

    rows: Sequence[dict[str, Any]]
    usage: Mapping[int, Usage]
    rates: Mapping[str, float]
    now: float  # wall clock

    def ordered(self, order: str) -> list[dict[str, Any]]:
        """
        >>> Look([{"name": "b"}, {"name": "a"}], {}, {}, 0.0).ordered("name")
        [{'name': 'a'}, {'name': 'b'}]
        """
        match order:
            case "cpu":
                return sorted(self.rows, key=lambda row: -self.usage.get(row["pid"], _NOTHING).cpu_percent)
            case "memory":
                return sorted(self.rows, key=lambda row: -self.usage.get(row["pid"], _NOTHING).memory)
            case "name":
                return sorted(self.rows, key=lambda row: str(row["name"]))
            case "inbox":
                return sorted(self.rows, key=lambda row: -(row.get("inbox") or 0))
            case "calls":
                return sorted(self.rows, key=lambda row: -self.rates.get(row["name"], 0.0))
        return list(self.rows)

    def summary(self) -> str:
        running = sum(row["state"] == "running" for row in self.rows)
        cpu = sum(found.cpu_percent for found in self.usage.values())
        memory = size(sum(found.memory for found in self.usage.values()))
        return f"{running} of {count(len(self.rows), 'worker')} running, cpu {cpu:.1f}%, memory {memory}"


@dataclass(slots=True)
class Board:
    """What the user has chosen. `asked`: a restart that waits for its y."""

    order: str = "tree"
    chosen: str | None = None
    asked: str | None = None
    reading: str | None = None  # the name whose `why` is shown
    said: str = ""
    names: list[str] = field(default_factory=list)  # as they are shown now

    def press(self, key: str) -> str | None:
        """The name of a child to restart, if that is what the key means now."""
        asked, self.asked, self.said = self.asked, None, ""
        if asked is not None:
            return asked if key == "y" else None
        if key in ORDERS:
            self.order = ORDERS[key]
        elif key in ("up", "k", "down", "j"):
            self._move(-1 if key in ("up", "k") else 1)
        elif key == "r" and self.chosen:
            self.asked = self.chosen
        elif key in ("w", "enter"):
            self.reading = None if self.reading else self.chosen
        elif key == "escape":
            self.reading = self.chosen = None
        return None

    def _move(self, by: int) -> None:
        if not self.names:
            return
        at = self.names.index(self.chosen) + by if self.chosen in self.names else 0
        self.chosen = self.names[max(0, min(at, len(self.names) - 1))]

    def lines(self, look: Look) -> list[Line]:
        rows = look.ordered(self.order)
        self.names = [row["name"] for row in rows]
        head, *body = table(rows, look.now, look.usage, look.rates)
        shown = [_chosen(line) if name == self.chosen else line for name, line in zip(self.names, body, strict=True)]
        return [[Span(look.summary(), Style.BOLD)], [Span(self._foot(), Style.DIM)], [], head, *shown]

    def _foot(self) -> str:
        if self.asked:
            return f"restart {self.asked}? y, or any other key"
        return self.said or _KEYS


def _chosen(line: Line) -> Line:
    return [Span(plain(line), Style.CHOSEN)]
