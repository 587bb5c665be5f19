"""The restart intensity of one supervisor: how many restarts lie in the window, and is one more too many (rules 43-51).

Sliding, in whole seconds and inclusive as in OTP: two restarts count together when their whole seconds differ by at most
the period. Amortised constant time per restart, memory bounded by the restarts of one window.
"""

from __future__ import annotations

from collections import deque
from math import floor
from typing import NamedTuple


class Budget(NamedTuple):
    """`used` restarts of `max_restarts` (None: no limit) within `max_seconds`."""

    used: int = 0
    max_restarts: int | None = None
    max_seconds: int = 0


class Window:
    """Restarts of one supervisor. `limit` None: all are allowed, they are only counted. `period` in seconds."""

    __slots__ = ("_seconds", "limit", "period")

    def __init__(self, limit: int | None, period: int) -> None:
        self.limit = limit
        self.period = period
        self._seconds: deque[int] = deque()

    def admit(self, now: float) -> bool:
        """Count a restart at `now`; False when it is one more than the limit."""
        second = floor(now)
        while self._seconds and second - self._seconds[0] > self.period:
            self._seconds.popleft()
        self._seconds.append(second)
        return self.limit is None or len(self._seconds) <= self.limit

    def count(self, now: float) -> int:
        """Restarts that would count together with one at `now`."""
        oldest = floor(now) - self.period
        old = next((index for index, second in enumerate(self._seconds) if second >= oldest), len(self._seconds))
        return len(self._seconds) - old

    def change(self, limit: int | None, period: int) -> None:
        """New flags, old history: what happened before the change still counts."""
        self.limit = limit
        self.period = period
