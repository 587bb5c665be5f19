"""What has happened in a pool so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from otpd.agents.sandbox.result import Result


@dataclass(slots=True)
class Counters:
    """Counts of results, sums of seconds."""

    done: dict[str, int] = field(default_factory=dict)  # by status
    killed_by: dict[str, int] = field(default_factory=dict)
    degraded: int = 0
    truncated: int = 0
    workers_started: int = 0
    workers_lost: int = 0
    workers_late: int = 0  # not ready in time, and so tried again
    queue_s: float = 0.0
    run_s: float = 0.0

    def count(self, result: Result) -> None:
        self.done[result.status] = self.done.get(result.status, 0) + 1
        if result.killed_by:
            self.killed_by[result.killed_by] = self.killed_by.get(result.killed_by, 0) + 1
        self.degraded += bool(result.isolation.get("degraded"))
        self.truncated += result.stdout_truncated or result.stderr_truncated
        self.queue_s += result.queue_s
        self.run_s += result.wall_s
