"""Inside a task: which one this is."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Running:
    """The function's name, and who has asked for it: an agent in one generation, or a client, "@PID"."""

    function: str
    owner: str
    generation: int


RUNNING: contextvars.ContextVar[Running | None] = contextvars.ContextVar("otpd_task", default=None)


def current_task() -> Running | None:
    """The task that runs in this process; None elsewhere."""
    return RUNNING.get()
