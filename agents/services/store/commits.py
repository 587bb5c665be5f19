"""Which requests go into which commit: a group commit without a clock. Pure; `engine` carries it out.

While one commit is being written everything that comes waits, and goes into the next one together. So one request alone
waits for nobody, many share an fsync, and no request ever waits for a timer.

>>> commits = Commits()
>>> a, b, c = (Job(name) for name in "abc")
>>> commits.submit(a), commits.begin(), commits.submit(b), commits.submit(c), commits.begin()
(None, [Job(write='a')], None, None, [])
>>> commits.committed(), commits.begin()
([Job(write='a')], [Job(write='b'), Job(write='c')])

Who writes it: a thread, so that the loop goes on meanwhile, however long the disk takes. But to be woken by it costs the
loop a turn, and while a brief job is written alone there is nobody to go on for: on a disk that has been quick the loop
waits for the thread, no longer than a quick commit takes.

What a full disk does (`Room`; a job that grows brings new data, the others make room or change nothing):
| room | submit, grows | submit, other | committed | full | there is room |
|---|---|---|---|---|---|
| OPEN | waits | waits | answered | FULL; those that grow are refused, the others go first into the next | - |
| FULL | refused | waits | answered | all of it is refused, but questions: they are asked again | OPEN |
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

#: Requests that go into one commit: what a commit of so many takes (20 ms) is what the next request may have to wait.
MOST: Final = 1024
#: Requests, and bytes that they bring, which wait for a commit. Beyond it the disk is slower than who writes.
MAX_WAITING, MAX_BYTES = 20_000, 64 * 2**20


#: A commit that takes less (seconds) is quick; after so many in a row the loop waits for one, at most as long.
QUICK, TRUSTED = 0.005, 8
#: Looks, one a second, after which a commit that has not ended is no slow one: the disk hangs. Counted, because of a process
#: that was itself stopped, seconds say nothing.
HANGING: Final = 5


class Room(enum.Enum):
    OPEN = "open"
    FULL = "full"


class Refused(enum.Enum):
    """Why a job was not even tried. Nothing of it has been done."""

    FULL = "full"
    OVERLOADED = "overloaded"


@dataclass(slots=True, eq=False)
class Job:
    """One request. `write` is called with the connection, within a commit; `size`: bytes that it brings; `reads`: it changes
    nothing; `brief`: it touches a few rows, however many there are."""

    write: Any
    then: Callable[[Any, BaseException | None], None] | None = field(default=None, repr=False)
    grows: bool = field(default=True, repr=False)
    size: int = field(default=0, repr=False)
    reads: bool = field(default=False, repr=False)
    brief: bool = field(default=False, repr=False)


class Commits:
    """`begin` gives the next commit when there is one to write; `committed` or `full` ends it."""

    def __init__(self) -> None:
        self.room = Room.OPEN
        self._waiting: list[Job] = []
        self._writing: list[Job] = []
        self._bytes = 0
        self._quick = 0  # quick commits in a row
        self._began, self._looks = 0.0, 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being written."""
        return not (self._waiting or self._writing)

    def submit(self, job: Job) -> Refused | None:
        """None: it is in; it is answered with its commit."""
        if self.room is Room.FULL and job.grows:
            return Refused.FULL
        if len(self._waiting) >= MAX_WAITING or self._bytes + job.size > MAX_BYTES:
            return Refused.OVERLOADED
        self._waiting.append(job)
        self._bytes += job.size
        return None

    def begin(self, now: float = 0.0) -> list[Job]:
        """What to write now; nothing while a commit is being written."""
        if self._writing or not self._waiting:
            return []
        self._began, self._looks = now, 0
        self._writing, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return self._writing

    def hangs(self, now: float) -> float:
        """For how many seconds the disk has not taken what was begun; 0.0 as long as that may be mere slowness."""
        return now - self._began if self._writing and self._looks >= HANGING else 0.0

    def look(self, now: float) -> float:
        """Whether it `hangs` now; to be called once a second while something is begun."""
        self._looks += 1
        return self.hangs(now)

    @property
    def awaited(self) -> bool:
        """Whether the loop may wait for what was begun, if the thread has nothing else to do."""
        return self._quick >= TRUSTED and len(self._writing) == 1 and self._writing[0].brief

    def committed(self, took: float = 0.0) -> list[Job]:
        """It is on disk after so many seconds: those that can be answered."""
        self._quick = self._quick + 1 if took < QUICK else 0
        return self._end()

    def full(self) -> list[Job]:
        """The disk took nothing of it: those that are refused. The others are tried again, before all that waits."""
        tried, first = self._end(), self.room is Room.OPEN
        again = [job for job in tried if job.reads or (first and not job.grows)]
        late = [job for job in self._waiting if job.grows]
        self.room = Room.FULL
        self._waiting = again + [job for job in self._waiting if not job.grows]
        self._bytes = sum(job.size for job in self._waiting)
        return [job for job in tried if job not in again] + late

    def made_room(self) -> None:
        self.room = Room.OPEN

    def _end(self) -> list[Job]:
        ended, self._writing = self._writing, []
        self._bytes -= sum(job.size for job in ended)
        return ended
