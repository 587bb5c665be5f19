"""A machine with a clock of its own for tests: what was fired, skipped, kept, told."""

from __future__ import annotations

import datetime
from typing import Any

from otpd.agents.schedules import Once, Plan, Rules
from otpd.agents.services.scheduler.declared import Declared
from otpd.agents.services.scheduler.effects import Cancel, Fire, Forget, Instant, Keep, Note, Record
from otpd.agents.services.scheduler.machine import Scheduler

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


def wall(text: str) -> int:
    """`2026-03-29T01:00Z` in nanoseconds since 1970."""
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()) * SECOND


class Rig:
    """Agent "a" has generation 1 and is ready. Time starts at 1000 s and at noon of 1 March 2026."""

    def __init__(self, at: str = "2026-03-01T12:00Z", disk: dict[str, Record] | None = None) -> None:
        self.machine = Scheduler()
        self.now = Instant(1000 * SECOND, wall(at))
        self.fires: list[Fire] = []
        self.cancelled: list[Cancel] = []
        self.notes: list[Note] = []
        self.disk: dict[str, Record] = {} if disk is None else disk
        self.machine.restore(list(self.disk.values()))
        self.machine.tick(self.now)

    # --- what is said to it ---

    def declare(self, plan: Plan, name: str = "a", generation: int = 1, method: str = "work", **known: Any) -> str:
        id_ = f"{name}/{method}"
        each = Declared(id_, method, plan, known.pop("since", self.now.mono), **known)
        self.machine.declare(name, generation, [each], self.now)
        self.work_off()
        return id_

    def once(self, id_: str, due: int, wall: bool = False, generation: int = 1, **rules: Any) -> str:
        plan = Once(due, Rules(misfire="run_once", **rules), wall)
        self.machine.schedule("a", generation, id_, "work", plan, b"", self.now)
        self.work_off()
        return id_

    def state(self, state: str | None, generation: int = 1, name: str = "a") -> None:
        self.machine.presence(name, state, generation, self.now)
        self.work_off()

    def end(self, fire: Fire, outcome: str = "done", why: str = "") -> None:
        self.machine.ended(fire.id, fire.run, outcome, self.now, why)
        self.work_off()

    # --- time ---

    def run(self, seconds: float, answer: str | None = "done", step: float | None = None) -> list[Fire]:
        """Let time pass as the service does, from one due moment to the next; each run ends at once with `answer`. With
        `step` the machine is looked at only so often. What was fired meanwhile."""
        before, end = len(self.fires), self.now.mono + int(seconds * SECOND)
        while self.now.mono < end:
            goal = min(end, self._next(end) if step is None else self.now.mono + int(step * SECOND))
            self.now = Instant(goal, self.now.wall + goal - self.now.mono)
            self.tick(answer)
        return self.fires[before:]

    def _next(self, end: int) -> int:
        mono, wall = self.machine.next
        moments = [end] + ([mono] if mono is not None else [])
        if wall is not None:
            moments.append(self.now.mono + max(0, wall - self.now.wall))
        return max(self.now.mono, min(moments))

    def jump(self, seconds: float, answer: str | None = "done") -> list[Fire]:
        """Somebody sets the wall clock."""
        before = len(self.fires)
        self.now = Instant(self.now.mono, self.now.wall + int(seconds * SECOND))
        self.tick(answer)
        return self.fires[before:]

    def tick(self, answer: str | None = "done") -> None:
        self.machine.tick(self.now)
        for fire in self.work_off():
            if answer is not None:
                self.end(fire, answer)

    # --- what it wants ---

    def work_off(self) -> list[Fire]:
        fires: list[Fire] = []
        for effect in self.machine.take():
            match effect:
                case Fire():
                    fires.append(effect)
                case Cancel():
                    self.cancelled.append(effect)
                case Keep(record=record):
                    self.disk[record.id] = record
                case Forget(id=id_):
                    self.disk.pop(id_, None)
                case Note():
                    self.notes.append(effect)
        self.fires += fires
        return fires

    def skipped(self, id_: str = "a/work") -> dict[str, int]:
        return dict(self.machine.jobs[id_].skipped or {})

    def at(self, fires: list[Fire]) -> list[float]:
        """Seconds after 1000 s of the monotonic clock."""
        return [(fire.run - 1000 * SECOND) / SECOND for fire in fires]


def utc(fires: list[Fire]) -> list[str]:
    """The slots of the wall clock."""
    moments = (datetime.datetime.fromtimestamp(fire.run / SECOND, datetime.UTC) for fire in fires)
    return [moment.strftime("%d. %H:%M") for moment in moments]
