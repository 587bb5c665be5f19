"""A socket whose kernel has no room for some attempts, whatever is sent, and is writable all the while."""

from __future__ import annotations

import errno
import socket
import time
from itertools import pairwise
from typing import Any


class Starved(socket.socket):
    """Three attempts fail; when each was made."""

    attempts: list[float]

    def sendmsg(self, *args: Any) -> int:
        self.attempts.append(time.monotonic())
        if len(self.attempts) <= 3:
            raise OSError(errno.ENOBUFS, "no room")
        return super().sendmsg(*args)

    @property
    def shortest(self) -> float:
        """Seconds between two attempts after the second: that one may be somebody else's first."""
        return min(later - before for before, later in pairwise(self.attempts[1:]))


def starved(sock: socket.socket) -> Starved:
    """That socket, in its place."""
    made = Starved(sock.family, sock.type, sock.proto, sock.detach())
    made.attempts = []
    return made
