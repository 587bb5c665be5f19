"""When something is due: keys with a time, on a heap that forgets what was cancelled.

>>> timers = Timers()
>>> timers.set("late", 20), timers.set("early", 10), timers.set("late", 5)
(None, None, None)
>>> timers.pop(9), timers.pop(9), timers.next
('late', None, 10)
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Timers:
    """One time per key. Memory grows with what is set, not with what was ever set."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self._serials: dict[Hashable, int] = {}
        self._serial = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._serials

    def set(self, key: Hashable, when: int) -> None:
        """Replaces an earlier time of the same key."""
        self._serial += 1
        self._serials[key] = self._serial
        heapq.heappush(self._heap, (when, self._serial, key))
        if len(self._heap) > 2 * len(self._serials) + 64:
            self._compact()

    def cancel(self, key: Hashable) -> None:
        self._serials.pop(key, None)

    def pop(self, now: int) -> Hashable | None:
        """A key that is due, the earliest first; it is not set any more."""
        self._drop_cancelled()
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._serials[key]
        return key

    @property
    def next(self) -> int | None:
        self._drop_cancelled()
        return self._heap[0][0] if self._heap else None

    def _drop_cancelled(self) -> None:
        heap = self._heap
        while heap and self._serials.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)

    def _compact(self) -> None:
        self._heap = [item for item in self._heap if self._serials.get(item[2]) == item[1]]
        heapq.heapify(self._heap)
