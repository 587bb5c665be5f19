"""One schedule and its owner: what is known of them. The rules stand in `machine` and `runs`.

A schedule is in exactly one of these states (`Job.state`):

| state | has | leaves it |
|---|---|---|
| armed | a timer | when its slot has come |
| parked | a slot that has come, while agent or broker are away, or it is one-shot and paused | they are back; resumed |
| running | runs, and no timer: fixed delay, or one-shot | its run has ended |

A schedule with fixed rate or cron is armed while it runs. An owner is a name, whoever has it at the moment:

| presence | fires | after its patience |
|---|---|---|
| ready | yes | - |
| away (it starts, restarts, backs off) | parked until it is back | - |
| stopped (down for good, as it seems) | parked | all schedules are gone |
| absent (known from disk only; the node has just begun) | parked | all schedules are gone |
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from dataclasses import dataclass, field
from zlib import crc32

from otpd.agents.cronline import Cronline
from otpd.agents.schedules import Cron, Every, Once, Plan
from otpd.agents.services.scheduler.due import Timer
from otpd.agents.services.scheduler.effects import Instant, Record


class Presence(enum.StrEnum):
    READY = "ready"
    AWAY = "away"
    STOPPED = "stopped"
    ABSENT = "absent"


@dataclass(slots=True)
class Owner:
    """`generation`: the newest that was heard of. `dead`: the newest whose end was. `memory`: records of declared schedules
    that have not been handed over yet in this life of the scheduler."""

    name: str
    presence: Presence = Presence.AWAY
    generation: int = 0
    dead: int = 0
    patience: Timer | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    memory: dict[str, Record] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.presence is Presence.READY


@dataclass(slots=True)
class Run:
    """One that was given to the agent: `generation` is whom it may have reached first; `late`: ns after its time; `only`: it
    was asked for again, of this generation alone."""

    generation: int
    since: int
    limit: Timer | None = None
    late: int = 0
    only: int | None = None


@dataclass(slots=True, eq=False)
class Job:
    """`slot`: the next one, or the one that has come and is parked. `last`: the newest that is decided. `waiting`: runs that
    are decided and not given yet, each with the only generation that may have it, if one may know of it already."""

    id: str
    owner: Owner
    method: str
    plan: Plan
    args: bytes = b""
    slot: int = 0
    last: int = 0
    timer: Timer | None = None
    retry: Timer | None = None
    parked: bool = False
    paused: bool = False
    line: Cronline | None = None
    runs: dict[int, Run] | None = None
    waiting: deque[tuple[int, int | None]] | None = None
    fired: int = 0
    skipped: Counter[str] | None = None
    ended: tuple[str, int] | None = None  # outcome of the last run, and when (wall clock)

    @property
    def state(self) -> str:
        return "armed" if self.timer is not None else "parked" if self.parked else "running"

    @property
    def wall(self) -> bool:
        """Whether its slots are of the wall clock."""
        return isinstance(self.plan, Cron) or (isinstance(self.plan, Once) and self.plan.wall)

    @property
    def declared(self) -> bool:
        return not isinstance(self.plan, Once)

    def now(self, now: Instant) -> int:
        return now.wall if self.wall else now.mono

    def due(self, slot: int) -> int:
        """With its jitter: always the same for a slot, so that a restart changes nothing."""
        jitter = 0 if isinstance(self.plan, Once) else self.plan.jitter
        return slot + (jitter * crc32(f"{self.id} {slot}".encode()) >> 32) if jitter else slot

    def coming(self, slot: int) -> int | None:
        """The slot after `slot`, for those whose next one does not depend on the end of a run."""
        match self.plan:
            case Every(interval=interval, delay=False):
                return slot + interval
            case Cron():
                assert self.line is not None
                return self.line.after(slot)
        return None

    def come(self, now: Instant, limit: int) -> tuple[list[int], int]:
        """The last `limit` slots that are due by now, oldest first, and how many are."""
        t = self.now(now)
        match self.plan:
            case Every(interval=interval, delay=False):
                count = (t - self.slot) // interval + 1
                slots = [self.slot + n * interval for n in range(max(0, count - limit - 1), count)]
            case Cron():
                assert self.line is not None
                slots = self.line.newest(self.last, t, limit + 1)
                count = self.line.count(self.last, t)
            case _:
                slots, count = [self.slot], 1
        while slots and self.due(slots[-1]) > t:
            slots.pop()
            count -= 1
        if not slots and self.due(self.slot) <= t:  # a jitter that is longer than from slot to slot
            slots = [self.slot]
        return slots[-limit:], max(count, len(slots[-limit:]))
