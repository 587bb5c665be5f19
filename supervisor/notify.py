"""sd_notify: one datagram socket of the node, on which programs say READY=1 and WATCHDOG=1.

The kernel tells the sender's pid (SCM_CREDENTIALS); whose process that is, `owner` decides: a main process by its pid, any
other by the cookie in its environment. A message from anybody else is ignored.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from otpd.supervisor.loop import READ, Loop

_CREDENTIALS = struct.Struct("3i")
_SIZE = 4096
_PER_TURN = 64


class NotifySocket:
    """`on_message(pid, uid, {"READY": "1", ...})` for each datagram."""

    def __init__(self, loop: Loop, path: Path, on_message: Callable[[int, int, dict[str, str]], None]) -> None:
        self._loop, self._path, self._on_message = loop, path, on_message
        self._public: socket.socket | None = None
        self._bind()

    def open_to_others(self, name: str) -> str:
        """The address of the same for a program of another user, who can't enter the node's directory: an abstract one,
        as sd_notify spells it. Whoever guesses it gains nothing: the sender is checked all the same."""
        if self._public is None:
            self._public = self._listen(f"\0{name}")
        return f"@{name}"

    def present(self) -> bool:
        return os.path.exists(self._path)

    def rebind(self) -> None:
        """Make the socket again after somebody removed its file."""
        self.close()
        self._bind()

    def _bind(self) -> None:
        path = self._path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = self._listen(os.fspath(path))

    def _listen(self, address: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        self._loop.add(sock.fileno(), READ, lambda _mask: self._ready(sock))
        return sock

    def close(self) -> None:
        for sock in (self._socket, self._public):
            if sock is not None:
                self._loop.remove(sock.fileno())
                sock.close()
        self._public = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _ready(self, sock: socket.socket) -> None:
        for _ in range(_PER_TURN):
            try:
                data, ancillary, _flags, _address = sock.recvmsg(_SIZE, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid, uid, _gid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])
                    self._on_message(pid, uid, parse(data))


def parse(data: bytes) -> dict[str, str]:
    """The assignments of one datagram; lines without "=" are skipped.

    >>> parse(b"READY=1\\nSTATUS=up and running\\nrubbish")
    {'READY': '1', 'STATUS': 'up and running'}
    """
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {key: value for key, equals, value in pairs if equals}
