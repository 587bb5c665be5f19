"""Looks into every frame that passes the router, once, and tells the observers what is in it.

Observers see words (what stands in SYSTEM frames) and messages, with the incarnation at the other end in place of its
routing id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from otpd.ipc.frames import FrameError
from otpd.ipc.wire import HEADER, INNER, OUTER, Flag, Kind, Lane, commands
from tests.simulation.messages import Message

if TYPE_CHECKING:
    from tests.simulation.broker import SimulatedBroker
    from tests.simulation.world import World

_SYSTEM, _CAST, _CALL, _REPLY, _EVENT = map(int, Kind)
PAID: Final = (_CAST, _CALL, _EVENT)
_KEYED: Final = int(Flag.KEYED)
#: What a routing id that is nobody's stands for.
NOBODY: Final = ("", 0)


class Tap:
    def __init__(self, broker: SimulatedBroker) -> None:
        self._broker, self._world = broker, broker.world
        self._whose = broker.world.identities_of

    def read(self, peer: bytes, frame: bytes) -> None:
        """The router is about to read it."""
        who, watch = self._whose.get(peer, NOBODY), self._world.watch
        kind = frame[1] if len(frame) >= HEADER else 0
        if kind == _SYSTEM:
            for command in _words(frame):
                watch.router_heard(self._broker, who, command)
        elif kind in PAID:
            for message, _ in messages(self._world, frame):
                message.read_by.append(self._broker.epoch)
                watch.router_took(self._broker, who, message, frame)

    def sent(self, peer: bytes, lane: Lane, frame: bytes) -> None:
        """The router has given it out."""
        who, watch = self._whose.get(peer, NOBODY), self._world.watch
        kind = frame[1]
        if kind == _SYSTEM:
            for command in commands(frame):
                watch.router_said(self._broker, who, command)
        elif kind in PAID:
            watch.router_gave(self._broker, who, frame)
            for message, mark in messages(self._world, frame):
                message.passed.append(who)
                watch.router_passed(self._broker, who, message, mark)


def sizes(frame: bytes) -> list[int]:
    """What each message of a frame costs of the credit."""
    found, at = [], HEADER
    while at + INNER.size <= len(frame):
        found.append(INNER.size + INNER.unpack_from(frame, at)[0])
        at += found[-1]
    return found


def _words(frame: bytes) -> list[list[object]]:
    """None of them, if one can't be read."""
    try:
        return list(commands(frame))
    except FrameError:
        return []


def messages(world: World, frame: bytes) -> Iterator[tuple[Message, int]]:
    """(message, mark) of each body that is one of ours."""
    _, kind, count, _, _, flags = OUTER.unpack_from(frame)
    at, unpack = HEADER, INNER.unpack_from
    for _ in range(count):
        if at + INNER.size > len(frame):
            return
        length, _, mark = unpack(frame, at)
        start = at + INNER.size
        at = start + length
        if flags & _KEYED:
            key = frame[start + 2 : start + 2 + (frame[start] | frame[start + 1] << 8)]
            start += 2 + len(key)
            if kind == _EVENT and key.startswith(b"otpd."):
                continue
        message = world.mail.of(frame[start : start + 8])
        if message is not None:
            yield message, mark
