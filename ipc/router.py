"""The router as a pure machine: names, calls, casts, monitors, links, groups, topics, buffers, credit, breakers.

`broker` is the shell that gives it frames and packets and sends what it says. No socket, no clock, no randomness, and no
decoding of bodies. `now` is nanoseconds of CLOCK_MONOTONIC and never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from otpd.ipc.wire import Lane


@dataclass(frozen=True, slots=True)
class Send:
    """Give this frame to the peer with this routing id."""

    peer: bytes
    lane: Lane
    frame: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Give this packet to root (docs/protocol.md, 8)."""

    packet: list[Any]


Effect: TypeAlias = Send | Tell


class Router:
    """One epoch: it begins empty, is given root's snapshot, and lives until the broker dies."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch

    def root(self, packet: list[Any], now: int) -> None:
        """A packet of root's."""
        raise NotImplementedError

    def knows(self, peer: bytes) -> bool:
        """Whether frames of this routing id can be taken without asking who sent them (both hellos were accepted)."""
        raise NotImplementedError

    def frame(self, peer: bytes, lane: Lane, frame: bytes, now: int, pid: int | None = None) -> None:
        """One frame. `pid`: of the process at the other end, as the kernel tells it; needed until the peer is known."""
        raise NotImplementedError

    def stray(self, peer: bytes, now: int) -> None:
        """A message in more than one part, or of no part: a strike."""
        raise NotImplementedError

    def tick(self, now: int) -> int | None:
        """Do what is due (deadlines, graces, leases, time to live); when the next thing is due, or None."""
        raise NotImplementedError

    def flush(self) -> list[Effect]:
        """What is to be sent after the events since the last flush: one frame per destination and lane, system first."""
        raise NotImplementedError
