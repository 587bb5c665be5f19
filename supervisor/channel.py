"""root's end of a channel: packets in, packets out with a queue, never a wait.

What the peer can't take yet is kept in order up to a bound; what comes over it and carries no descriptors is dropped, and
told when there is room again. Descriptors that wait are duplicates and closed when they are gone: whoever sends them on
behalf of others looks at `holds` before. A lazy channel sends nothing until the loop has done what is urgent: to wake its
reader costs more than all that root computes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from otpd.ipc.frames import FrameError, close_all, receive_packet, send_packet
from otpd.supervisor.loop import READ, WRITE, Loop

_PACKETS_PER_TURN = 64
#: Turns of a drain: four times what the kernel holds of one sender. Who goes on sending meanwhile is not waited for.
_TURNS_OF_DRAIN = 16


class Channel:
    """`on_packet(value, fds)` for each packet (it owns the fds); `on_gone()` once, when the peer is gone or wrong."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_packet: Callable[[Any, list[int]], None],
        on_gone: Callable[[], None],
        bound: int = 10_000,
        lazy: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._loop, self._socket, self._bound, self._lazy = loop, sock, bound, lazy
        self._on_packet, self._on_gone = on_packet, on_gone
        self._queue: deque[tuple[Any, tuple[int, ...]]] = deque()
        self._watching = False
        self._dropped = 0
        self.holds = 0  # packets with descriptors that wait
        self.on_dropped: Callable[[int], None] | None = None  # so many packets, since there was no room
        self.on_room: Callable[[], None] | None = None  # all that had to wait is sent
        loop.add(sock.fileno(), READ, self._ready)

    @property
    def open(self) -> bool:
        return self._socket.fileno() >= 0

    @property
    def full(self) -> bool:
        """What is sent now has to wait."""
        return bool(self._queue)

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        """Send or queue; the caller keeps its descriptors. OSError: the kernel has no room for more of them."""
        if not self.open or (not self._lazy and not self._queue and self._try(value, fds)):
            return
        if len(self._queue) >= self._bound and not fds:
            self._dropped += 1
            return
        self._queue.append((value, _doubled(fds)))
        self.holds += bool(fds)
        if not self._lazy:
            self._watch_for_room(True)
        elif len(self._queue) == 1:
            self._loop.defer(self._flush)

    def drain(self) -> None:
        """Handle all that has arrived by now (before a decision that must know it)."""
        for _ in range(_TURNS_OF_DRAIN):
            if not self.open or not self._read():
                return

    def close(self) -> None:
        if not self.open:
            return
        if self._lazy:
            self._flush()
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self.holds = 0

    def _ready(self, mask: int) -> None:
        if mask & ~WRITE:
            self._read()
        if self.open and mask & WRITE:
            self._flush()

    def _read(self) -> bool:
        """False when nothing more is there."""
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet = receive_packet(self._socket)
            except BlockingIOError:
                return False
            except (FrameError, OSError):
                packet = None
            if packet is None:
                self.close()
                self._on_gone()
                return False
            self._on_packet(*packet)
            if not self.open:
                return False
        return True

    def _flush(self) -> None:
        while self._queue and self.open:
            value, fds = self._queue[0]
            try:
                if not self._try(value, fds):
                    self._watch_for_room(True)
                    return
            except OSError:
                self._dropped += 1
            close_all(fds)
            self.holds -= bool(fds)
            self._queue.popleft()
        if self.open:
            self._watch_for_room(False)
            self._tell_dropped()
            if self.on_room is not None:
                self.on_room()

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped and self.on_dropped is not None:
            self.on_dropped(dropped)

    def _watch_for_room(self, on: bool) -> None:
        if on is not self._watching:
            self._watching = on
            self._loop.modify(self._socket.fileno(), READ | WRITE if on else READ)

    def _try(self, value: Any, fds: tuple[int, ...]) -> bool:
        """True when it is sent or will never be (a peer that is gone is noticed by reading). OSError: too many descriptors
        of ours are on their way to those who don't read."""
        try:
            send_packet(self._socket, value, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise
            return True
        return True


def _doubled(fds: tuple[int, ...]) -> tuple[int, ...]:
    """All or none."""
    doubles: list[int] = []
    try:
        for fd in fds:
            doubles.append(os.dup(fd))
    except OSError:
        close_all(doubles)
        raise
    return tuple(doubles)
