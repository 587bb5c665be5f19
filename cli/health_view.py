"""What the health service knows, as lines: a row per child, then the host. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.words import duration, size

STYLES: Final = {"healthy": Style.GOOD, "unhealthy": Style.BAD, "unknown": Style.BUSY}
_HEAD: Final = ("NAME", "GEN", "HEALTH", "SINCE", "CHECK", "CHECKS", "USES", "LAST ANSWER")


def render(found: Mapping[str, Any]) -> list[Line]:
    """The answer of the service's `report`."""
    rows: Sequence[Mapping[str, Any]] = found["children"]
    lines = columns([[Span(word, Style.DIM) for word in _HEAD], *map(_row, rows)]) if rows else [[Span(_NOBODY)]]
    return [*lines, [], _host(found["host"], found["alerts"])]


_NOBODY: Final = "no child has one of the keys health and restart_when, and no agent a @health method"


def state_span(health: Mapping[str, Any] | None) -> Span:
    """The cell of a table; `health` as root tells it, None for who is not asked."""
    state = None if health is None else health["state"]
    return Span(str(state or "-"), STYLES.get(str(state), Style.DIM))


def _row(row: Mapping[str, Any]) -> list[Span]:
    asked = row["state"] is not None
    return [
        Span(harmless(row["name"])),
        Span(str(row["generation"])),
        state_span(row),
        Span(duration(row["since_s"]) if asked else "-"),
        Span(f"{row['check']} each {duration(row['interval'])}, {row['action']}" if asked else "-", Style.DIM),
        Span(str(row["checks"]) if asked else "-"),
        Span(_uses(row["used"], row["allowed"]) or "-"),
        _last(row),
    ]


def _last(row: Mapping[str, Any]) -> Span:
    last = row.get("last")
    if last is None:
        return Span("-", Style.DIM)
    if last["passed"]:
        return Span("passed", Style.DIM)
    again = f", {row['failed']} in a row" if row.get("failed") and row["state"] != "unhealthy" else ""
    return Span(harmless(f"{last['why']}{again}"), Style.BUSY if last["passed"] is None else Style.BAD)


def _uses(used: Mapping[str, Any], allowed: Mapping[str, Any]) -> str:
    """Each limit, and how much of it is used.

    >>> _uses({"memory": 2**20, "threads": 3}, {"memory": 2**30, "threads": 9, "age": 3600.0})
    'memory 1.0MiB of 1.0GiB, threads 3 of 9, age up to 1h00m'
    """
    return ", ".join(_measure(measure, used.get(measure), most) for measure, most in allowed.items())


def _measure(measure: str, used: float | None, most: float) -> str:
    match measure:
        case "memory":
            words = [size(int(each)) for each in (used, most) if each is not None]
        case "cpu":
            words = [f"{each:.0f}%" for each in (used, most) if each is not None]
        case "age":
            words = [duration(most)]
        case _:
            words = [f"{each:.0f}" for each in (used, most) if each is not None]
    return f"{measure} {words[0]} of {words[1]}" if len(words) == 2 else f"{measure} up to {words[0]}"


def _host(readings: Mapping[str, float], alerts: Sequence[str]) -> Line:
    line = [Span("host  ", Style.BOLD)]
    for condition, value in readings.items():
        shown = f"{value:.1f} per core" if condition == "load" else f"{value:.0f}%"
        line.append(Span(f"{condition} {shown}  ", Style.BAD if condition in alerts else Style.PLAIN))
    return [*line, Span(f"alerts: {', '.join(alerts) or 'none'}", Style.BAD if alerts else Style.DIM)]
