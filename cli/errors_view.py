"""`otpd errors` in words. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.words import ago, count, duration, size, when

_SUMMARY: Final = 100
#: Instances of a group that are named in a table.
_INSTANCES: Final = 3
_HARMLESS: Final = ("end",)
#: What a death tells, in the order in which it is shown; the others are shown as they are.
_WORDS: Final[Mapping[str, str]] = {
    "reason": "reason",
    "cause": "cause",
    "asked_by": "asked by",
    "status": "status",
    "signal": "signal",
    "exception": "exception",
    "where": "where",
    "uptime_s": "lived",
    "left": "left behind",
}
_HIDDEN: Final = frozenset(
    {"traceback", "resources", "restarts_in_window", "max_restarts", "max_seconds", "detached", "kind"}
)


def groups(found: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    if not found:
        return [[Span("nothing went wrong, or it is no longer kept", Style.DIM)]]
    head = [Span(word, Style.DIM) for word in ("LAST", "COUNT", "KIND", "NAME", "WHAT", "ID")]
    return columns([head, *(_group(each, now) for each in found)])


def _group(group: Mapping[str, Any], now: float) -> list[Span]:
    return [
        Span(ago(group["last_seen"], now)),
        Span(str(group["count"])),
        Span(group["kind"], _style(group["kind"])),
        Span(harmless(f"{group['name'] or '-'}{_instances(group['instances'], _INSTANCES)}"), Style.BOLD),
        Span(_short(group["summary"])),
        Span(group["fingerprint"], Style.DIM),
    ]


def _instances(counts: Mapping[str, int], most: int) -> str:
    """Which instances of a group had it how often.

    >>> _instances({}, 2), _instances({"feed-2": 5, "feed-1": 1, "feed-3": 1}, 2)
    ('', ' (feed-2 5x, feed-1 1x, 1 more)')
    """
    said = [f"{name} {times}x" for name, times in itertools.islice(counts.items(), most)]
    more = [f"{len(counts) - most} more"] if len(counts) > most else []
    return f" ({', '.join(said + more)})" if said else ""


def records(found: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    if not found:
        return groups([], now)
    head = [Span(word, Style.DIM) for word in ("WHEN", "KIND", "NAME", "GEN", "WHAT", "ID")]
    return columns([head, *(_record(each) for each in found)])


def _record(record: Mapping[str, Any]) -> list[Span]:
    return [
        Span(when(record["at"])),
        Span(record["kind"], _style(record["kind"])),
        Span(harmless(record["name"] or "-"), Style.BOLD),
        Span(str(record["generation"] or "-")),
        Span(_short(record["summary"])),
        Span(str(record["id"]), Style.DIM),
    ]


def one(record: Mapping[str, Any], now: float) -> list[Line]:
    """Everything that is known of one error."""
    return [*_title(record, now), *_details(record["detail"]), *_traceback(record["detail"]), *_lines(record["lines"])]


def _title(record: Mapping[str, Any], now: float) -> Iterator[Line]:
    generation = f", generation {record['generation']}" if record["generation"] else ""
    yield [
        Span(record["kind"], _style(record["kind"])),
        Span(f" of {harmless(record['path'] or record['name'] or '-')}{generation} "),
        Span(f"{ago(record['at'], now)}, at {when(record['at'])}"),
    ]
    yield [Span(harmless(record["summary"]), Style.BOLD)]
    group = record.get("group")
    if group and group["count"] > 1:
        first, last = ago(group["first_seen"], now), ago(group["last_seen"], now)
        yield _fact("seen", f"{group['count']} times, first {first}, last {last}")
    if group and group["instances"]:
        yield _fact("instances", f"of {record['instance_of']}{_instances(group['instances'], len(group['instances']))}")
    yield _fact("id", f"{record['id']}, fingerprint {record['fingerprint']}")


def _details(detail: Mapping[str, Any]) -> Iterator[Line]:
    for key, word in _WORDS.items():
        if detail.get(key) not in (None, "", []):
            yield _fact(word, _value(key, detail[key]))
    if detail.get("max_restarts") is not None:
        used, most = detail.get("restarts_in_window", 0), detail["max_restarts"]
        yield _fact("budget", f"{used} of {most} restarts within {duration(detail.get('max_seconds', 0))} were used before")
    if detail.get("resources"):
        yield _fact("used", _resources(detail["resources"]))
    for key, value in detail.items():
        if key not in _WORDS and key not in _HIDDEN and value not in (None, "", [], {}):
            yield _fact(key, _value(key, value))


def _resources(used: Mapping[str, Any]) -> str:
    seconds = f"{used.get('cpu_user_s', 0):g} s of CPU and {used.get('cpu_system_s', 0):g} s in the kernel"
    return f"{seconds}, at most {size(used.get('max_memory', 0))} of memory"


def _traceback(detail: Mapping[str, Any]) -> Iterator[Line]:
    if detail.get("traceback"):
        yield [Span("traceback:", Style.DIM)]
        yield from _quoted(detail["traceback"].rstrip("\n").split("\n"))


def _lines(lines: Sequence[str]) -> Iterator[Line]:
    if lines:
        yield [Span(f"last {count(len(lines), 'line')}:", Style.DIM)]
        yield from _quoted(lines)


def _quoted(lines: Sequence[str]) -> Iterator[Line]:
    for line in lines:
        yield [Span("| ", Style.DIM), Span(harmless(line))]


def _fact(word: str, text: str) -> Line:
    return [Span(f"{word:<12}", Style.DIM), Span(harmless(text))]


def _value(key: str, value: Any) -> str:
    if key == "uptime_s":
        return duration(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(text: str) -> str:
    text = harmless(text)
    return text if len(text) <= _SUMMARY else text[: _SUMMARY - 1] + "…"


def _style(kind: str) -> Style:
    return Style.DIM if kind in _HARMLESS else Style.BAD
