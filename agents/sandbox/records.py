"""Plans: what the nest and the command must do, as a flat list of records that C reads without a parser.

A record is a header (u16 kind, u16 flags, u32 length of the payload), then the payload. Texts end with a NUL, so that C
points into the plan. There are two plans: the *base* plan says how the root of a command is built, before anybody knows
the command; the *run* plan says what is mounted, limited and executed. `_nest.c` reads the same records.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<HHI")
_LIMIT: Final = struct.Struct("<IQQ")
_RULES: Final = struct.Struct("<QQQ")
_RIGHTS: Final = struct.Struct("<Q")
_NUMBER: Final = struct.Struct("<q")
_INDEX: Final = struct.Struct("<I")


class Kind(enum.IntEnum):
    """What a record is about. The numbers are those of `enum kind` in _nest.c."""

    # base plan, carried out in order by the init of a slot, in the current directory
    NEW_ROOT = 1  # where NUL options of the tmpfs that becomes the root
    DIRECTORY = 2  # path; flags: its mode
    LINK = 3  # path NUL target
    BIND = 4  # path in the old root, and relative to the new one; flags 1: a file
    TMPFS = 5  # path NUL options
    PROC = 6  # path
    PIVOT = 7
    SYSCTL = 8  # path under /proc/sys NUL value; one that can't be set is reported in `Ready`
    USER_SYSCTL = 9  # the same, in the command's own user namespace
    IDENTITY = 10  # number: uid << 32 | gid of the command in its user namespace; without it there is no such namespace
    READ_ONLY = 11  # path: made read-only after the mounts of the run
    PRIVATE_MOUNTS = 12  # the command gets a copy of the mounts in which nothing can be undone
    OUT_OF_MEMORY = 13  # number: oom_score_adj of the command
    SEAL = 14  # path: mounted on itself, read-only
    NICE = 15  # number: added to the niceness of the command

    # run plan: mounts stand at its beginning
    MOUNT = 32  # u32 which of the descriptors, then the target; flags 1: a file
    PROTECT = 33  # path of the grant NUL path beneath it: read-only, and its ancestors can't be moved
    ARGUMENT = 40
    VARIABLE = 41  # NAME=value
    PROGRAM = 42  # a path to try
    DIRECTORY_OF_WORK = 43
    LIMIT = 44  # u32 resource, u64 soft, u64 hard
    FILTER = 45  # array of struct sock_filter
    LANDLOCK = 46  # u64 handled file rights, u64 network rights, u64 scopes
    ALLOW = 47  # u64 rights, then the path
    FILE = 48  # path NUL content; flags: mode
    CODE = 49  # Python source to run instead of PROGRAM


class Record(NamedTuple):
    kind: int
    flags: int
    payload: bytes


def text(kind: Kind, *parts: str | bytes, flags: int = 0) -> bytes:
    """A record of texts, each with its NUL."""
    return raw(kind, b"".join(os.fsencode(part) + b"\0" for part in parts), flags)


def raw(kind: Kind, payload: bytes = b"", flags: int = 0) -> bytes:
    return _HEADER.pack(kind, flags, len(payload)) + payload


def number(kind: Kind, value: int) -> bytes:
    return raw(kind, _NUMBER.pack(value))


def limit(resource: int, soft: int, hard: int) -> bytes:
    return raw(Kind.LIMIT, _LIMIT.pack(resource, soft, hard))


def mount(index: int, target: str, *, file: bool) -> bytes:
    return raw(Kind.MOUNT, _INDEX.pack(index) + os.fsencode(target) + b"\0", int(file))


def file(path: str, content: bytes, mode: int) -> bytes:
    return raw(Kind.FILE, os.fsencode(path) + b"\0" + content, mode)


def landlock(fs: int, net: int, scope: int) -> bytes:
    return raw(Kind.LANDLOCK, _RULES.pack(fs, net, scope))


def allow(rights: int, path: str) -> bytes:
    return raw(Kind.ALLOW, _RIGHTS.pack(rights) + os.fsencode(path) + b"\0")


def read(data: bytes | mmap.mmap) -> Iterator[Record]:
    """The records of a plan. ValueError when it is cut off."""
    place = 0
    while place < len(data):
        kind, flags, length = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        payload = bytes(data[place : place + length])
        if len(payload) != length:
            raise ValueError(f"expected a record of {length} bytes, got {len(payload)}")
        place += length
        yield Record(kind, flags, payload)


def texts(payload: bytes) -> list[str]:
    return [os.fsdecode(part) for part in payload.split(b"\0")[:-1]]


def one_number(payload: bytes) -> int:
    return int(_NUMBER.unpack(payload)[0])


def one_limit(payload: bytes) -> tuple[int, int, int]:
    return _LIMIT.unpack(payload)


def one_mount(payload: bytes) -> tuple[int, str]:
    return _INDEX.unpack_from(payload)[0], os.fsdecode(payload[_INDEX.size : -1])


def one_file(payload: bytes) -> tuple[str, bytes]:
    path, _, content = payload.partition(b"\0")
    return os.fsdecode(path), content


def one_landlock(payload: bytes) -> tuple[int, int, int]:
    return _RULES.unpack(payload)


def one_allow(payload: bytes) -> tuple[int, str]:
    return _RIGHTS.unpack_from(payload)[0], os.fsdecode(payload[_RIGHTS.size : -1])


# --- the words between a slot and its worker ---

#: In a packet from the slot: u8 word, u8 step, u16 which record of the plan, i32 errno, then what the word says.
_REPORT: Final = struct.Struct("<BBHi")
#: Wait status of the command, its pid inside, and of all that ran: user and system microseconds, peak KiB of one process.
_END: Final = struct.Struct("<iiQQQ")


class Word(enum.IntEnum):
    READY = 1  # the slot can take a run; with a descriptor of its /proc, if it has one, and of the command's process
    FAILED = 2  # a step failed
    ENDED = 3  # the command has ended and so has everything else in the slot


class Step(enum.IntEnum):
    """Where it failed. The numbers are those of `enum step` in _nest.c."""

    NONE = 0
    ROOT = 1
    SYSCTL = 2
    NAMESPACE = 3
    MOUNT = 4
    PROTECT = 5
    LIMIT = 6
    DIRECTORY = 7
    FILE = 8
    LANDLOCK = 9
    SECCOMP = 10
    PRIVILEGES = 11
    EXEC = 12
    PLAN = 13
    PROTOCOL = 14


class Report(NamedTuple):
    """A packet of a slot. `record` counts those of the plan from 1; 0: it is about none of them."""

    word: Word
    step: Step
    record: int
    errno: int
    status: int = 0
    pid: int = 0
    user_us: int = 0
    system_us: int = 0
    peak_kib: int = 0

    def pack(self) -> bytes:
        return _REPORT.pack(*self[:4]) + _END.pack(*self[4:])

    @staticmethod
    def unpack(data: bytes) -> Report:
        """ValueError for anything else."""
        if len(data) != _REPORT.size + _END.size:
            raise ValueError(f"expected a report of {_REPORT.size + _END.size} bytes, got {len(data)}")
        word, step, index, number = _REPORT.unpack_from(data)
        return Report(Word(word), Step(step), index, number, *_END.unpack_from(data, _REPORT.size))
