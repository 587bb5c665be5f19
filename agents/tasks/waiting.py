"""What waits at a pool: tasks for a worker, results for their owner, owners for room. `machine` decides about it. Pure.

Owners take turns. One whose results in shared memory lie unread beyond the limit is passed over until it has read: what a
pool holds of it is bounded in bytes whatever it does, and nobody else waits for it.

>>> queue = Queue(limit=100)
>>> for task, owner in ((1, 7), (2, 7), (3, 8)):
...     queue.add(task, owner, 10)
>>> queue.take(), queue.take(), queue.bytes
(1, 3, 10)
>>> queue.unread(7, 101), queue.ready, queue.count
(None, 0, 1)
>>> queue.read(7, 50), queue.take()
(None, 2)
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

#: None: nobody's.
Owner: TypeAlias = int | None


@dataclass(slots=True)
class Queue:
    """Accepted tasks without a worker. `limit`: bytes of results that one owner may leave unread."""

    limit: int
    count: int = 0
    bytes: int = 0  # of arguments
    _turns: OrderedDict[Owner, deque[int]] = field(default_factory=OrderedDict)
    _passed: dict[Owner, deque[int]] = field(default_factory=dict)  # of owners that do not read
    _sizes: dict[int, int] = field(default_factory=dict)
    _unread: dict[Owner, int] = field(default_factory=dict)

    @property
    def ready(self) -> int:
        """Tasks that may begin."""
        return self.count - sum(map(len, self._passed.values())) if self._passed else self.count

    @property
    def results(self) -> int:
        """Bytes of all that are unread."""
        return sum(self._unread.values())

    def tasks(self) -> list[int]:
        return [task for queues in (self._turns, self._passed) for queue in queues.values() for task in queue]

    def add(self, task: int, owner: Owner, size: int) -> None:
        self._of(owner).setdefault(owner, deque()).append(task)
        self._sizes[task] = size
        self.count += 1
        self.bytes += size

    def take(self) -> int:
        """The next that may begin; its owner goes to the end."""
        owner, queue = next(iter(self._turns.items()))
        task = queue.popleft()
        if queue:
            self._turns.move_to_end(owner)
        else:
            del self._turns[owner]
        self.count -= 1
        self.bytes -= self._sizes.pop(task)
        return task

    def remove(self, task: int, owner: Owner) -> None:
        queues = self._of(owner)
        queue = queues[owner]
        queue.remove(task)
        if not queue:
            del queues[owner]
        self.count -= 1
        self.bytes -= self._sizes.pop(task)

    # --- results ---

    def unread(self, owner: int, size: int) -> None:
        self._unread[owner] = self._unread.get(owner, 0) + size
        self._sort(owner)

    def read(self, owner: int, size: int) -> None:
        left = self._unread.pop(owner, 0) - size
        if left > 0:
            self._unread[owner] = left
        self._sort(owner)

    def forget(self, owner: int) -> None:
        """It is gone, and its results with it."""
        self._unread.pop(owner, None)
        self._sort(owner)

    def _of(self, owner: Owner) -> dict[Owner, deque[int]]:
        """Where its tasks belong."""
        if not self._unread:
            return self._turns
        return self._passed if self._unread.get(owner, 0) > self.limit else self._turns

    def _sort(self, owner: Owner) -> None:
        own = self._of(owner)
        other = self._turns if own is self._passed else self._passed
        if owner in other:
            own[owner] = other.pop(owner)


class _Wish(NamedTuple):
    owner: int
    size: int
    until: float = float("inf")


@dataclass(slots=True)
class Parked:
    """Tasks that are with their owners until there is room. To each `grant` comes one `answered`; after `seconds` without it
    the room is another's."""

    seconds: float
    _parked: OrderedDict[int, _Wish] = field(default_factory=OrderedDict)
    _granted: dict[int, _Wish] = field(default_factory=dict)
    _late: dict[int, _Wish] = field(default_factory=dict)  # was granted room, which is another's by now

    def __len__(self) -> int:
        return len(self._parked) + len(self._granted) + len(self._late)

    @property
    def granted(self) -> int:
        return len(self._granted)

    @property
    def bytes(self) -> int:
        """For which room is kept."""
        return sum(wish.size for wish in self._granted.values())

    def park(self, task: int, owner: int, size: int) -> None:
        self._parked[task] = _Wish(owner, size)

    def next(self) -> int | None:
        """The size of the one that has waited longest."""
        return next(iter(self._parked.values())).size if self._parked else None

    def grant(self, now: float) -> int:
        """Keep room for that one: its number."""
        task, wish = self._parked.popitem(last=False)
        self._granted[task] = wish._replace(until=now + self.seconds)
        return task

    def expects(self, task: int) -> bool:
        """Whether it was granted room, and its owner has not answered yet."""
        return task in self._granted or task in self._late

    def answered(self, task: int) -> bool:
        """Whether room is still kept for it."""
        if not self._late and not self._granted:
            return False
        self._late.pop(task, None)
        return self._granted.pop(task, None) is not None

    def remove(self, task: int) -> bool:
        """Whether it was here."""
        return any(waiting.pop(task, None) is not None for waiting in (self._parked, self._granted, self._late))

    def of(self, owner: int) -> list[int]:
        every = (self._parked, self._late, self._granted)
        return [task for waiting in every for task, wish in waiting.items() if wish.owner == owner]

    def due(self) -> float:
        return min([wish.until for wish in self._granted.values()]) if self._granted else float("inf")

    def tick(self, now: float) -> None:
        for task, wish in list(self._granted.items()):
            if wish.until <= now:
                self._late[task] = self._granted.pop(task)
