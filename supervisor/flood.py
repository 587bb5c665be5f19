"""How many events of one source are let through: a burst, then so many per second. Pure.

>>> flood = Flood(per_second=2.0, burst=3)
>>> [flood.admits(now) for now in (0.0, 0.0, 0.0, 0.0, 0.4, 0.6)], flood.take_suppressed(), flood.take_suppressed()
([True, True, True, False, False, True], 2, 0)
"""

from __future__ import annotations


class Flood:
    """A bucket of `burst` tokens that fills by `per_second`; what finds it empty is counted."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, float(burst)
        self._tokens, self._at = float(burst), 0.0
        self.suppressed = 0

    def admits(self, now: float) -> bool:
        """`now` in seconds, never going back."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            self.suppressed += 1
            return False
        self._tokens -= 1.0
        return True

    def take_suppressed(self) -> int:
        """How many were suppressed since the last time."""
        found, self.suppressed = self.suppressed, 0
        return found
