"""The index beside each log segment: fixed-size records that say when, and by which generation, bytes were stored.

The log itself stays verbatim; a line's time is that of the last record at or before its first byte. A record is written
before the bytes that it describes, so bytes without a record do not exist, while a record may stand there without bytes
(the logger was killed in between): the next one has the same offset and wins.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

_RECORD = struct.Struct("<QQIIQ")
RECORD_SIZE = _RECORD.size
_BLOCK = 1024  # records read at once


class Kind(enum.IntEnum):
    BYTES = 0  # what follows was written by `generation` and seen at `at_ns`
    GAP = 1  # `value` bytes were dropped here


class Record(NamedTuple):
    offset: int  # in the log segment
    at_ns: int  # wall clock
    generation: int
    kind: int = Kind.BYTES
    value: int = 0


def pack_record(record: Record) -> bytes:
    return _RECORD.pack(*record)


def count_records(path: str) -> int:
    """How many whole records there are; 0 when there is no index."""
    try:
        return os.stat(path).st_size // RECORD_SIZE
    except FileNotFoundError:
        return 0


def read_records(path: str, first: int, count: int) -> list[Record]:
    """Up to `count` records from number `first` on; a torn one at the end is not one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        data = os.pread(fd, count * RECORD_SIZE, first * RECORD_SIZE)
    except OSError:
        return []
    finally:
        os.close(fd)
    return [Record._make(fields) for fields in _RECORD.iter_unpack(data[: len(data) // RECORD_SIZE * RECORD_SIZE])]


def records_forward(path: str, first: int) -> Iterator[Record]:
    while block := read_records(path, first, _BLOCK):
        yield from block
        first += len(block)


def records_backward(path: str) -> Iterator[Record]:
    end = count_records(path)
    while end > 0:
        start = max(0, end - _BLOCK)
        yield from reversed(read_records(path, start, end - start))
        end = start


def first_at_offset(path: str, offset: int) -> int:
    """The number of the first record whose offset is >= `offset`."""
    return _bisect(path, lambda record: record.offset >= offset)


def first_at_time(path: str, at_ns: int) -> int:
    """The number of the first record at or after `at_ns`, if the wall clock never went back."""
    return _bisect(path, lambda record: record.at_ns >= at_ns)


def _bisect(path: str, reached: Callable[[Record], bool]) -> int:
    low, high = 0, count_records(path)
    while low < high:
        middle = (low + high) // 2
        found = read_records(path, middle, 1)
        if not found or reached(found[0]):
            high = middle
        else:
            low = middle + 1
    return low
