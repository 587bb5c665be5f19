"""The two sockets of an agent towards one broker: it opens fresh ones for each epoch and sends nothing on old ones.

The file descriptors of ZeroMQ are edge-triggered: they say that something may have happened, once, and every send or
receive swallows that. Lanes keep account of it: whoever uses them may sleep on `fds` while `more` is False, and calls
`receive` at once while it is True.

    lanes = Lanes(endpoint, identity)
    lanes.send(end.outgoing())                      # then look at lanes.more
    for lane, frame in lanes.receive(): ...         # while lanes.more
    for lane, frame in lanes.awake(readable): ...   # after a sleep; then look at lanes.more

A process that was forked from the one that opened them gets a ForkedError from every use.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Container, Iterable
from typing import ClassVar, Final

import zmq

from otpd.ipc import lowlevel
from otpd.ipc.errors import ForkedError
from otpd.ipc.wire import MAX_FRAME, Lane

#: Frames that are read in one go, of both lanes together.
BUDGET: Final = 256
#: Until all that was said is with the broker, when an agent ends in order (messaging.md, T13).
DRAIN_MS: Final = 200
#: Between two attempts to reach a broker whose queue of connections is full, as when all agents come at once.
_RETRY_MS: Final = 20
_IDENTITY_MAX: Final = 255


class _Context(zmq.Context["zmq.Socket[bytes]"]):
    """pyzmq's own ends itself when it is collected, and waits for ever if the collector has its sockets in hand as well."""

    def __del__(self) -> None:
        pass


class Lanes:
    """Open from the start; nothing blocks but `wait` and `close`."""

    _left: ClassVar[list[Lanes]] = []  # kept from the collector

    def __init__(self, endpoint: str, identity: bytes) -> None:
        if not 0 < len(identity) <= _IDENTITY_MAX or identity[0] == 0:
            raise ValueError(f"expected a routing id of 1 to 255 bytes that does not begin with 0, got {identity!r} (T12)")
        self._pid = os.getpid()
        self._context = _Context()
        try:
            self._sockets = {lane: self._open(f"{endpoint}-{lane.value}", identity) for lane in Lane}
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.fds = tuple(int(each.get(zmq.FD)) for each in self._sockets.values())
        self._watch(())
        self._swallowed = set(Lane)  # lanes whose fd may say nothing though there is something
        self._said = time.monotonic()

    def _open(self, address: str, identity: bytes) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 0),  # credit bounds what is on its way, in bytes as well
            (zmq.RCVHWM, 0),
            (zmq.IMMEDIATE, 0),
            (zmq.RECONNECT_IVL, _RETRY_MS),
            (zmq.MAXMSGSIZE, MAX_FRAME),
        ):
            sock.setsockopt(option, value)
        sock.setsockopt(zmq.ROUTING_ID, identity)
        sock.connect(address)
        return sock

    def send(self, frames: Iterable[tuple[Lane, bytes]]) -> None:
        """Hand frames over, in order. They are on their way, which says nothing of their arrival."""
        self._check()
        for lane, frame in frames:
            lowlevel.send(self._sockets[lane], frame)
            self._swallowed.add(lane)
        self._said = time.monotonic()

    @property
    def is_drained(self) -> bool:
        """What was said last has had as long to leave as `close` would give it."""
        return time.monotonic() - self._said > DRAIN_MS / 1000

    @property
    def more(self) -> bool:
        """Whether to call `receive` before sleeping on the `fds`, which may have been swallowed."""
        while self._swallowed:
            lane = self._swallowed.pop()
            if lowlevel.readable(self._sockets[lane]):
                self._swallowed.add(lane)
                return True
        return False

    def receive(self, budget: int = BUDGET) -> list[tuple[Lane, bytes]]:
        """What has come, at most `budget` frames, the system lane's first."""
        self._check()
        frames: list[tuple[Lane, bytes]] = []
        self._swallowed.clear()
        for lane, sock in self._sockets.items():
            for frame in lowlevel.drain(sock):
                frames.append((lane, frame))
                if len(frames) >= budget:
                    self._swallowed.update(Lane)
                    return frames
        return frames

    def awake(self, readable: Container[int]) -> list[tuple[Lane, bytes]]:
        """What has ended a sleep: one frame of each lane whose fd is readable. Mostly there are no others, and what follows
        from these leaves before anybody asks for more."""
        self._check()
        frames: list[tuple[Lane, bytes]] = []
        for fd, (lane, sock) in zip(self.fds, self._sockets.items(), strict=True):
            if fd in readable:
                self._swallowed.add(lane)
                frame = lowlevel.receive(sock)
                if frame is not None:
                    frames.append((lane, frame))
        return frames

    def wait(self, seconds: float | None, *fds: int) -> list[int]:
        """Sleep until there is something to receive, one of `fds` is readable or the time is over; all that are readable."""
        self._check()
        if fds != self._others:
            self._watch(fds)
        rest = 0 if self.more else seconds
        return [fd for fd, _ in self._poll.poll(None if rest is None else math.ceil(rest * 1000))]

    def _watch(self, others: tuple[int, ...]) -> None:
        self._others, self._poll = others, select.poll()
        for fd in (*self.fds, *others):
            self._poll.register(fd, select.POLLIN)

    def close(self, drain: bool = False) -> None:
        """`drain`: wait for at most 200 ms until what was sent is with the broker; otherwise it is dropped."""
        if self._context.closed or os.getpid() != self._pid:
            return
        for sock in self._sockets.values():
            sock.close(linger=DRAIN_MS if drain else 0)
        self._context.term()

    def leave(self) -> None:
        """They end with the process, which is about to: to close them takes threads that wait for each other, 1.5 ms."""
        self._left.append(self)

    def __del__(self) -> None:
        if "fds" in vars(self):  # it was opened whole
            self.close()

    def _check(self) -> None:
        here = os.getpid()
        if here != self._pid:
            raise ForkedError(self._pid, here)
