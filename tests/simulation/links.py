"""One direction of a connection: in order, each thing with a latency of its own, until it is cut.

What is under way when it is cut is lost from some point on, never in the middle: that is what sockets and pipes do.
"""

from __future__ import annotations

from collections import deque
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

    __slots__ = ("_clock", "_closed", "_last", "_latency", "_receive", "_things")

    def __init__(self, clock: Clock, latency: Latency, receive: Callable[[Any], None]) -> None:
        self._clock, self._latency, self._receive = clock, latency, receive
        self._last = 0
        self._things: deque[Any] = deque()  # under way
        self._closed = False

    def send(self, thing: Any) -> None:
        if not self._closed:
            self._last = max(self._last + 1, self._clock.now + self._latency.draw())
            self._things.append(thing)
            self._clock.at(self._last, self._arrive)

    def cut(self, keep: int = 0) -> None:
        """Nothing more is sent; of what is under way, the first `keep` still arrive."""
        self._closed = True
        while len(self._things) > keep:
            self._things.pop()

    def drain(self) -> None:
        """Whoever reads has come to look for everything that there is."""
        while self._things:
            self._arrive()

    @property
    def under_way(self) -> int:
        return len(self._things)

    def end(self, close: Callable[[], None]) -> None:
        """`close` is called behind everything that was sent (end of file)."""
        self._last = max(self._last + 1, self._clock.now + self._latency.draw())
        self._clock.at(self._last, close)

    def _arrive(self) -> None:
        """Of what was cut or has been drained, the time passes without an arrival."""
        if self._things:
            self._receive(self._things.popleft())
