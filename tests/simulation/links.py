"""One direction of a connection: in order, each thing with a latency of its own, until it is cut.

What is under way when it is cut is lost from some point on, never in the middle: that is what sockets and pipes do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.clock import Clock


class Latency:
    """Nanoseconds: mostly between `least` and 4 * `least`, with a tail of up to `most` in one of `rare` cases."""

    __slots__ = ("_random", "least", "most", "rare")

    def __init__(self, random: Random, least: int, most: int, rare: float) -> None:
        self._random = random.random
        self.least, self.most, self.rare = least, most, rare

    def draw(self) -> int:
        number = self._random()
        if number < self.rare:
            return int(self.least + self._random() * self.most)
        return int(self.least * (1 + 3 * number))


class Pipe:
    """`receive` is called with each thing, in order of sending."""

    __slots__ = ("_arrived", "_clock", "_last", "_latency", "_left", "_receive", "_sent")

    def __init__(self, clock: Clock, latency: Latency, receive: Callable[[Any], None]) -> None:
        self._clock, self._latency, self._receive = clock, latency, receive
        self._last = 0
        self._sent = 0
        self._arrived = 0
        self._left: int | None = None  # once cut: so many things arrive in all

    def send(self, thing: Any) -> None:
        if self._left is not None:
            return
        self._last = max(self._last + 1, self._clock.now + self._latency.draw())
        self._sent += 1
        self._clock.at(self._last, self._arrive, self._sent, thing)

    def cut(self, keep: int = 0) -> None:
        """Nothing more is sent; of what is under way, the first `keep` still arrive."""
        limit = self._arrived + keep
        self._left = limit if self._left is None else min(self._left, limit)

    @property
    def under_way(self) -> int:
        return (self._sent if self._left is None else min(self._left, self._sent)) - self._arrived

    def end(self, close: Callable[[], None]) -> None:
        """`close` is called behind everything that was sent (end of file)."""
        self._last = max(self._last + 1, self._clock.now + self._latency.draw())
        self._clock.at(self._last, close)

    def _arrive(self, number: int, thing: Any) -> None:
        if self._left is not None and number > self._left:
            return
        self._arrived = number
        self._receive(thing)
