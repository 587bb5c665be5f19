"""What is due next: a heap of timers of one clock, which may be put off or cancelled at any time. Pure.

What is cancelled leaves a husk in the heap; when there are more husks than timers, the heap is made anew, so that a
million cancelled timers cost no memory.

>>> timers = Timers()
>>> first, second = timers.arm(20, "a"), timers.arm(10, "b")
>>> timers.cancel(second); timers.next, list(timers.pop(25)), len(timers)
(20, ['a'], 0)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

#: [when, tiebreak, what]; `cancel` empties it.
Timer: TypeAlias = list[Any]
_FEW: Final = 64


class Timers:
    __slots__ = ("_count", "_heap", "_husks")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._count = self._husks = 0

    def __len__(self) -> int:
        return len(self._heap) - self._husks

    def arm(self, when: int, what: Any) -> Timer:
        self._count += 1
        timer: Timer = [when, self._count, what]
        heapq.heappush(self._heap, timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Harmless when there is none, or it has come."""
        if timer is None or timer[2] is None:
            return
        timer[2] = None
        self._husks += 1
        if self._husks > _FEW and self._husks > len(self._heap) // 2:
            self._heap = [each for each in self._heap if each[2] is not None]
            heapq.heapify(self._heap)
            self._husks = 0

    @property
    def next(self) -> int | None:
        """When the next one is due."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
            self._husks -= 1
        return heap[0][0] if heap else None

    def pop(self, until: int) -> Iterator[Any]:
        """What is due by now, each once; what is armed meanwhile comes too, if it is due."""
        while (when := self.next) is not None and when <= until:
            timer = heapq.heappop(self._heap)
            what, timer[2] = timer[2], None
            yield what
