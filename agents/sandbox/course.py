"""The course of one run, from its start to its end: what ends it, and by which means. Pure: told what happens and when.

    RUNNING --limit--> KILLED --2 s--> FORCED
       |                 ^
       `--time over---> ASKED (SIGTERM, `grace` seconds)

ASKED and KILLED signal the command's own process; its init then ends everything else, and counts it. FORCED kills the
init, whose namespace the kernel clears.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final

from otpd.agents.sandbox.profile import Limits, OnOutput
from otpd.agents.sandbox.watch import Usage

#: Output over the cap is read and dropped; so much of it, and the command does nothing else.
FLOOD: Final = 64 * 2**20
#: Seconds that a killed command may take to be gone.
_FORCE_AFTER: Final = 2.0


class State(enum.Enum):
    RUNNING = enum.auto()
    ASKED = enum.auto()
    KILLED = enum.auto()
    FORCED = enum.auto()


class Means(enum.Enum):
    """What is to be done now."""

    TERM = enum.auto()  # SIGTERM to the command
    KILL = enum.auto()  # SIGKILL to the command
    FORCE = enum.auto()  # SIGKILL to the init


#: Reasons for which a command is asked first, because it has done nothing wrong.
_ASKED_FIRST: Final = frozenset({"timeout", "cancelled", "owner"})


@dataclass(slots=True)
class Course:
    """`killed_by` is the first reason; `hits` all limits that were reached."""

    limits: Limits
    grace: float
    on_output: OnOutput
    began: float
    state: State = State.RUNNING
    killed_by: str | None = None
    hits: set[str] = field(default_factory=set)
    peak_tasks: int = 1
    until: float = math.inf  # when the state is left by itself

    def __post_init__(self) -> None:
        self.until = self.began + self.limits.wall

    def tick(self, now: float) -> Means | None:
        """Call at `until` or later."""
        if now < self.until:
            return None
        match self.state:
            case State.RUNNING:
                return self.end("timeout", now)
            case State.ASKED:
                return self._go(State.KILLED, now + _FORCE_AFTER, Means.KILL)
            case State.KILLED:
                return self._go(State.FORCED, math.inf, Means.FORCE)
        return None

    def end(self, reason: str, now: float) -> Means | None:
        """The run must end. Nothing new once it is ending, except that patience with a command that was asked has an end."""
        self.hits |= {reason} & _LIMITS
        if self.state is State.RUNNING:
            self.killed_by = reason
            if reason in _ASKED_FIRST:
                return self._go(State.ASKED, now + self.grace, Means.TERM)
        if self.state in (State.RUNNING, State.ASKED) and reason not in _ASKED_FIRST:
            return self._go(State.KILLED, now + _FORCE_AFTER, Means.KILL)
        return None

    def _go(self, state: State, until: float, means: Means) -> Means:
        self.state, self.until = state, until
        return means

    def used(self, usage: Usage, now: float) -> Means | None:
        """What was measured."""
        self.peak_tasks = max(self.peak_tasks, usage.tasks)
        if usage.tasks >= self.limits.pids:
            self.hits.add("pids")
        over = (
            ("memory", usage.memory > self.limits.memory),
            ("cpu", usage.cpu >= self.limits.cpu),
            ("pids", usage.tasks > self.limits.pids),
            ("files", usage.tmp > self.limits.tmp or usage.tmp_files > self.limits.tmp_files),
        )
        reason = next((name for name, is_over in over if is_over), None)
        return self.end(reason, now) if reason else None

    def wrote(self, total: int, now: float) -> Means | None:
        """Bytes of one stream so far."""
        if total <= self.limits.output:
            return None
        self.hits.add("output")
        over = self.on_output == "kill" or total > self.limits.output + FLOOD
        return self.end("output", now) if over else None

    def stored(self, size: int, now: float) -> Means | None:
        """Bytes in granted directories."""
        return self.end("files", now) if size > self.limits.disk else None


_LIMITS: Final = frozenset({"timeout", "memory", "cpu", "output", "files", "pids"})
