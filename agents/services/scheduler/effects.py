"""What the scheduler wants done, in this order: keep, then fire. Values of the machine; `timetable` carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks, in nanoseconds."""

    mono: int
    wall: int


@dataclass(frozen=True, slots=True)
class Fire:
    """Let the agent handle one run. `only`: an earlier word of it may have reached this generation, and no other is to
    handle it."""

    id: str
    run: int
    name: str
    method: str
    args: bytes
    only: int | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The run is over for the scheduler; its handler is to be cancelled."""

    id: str
    run: int


@dataclass(frozen=True, slots=True)
class Keep:
    """What must be on disk before anything that follows from it: the record of a schedule."""

    record: Record


@dataclass(frozen=True, slots=True)
class Forget:
    id: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell: `kind` fired, ended, skipped, overrun, lost, gone."""

    kind: str
    id: str
    data: dict[str, Any]


Effect: TypeAlias = Fire | Cancel | Keep | Forget | Note


@dataclass(frozen=True, slots=True)
class Record:
    """A schedule as it outlives the process.

    `declared`: its agent will hand it over again, only what that can't know is kept. `last`: the newest slot that was
    decided, of a cron line. `due`: of a one-shot timer; of an interval, what its next slot counts from. `due_wall`: the
    same on the wall clock, for another boot of the machine. `run`, `generation`: a run that was given to this generation
    and whose end is not known. Without a run, `generation` says that the name was heard of in this life of root; 0: not.
    """

    id: str
    name: str
    method: str
    kind: Literal["declared", "once"]
    last: int | None = None
    run: int | None = None
    generation: int = 0
    paused: bool = False
    due: int = 0
    wall: bool = False
    due_wall: int = 0
    grace: int | None = None
    args: bytes = b""
