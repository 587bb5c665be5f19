"""What the machine of a pool answers with: who is to be started, told or ended, and how a task has ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class End(enum.StrEnum):
    """How a task ended."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timeout"
    KILLED = "killed"
    CANCELLED = "cancelled"
    FULL = "full"  # never accepted
    DRAINING = "draining"  # never accepted


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker of this number; then report it `ready` or `gone`."""

    worker: int


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a task to an idle worker."""

    worker: int
    task: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End a worker, by force if it does not go; then report it `gone`."""

    worker: int


@dataclass(frozen=True, slots=True)
class Hold:
    """There is no room for a task: its owner keeps it until Grant."""

    task: int


@dataclass(frozen=True, slots=True)
class Grant:
    """There is room for a task that is parked: its owner may submit it again."""

    task: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A task is over; its owner hears of it once. `why`: what became of its worker."""

    task: int
    end: End
    why: str = ""


@dataclass(frozen=True, slots=True)
class Drained:
    """All that was accepted is over and no worker is left; tasks are accepted again."""


Effect: TypeAlias = Start | Send | Stop | Hold | Grant | Settled | Drained
