"""What one supervisor does at a time, and what waits in its mailbox meanwhile. Values; `supervision` works them off.

Everything that a supervisor does is: stop some children, then start some, then conclude.

| doing     | stops                | starts          | when a start fails          | conclusion         |
|-----------|----------------------|-----------------|-----------------------------|--------------------|
| NOTHING   | -                    | -               | -                           | (takes a message)  |
| INIT      | -                    | all, in order   | ROLLBACK; isolated: retry   | started            |
| ROLLBACK  | all, as in SHUTDOWN  | -               | -                           | start failed       |
| RESTART   | the group, reversed  | the group       | the rest stays down; retry  | -                  |
| ADD       | -                    | the new child   | it is forgotten             | reply              |
| REVIVE    | -                    | the child       | it stays down               | reply              |
| TERMINATE | the child            | -               | -                           | reply              |
| SHUTDOWN  | all, reversed; those of a dynamic supervisor at once | - | - | ended        |
| KILL      | - (all are killed)   | -               | -                           | ended              |
| SUSPENDED | -                    | -               | -                           | (until resumed)    |
| ENDED     | -                    | -               | -                           | (never anything)   |
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from otpd.supervisor.child import Child
from otpd.supervisor.events import Request
from otpd.supervisor.ledger import Retry


class Doing(enum.StrEnum):
    NOTHING = "nothing"
    INIT = "init"
    ROLLBACK = "rollback"
    RESTART = "restart"
    ADD = "add"
    REVIVE = "revive"
    TERMINATE = "terminate"
    SHUTDOWN = "shutdown"
    KILL = "kill"
    SUSPENDED = "suspended"
    ENDED = "ended"


#: The supervisor is on its way out, and nothing but KILL overtakes it.
LEAVING = frozenset({Doing.ROLLBACK, Doing.SHUTDOWN, Doing.KILL, Doing.ENDED})


@dataclass(slots=True)
class Job:
    """`pending` are the children whose answer is awaited; while there are any, the mailbox waits."""

    doing: Doing = Doing.NOTHING
    stops: deque[Child] = field(default_factory=deque)
    starts: deque[Child] = field(default_factory=deque)
    pending: set[Child] = field(default_factory=set)
    request: int | None = None  # to be answered with `result`
    result: Any = None
    reason: Any = None  # ROLLBACK: why the start fails
    text: str | None = None  # ROLLBACK: the same as a sentence, where there is one
    asked: bool = False  # leaving because the parent asked
    urgent: bool = False  # leaving before everything that is queued, here and below
    odd: list[tuple[Child, str]] = field(default_factory=list)  # of a dynamic supervisor that leaves: ends to report


@dataclass(frozen=True, slots=True)
class Exit:
    """A child ended by itself. Worthless once the child is no longer DEAD in this generation."""

    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class ParentStop:
    """The parent asks for an orderly end."""


Message: TypeAlias = Exit | Retry | ParentStop | Request
