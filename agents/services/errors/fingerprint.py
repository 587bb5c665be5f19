"""Which errors are the same one: a fingerprint of where and how, without what differs from time to time. Pure.

With a traceback it is the type of the exception and the functions that led to it; without one, the reason with numbers,
addresses and quoted texts left out. Line numbers do not count: a comment above does not make it another error.

>>> blurred("error(KeyError: 'sku-4711')"), blurred("not ready within 10 s")
('error(KeyError: …)', 'not ready within # s')
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

#: Frames that tell one way of failing from another: the innermost ones.
_FRAMES: Final = 8
_LENGTH: Final = 12
_FRAME: Final = re.compile(r'^\s*File "([^"]+)", line (\d+), in (.+)$')
_LAST: Final = re.compile(r"^([A-Za-z_][\w.]*)(?::\s?(.*))?$")
_NOISE: Final = ((re.compile(r"'[^']*'|\"[^\"]*\""), "…"), (re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?"), "#"))


class Frame(NamedTuple):
    file: str
    line: int
    function: str


class Raised(NamedTuple):
    """An exception as its traceback tells it; `frames` from the outside in."""

    type: str
    text: str
    frames: tuple[Frame, ...]


def raised(traceback: str) -> Raised | None:
    """The exception that ended it, the last one of a chain. None when `traceback` is none.

    >>> raised('Traceback (most recent call last):\\n  File "a.py", line 3, in f\\n    x\\nValueError: bad\\n')
    Raised(type='ValueError', text='bad', frames=(Frame(file='a.py', line=3, function='f'),))
    """
    lines = traceback.rstrip("\n").split("\n")
    begins = max((at for at, line in enumerate(lines) if line.startswith("Traceback (most recent")), default=0)
    found = [(at, match) for at, line in enumerate(lines[begins:], begins) if (match := _FRAME.match(line))]
    frames = tuple(Frame(match[1], int(match[2]), match[3]) for _, match in found)
    after = found[-1][0] + 1 if found else begins
    last = next((match for line in lines[after:] if (match := _LAST.match(line))), None)
    return None if last is None or not frames else Raised(last[1], last[2] or "", frames)


def blurred(text: str) -> str:
    """`text` without what differs between two of the same kind."""
    for pattern, instead in _NOISE:
        text = pattern.sub(instead, text)
    return text


def fingerprint(kind: str, name: str, reason: str, traceback: str | None = None) -> str:
    """Twelve hexadecimal digits; the same for errors that are the same."""
    found = raised(traceback) if traceback else None
    parts = [kind, name]
    if found is None:
        parts.append(blurred(reason))
    else:
        parts += [found.type, *(f"{frame.file}:{frame.function}" for frame in found.frames[-_FRAMES:])]
    return hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()[:_LENGTH]
