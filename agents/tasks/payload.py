"""Arguments and results as they cross: msgpack, or pickle inside the trust domain of a pool; what is large by a memfd.

A memfd has no name: it is gone with the last descriptor, whoever is killed. What is in it crosses no other process, and is
copied once in and once out.

>>> sent = encode([b"x" * 100_000, 1], MSGPACK)
>>> len(sent.body) < 50, len(sent.fds), [len(each) if isinstance(each, bytes) else each for each in decode(sent, "argument")]
(True, 1, [100000, 1])
"""

from __future__ import annotations

import functools
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgpack

from otpd.agents.data import Encoder
from otpd.agents.errors import NotData
from otpd.ipc.frames import close_all

MSGPACK: Final = 0
PICKLE: Final = 1
#: Bytes that go inside a message: below, a memfd costs more than the copies.
INLINE: Final = 32 * 1024
_MAIN: Final = b"__main__"
#: Type of the place that a buffer has left in a msgpack value: the number of its segment.
_SEGMENT: Final = 1
_DEPTH: Final = 2
_BUFFERS: Final = (bytes, bytearray, memoryview)
#: The kernel takes at most 2 GiB at a time.
_CHUNK: Final = 1 << 30


@dataclass(slots=True)
class Payload:
    """`body`: packed, or empty when it is the first of the segments. `sizes`: of the segments in the memfd, in order."""

    codec: int
    body: bytes
    sizes: Sequence[int] = ()
    fds: list[int] = field(default_factory=list)


def encode(value: Any, codec: int, what: str = "argument") -> Payload:
    """NotData names what can't be sent. The descriptor is the caller's."""
    try:
        body, segments = _pickled(value) if codec == PICKLE else _packed(value, what)
    except NotData:
        raise
    except Exception as error:
        raise NotData(f"{what}: expected something that can be pickled, got {error}") from None
    if not segments and len(body) <= INLINE:
        return Payload(codec, body)
    if len(body) > INLINE:
        segments = [memoryview(body), *segments]
        body = b""
    try:
        return Payload(codec, body, [each.nbytes for each in segments], [_in_memory(segments)])
    except OSError as error:
        text = f"{what}: {sum(each.nbytes for each in segments)} bytes can't be put into shared memory: {error.strerror}"
        raise NotData(f"{text}; send less at a time") from error


def decode(sent: Payload, what: str) -> Any:
    """The value; its descriptors are closed. ValueError when it is none."""
    try:
        segments = _segments(sent)
        body = sent.body or segments.pop(0)
        if sent.codec == PICKLE:
            return pickle.loads(body, buffers=segments)
        hook = partial(_segment, segments)
        return msgpack.unpackb(body, raw=False, strict_map_key=False, unicode_errors="surrogateescape", ext_hook=hook)
    except (pickle.UnpicklingError, msgpack.UnpackException, IndexError, TypeError, OSError) as error:
        raise ValueError(f"{what} can't be read: {error}") from error
    finally:
        close_all(sent.fds)
        sent.fds = []


def _packed(value: Any, what: str) -> tuple[bytes, list[memoryview]]:
    segments: list[memoryview] = []
    return _encoder(threading.get_ident()).encode(_lifted(value, segments, _DEPTH), what), segments


@functools.lru_cache(maxsize=64)
def _encoder(_thread: int) -> Encoder:
    """One for each thread: to make one costs more than to pack what most tasks get."""
    return Encoder()


def _lifted(value: Any, segments: list[memoryview], depth: int) -> Any:
    """`value` with its large buffers, down to `depth` lists or dicts, replaced by the numbers of segments."""
    if isinstance(value, _BUFFERS):
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        if size <= INLINE:
            return value
        segments.append(memoryview(value).cast("B"))
        return msgpack.ExtType(_SEGMENT, (len(segments) - 1).to_bytes(4, "big"))
    if depth and isinstance(value, list | tuple):
        return [_lifted(each, segments, depth - 1) for each in value]
    if depth and isinstance(value, dict):
        return {key: _lifted(each, segments, depth - 1) for key, each in value.items()}
    return value


def _segment(segments: list[Any], code: int, data: bytes) -> Any:
    return segments[int.from_bytes(data, "big")] if code == _SEGMENT else msgpack.ExtType(code, data)


def _pickled(value: Any) -> tuple[bytes, list[memoryview]]:
    """By pickle, which is much faster; by cloudpickle, where it is installed, what that can't do, and what __main__ defines:
    a worker has another one."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        if _MAIN not in body:
            return body, [each.raw() for each in buffers]
    except Exception:
        if (dumps := _cloudpickle()) is None:
            raise
    else:
        if (dumps := _cloudpickle()) is None:
            return body, [each.raw() for each in buffers]
    buffers.clear()
    body = dumps(value, protocol=5, buffer_callback=buffers.append)
    return body, [each.raw() for each in buffers]


def _cloudpickle() -> Callable[..., bytes] | None:
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle.dumps  # type: ignore[no-any-return]


def _in_memory(segments: list[memoryview]) -> int:
    fd = os.memfd_create("otpd-task", os.MFD_CLOEXEC)
    try:
        at = 0
        for each in segments:
            view = each
            while view.nbytes:
                n = os.pwrite(fd, view[:_CHUNK], at)
                at, view = at + n, view[n:]
    except BaseException:
        os.close(fd)
        raise
    return fd


def _segments(sent: Payload) -> list[Any]:
    """Read straight into what the function gets: bytes, or what an array may write into."""
    read = _into if sent.codec == PICKLE else _whole
    found, at = [], 0
    for size in sent.sizes:
        found.append(read(sent.fds[0], size, at))
        at += size
    return found


def _whole(fd: int, size: int, at: int) -> bytes:
    data = os.pread(fd, size, at)
    return data if len(data) == size else bytes(_into(fd, size, at))


def _into(fd: int, size: int, at: int) -> bytearray:
    """The kernel gives at most 2 GiB at a time."""
    found = bytearray(size)
    view, got = memoryview(found), 0
    while got < size:
        n = os.preadv(fd, [view[got:]], at + got)
        if n == 0:
            raise ValueError(f"expected {size} bytes in a segment, got {got}")
        got += n
    return found
