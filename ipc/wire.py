"""The wire between agents and broker: one ZeroMQ frame is one batch of messages for one destination.

A frame is an outer header (16 bytes) and `count` messages, each an inner header (16 bytes) and a body. The broker reads
headers and, of a keyed frame, the key before each body; it never decodes a body. docs/protocol.md is the specification.

>>> frame = join(Kind.CAST, peer=7, messages=[(1, 0, b"one"), (2, 0, b"two")])
>>> parse(frame)
Head(kind=<Kind.CAST: 2>, messages=2, peer=7, length=54, flags=<Flag.NONE: 0>)
>>> [(number, mark, bytes(body)) for number, mark, body in messages(frame)]
[(1, 0, b'one'), (2, 0, b'two')]
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from otpd.ipc.frames import FrameError, pack, unpack

VERSION: Final = 1
#: version, kind, count, peer, length of the whole frame, flags
OUTER: Final = struct.Struct("<BBHIII")
#: length of the body, number, mark (deadline, status or 0: see docs/protocol.md)
INNER: Final = struct.Struct("<IIQ")
HEADER: Final = OUTER.size
#: The largest body; checked by the sender, because ZeroMQ disconnects whoever sends a larger frame (pitfall T6).
MAX_BODY: Final = 16 * 1024 * 1024
MAX_FRAME: Final = MAX_BODY + HEADER + INNER.size + 1024
#: A batch is closed at so many bytes or messages; a message over BATCH_BYTES travels alone.
BATCH_BYTES: Final = 64 * 1024
BATCH_MESSAGES: Final = 128
_KEY: Final = struct.Struct("<H")
MAX_KEY: Final = 1024


class Kind(enum.IntEnum):
    SYSTEM = 1  # each body is one msgpack array [verb, ...]
    CAST = 2
    CALL = 3
    REPLY = 4
    EVENT = 5


class Flag(enum.IntFlag):
    NONE = 0
    KEYED = 1  # a key (topic, or what a group hashes by) stands before each body
    CONFIRM = 2  # casts: the sender waits to hear that the broker has accepted them


class Status(enum.IntEnum):
    """The mark of a reply."""

    OK = 0
    RAISED = 1
    REJECTED = 2


class Lane(enum.Enum):
    """Two sockets each way. What is small and urgent never waits behind bulk."""

    SYSTEM = "s"
    DATA = "d"

    __hash__ = object.__hash__  # Enum's own is written in Python, and every frame needs one


class Head(NamedTuple):
    kind: Kind
    messages: int
    peer: int
    length: int
    flags: Flag


Message = tuple[int, int, "bytes | memoryview"]


def fields(frame: bytes | memoryview) -> tuple[int, int, int, int]:
    """kind, count, peer and flags of the outer header, checked, as plain numbers; FrameError names what is wrong."""
    if len(frame) < HEADER:
        raise FrameError(f"expected a frame of at least {HEADER} bytes, got {len(frame)}")
    version, kind, count, peer, length, flags = OUTER.unpack_from(frame)
    if version != VERSION:
        raise FrameError(f"expected wire version {VERSION}, got {version}")
    if length != len(frame):
        raise FrameError(f"expected a frame of {length} bytes as its header says, got {len(frame)}")
    if flags > 3:
        raise FrameError(f"expected flags 0 to 3, got {flags}")
    if not 1 <= kind <= 5:
        raise FrameError(f"expected a kind from 1 to 5, got {kind}")
    return kind, count, peer, flags


def parse(frame: bytes | memoryview) -> Head:
    """As `fields`, with names. The messages are checked by `messages`."""
    kind, count, peer, flags = fields(frame)
    return Head(_KINDS[kind], count, peer, len(frame), _FLAGS[flags])


_KINDS: Final = {int(kind): kind for kind in Kind}
_FLAGS: Final = [Flag(value) for value in range(4)]


def messages(frame: bytes | memoryview) -> Iterator[Message]:
    """(number, mark, body) of each message; FrameError when the lengths don't fill the frame exactly."""
    view = memoryview(frame)
    end, at = len(view), HEADER
    for _ in range(OUTER.unpack_from(view)[2]):
        if at + INNER.size > end:
            raise FrameError(f"expected a message at byte {at}, got the end of the frame at {end}")
        length, number, mark = INNER.unpack_from(view, at)
        at += INNER.size
        if at + length > end:
            raise FrameError(f"expected a body of {length} bytes at byte {at}, got the end of the frame at {end}")
        yield number, mark, view[at : at + length]
        at += length
    if at != end:
        raise FrameError(f"expected the frame to end at byte {at}, got {end - at} bytes more")


