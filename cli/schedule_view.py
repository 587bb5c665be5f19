"""Schedules as lines. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.words import duration

_HEAD = ("ID", "PLAN", "STATE", "NEXT", "IN", "FIRED", "SKIPPED", "LAST")
_STATES = {"armed": Style.GOOD, "running": Style.BUSY, "paused": Style.BUSY, "away": Style.BAD}


def table(rows: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    """A head and one line per schedule; times in this terminal's zone."""
    if not rows:
        return [[Span("nothing is scheduled")]]
    return columns([[Span(word, Style.DIM) for word in _HEAD], *(_row(row, now) for row in rows)])


def _row(row: Mapping[str, Any], now: float) -> list[Span]:
    skipped = ", ".join(f"{count} {why}" for why, count in row["skipped"].items())
    return [
        Span(harmless(row["id"]), Style.NAME),
        Span(harmless(row["plan"])),
        Span(row["state"], _STATES.get(row["state"], Style.PLAIN)),
        Span(_clock(row["next"], now) if row["next"] else "-"),
        Span(duration(row["next_in_s"]) if row["next_in_s"] is not None else "-"),
        Span(str(row["fired"])),
        Span(skipped or "-", Style.BUSY if skipped else Style.DIM),
        Span(f"{row['last']['outcome']} {_clock(row['last']['at'], now)}" if row["last"] else "-", Style.DIM),
    ]


def _clock(moment: str, now: float) -> str:
    """The time alone when it is today."""
    found = datetime.datetime.fromisoformat(moment).astimezone()
    today = found.date() == datetime.datetime.fromtimestamp(now).astimezone().date()
    return found.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
