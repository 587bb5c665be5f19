"""Line and column of every table, key and array element of a TOML text; tomllib reads values but tells no places.

>>> places = locate("[agents.feed]\\nscript = 'feed.py'\\n")
>>> places.at(("agents", "feed", "script")), places.at(("agents", "feed", "nothing"))
((2, 1), (1, 9))

Knows no more of TOML than it takes to find keys. Every key of a text that tomllib accepts is found (of up to 64 parts
each); any other text gives the places up to where it stops making sense. It never raises.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from otpd.supervisor.problems import KeyPath

# No possessive quantifiers: those of Python 3.11.0 to 3.11.4 lose matches.
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BASIC: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_LITERAL: Final = re.compile(r"'([^'\n]*)'")
_MULTI_BASIC: Final = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL)
_MULTI_LITERAL: Final = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL)
_PLAIN_VALUE: Final = re.compile(r"[^,\]}\n#]+")
_SPACE: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))")
#: Keys with more parts are not followed: their paths would take memory with the square of their length.
_MAX_PARTS: Final = 64
_ESCAPED: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key or table that the text defines twice."""

    path: KeyPath
    place: tuple[int, int]
    first: tuple[int, int]


@dataclass(slots=True)
class Places:
    """Where each key stands; both line and column count from 1."""

    lines: list[int] = field(default_factory=list)  # offsets of the first character of each line
    offsets: dict[KeyPath, int] = field(default_factory=dict)
    twice: list[tuple[KeyPath, int, int]] = field(default_factory=list)

    def at(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of `path`, or of the nearest thing that holds it; (0, 0) when the text holds nothing."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.offsets:
                return self.place(self.offsets[path[:length]])
        return (1, 1) if self.lines else (0, 0)

    def duplicates(self) -> list[Duplicate]:
        return [Duplicate(path, self.place(again), self.place(first)) for path, again, first in self.twice]

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self.lines, offset)
        return line, offset - self.lines[line - 1] + 1


def locate(text: str) -> Places:
    """The places of all keys of `text`."""
    text = text.replace("\r\n", "\n")
    places = Places([0, *(found.end() for found in re.finditer("\n", text))])
    try:
        _Scanner(text, places).document()
    except (_Lost, RecursionError):  # tomllib has said what is wrong, or is itself out of depth
        pass
    return places


class _Lost(Exception):
    """The text is no TOML from here on."""


class _Scanner:
    """One walk over the text; `here` only grows, so every walk ends."""

    def __init__(self, text: str, places: Places) -> None:
        self.text = text
        self.places = places
        self.here = 0
        self.tables: set[KeyPath] = set()  # tables with a header of their own
        self.leaves: set[KeyPath] = set()  # keys with a value
        self.rows: dict[KeyPath, int] = {}  # arrays of tables: the index of the last

    def document(self) -> None:
        table: KeyPath = ()
        while self.skip(_GAP) < len(self.text):
            if self.text.startswith("[", self.here):
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> KeyPath:
        double = self.text.startswith("[[", self.here)
        self.here += 2 if double else 1
        keys = self.keys()
        self.expect("]]" if double else "]")
        path = self.within((), keys[:-1])
        last, offset = keys[-1]
        path = (*path, last)
        if double:
            self.mark(path, offset)
            self.rows[path] = self.rows.get(path, -1) + 1
        else:
            self.note_again(path, offset, path in self.tables or path in self.leaves)
            self.tables.add(path)
        return self.within(path[:-1], keys[-1:])

    def within(self, path: KeyPath, keys: list[tuple[str, int]]) -> KeyPath:
        """The path of `keys` below `path`, in the last row of every array of tables on the way."""
        for key, offset in keys:
            path = (*path, key)
            self.mark(path, offset)
            if path in self.rows:
                path = (*path, self.rows[path])
                self.mark(path, offset)
        return path

    def pair(self, table: KeyPath) -> None:
        keys = self.keys()
        self.expect("=")
        path = table
        for key, offset in keys[:-1]:
            path = (*path, key)
            self.mark(path, offset)
        path = (*path, keys[-1][0])
        self.note_again(path, keys[-1][1], path in self.places.offsets)
        self.leaves.add(path)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip(_SPACE)
        match self.text[self.here : self.here + 1]:
            case "{":
                self.sequence("}", lambda index: self.pair(path))
            case "[":
                self.sequence("]", lambda index: self.element((*path, index)))
            case '"':
                self.take(_MULTI_BASIC if self.text.startswith('"""', self.here) else _BASIC)
            case "'":
                self.take(_MULTI_LITERAL if self.text.startswith("'''", self.here) else _LITERAL)
            case _:
                self.take(_PLAIN_VALUE)

    def element(self, path: KeyPath) -> None:
        self.mark(path, self.here)
        self.value(path)

    def sequence(self, end: str, item: Callable[[int], None]) -> None:
        """Items between brackets, with commas, line ends and comments between them."""
        self.here += 1
        index = 0
        while self.skip(_GAP) < len(self.text) and not self.text.startswith(end, self.here):
            item(index)
            index += 1
            self.skip(_GAP)
            if self.text.startswith(",", self.here):
                self.here += 1
        self.expect(end)

    def keys(self) -> list[tuple[str, int]]:
        """A dotted key: each part with its offset."""
        parts = []
        while True:
            start = self.skip(_SPACE)
            parts.append((self.key(), start))
            self.skip(_SPACE)
            if not self.text.startswith(".", self.here):
                return parts
            if len(parts) == _MAX_PARTS:
                raise _Lost
            self.here += 1

    def key(self) -> str:
        match self.text[self.here : self.here + 1]:
            case '"':
                return _ESCAPE.sub(_unescape, self.take(_BASIC)[1])
            case "'":
                return self.take(_LITERAL)[1]
            case _:
                return self.take(_BARE_KEY)[0]

    def mark(self, path: KeyPath, offset: int) -> None:
        self.places.offsets.setdefault(path, offset)

    def note_again(self, path: KeyPath, offset: int, again: bool) -> None:
        if again:
            self.places.twice.append((path, offset, self.places.offsets.get(path, offset)))
        self.mark(path, offset)

    def skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.here)
        self.here = found.end() if found else self.here
        return self.here

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.here)
        if not found or found.end() == self.here:
            raise _Lost
        self.here = found.end()
        return found

    def expect(self, token: str) -> None:
        self.skip(_SPACE)
        if not self.text.startswith(token, self.here):
            raise _Lost
        self.here += len(token)


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code is None:
        return _ESCAPED.get(found[4], found[4])
    return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else found[0]
