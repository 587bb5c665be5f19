"""ZeroMQ at the cost of the C call: a send takes 0.3 microseconds instead of 0.5, and multipart ones 6 (messaging.md 1.2).

pyzmq's `Socket.send` and `recv` are wrappers in Python around methods of `zmq.backend.Socket` that take the same arguments.
Those are half public: they have been there in every release, and nobody has promised them. So they are used where they are
what they are expected to be, and the public ones otherwise.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final

import zmq
import zmq.backend

NOBLOCK: Final = int(zmq.NOBLOCK)
SNDMORE: Final = int(zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


def choose(name: str, backend: object = zmq.backend) -> Any:
    """The method of that name, to be called with a socket: the backend's, else pyzmq's own."""
    base = getattr(backend, "Socket", None)
    direct = getattr(base, name, None) if isinstance(base, type) and issubclass(zmq.Socket, base) else None
    return direct if callable(direct) else getattr(zmq.Socket, name)


_send: Final = choose("send")
#: (socket, flags, copy=True): bytes, or a Frame that shares memory with ZeroMQ and knows whether its message has `more`.
recv: Final = choose("recv")
_get: Final = choose("get")


def send(sock: zmq.Socket[bytes], data: bytes, flags: int = 0) -> None:
    """Never waits. zmq.ZMQError: it was not taken."""
    _send(sock, data, flags | NOBLOCK)


def receive(sock: zmq.Socket[bytes]) -> bytes | None:
    """One part, None when there is none."""
    try:
        return recv(sock, NOBLOCK)  # type: ignore[no-any-return]
    except zmq.Again:
        return None


def pid_of(part: zmq.Frame) -> int | None:
    """Its sender as the kernel knows it (T8), None when that is not to be had."""
    try:
        return int(str(part.get("Peer-Address")).rpartition(":")[2])  # localhost:uid:gid:pid
    except (zmq.ZMQError, ValueError):
        return None


def drain(sock: zmq.Socket[bytes]) -> Iterator[bytes]:
    """The messages that are there, each of one part. An empty socket costs 1.4 us to ask and 3.3 us to run into, so it is
    asked while it may well be empty, and run into after that."""
    for _ in range(2):
        if not readable(sock):
            return
        yield recv(sock, NOBLOCK)
    while (frame := receive(sock)) is not None:
        yield frame


def readable(sock: zmq.Socket[bytes]) -> bool:
    """Whether a message is there. This also takes in what the I/O thread has reported, and with it the edge of the fd."""
    return bool(_get(sock, _EVENTS) & _POLLIN)


def is_unreachable(error: zmq.ZMQError) -> bool:
    """Whether a send failed because of its peer, who may be dead, slow or gone: which of these, nobody can tell (T11)."""
    return error.errno in (errno.EAGAIN, errno.EHOSTUNREACH)
