"""A broker made by hand: reads what an endpoint sends, and says to it what a test wants said."""

from __future__ import annotations

from typing import Any

from otpd.ipc.endpoint import Endpoint
from otpd.ipc.happenings import Happening
from otpd.ipc.wire import Kind, Lane, Message, commands, join, messages, parse, system

LIFE = 3
INC = LIFE << 32 | 1
FULL = 10**12
MS = 1_000_000


def inc(generation: int) -> int:
    return LIFE << 32 | generation


class Hand:
    """One endpoint and the other end of its sockets."""

    def __init__(self, name: str = "me") -> None:
        self.end = Endpoint(name, INC, b"token")

    @classmethod
    def live(cls, messages: int = FULL, size: int = FULL) -> Hand:
        """Welcomed with so much credit; what was said until then is read."""
        hand = cls()
        hand.connect(messages=messages, size=size)
        return hand

    def connect(self, epoch: str = "b3.1", messages: int = FULL, size: int = FULL) -> None:
        self.end.connected(epoch, 0)
        self.sent()
        self.welcome(epoch, messages, size)
        self.heard()
        assert self.said()[0][0] == "credit"

    def welcome(self, epoch: str = "b3.1", messages: int = FULL, size: int = FULL) -> None:
        self.say(["welcome", {"epoch": epoch, "credit": [messages, size], "id": 1}])

    # --- to the endpoint ---

    def say(self, *words: list[Any], lane: Lane = Lane.SYSTEM) -> None:
        self.end.received(lane, system(*words), 0)

    def give(self, kind: Kind, source: int, *parts: Message, flags: int = 0) -> None:
        lane = Lane.SYSTEM if kind is Kind.REPLY else Lane.DATA
        self.end.received(lane, join(kind, source, parts, flags), 0)

    # --- from the endpoint ---

    def sent(self) -> list[tuple[Lane, bytes]]:
        return self.end.outgoing()

    def said(self) -> list[list[Any]]:
        """The commands among what is sent now."""
        return [each for _, frame in self.sent() if parse(frame).kind is Kind.SYSTEM for each in commands(frame)]

    def frames(self) -> list[tuple[str, int, list[bytes]]]:
        """(kind, peer, bodies) of each frame that is sent now and is no command."""
        found = [(parse(frame), frame) for _, frame in self.sent()]
        return [
            (head.kind.name, head.peer, [bytes(body) for _, _, body in messages(frame)])
            for head, frame in found
            if head.kind is not Kind.SYSTEM
        ]

    def heard(self) -> list[Happening]:
        """What has happened, worked off."""
        found = list(self.end.happened)
        self.end.happened.clear()
        return found
