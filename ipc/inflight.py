"""Calls that wait for their one outcome, with their deadlines. Pure.

>>> calls = Calls()
>>> calls.add(1, 50, Batch(3, None, 0)); calls.add(2, 40, Batch(3, None, 0)); calls.add(3, 0, Batch(3, None, 0))
>>> calls.due(45), calls.next_due, sorted(calls.requests)
([2], 50, [1, 2, 3])
"""

from __future__ import annotations

import heapq
from collections.abc import KeysView
from typing import Final

from otpd.ipc.outbox import Batch

#: Deadlines of calls that have ended are swept when there are so many more of them than calls.
_SLACK: Final = 256


class Calls:
    """Each by its request id."""

    def __init__(self) -> None:
        self._batches: dict[int, Batch] = {}
        self._deadlines: list[tuple[int, int]] = []  # a heap; those of calls that have ended stay until they come up

    def __contains__(self, request: int) -> bool:
        return request in self._batches

    @property
    def requests(self) -> KeysView[int]:
        return self._batches.keys()

    def add(self, request: int, deadline: int, batch: Batch) -> None:
        """`deadline`: ns, 0 for none; `batch`: where it waits until it is sent."""
        self._batches[request] = batch
        if deadline:
            heapq.heappush(self._deadlines, (deadline, request))
            if len(self._deadlines) > 2 * len(self._batches) + _SLACK:
                self._deadlines = [each for each in self._deadlines if each[1] in self._batches]
                heapq.heapify(self._deadlines)

    def end(self, request: int) -> Batch | None:
        """It has its outcome; None when it had it before."""
        return self._batches.pop(request, None)

    def due(self, now: int) -> list[int]:
        """Those whose deadline has passed, the earliest first; they are for the caller to end."""
        found = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._batches):
            _, request = heapq.heappop(self._deadlines)
            if request in self._batches:
                found.append(request)
        return found

    @property
    def next_due(self) -> int | None:
        """The earliest deadline, after `due`."""
        return self._deadlines[0][0] if self._deadlines else None
