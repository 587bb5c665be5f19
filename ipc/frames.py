"""Frames and packets: how msgpack values cross sockets.

Two forms. A *stream* (the control socket) carries a 4-byte big-endian length and a msgpack value per frame; `FrameReader`
cuts arbitrary chunks into values and refuses what is too long before it holds it. A *channel* (socketpair of type
SOCK_SEQPACKET between root and the processes it starts) carries one msgpack value per packet, with file descriptors.

>>> reader = FrameReader(limit=100)
>>> reader.feed(pack_frame({"op": "tree"})[:3]), reader.feed(pack_frame({"op": "tree"})[3:])
([], [{'op': 'tree'}])
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import socket
from typing import Any

import msgpack

HEADER = 4
#: A request is small; an answer may be the tree of a node with 10,000 children.
REQUEST_LIMIT = 1024 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
#: Below the default SO_SNDBUF (212,992 bytes), which bounds a packet on a SEQPACKET socket.
PACKET_LIMIT = 200_000
_MAX_FDS = 16


class FrameError(ValueError):
    """The peer sent what is not a frame; the connection can't be used any more."""


#: Names of files are bytes to Linux; those that are no UTF-8 travel as Python itself holds them.
_ANY_NAME = "surrogateescape"


def pack(value: Any) -> bytes:
    # What packb does, without its `**options`, which cost more than the packing of a small value.
    return msgpack.Packer(use_bin_type=True, unicode_errors=_ANY_NAME).pack(value)  # type: ignore[no-any-return]


def unpack(data: bytes) -> Any:
    """One msgpack value; FrameError for anything else."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors=_ANY_NAME)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError(f"expected one msgpack value, got {len(data)} bytes that are not: {error}") from error


def pack_frame(value: Any) -> bytes:
    body = pack(value)
    return len(body).to_bytes(HEADER, "big") + body


class FrameReader:
    """Cuts a byte stream into values. Holds at most `limit` + HEADER bytes plus the chunk it was fed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and not ended."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[Any]:
        """The values that `chunk` completes; FrameError for a length over the limit or a body that is not msgpack."""
        self._buffer += chunk
        values = []
        while len(self._buffer) >= HEADER:
            length = int.from_bytes(self._buffer[:HEADER], "big")
            if length > self._limit:
                raise FrameError(f"expected a frame of at most {self._limit} bytes, got a length of {length}")
            if len(self._buffer) < HEADER + length:
                break
            values.append(unpack(bytes(self._buffer[HEADER : HEADER + length])))
            del self._buffer[: HEADER + length]
        return values


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send_packet(channel: socket.socket, value: Any, fds: tuple[int, ...] = ()) -> None:
    """Send one value with descriptors. BlockingIOError: try later; BrokenPipeError: the peer is gone."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([pack(value)], ancillary, socket.MSG_NOSIGNAL)


def receive_packet(channel: socket.socket) -> tuple[Any, list[int]] | None:
    """One value and its descriptors (close-on-exec), or None when the peer is gone. BlockingIOError: nothing there.

    A peer that has ended with something unread is no error: the kernel reports that once, and before what the peer has said
    itself."""
    space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
    receive = functools.partial(channel.recvmsg, PACKET_LIMIT + 1, space, socket.MSG_CMSG_CLOEXEC)
    try:
        data, ancillary, _flags, _address = receive()
    except ConnectionResetError:
        data, ancillary, _flags, _address = receive()
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data:
        close_all(fds)
        return None
    try:
        return unpack(data), list(fds)
    except FrameError:
        close_all(fds)
        raise


def close_all(fds: Any) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
