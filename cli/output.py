"""Where text goes: JSON, plain text for pipes, colour for a person at a terminal.

Colour only when stdout is a terminal, NO_COLOR is unset and TERM is not dumb. Text that is not for a terminal is never
cut. What a child or a file said may hold bytes that stdout can't show: they are escaped, never fatal.
"""

from __future__ import annotations

import enum
import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from otpd.cli.failures import Exit, Failure


class Style(enum.Enum):
    """A colour by its meaning; the value is its SGR code."""

    PLAIN = ""
    GOOD = "32"
    BUSY = "33"
    BAD = "31"
    DIM = "2"
    BOLD = "1"
    NAME = "36"
    CHOSEN = "7"


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    style: Style = Style.PLAIN


Line = list[Span]


def plain(line: Line) -> str:
    return "".join(span.text for span in line).rstrip()


def coloured(line: Line, width: int = 0) -> str:
    """With SGR codes; `width` > 0 cuts to so many characters."""
    left, found = width or sys.maxsize, []
    for span in line:
        text = span.text if len(span.text) <= left else span.text[: left - 1] + "…"
        left -= len(text)
        found.append(f"\x1b[{span.style.value}m{text}\x1b[0m" if span.style.value and text else text)
        if left <= 0:
            break
    return "".join(found)


def wants_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def wants_unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


def say(text: str = "", now: bool = False) -> None:
    """One line, or several, to stdout; `now`: the reader waits for it."""
    try:
        sys.stdout.write(text + "\n")
        if now:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(Exit.FAILED, f"can't write the output: {error.strerror}") from error


def say_json(value: Any) -> None:
    import json

    say(json.dumps(_jsonable(value), indent=2 if sys.stdout.isatty() else None))


def _jsonable(value: Any) -> Any:
    """What agents may answer and JSON does not know: bytes become {"base64": ...}, keys texts, NaN and infinities null.

    >>> _jsonable({1: b"hi", "x": [float("nan"), (1, None)]})
    {'1': {'base64': 'aGk='}, 'x': [None, [1, None]]}
    """
    match value:
        case dict():
            return {key if isinstance(key, str) else str(key): _jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case bytes():
            import base64

            return {"base64": base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return None
    return value


def say_lines(lines: Iterable[Line]) -> None:
    """For a person when stdout is a terminal, else for a pipe."""
    if wants_colour():
        say("\n".join(coloured(line) for line in lines))
    else:
        say("\n".join(plain(line) for line in lines))


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """`text` that can't do anything to a terminal.

    >>> harmless("red \\x1b[31m alert")
    'red \\\\x1b[31m alert'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def columns(rows: list[list[Span]]) -> list[Line]:
    """Cells padded to the width of their column, two blanks apart; the last column is not padded."""
    widths = [max(len(row[at].text) for row in rows if len(row) > at) for at in range(max(map(len, rows), default=0))]
    return [
        [part for at, cell in enumerate(row) for part in (cell, Span(" " * (widths[at] - len(cell.text) + 2)))]
        for row in rows
    ]
