"""The picture of a tree as lines: guides, state at a glance, budget of each supervisor, life of each worker. Pure.

The same lines are for a terminal (coloured, cut to its width by the caller) and for a pipe (plain, never cut).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.words import count, duration, last_exit, size

#: state -> (style, glyph, glyph where only ASCII is shown)
STATES: Final[Mapping[str, tuple[Style, str, str]]] = {
    "starting": (Style.BUSY, "◐", "~"),
    "running": (Style.GOOD, "●", "*"),
    "backoff": (Style.BUSY, "◌", "."),
    "restarting": (Style.BUSY, "↻", "~"),
    "stopping": (Style.BUSY, "◑", "-"),
    "stopped": (Style.DIM, "○", "o"),
    "failed": (Style.BAD, "✗", "x"),
}
_UNICODE: Final = ("├─ ", "└─ ", "│  ", "   ")
_ASCII: Final = ("|- ", "`- ", "|  ", "   ")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker's process tree uses: percent of one core since the last look, bytes resident, processes."""

    cpu_percent: float
    memory: int
    processes: int


@dataclass(frozen=True, slots=True)
class _Row:
    guides: str
    node: dict[str, Any]


def render(
    answer: Mapping[str, Any], now: float, unicode: bool = True, usage: Mapping[int, Usage] | None = None
) -> list[Line]:
    """One line per supervisor and worker, top first, in start order. `now` is the wall clock."""
    top = answer["tree"]
    rows = list(_below(top, "", _UNICODE if unicode else _ASCII))
    cells = iter(columns([_worker(row, now, unicode, usage) for row in rows if row.node["type"] == "worker"]))
    width = max((_label_width(row) for row in rows), default=0)
    lines = [_header(answer["node"], top, unicode)]
    for row in rows:
        label = _label(row, width, unicode)
        lines.append(label + (next(cells) if row.node["type"] == "worker" else _supervisor(row.node)))
    return lines


def state_span(state: str, width: int = 0) -> Span:
    return Span(state.ljust(width), STATES.get(state, (Style.PLAIN, "", ""))[0])


def glyph(state: str, unicode: bool) -> Span:
    style, mark, plain_mark = STATES.get(state, (Style.PLAIN, "?", "?"))
    return Span(mark if unicode else plain_mark, style)


def usage_spans(found: Usage | None) -> list[Span]:
    """cpu and memory, or two empty cells."""
    if found is None:
        return [Span(""), Span("")]
    return [Span(f"{found.cpu_percent:5.1f}%"), Span(f"{size(found.memory):>9}")]


def budget(node: Mapping[str, Any]) -> str:
    """Restarts used of what the supervisor allows."""
    if node.get("max_restarts") is None:
        return "no restart limit"
    used = node.get("restarts_in_window") or 0
    return f"restarts used {used}/{node['max_restarts']} in {duration(node['max_seconds'])}"


def _below(node: Mapping[str, Any], indent: str, guides: tuple[str, str, str, str]) -> Iterator[_Row]:
    tee, end, bar, blank = guides
    children = node.get("children", ())
    for at, child in enumerate(children, 1):
        last = at == len(children)
        yield _Row(indent + (end if last else tee), child)
        yield from _below(child, indent + (blank if last else bar), guides)


def _header(node: Mapping[str, Any], top: Mapping[str, Any], unicode: bool) -> Line:
    facts = [f"pid {node['pid']}", f"heart {node['heart_pid']}", f"up {duration(node['uptime_s'])}"]
    return [
        glyph(top["state"], unicode),
        Span(" "),
        Span(harmless(str(node["name"])), Style.BOLD),
        Span("  "),
        state_span(top["state"]),
        Span(f"  {top['strategy']}, {budget(top)}  ", Style.DIM),
        Span(", ".join(facts), Style.DIM),
        *_alerts(node.get("alerts") or ()),
    ]


