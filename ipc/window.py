"""The credit that a receiver gives: how much the broker may send ahead of what was handled. Pure.

>>> window = Window(messages=4, size=400)
>>> window.grant()
(4, 400)
>>> window.took(2, 100); window.done(1, 50), window.grant()
(True, (5, 450))
>>> window.begin(); window.grant()  # a new broker: what the old one delivered is still in hand
(3, 350)
"""

from __future__ import annotations


class Window:
    """At most `messages` of `size` bytes in hand; the last one may pass the bytes. Totals count from the epoch's begin."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._taken_messages = self._taken_size = 0
        self._done_messages = self._done_size = 0
        self._next_messages = messages // 4  # what is to be done before another grant
        self._next_size = size // 4
        self._told = 0  # messages done, as of the last grant

    def begin(self) -> None:
        """A new epoch. What is in hand takes up its part of the window until it is done."""
        self._done_messages -= self._taken_messages
        self._told = self._done_messages
        self._done_size -= self._taken_size
        self._taken_messages = self._taken_size = 0

    def took(self, messages: int, size: int) -> None:
        self._taken_messages += messages
        self._taken_size += size

    def done(self, messages: int, size: int) -> bool:
        """Whether it is time for another grant: a quarter of the window is free that was not granted."""
        self._done_messages += messages
        self._done_size += size
        return self._done_messages >= self._next_messages or self._done_size >= self._next_size

    @property
    def is_news(self) -> bool:
        """Whether anything was done since the last grant."""
        return self._done_messages != self._told

    def grant(self) -> tuple[int, int]:
        """Cumulative totals of the epoch that the broker may have sent."""
        self._told = self._done_messages
        self._next_messages = self._done_messages + self._messages // 4
        self._next_size = self._done_size + self._size // 4
        return max(0, self._done_messages + self._messages), max(0, self._done_size + self._size)
