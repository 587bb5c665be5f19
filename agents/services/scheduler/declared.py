"""A schedule as its agent hands it over, and where it goes on: after the last slot that anybody knows of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otpd.agents.schedules import LATEST, Cron, Every, Once, Plan, check_whole
from otpd.agents.schedules import from_data as plan_from
from otpd.agents.services.scheduler.effects import Instant, Record
from otpd.agents.services.scheduler.job import Job

#: A wall clock that goes back further than this was wrong before; cron lines go by the new one, as Debian's cron has it.
CORRECTED: Final = 3 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Declared:
    """With what the agent knows of it. `since`: when this incarnation said it first. `last`: the newest run that it was
    given, `ended`: when one ended last, `running`: those that wait or are handled."""

    id: str
    method: str
    plan: Plan
    since: int
    last: int | None = None
    ended: int | None = None
    running: tuple[int, ...] = ()


def from_data(data: Mapping[str, Any]) -> Declared:
    """As the SDK sends it; KeyError, TypeError or ValueError for anything else. Whoever speaks to the scheduler may be
    wrong, and what it says must not end the timers of the others."""
    plan = plan_from(data["plan"])
    if isinstance(plan, Once):
        raise ValueError("plan: expected every or cron, got once; set a timer by set_timer")
    for key in ("id", "method"):
        if not isinstance(data[key], str):
            raise ValueError(f"{key}: expected text, got {data[key]!r}")
    check_whole("since", data["since"], 0, LATEST)
    for key in ("last", "ended"):
        if data[key] is not None:
            check_whole(key, data[key], -LATEST, LATEST)
    for run in data["running"]:
        check_whole("running", run, -LATEST, LATEST)
    names = (data["id"], data["method"], plan, data["since"], data["last"], data["ended"])
    return Declared(*names, tuple(data["running"]))


def first_slot(job: Job, each: Declared, memory: Record | None, now: Instant) -> int | None:
    """None: it is armed when what runs now has ended. Sets `job.last`."""
    if isinstance(each.plan, Cron):
        kept = None if memory is None else memory.last
        job.last = max(each.last or 0, kept or 0) or now.wall
        if job.last > now.wall + CORRECTED:
            job.last = now.wall
        return job.coming(job.last)
    assert isinstance(each.plan, Every)
    known = each.ended if each.plan.delay and each.ended is not None else each.last
    if known is None:
        known = each.since if memory is None or memory.wall else min(now.mono, memory.due)
    job.last = known
    return None if each.plan.delay and each.running else known + each.plan.interval
