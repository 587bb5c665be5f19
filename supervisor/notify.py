"""sd_notify: a datagram socket for each child that speaks it, on which the child says READY=1 and WATCHDOG=1.

The socket says for whom a message is, the kernel who sent it (SCM_CREDENTIALS); whether the one may speak for the other,
`workers` decides. A socket of its own, because a sender may have exited before its message is read (`sd_notify && exit`):
nobody could tell any more whose it was.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from otpd.supervisor.loop import READ, Loop
from otpd.supervisor.paths import NodePaths

_CREDENTIALS = struct.Struct("3i")
_SIZE = 4096
_PER_TURN = 64


class Sender(NamedTuple):
    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class _Ear:
    """`address` as bind(2) has it; `name` as sd_notify spells it in $NOTIFY_SOCKET."""

    sock: socket.socket
    address: str
    name: str


class NotifySockets:
    """`on_message(child, sender, {"READY": "1", ...})` for each datagram; `child` is the path of its spec."""

    def __init__(
        self, loop: Loop, paths: NodePaths, node_id: str, on_message: Callable[[str, Sender, dict[str, str]], None]
    ) -> None:
        self._loop, self._paths, self._node_id, self._on_message = loop, paths, node_id, on_message
        self._ears: dict[str, _Ear] = {}
        self._made = 0
        for left in paths.notify_sockets():  # by a root that was killed
            _unlink(left)

    def address(self, child: str, foreign: bool) -> str:
        """$NOTIFY_SOCKET of `child`, for all its incarnations. OSError.

        `foreign`: it runs as another user, who can't enter the node's directory, so its socket is an abstract one. Whoever
        guesses its name gains nothing: the sender is checked all the same.
        """
        ear = self._ears.get(child)
        if ear is None or (ear.address[0] == "\0") is not foreign:
            self.forget(child)
            self._made += 1
            path = str(self._paths.notify(self._made))
            abstract = f"otpd-{self._node_id}-{self._made}"
            ear = self._listen(child, *((f"\0{abstract}", f"@{abstract}") if foreign else (path, path)))
        return ear.name

    def forget(self, child: str) -> None:
        """There is no such child any more. Harmless when it had no socket."""
        ear = self._ears.pop(child, None)
        if ear is not None:
            self._close(ear)

    def drain(self, child: str) -> None:
        """Hear all that has been said: before a decision that must know it, and so that the next incarnation does not
        hear what was said for the last one."""
        ear = self._ears.get(child)
        while ear is not None and self._hear(child, ear.sock) == _PER_TURN:
            pass

    def recreate(self) -> None:
        """Make the sockets again whose files somebody has removed. OSError."""
        for child, ear in list(self._ears.items()):
            if ear.address[0] != "\0" and not os.path.exists(ear.address):
                self._close(ear)
                self._listen(child, ear.address, ear.name)

    def close(self) -> None:
        for child in list(self._ears):
            self.forget(child)

    def _listen(self, child: str, address: str, name: str) -> _Ear:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        self._loop.add(sock.fileno(), READ, lambda _mask: self._ready(child, sock))
        ear = self._ears[child] = _Ear(sock, address, name)
        return ear

    def _close(self, ear: _Ear) -> None:
        self._loop.remove(ear.sock.fileno())
        ear.sock.close()
        if ear.address[0] != "\0":
            _unlink(ear.address)

    def _ready(self, child: str, sock: socket.socket) -> None:
        self._hear(child, sock)

    def _hear(self, child: str, sock: socket.socket) -> int:
        """How many messages were there; at most so many that others get their turn."""
        for count in range(_PER_TURN):
            try:
                data, ancillary, _flags, _address = sock.recvmsg(_SIZE, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return count
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid, uid, _gid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])
                    self._on_message(child, Sender(pid, uid), parse(data))
        return _PER_TURN


def _unlink(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def parse(data: bytes) -> dict[str, str]:
    """The assignments of one datagram; lines without "=" are skipped.

    >>> parse(b"READY=1\\nSTATUS=up and running\\nrubbish")
    {'READY': '1', 'STATUS': 'up and running'}
    """
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {key: value for key, equals, value in pairs if equals}
