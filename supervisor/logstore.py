"""The reading side of the logs: lines by number, by time, by generation, and as they come. Reads files only.

It needs no running node and takes no locks. Memory is bounded whatever the lines are like: at most LINE_LIMIT bytes of a
line are kept, the rest is counted.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from otpd.supervisor import logpaths
from otpd.supervisor.logcursor import Cursor, Piece, last_bytes

LINE_LIMIT = 64 * 1024
_LAST_BYTES = 64 * 1024
#: What one poll of `follow` takes from one name at most.
_POLL_BYTES = 1024 * 1024
_PARTIAL_AGE = 1.0
#: How faulthandler begins a stack, and how much of the end of a log is searched for it and kept.
_DUMP = (b"Thread 0x", b"Current thread 0x")
_DUMP_LINES, _DUMP_BYTES = 200, 16 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, without its newline, or a gap."""

    at_ns: int
    name: str
    generation: int
    line: bytes
    more: int = 0  # bytes of this line that were left out
    dropped: int = 0  # > 0: no line, but so many bytes that could not be stored

    def text(self) -> str:
        """The line as people read it; not all bytes are UTF-8."""
        if self.dropped:
            return f"[otpd: {self.dropped} bytes dropped]"
        end = f"... [otpd: {self.more} bytes more]" if self.more else ""
        return self.line.decode("utf-8", "backslashreplace") + end


def names(logs: str | os.PathLike[str]) -> list[str]:
    """Every name that has a log, sorted."""
    return logpaths.names(logs)


class Reader:
    """The lines of one name, from a place that the seek methods choose (the beginning, until one is called)."""

    def __init__(self, logs: str | os.PathLike[str], name: str) -> None:
        self.name = name
        self.cursor = Cursor(os.path.join(os.fspath(logs), logpaths.directory_name(name)))
        self._parts: list[bytes] = []
        self._kept = self._more = 0
        self._at_ns = self._generation = -1
        self._since = 0.0

    def lines(self, most: int | None = None) -> Iterator[Entry]:
        """Complete lines stored since; with `most`, of about so many bytes. What has no newline yet stays for later."""
        taken = 0
        for piece in self.cursor.pieces():
            yield from self._cut(piece)
            taken += len(piece.data)
            if most is not None and taken >= most:
                return

    def rest(self, older_than: float = 0.0) -> Iterator[Entry]:
        """The line that has begun and has no end yet, if it began to be read `older_than` seconds ago."""
        if self._at_ns >= 0 and time.monotonic() - self._since >= older_than:
            yield self._take_line()

    def _cut(self, piece: Piece) -> Iterator[Entry]:
        if self._at_ns >= 0 and (piece.dropped or piece.generation != self._generation):
            yield self._take_line()
        if piece.dropped:
            yield Entry(piece.at_ns, self.name, piece.generation, b"", dropped=piece.dropped)
            return
        start = 0
        while (end := piece.data.find(b"\n", start)) >= 0:
            self._add(piece, start, end)
            yield self._take_line()
            start = end + 1
        if start < len(piece.data):
            self._add(piece, start, len(piece.data))

    def _add(self, piece: Piece, start: int, end: int) -> None:
        if self._at_ns < 0:
            self._at_ns, self._generation, self._since = piece.at_ns, piece.generation, time.monotonic()
        kept = min(end - start, LINE_LIMIT - self._kept)
        if kept:
            self._parts.append(piece.data[start : start + kept])
            self._kept += kept
        self._more += end - start - kept

    def _take_line(self) -> Entry:
        entry = Entry(self._at_ns, self.name, self._generation, b"".join(self._parts), self._more)
        self._parts, self._kept, self._more, self._at_ns = [], 0, 0, -1
        return entry


def tail(logs: str | os.PathLike[str], wanted: Iterable[str], n: int) -> list[Entry]:
    """The last `n` lines of all `wanted` names together, merged by time."""
    kept: list[Entry] = []
    for name in wanted:
        reader = Reader(logs, name)
        reader.cursor.to_last(n)
        last = deque(chain(reader.lines(), reader.rest()), maxlen=n)
        kept = list(heapq.merge(kept, last, key=attrgetter("at_ns")))[-n:] if n else []
    return kept


def since(logs: str | os.PathLike[str], wanted: Iterable[str], at_ns: int) -> Iterator[Entry]:
    """All lines that began at or after `at_ns` (wall clock, ns; 0: everything), merged by time."""
    return heapq.merge(*(_since(Reader(logs, name), at_ns) for name in wanted), key=attrgetter("at_ns"))


