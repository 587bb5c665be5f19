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
    """`on_message(pid, {"READY": "1", ...})` for each datagram."""

    def __init__(self, loop: Loop, path: Path, on_message: Callable[[int, dict[str, str]], None]) -> None:
        self._loop, self._path, self._on_message = loop, path, on_message
        self._bind()

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
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(os.fspath(path))
        os.chmod(path, 0o666)  # who reaches it is decided by its directory
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._loop.add(self._socket.fileno(), READ, self._ready)

    def close(self) -> None:
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _ready(self, _mask: int) -> None:
        for _ in range(_PER_TURN):
            try:
                data, ancillary, _flags, _address = self._socket.recvmsg(_SIZE, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    self._on_message(_CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0], parse(data))


def parse(data: bytes) -> dict[str, str]:
    """The assignments of one datagram; lines without "=" are skipped.

    >>> parse(b"READY=1\\nSTATUS=up and running\\nrubbish")
    {'READY': '1', 'STATUS': 'up and running'}
    """
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {key: value for key, equals, value in pairs if equals}
