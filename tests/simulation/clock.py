"""The virtual time, and everything that is still to happen: a heap of (time, tiebreak, action).

Nanoseconds, as the router counts them. Whoever wants to happen later is called back exactly once, in the order of time and,
within the same nanosecond, in the order of asking; so one seed is one history. `digest` is a fingerprint of that history.

>>> clock, heard = Clock(), []
>>> _ = clock.after(5, heard.append, "later"), clock.after(2, heard.append, "sooner")
>>> clock.step(), clock.now, clock.step(), heard, clock.step()
(True, 2, True, ['sooner', 'later'], False)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
_MASK: Final = (1 << 64) - 1

#: [when, tiebreak, action, arguments]; `cancel` empties the action.
Entry = list[Any]


class Clock:
    __slots__ = ("_count", "_heap", "digest", "events", "now")

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self.digest = 0
        self._count = 0
        self._heap: list[Entry] = []

    def at(self, when: int, action: Callable[..., None], *arguments: Any) -> Entry:
        """Never before `now`."""
        self._count += 1
        entry = [max(when, self.now), self._count, action, arguments]
        heapq.heappush(self._heap, entry)
        return entry

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> Entry:
        return self.at(self.now + delay, action, *arguments)

    @staticmethod
    def cancel(entry: Entry | None) -> None:
        """Harmless when it has happened already."""
        if entry is not None:
            entry[2] = None

    def step(self) -> bool:
        """Let the next thing happen; False when there is none."""
        heap = self._heap
        while heap:
            when, _, action, arguments = heapq.heappop(heap)
            if action is None:
                continue
            self.now = when
            self.events += 1
            self.digest = (self.digest * 1_000_003 ^ when) & _MASK
            action(*arguments)
            return True
        return False

    def note(self, data: bytes) -> None:
        """Make `data` a part of the fingerprint."""
        self.digest ^= crc32(data, self.digest & 0xFFFFFFFF)

    @property
    def next(self) -> int | None:
        """When the next thing happens."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None