def _since(reader: Reader, at_ns: int) -> Iterator[Entry]:
    if at_ns > 0:
        reader.cursor.to_time(at_ns)
    yield from reader.lines()
    yield from reader.rest()


def raw(logs: str | os.PathLike[str], name: str, n: int | None = None, since_ns: int | None = None) -> Iterator[bytes]:
    """The bytes as the child wrote them: of its last `n` lines, since a time, or all."""
    cursor = Reader(logs, name).cursor
    if since_ns is not None:
        cursor.to_time(since_ns)
    elif n is not None:
        cursor.to_last(n)
    return (piece.data for piece in cursor.pieces() if piece.data)


class Follower:
    """What several names print as it comes. `poll` gives all that is new, by time, and never waits.

    `wanted` None: all names, also those that appear later (these from their first line).
    """

    def __init__(self, logs: str | os.PathLike[str], wanted: Iterable[str] | None = None) -> None:
        self._logs = logs
        self._all = wanted is None
        self._modified = -1
        self.readers = {name: Reader(logs, name) for name in (names(logs) if wanted is None else wanted)}

    def to_end(self) -> None:
        for reader in self.readers.values():
            reader.cursor.to_end()

    def to_last(self, n: int) -> None:
        for reader in self.readers.values():
            reader.cursor.to_last(n) if n else reader.cursor.to_end()

    def to_time(self, at_ns: int) -> None:
        for reader in self.readers.values():
            reader.cursor.to_time(at_ns)

    def poll(self) -> list[Entry]:
        """New lines; of a name that prints without pause about 1 MiB. A line without end is given after a second."""
        if self._all:
            self._discover()
        found: list[Entry] = []
        for reader in self.readers.values():
            found += reader.lines(_POLL_BYTES)
            found += reader.rest(_PARTIAL_AGE)
        return sorted(found, key=attrgetter("at_ns"))

    def _discover(self) -> None:
        """New names have a new directory, and that changes the modification time of theirs."""
        try:
            modified = os.stat(self._logs).st_mtime_ns
        except OSError:
            return
        if modified != self._modified:
            self._modified = modified
            for name in names(self._logs):
                if name not in self.readers:
                    self.readers[name] = Reader(self._logs, name)

    def poll_raw(self) -> Iterator[bytes]:
        for reader in self.readers.values():
            yield from (piece.data for piece in reader.cursor.pieces())


def follow(follower: Follower, stop: Callable[[], bool] = lambda: False, interval: float = 0.1) -> Iterator[list[Entry]]:
    """Batches of new lines until `stop()`; looks every `interval` seconds and also gives empty batches."""
    while not stop():
        batch = follower.poll()
        yield batch
        if not batch:
            time.sleep(interval)


def last_lines(
    logs: str | os.PathLike[str],
    name: str,
    generation: int,
    n: int = 20,
    line_limit: int = 1024,
    total_limit: int = 4096,
) -> list[str]:
    """The last `n` lines that one incarnation printed, within limits in bytes; longer lines are cut and marked."""
    directory = os.path.join(os.fspath(logs), logpaths.directory_name(name))
    data, complete = last_bytes(directory, generation, _LAST_BYTES)
    return cut_tail(data, n, line_limit, total_limit, complete)


def cut_tail(data: bytes, n: int = 20, line_limit: int = 1024, total_limit: int = 4096, complete: bool = True) -> list[str]:
    """The last `n` lines of `data` as text; `complete` false: its first line has lost its beginning.

    A dump of stacks among the last lines is kept whole, because what matters most in it stands first.
    """
    pieces = data.removesuffix(b"\n").split(b"\n") if data else []
    dump = next((at for at, piece in enumerate(pieces[-_DUMP_LINES:]) if piece.startswith(_DUMP)), None)
    if dump is not None:
        n, total_limit = max(n, len(pieces[-_DUMP_LINES:]) - dump), max(total_limit, _DUMP_BYTES)
    lines = [_clip(piece.removesuffix(b"\r"), line_limit) for piece in pieces[-n:]]
    if lines and not complete and len(pieces) <= n:
        lines[0] = "..." + lines[0][: line_limit - 3]
    while lines and sum(len(line.encode()) for line in lines) > total_limit:
        del lines[0]
    return lines


def _clip(line: bytes, limit: int) -> str:
    text = line[: limit + 1].decode("utf-8", "backslashreplace")
    if len(line) <= limit and len(text.encode()) <= limit:
        return text
    return text.encode()[: limit - 3].decode("utf-8", "ignore") + "..."
