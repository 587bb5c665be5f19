"""A place in the log of one name, and how to find one: by line, by time, by generation. Bytes, not yet lines (logstore).

Segments are only ever appended to, replaced by a higher number, or removed by anybody at any time; a `Cursor` survives
all three. Memory is bounded: data is read in blocks of 64 KiB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from otpd.supervisor.logindex import (
    Kind,
    Record,
    first_at_offset,
    first_at_time,
    read_records,
    records_backward,
    records_forward,
)
from otpd.supervisor.logpaths import Segment, segments

_BLOCK = 64 * 1024
#: How far back a generation is looked for, in records: 16 s of another one's flood.
_LOOK_BACK = 16_384


class Piece(NamedTuple):
    """Bytes that one generation wrote at one time, or a gap."""

    at_ns: int
    generation: int
    data: bytes
    dropped: int = 0


class Cursor:
    """A place in the log of one name. `pieces` gives what lies behind it and moves it; it may be called again later."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._segment: Segment | None = None
        self._inode = 0
        self._offset = 0
        self._seen = -1  # everything up to this size of the segment has been given
        self._record = 0  # the next record of the index to look at
        self._at_ns = self._generation = 0

    def to_end(self) -> None:
        """Behind everything stored."""
        for segment in segments(self._directory)[-1:]:
            self._go(segment, _size(segment))

    def to_last(self, n: int) -> None:
        """Before the last `n` lines; an unterminated rest counts as a line."""
        if n <= 0:
            return self.to_end()
        place = _lines_back(segments(self._directory), n)
        if place is not None:
            self._go(*place)
        return None

    def to_time(self, at_ns: int) -> None:
        """Before the first line that began at or after `at_ns`."""
        found = segments(self._directory)
        for segment in reversed(found):
            first = first_at_time(segment.index, at_ns)
            if first > 0 or segment is found[0]:
                self._go(segment, self._line_start(segment, first))
                return

    def pieces(self) -> Iterator[Piece]:
        while True:
            if self._segment is None and not self._next():
                return
            yield from self._in_segment()
            if not self._has_next():
                return
            yield from self._in_segment()
            if not self._next():
                return

    def _go(self, segment: Segment, offset: int) -> None:
        self._segment, self._offset, self._seen = segment, offset, -1
        self._inode = _inode(segment)
        self._record = first_at_offset(segment.index, offset) if offset else 0
        before = read_records(segment.index, self._record - 1, 1) if self._record else []
        if before:
            self._at_ns, self._generation = before[0].at_ns, before[0].generation
        else:
            self._at_ns, self._generation = _modified(segment), 0

    def _line_start(self, segment: Segment, record: int) -> int:
        """Where the first line begins whose first byte record number `record`, or a later one, covers."""
        found = read_records(segment.index, record, 1)
        if not found:
            return _size(segment)
        before = read_records(segment.index, record - 1, 1) if record else []
        offset = found[0].offset
        if offset == 0 or (before and before[0].generation != found[0].generation):
            return offset
        if _read(segment, offset - 1, 1) == b"\n":
            return offset
        return _after_newline(segment, offset)

    def _has_next(self) -> bool:
        assert self._segment is not None
        if self._replaced(self._segment):
            return True
        following = Segment(self._directory, self._segment.number + 1)
        return os.path.lexists(following.log)

    def _replaced(self, segment: Segment) -> bool:
        """Whether the file is another one than that which was read (a new one may get the old one's inode)."""
        return _inode(segment) != self._inode or _size(segment) < self._offset

    def _next(self) -> bool:
        """On to the next segment, or to the first if the log was removed and begun anew."""
        found = segments(self._directory)
        here = self._segment
        anew = here and found and (found[-1].number < here.number or (here in found and self._replaced(here)))
        later = found if here is None or anew else [segment for segment in found if segment.number > here.number]
        if later:
            self._go(later[0], 0)
        return bool(later)

    def _in_segment(self) -> Iterator[Piece]:
        segment = self._segment
        assert segment is not None
        size = _size(segment)  # first the size, then the index: every byte below it has its record
        if size == self._seen:
            return
        block = _Block(segment)
        for record in records_forward(segment.index, self._record):
            if record.offset > size:
                break
            yield from self._until(block, record.offset)
            yield from self._take(record)
        yield from self._until(block, size)
        self._seen = self._offset

    def _take(self, record: Record) -> Iterator[Piece]:
        self._record += 1
        self._at_ns, self._generation = record.at_ns, record.generation
        if record.kind == Kind.GAP:
            yield Piece(record.at_ns, record.generation, b"", record.value)

    def _until(self, block: _Block, end: int) -> Iterator[Piece]:
        while self._offset < end:
            data = block.read(self._offset, end)
            if not data:
                return
            self._offset += len(data)
            yield Piece(self._at_ns, self._generation, data)


def last_bytes(directory: str, generation: int, most: int) -> tuple[bytes, bool]:
    """The last bytes that one incarnation printed, at most `most`; and whether these are all."""
    parts: list[bytes] = []
    for segment, start, end in _ranges_backward(directory, generation):
        parts.append(_read(segment, max(start, end - most), min(end - start, most)))
        most -= len(parts[-1])
        if most <= 0:
            break
    return b"".join(reversed(parts)), most > 0


def _ranges_backward(directory: str, generation: int) -> Iterator[tuple[Segment, int, int]]:
    """Where the bytes of `generation` lie, the newest first."""
    left = _LOOK_BACK
    for segment in reversed(segments(directory)):
        end = _size(segment)
        for record in records_backward(segment.index):
            if record.generation == generation and record.offset < end:
                yield segment, record.offset, end
            end = min(end, record.offset)
            left -= 1
            if left <= 0:
                return


def _lines_back(found: list[Segment], n: int) -> tuple[Segment, int] | None:
    """The place before the last `n` lines; None: before all of them."""
    left = n
    last = True
    for segment in reversed(found):
        end = _size(segment)
        while end > 0:
            start = max(0, end - _BLOCK)
            data = _read(segment, start, end - start)
            stop = len(data) - 1 if last and data.endswith(b"\n") else len(data)
            last = False
            while (newline := data.rfind(b"\n", 0, stop)) >= 0:
                left -= 1
                if left <= 0:
                    return segment, start + newline + 1
                stop = newline
            end = start
    return None


def _after_newline(segment: Segment, offset: int) -> int:
    while data := _read(segment, offset, _BLOCK):
        newline = data.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        offset += len(data)
    return offset


class _Block:
    """Reads a segment forward in blocks, so that small pieces don't cost a system call each."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._start = 0
        self._data = b""

    def read(self, offset: int, end: int) -> bytes:
        """At least one byte of [offset, end), unless the file is gone."""
        if not self._start <= offset < self._start + len(self._data):
            self._start, self._data = offset, _read(self._segment, offset, _BLOCK)
        return self._data[offset - self._start : end - self._start]


def _read(segment: Segment, offset: int, count: int) -> bytes:
    try:
        fd = os.open(segment.log, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)


def _size(segment: Segment) -> int:
    try:
        return os.stat(segment.log).st_size
    except FileNotFoundError:
        return 0


def _inode(segment: Segment) -> int:
    try:
        return os.stat(segment.log).st_ino
    except FileNotFoundError:
        return 0


def _modified(segment: Segment) -> int:
    try:
        return os.stat(segment.log).st_mtime_ns
    except FileNotFoundError:
        return 0
