"""The flat table of workers as lines. Pure; the tree's sibling, for `otpd status` and `otpd top`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.tree_view import Usage, state_span, usage_spans
from otpd.cli.words import duration, last_exit

_HEAD = ("NAME", "KIND", "STATE", "PID", "GEN", "RESTARTS", "UPTIME")


def table(rows: Sequence[Mapping[str, Any]], now: float, usage: Mapping[int, Usage] | None = None) -> list[Line]:
    """A head and one line per worker. `now` is the wall clock; with `usage` there are columns for cpu and memory."""
    head = [*_HEAD, *(("CPU", "MEMORY") if usage is not None else ()), "LAST EXIT"]
    cells = [[Span(word, Style.DIM) for word in head]]
    return columns(cells + [_row(row, now, usage) for row in rows])


def _row(row: Mapping[str, Any], now: float, usage: Mapping[int, Usage] | None) -> list[Span]:
    restarts = row["restarts"]
    cells = [
        Span(harmless(row["name"])),
        Span(str(row["kind"]), Style.DIM),
        state_span(row["state"]),
        Span(str(row["pid"] or "-")),
        Span(str(row["generation"])),
        Span(str(restarts), Style.BUSY if restarts else Style.PLAIN),
        Span(_clock(row)),
    ]
    if usage is not None:
        cells += usage_spans(usage.get(row["pid"]) if row["pid"] else None)
    return [*cells, Span(_past(row, now), Style.DIM)]


def _clock(row: Mapping[str, Any]) -> str:
    if row.get("next_attempt_s") is not None:
        return f"in {duration(row['next_attempt_s'])}"
    return duration(row["uptime_s"]) if row.get("uptime_s") is not None else "-"


def _past(row: Mapping[str, Any], now: float) -> str:
    found = last_exit(dict(row), now) or "-"
    what = row.get("what")
    return f"{found}  {harmless(str(what))}" if what and what != (row.get("last_exit") or {}).get("reason") else found