def split(frame: bytes) -> list[tuple[int, int, bytes]]:
    """As `messages`, all at once and with bodies of their own: what a receiver needs who keeps them."""
    found, at = [], HEADER
    unpack_from, size = INNER.unpack_from, INNER.size
    try:
        for _ in range(OUTER.unpack_from(frame)[2]):
            length, number, mark = unpack_from(frame, at)
            start = at + size
            at = start + length
            found.append((number, mark, frame[start:at]))
    except struct.error:
        raise FrameError(f"expected a message at byte {at}, got the end of the frame at {len(frame)}") from None
    if at != len(frame):
        raise FrameError(f"expected the messages to end at byte {at}, got a frame of {len(frame)} bytes")
    return found


def message(number: int, mark: int, body: bytes | memoryview) -> bytes:
    """One message as it stands in a frame."""
    return INNER.pack(len(body), number, mark) + body


def outer(kind: int, count: int, peer: int, length: int, flags: int = 0) -> bytes:
    """`length` is that of the messages; the header's own is added."""
    return OUTER.pack(VERSION, kind, count, peer, HEADER + length, flags)


def join(kind: int, peer: int, messages: Iterable[Message], flags: int = 0) -> bytes:
    """A frame of (number, mark, body) messages."""
    parts = [message(*each) for each in messages]
    body = b"".join(parts)
    return outer(kind, len(parts), peer, len(body), flags) + body


def system(*commands: list[Any]) -> bytes:
    """A SYSTEM frame of commands such as ["monitor", 1, "inventory", False]."""
    return join(Kind.SYSTEM, 0, ((0, 0, pack(command)) for command in commands))


def commands(frame: bytes | memoryview) -> Iterator[list[Any]]:
    """The commands of a SYSTEM frame; FrameError for what is not an array that begins with a text."""
    for _, _, body in messages(frame):
        command = unpack(bytes(body))
        if not isinstance(command, list) or not command or not isinstance(command[0], str):
            raise FrameError(f"expected an array that begins with a verb, got {type(command).__name__}")
        yield command


def is_key(text: str) -> bool:
    """Whether it may be a key, and so a topic, a group or a name in the registry: 1 to 1024 bytes of UTF-8."""
    try:
        return 0 < len(text.encode()) <= MAX_KEY
    except UnicodeEncodeError:
        return False


def keyed(key: str, body: bytes) -> bytes:
    """A body with its key before it."""
    raw = key.encode()
    if len(raw) > MAX_KEY:
        raise FrameError(f"expected a key of at most {MAX_KEY} bytes, got {len(raw)}")
    return _KEY.pack(len(raw)) + raw + body


def split_key(body: bytes | memoryview) -> tuple[str, memoryview]:
    """The inverse of `keyed`."""
    view = memoryview(body)
    if len(view) < _KEY.size:
        raise FrameError(f"expected a key of at least {_KEY.size} bytes, got a body of {len(view)}")
    (length,) = _KEY.unpack_from(view)
    start = _KEY.size + length
    if length > MAX_KEY or start > len(view):
        raise FrameError(f"expected a key of {length} bytes, got a body of {len(view)}")
    try:
        return str(view[_KEY.size : start], "utf-8"), view[start:]
    except UnicodeDecodeError as error:
        raise FrameError(f"expected a key in UTF-8: {error}") from None
