"""A wire on an asyncio loop: hands over what comes, sends what is put, and says once when the other end is gone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from otpd.agents.tasks.wire import Wire

Hear: TypeAlias = Callable[[list[Any], list[int]], None]
#: Packets that one line may bring before it is another's turn.
_TURN = 16


class Line:
    """`hear(message, fds)` for each message, then `after()` once for all that came; `gone()` once. `pidfd`: of who is at the
    other end; it belongs to the line."""

    def __init__(
        self, sock: socket.socket, hear: Hear, gone: Callable[[], None], after: Callable[[], None], pidfd: int = -1
    ) -> None:
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._hear, self._gone, self._after, self._pidfd = hear, gone, after, pidfd
        self._writing = False
        self.wire = Wire(sock)
        self.put = self.wire.put
        self.open = True
        self._loop.add_reader(sock.fileno(), self._read)
        if pidfd >= 0:
            self._loop.add_reader(pidfd, self._died)

    def flush(self) -> None:
        """Send what was put; the rest when there is room."""
        if not self.open:
            return
        waits = self.wire.pending and not self.wire.flush()
        if waits is not self._writing:
            self._writing = waits
            fd = self.wire.fileno()
            if waits:
                self._loop.add_writer(fd, self.flush)
            else:
                self._loop.remove_writer(fd)

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        fd = self.wire.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self.wire.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _read(self) -> None:
        for _ in range(_TURN):
            messages = self.wire.take()
            if messages is None:
                self._end()
                return
            if not messages:
                break
            for message, fds in messages:
                self._hear(message, fds)
            if not self.open:
                return
        self._after()

    def _died(self) -> None:
        """What it has said before counts."""
        while self.open and (messages := self.wire.take()):
            for message, fds in messages:
                self._hear(message, fds)
        self._end()

    def _end(self) -> None:
        if self.open:
            self.close()
            self._gone()
            self._after()
