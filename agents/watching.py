"""asyncio's selector with a line to the broker beside it: served right before the loop would block.

A plain poll loop loses no edge of zmq.FD and needs no timer to decide when a batch may leave; this is that loop, inside
asyncio's. Knows nothing of ZeroMQ, so that an agent begins without it.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Iterable

from otpd.agents.forked import Came


class Watching(selectors.EpollSelector):
    """What is watched here the loop does not know."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()
        #: Serves the line, before a sleep (nothing is readable) and after it; says whether there may be callbacks now.
        self.turn: Callable[[list[int]], bool] | None = None

    def watch(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self.register(fd, selectors.EVENT_READ, self)

    def forget(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self.unregister(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if os.getpid() != self._pid:
            raise Came("a fork shares this epoll with its parent, and must leave it alone")
        if self.turn is None:
            return super().select(timeout)
        ready = super().select(0 if self.turn([]) else timeout)
        own = [key.fd for key, _ in ready if key.data is self]
        if not own:
            return ready
        self.turn(own)
        return [each for each in ready if each[0].data is not self]
