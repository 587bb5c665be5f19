"""A wire on an asyncio loop: hands over what comes, sends what is put, and says once when the other end is gone.

`Hub` is for a process whose work is lines: they have an epoll of their own, and while something goes on there it is turned
by itself, so that a message does not pay for a turn of the whole loop with everything else that is on it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from otpd.agents.tasks.wire import Wire
from otpd.ipc.frames import close_all

Hear: TypeAlias = Callable[[list[Any], list[int]], None]
#: Packets that one line may bring before it is another's turn.
_TURN: Final = 16
#: Seconds for which a hub waits for more before it gives the loop a turn, and for which it keeps it at most.
_LINGER, _KEEP = 0.001, 0.01


class Watcher(Protocol):
    """What asyncio's loop and a hub have in common."""

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> Any: ...

    def remove_reader(self, fd: int) -> Any: ...

    def add_writer(self, fd: int, callback: Callable[[], Any]) -> Any: ...

    def remove_writer(self, fd: int) -> Any: ...


class Hub:
    """`after()` is called once for all that came at a time."""

    def __init__(self, after: Callable[[], None]) -> None:
        self._loop, self._after = asyncio.get_running_loop(), after
        self._epoll = select.epoll()
        self.unsent: list[Line] = []
        self._readers: dict[int, Callable[[], Any]] = {}
        self._writers: dict[int, Callable[[], Any]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        self._readers[fd] = callback
        self._register(fd)

    def remove_reader(self, fd: int) -> None:
        self._readers.pop(fd, None)
        self._register(fd)

    def add_writer(self, fd: int, callback: Callable[[], Any]) -> None:
        self._writers[fd] = callback
        self._register(fd)

    def remove_writer(self, fd: int) -> None:
        self._writers.pop(fd, None)
        self._register(fd)

    def _register(self, fd: int) -> None:
        mask = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        try:
            if mask:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.unregister(fd)
        except FileNotFoundError:
            if mask:
                self._epoll.register(fd, mask)

    def _turn(self) -> None:
        poll, until, wait = self._epoll.poll, time.monotonic() + _KEEP, 0.0
        while events := poll(wait, 64):
            for fd, mask in events:
                writer = self._writers.get(fd) if mask & select.EPOLLOUT else None
                if writer is not None:
                    writer()
                reader = self._readers.get(fd) if mask & ~select.EPOLLOUT else None
                if reader is not None:
                    reader()
            self._after()
            if time.monotonic() > until:
                return
            wait = _LINGER

    def flush(self) -> None:
        """Send what was put into any line."""
        unsent, self.unsent = self.unsent, []
        for line in unsent:
            line.flush()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


class Line:
    """`hear(message, fds)` for each message, then `after()` once for all that came; `gone()` once. `pidfd`: of who is at the
    other end; it belongs to the line."""

    def __init__(
        self,
        sock: socket.socket,
        hear: Hear,
        gone: Callable[[], None],
        after: Callable[[], None],
        pidfd: int = -1,
        hub: Hub | None = None,
    ) -> None:
        sock.setblocking(False)
        self._loop: Watcher = asyncio.get_running_loop() if hub is None else hub
        self._hear, self._gone, self._after, self._pidfd = hear, gone, after, pidfd
        self._writing = False
        self._again: asyncio.TimerHandle | None = None
        self._hub = hub
        self.wire = Wire(sock)
        self.open = True
        self._loop.add_reader(sock.fileno(), self._read)
        if pidfd >= 0:
            self._loop.add_reader(pidfd, self._died)

    def put(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        """The descriptors are the line's from then on. When it is closed, nothing is sent."""
        if not self.open:
            close_all(fds)
            return
        if self._hub is not None and not self.wire.pending:
            self._hub.unsent.append(self)
        self.wire.put(message, fds)

    def flush(self) -> None:
        """Send what was put; the rest when there is room."""
        if not self.open:
            return
        self._forget_timer()
        waits = self.wire.pending and not self.wire.flush()
        if waits and self.wire.pause is not None:
            self._again = asyncio.get_running_loop().call_later(self.wire.pause, self.flush)
            waits = False
        if waits is not self._writing:
            self._writing = waits
            fd = self.wire.fileno()
            if waits:
                self._loop.add_writer(fd, self.flush)
            else:
                self._loop.remove_writer(fd)

    def _forget_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self._forget_timer()
        fd = self.wire.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self.wire.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _read(self) -> None:
        for _ in range(_TURN if self._hub is None else 1):  # what is left makes it readable again
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