def _alerts(alerts: Sequence[Mapping[str, Any]]) -> Line:
    """What is wrong with the host."""
    return [Span(f"  {harmless(alert_words(each))}", Style.BAD) for each in alerts]


def alert_words(alert: Mapping[str, Any]) -> str:
    """
    >>> alert_words({"condition": "disk", "value": 93.2, "limit": 90})
    'disk 93.2% (alert at 90%)'
    """
    of, at = (" per core", "") if alert["condition"] == "load" else ("%", "%")
    return f"{alert['condition']} {alert['value']:g}{of} (alert at {alert['limit']:g}{at})"


def _label_width(row: _Row) -> int:
    return len(row.guides) + len(harmless(row.node["name"])) + 2


def _label(row: _Row, width: int, unicode: bool) -> Line:
    bold = Style.BOLD if row.node["type"] == "supervisor" else Style.PLAIN
    return [
        Span(row.guides, Style.DIM),
        glyph(row.node["state"], unicode),
        Span(" "),
        Span(harmless(row.node["name"]), bold),
        Span(" " * (width - _label_width(row) + 2)),
    ]


def _supervisor(node: Mapping[str, Any]) -> Line:
    line = [state_span(node["state"]), Span("  "), Span(str(node["strategy"]), Style.NAME), Span("  ")]
    used, most = node.get("restarts_in_window") or 0, node.get("max_restarts")
    style = Style.BAD if most is not None and used >= most > 0 else Style.BUSY if used else Style.DIM
    line.append(Span(budget(node), style))
    facts = [count(node["restarts"], "restart")] if node.get("restarts") else []
    facts += [f"next attempt in {duration(node['next_attempt_s'])}"] if node.get("next_attempt_s") is not None else []
    facts += [harmless(str(node["what"]))] if node.get("what") else []
    return [*line, Span("".join(f"  {fact}" for fact in facts))]


def _worker(row: _Row, now: float, unicode: bool, usage: Mapping[int, Usage] | None) -> list[Span]:
    node = row.node
    pid, restarts = node["pid"], node["restarts"]
    cells = [
        state_span(node["state"]),
        Span(f"pid {pid}" if pid else ""),
        Span(f"gen {node['generation']}", Style.DIM),
        Span(count(restarts, "restart"), Style.BUSY if restarts else Style.DIM),
        Span(_clock(node)),
    ]
    if usage is not None:
        cells += usage_spans(usage.get(pid) if pid else None)
    return [*cells, Span(_past(node, now), Style.DIM)]


def _clock(node: Mapping[str, Any]) -> str:
    if node.get("next_attempt_s") is not None:
        return f"next attempt in {duration(node['next_attempt_s'])}"
    return f"up {duration(node['uptime_s'])}" if node.get("uptime_s") is not None else ""


def _past(node: Mapping[str, Any], now: float) -> str:
    """The last exit, why it is not running or not well, and whether it was added by hand."""
    found = [f"last exit: {last_exit(dict(node), now)}"] if node.get("last_exit") else []
    reason = (node.get("last_exit") or {}).get("reason")
    found += [harmless(str(node["what"]))] if node.get("what") and node["what"] != reason else []
    health = node.get("health") or {}
    found += [f"{health['state']}: {harmless(str(health['why']))}"] if health.get("why") else []
    found += [tasks_words(node["tasks"])] if node.get("tasks") else []
    found += ["runtime"] if node.get("runtime") else []
    return "  ".join(found)


def tasks_words(counts: Mapping[str, int]) -> str:
    """What a task pool says of itself.

    >>> tasks_words({"queued": 0, "running": 2, "done": 7, "failed": 0, "timed_out": 1, "submitted": 10})
    'tasks: 2 running, 7 done, 1 timed out'
    """
    names = ("queued", "running", "done", "failed", "timed_out", "killed", "cancelled", "refused")
    shown = [f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts.get(name)]
    return f"tasks: {', '.join(shown) or 'none'}"
