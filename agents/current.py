"""What is being handled: a call that an agent has been given, and the deadline that all it does for it inherits.

Kept in a context variable, so that tasks and the worker thread which a handler starts see it, too. A task that outlives
the call inherits nothing any more: the call is finished then. One that is answered later is finished with its answer.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Current:
    """One call: who asks, until when, and whether the caller still waits."""

    caller: str
    generation: int
    number: int
    deadline: int  # ns of CLOCK_MONOTONIC, 0: none
    body: bytes
    cancelled: bool = False  # the caller has given up; nobody will see what is returned
    finished: bool = False
    method: str = ""
    deferred: bool = False  # to be answered later, by a Reply
    gone: Callable[[], None] | None = None  # called when it is deferred and nobody waits for it any more


#: Who has sent the cast, or durable message, that is being handled.
CASTER: contextvars.ContextVar[str] = contextvars.ContextVar("otpd_caster", default="")
#: Whose code runs, an agent's host: in a test, tasks of the agent are told from those of the test by it.
OWNER: contextvars.ContextVar[object] = contextvars.ContextVar("otpd_host", default=None)
CURRENT: contextvars.ContextVar[Current | None] = contextvars.ContextVar("otpd_current", default=None)


def inherited_deadline() -> int:
    """ns; 0 when nothing is being handled or it has no deadline."""
    current = CURRENT.get()
    return 0 if current is None or current.finished else current.deadline
