"""ZeroMQ at the cost of the C call: a send takes 0.3 microseconds instead of 0.5, and multipart ones 6 (messaging.md 1.2).

pyzmq's `Socket.send` and `recv` are wrappers in Python around methods of `zmq.backend.Socket` that take the same arguments.
Those are half public: they have been there in every release, and nobody has promised them. So they are used where they are
what they are expected to be, and the public ones otherwise.
"""

from __future__ import annotations

import errno
from typing import Any, Final

import zmq
import zmq.backend

NOBLOCK: Final = int(zmq.NOBLOCK)
SNDMORE: Final = int(zmq.SNDMORE)
_RCVMORE: Final = int(zmq.RCVMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


def choose(name: str, backend: object = zmq.backend) -> Any:
    """The method of that name, to be called with a socket: the backend's, else pyzmq's own."""
    base = getattr(backend, "Socket", None)
    direct = getattr(base, name, None) if isinstance(base, type) and issubclass(zmq.Socket, base) else None
    return direct if callable(direct) else getattr(zmq.Socket, name)


_send: Final = choose("send")
_recv: Final = choose("recv")
_get: Final = choose("get")


def send(sock: zmq.Socket[bytes], data: bytes, flags: int = 0) -> None:
    """Never waits. zmq.ZMQError: it was not taken."""
    _send(sock, data, flags | NOBLOCK)


def receive(sock: zmq.Socket[bytes]) -> bytes | None:
    """One part, None when there is none."""
    try:
        return _recv(sock, NOBLOCK)  # type: ignore[no-any-return]
    except zmq.Again:
        return None


def receive_part(sock: zmq.Socket[bytes]) -> bytes:
    """A part of a message whose first one is here: ZeroMQ delivers messages whole."""
    return _recv(sock, NOBLOCK)  # type: ignore[no-any-return]


def receive_signed(sock: zmq.Socket[bytes]) -> tuple[bytes, int | None]:
    """As `receive_part`, with the pid of its sender as the kernel knows it (T8). Takes three times as long."""
    frame = _recv(sock, NOBLOCK, False)
    try:
        return frame.bytes, int(frame.get("Peer-Address").rpartition(":")[2])  # localhost:uid:gid:pid
    except (zmq.ZMQError, ValueError):
        return frame.bytes, None


def has_more(sock: zmq.Socket[bytes]) -> bool:
    """Whether the part that was received last is followed by another one of its message."""
    return bool(_get(sock, _RCVMORE))


def readable(sock: zmq.Socket[bytes]) -> bool:
    """Whether a message is there. This also takes in what the I/O thread has reported, and with it the edge of the fd."""
    return bool(_get(sock, _EVENTS) & _POLLIN)


def is_unreachable(error: zmq.ZMQError) -> bool:
    """Whether a send failed because of its peer, who may be dead, slow or gone: which of these, nobody can tell (T11)."""
    return error.errno in (errno.EAGAIN, errno.EHOSTUNREACH)
