"""The flat table of workers as lines. Pure; the tree's sibling, for `otpd status` and `otpd top`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otpd.cli.health_view import state_span as state_of_health
from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.tree_view import Usage, alert_words, state_span, tasks_words, usage_spans
from otpd.cli.words import ago, duration, last_exit

_HEAD = ("NAME", "KIND", "STATE", "PID", "GEN", "RESTARTS", "UPTIME")
_BREAKERS = {"closed": Style.DIM, "half_open": Style.BUSY}


def table(
    rows: Sequence[Mapping[str, Any]],
    now: float,
    usage: Mapping[int, Usage] | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[Line]:
    """A head and one line per worker. `now` is the wall clock; with `usage` there are columns for cpu and memory, with
    `rates` (calls per second by name) one for them, and where the broker said something of a row those for messages."""
    told, asked = any("inbox" in row for row in rows), any(row.get("health") for row in rows)
    head = [*_HEAD, *(("HEALTH",) if asked else ()), *(("INBOX",) if told else ())]
    head += ["CALLS/S"] if told and rates is not None else []
    head += [*(("BREAKER",) if told else ()), *(("CPU", "MEMORY") if usage is not None else ()), "LAST EXIT"]
    cells = [[Span(word, Style.DIM) for word in head]]
    return columns(cells + [_row(row, now, usage, rates, told, asked) for row in rows])


def alerts(rows: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    """What is wrong with the machine, one line each below the table."""
    raised = [alert for row in rows for alert in row.get("alerts") or ()]
    lines = [[Span(f"alert: {harmless(alert_words(each))}, {ago(each['at'], now)}", Style.BAD)] for each in raised]
    return [[], *lines] if lines else []


def _row(
    row: Mapping[str, Any],
    now: float,
    usage: Mapping[int, Usage] | None,
    rates: Mapping[str, float] | None,
    told: bool,
    asked: bool,
) -> list[Span]:
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
    if asked:
        cells.append(state_of_health(row.get("health")))
    if told:
        cells += _messages(row, rates)
    if usage is not None:
        cells += usage_spans(usage.get(row["pid"]) if row["pid"] else None)
    return [*cells, Span(_past(row, now), Style.DIM)]


def _messages(row: Mapping[str, Any], rates: Mapping[str, float] | None) -> list[Span]:
    inbox, breaker = row.get("inbox"), row.get("breaker")
    rate = [] if rates is None else [Span(f"{rates[row['name']]:.0f}" if row["name"] in rates else "-")]
    return [
        Span("-" if inbox is None else str(inbox), Style.BUSY if inbox else Style.PLAIN),
        *rate,
        Span(str(breaker or "-"), _BREAKERS.get(str(breaker), Style.BAD) if breaker else Style.PLAIN),
    ]


def _clock(row: Mapping[str, Any]) -> str:
    if row.get("next_attempt_s") is not None:
        return f"in {duration(row['next_attempt_s'])}"
    return duration(row["uptime_s"]) if row.get("uptime_s") is not None else "-"


def _past(row: Mapping[str, Any], now: float) -> str:
    what = row.get("what") or (row.get("health") or {}).get("why")
    found = [last_exit(dict(row), now) or "-"]
    found += [harmless(str(what))] if what and what != (row.get("last_exit") or {}).get("reason") else []
    return "  ".join([*found, *([tasks_words(row["tasks"])] if row.get("tasks") else [])])
