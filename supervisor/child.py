"""One row of a supervisor's table: a child, and the one state it is in. Values and small helpers; no decisions.

| state      | in OTP's table  | what is there                                                            |
|------------|-----------------|--------------------------------------------------------------------------|
| DOWN       | undefined       | a spec, no process                                                       |
| STARTING   | -               | a start attempt that has not been answered                               |
| RUNNING    | pid             | a process that is ready                                                  |
| STOPPING   | pid             | a process that was asked to stop                                         |
| ABORTING   | -               | a start attempt that was given up, not yet answered                      |
| DEAD       | pid             | no process; the notice of its end waits in the supervisor's mailbox      |
| RESTARTING | {restarting, _} | no process; the "try again" waits in the supervisor's mailbox            |
| BACKOFF    | {restarting, _} | no process; the "try again" comes when the timer fires                   |

A worker with children of its own ends when they have ended: until then it keeps its state, and `end` holds its last
answer (see `own`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

from otpd.supervisor.events import Exited, StartFailed, StartIgnored
from otpd.supervisor.spec import ChildSpec, SupervisorSpec


class ChildState(enum.StrEnum):
    DOWN = "down"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ABORTING = "aborting"
    DEAD = "dead"
    RESTARTING = "restarting"
    BACKOFF = "backoff"


#: OTP's three answers: a pid, `restarting`, `undefined`.
HAS_PID = frozenset({ChildState.RUNNING, ChildState.STOPPING, ChildState.DEAD})
AWAITS_RESTART = frozenset({ChildState.RESTARTING, ChildState.BACKOFF})
ATTEMPTED = frozenset({ChildState.STARTING, ChildState.ABORTING})
HAS_PROCESS = ATTEMPTED | {ChildState.RUNNING, ChildState.STOPPING}
#: What all_significant waits for: everything that OTP does not call undefined.
ACTIVE = frozenset(ChildState) - {ChildState.DOWN}


@dataclass(slots=True, eq=False)
class Child:
    """Compared by identity: a child that was deleted and added again is another one."""

    spec: ChildSpec
    path: str
    state: ChildState = ChildState.DOWN
    generation: int = 0  # of the last attempt
    lived: int = 0  # generation of the last attempt that became ready
    reason: Any = None  # why there is no process: of its end or of the failed attempt
    failed: bool = False  # whether `reason` is a failure
    delay: float | None = None  # the last back-off; None after a stable run
    automatic: bool = False  # whether the last attempt was an automatic restart
    ready_at: float = 0.0
    uptime: float = 0.0  # of the last run, in seconds
    end: Exited | StartFailed | StartIgnored | None = None  # its process is gone, its own children are not yet
    timer: int | None = None  # BACKOFF: of the next attempt; STOPPING supervisor: until it is killed
    next_attempt: float | None = None  # BACKOFF: when, on the clock of `now`

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def is_supervisor(self) -> bool:
        """By its spec; what runs may still be of the kind that an earlier spec said."""
        return isinstance(self.spec.start, SupervisorSpec)

    @property
    def has_process(self) -> bool:
        """Of a worker: there is one that can still be told something."""
        return self.state in HAS_PROCESS and self.end is None


def instance(template: ChildSpec, name: str, start: object | None = None) -> ChildSpec:
    """The spec of one simple_one_for_one instance: the template under the instance's name, with its own start if any."""
    return replace(template, id=name, start=template.start if start is None else start)


def is_clean(reason: Any) -> bool:
    """normal, shutdown and shutdown(...) are clean, whether asked for or not (rule 27)."""
    return isinstance(reason, str) and (reason == "normal" or reason.startswith("shutdown"))
