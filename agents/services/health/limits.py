"""What each child may use, and when it has used more. Pure; `usage` measures, root restarts.

Measured is the whole process tree of a child, and only what its limits ask for:

| measure | is |
|---|---|
| memory | bytes; see `usage` |
| cpu | percent of one core, on average over `cpu_over` seconds, and never judged from less |
| files | open descriptors |
| threads | threads of all its processes |
| age | seconds since it was ready; up to a tenth more, by its name, so that what started together does not end together |

It is said in each sample in which it is so, so that what gets lost on the way to root is said again.

>>> limits = Limits()
>>> limits.watch("feed", 1, Allowed(files=10), ready_at=0.0)
>>> limits.sampled("feed", 1, Usage(files=11), now=2.0)
[Over(name='feed', generation=1, measure='files', used=11)]
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from dataclasses import dataclass, field

#: Share of its age by which a child may end later.
_SPREAD = 0.1
#: Seconds until one that is too old, and still there, is said again.
_AGAIN = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """`restart_when` of a child."""

    memory: int | None = None
    cpu: float | None = None
    cpu_over: float = 60.0
    files: int | None = None
    threads: int | None = None
    age: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether somebody has to look at its processes."""
        return any(each is not None for each in (self.memory, self.cpu, self.files, self.threads))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One look at a process tree; `cpu` is the processor time in seconds that was spent since the look before. None: not
    looked at."""

    memory: int | None = None
    cpu: float | None = None
    files: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Over:
    name: str
    generation: int
    measure: str
    used: float


@dataclass(slots=True)
class _Row:
    generation: int
    allowed: Allowed
    ready_at: float
    ends: float | None = None  # when it is too old
    spent: deque[tuple[float, float]] = field(default_factory=deque)  # (when, processor time since it is watched)
    used: dict[str, float] = field(default_factory=dict)


class Limits:
    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._ages: list[tuple[float, str, int]] = []  # a heap; what is not its row's `ends` any more is passed over

    def watch(self, name: str, generation: int, allowed: Allowed, ready_at: float) -> None:
        """From now on; of an incarnation that is watched already only what it may use changes."""
        row = self._rows.get(name)
        if row is not None and row.generation == generation:
            row.allowed = allowed
        else:
            row = self._rows[name] = _Row(generation, allowed, ready_at)
        self._end_at(name, row, None if allowed.age is None else ready_at + allowed.age * _later(name))

    def forget(self, name: str, generation: int) -> None:
        if name in self._rows and self._rows[name].generation == generation:
            del self._rows[name]

    def clear(self) -> None:
        self._rows.clear()

    @property
    def measured(self) -> dict[str, tuple[int, Allowed]]:
        """Whose processes must be looked at."""
        return {name: (row.generation, row.allowed) for name, row in self._rows.items() if row.allowed.is_measured}

    def used(self, name: str) -> dict[str, float]:
        """What is known of a child."""
        row = self._rows.get(name)
        return {} if row is None else dict(row.used)

    def sampled(self, name: str, generation: int, usage: Usage, now: float) -> list[Over]:
        """A look at the processes of a child."""
        row = self._rows.get(name)
        if row is None or row.generation != generation:
            return []
        counted = {"memory": usage.memory, "files": usage.files, "threads": usage.threads}
        row.used = {measure: used for measure, used in counted.items() if used is not None}
        if usage.cpu is not None and row.allowed.cpu is not None:
            share = _mean(row, usage.cpu, now)
            row.used |= {} if share is None else {"cpu": round(share, 1)}
        over = [each for each in row.used if row.used[each] > (getattr(row.allowed, each) or float("inf"))]
        return [Over(name, generation, measure, row.used[measure]) for measure in over[:1]]

    def allowed(self, name: str) -> dict[str, float]:
        """What it may use at most."""
        row = self._rows.get(name)
        if row is None:
            return {}
        given = {measure: getattr(row.allowed, measure) for measure in ("memory", "cpu", "files", "threads", "age")}
        return {measure: most for measure, most in given.items() if most is not None}

    # --- age ---

    def aged(self, now: float) -> list[Over]:
        """Those who have lived long enough; they are said again later, should they still be there."""
        found = []
        while (at := self.next_age) is not None and at <= now:
            _, name, _ = heapq.heappop(self._ages)
            row = self._rows[name]
            found.append(Over(name, row.generation, "age", round(now - row.ready_at, 1)))
            self._end_at(name, row, now + _AGAIN)
        return found

    @property
    def next_age(self) -> float | None:
        """When the next one has."""
        while self._ages and not self._is_next(*self._ages[0]):
            heapq.heappop(self._ages)
        return self._ages[0][0] if self._ages else None

    def _is_next(self, at: float, name: str, generation: int) -> bool:
        row = self._rows.get(name)
        return row is not None and row.generation == generation and row.ends == at

    def _end_at(self, name: str, row: _Row, at: float | None) -> None:
        row.ends = at
        if at is not None:
            heapq.heappush(self._ages, (at, name, row.generation))


def _later(name: str) -> float:
    return 1.0 + _SPREAD * zlib.crc32(name.encode()) / 2**32


def _mean(row: _Row, spent: float, now: float) -> float | None:
    """Percent of a core since the last look that is at least `cpu_over` old; None when there is none."""
    total = spent + (row.spent[-1][1] if row.spent else 0.0)
    row.spent.append((now, total))
    since = now - row.allowed.cpu_over
    while len(row.spent) > 1 and row.spent[1][0] <= since:
        row.spent.popleft()
    at, before = row.spent[0]
    return 100.0 * (total - before) / (now - at) if at <= since else None
