"""`otpd letters` in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from otpd.cli.output import Line, Span, Style, columns, harmless
from otpd.cli.words import ago, when

_SHOWN: Final = 80


def letters(found: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    if not found:
        return [[Span("there are no dead letters", Style.DIM)]]
    return columns([_head("LETTER", "DIED", "FOR", "WHAT", "FROM", "ATTEMPTS", "WHY"), *(_row(each, now) for each in found)])


def _row(letter: Mapping[str, Any], now: float) -> list[Span]:
    return [
        Span(str(letter["seq"])),
        Span(ago(letter["died_at"], now)),
        Span(harmless(letter["target"]), Style.BOLD),
        Span(harmless(letter["name"])),
        Span(harmless(letter["sender"])),
        Span(f"{letter['attempts']} of {letter['max_attempts']}"),
        Span(harmless(_why(letter)[:_SHOWN]), Style.BAD),
    ]


def _why(letter: Mapping[str, Any]) -> str:
    return f"{letter['reason']}: {letter['error']}" if letter["error"] else str(letter["reason"])


def letter(found: Mapping[str, Any], now: float) -> list[Line]:
    """All that is known of one."""
    kind = "event" if found["kind"] == "event" else "cast"
    title = [Span(f"letter {found['seq']}", Style.BOLD), Span(f": {kind} {harmless(found['name'])} for ")]
    lines: list[Line] = [
        [*title, _bold(found["target"])],
        _fact("sent", f"by {found['sender']} at {when(found['sent_at'])}" + (f", id {found['id']}" if found["id"] else "")),
        _fact("died", f"{ago(found['died_at'], now)}, after {found['attempts']} of {found['max_attempts']} attempts"),
        _fact("why", _why(found)),
    ]
    if found["replay_of"]:
        lines.append(_fact("replay", f"of letter {found['replay_of']}"))
    lines.append(_fact("arguments", json.dumps(found["arguments"], default=repr, ensure_ascii=False)))
    return [*lines, *_traceback(found["traceback"]), _fact("next", f"otpd letters replay {found['seq']}, or purge")]


def _traceback(text: str) -> Iterator[Line]:
    if text:
        yield [Span("traceback:", Style.DIM)]
        yield from ([Span("| ", Style.DIM), Span(harmless(line))] for line in text.rstrip("\n").split("\n"))


def waiting(found: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    if not found:
        return [[Span("no durable message waits", Style.DIM)]]
    rows = [
        [
            _bold(each["target"]),
            Span(str(each["messages"])),
            Span(str(each["in_flight"])),
            Span(ago(each["oldest"], now)),
        ]
        for each in found
    ]
    return columns([_head("FOR", "MESSAGES", "IN FLIGHT", "OLDEST"), *rows])


def _head(*words: str) -> list[Span]:
    return [Span(word, Style.DIM) for word in words]


def _bold(text: str) -> Span:
    return Span(harmless(text), Style.BOLD)


def _fact(word: str, text: str) -> Line:
    return [Span(f"{word}: ", Style.DIM), Span(harmless(text))]
