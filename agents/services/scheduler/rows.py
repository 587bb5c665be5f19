"""Schedules as `otpd schedule` shows them. Pure."""

from __future__ import annotations

import datetime
from typing import Any

from otpd.agents.services.scheduler.effects import Instant
from otpd.agents.services.scheduler.job import Job
from otpd.agents.services.scheduler.machine import Scheduler


def rows(machine: Scheduler, now: Instant, name: str | None) -> list[dict[str, Any]]:
    """Of all, of an agent, or of one id; those that come next first, those without a time last."""
    if name is None:
        jobs = list(machine.jobs.values())
    elif name in machine.jobs:
        jobs = [machine.jobs[name]]
    else:
        owner = machine.owners.get(name)
        jobs = [] if owner is None else list(owner.jobs.values())
    found = [_row(job, now) for job in jobs]
    return sorted(found, key=lambda row: (row["next"] is None, row["next_in_s"] or 0.0, row["id"]))


def _row(job: Job, now: Instant) -> dict[str, Any]:
    left = None if job.timer is None else (job.due(job.slot) - job.now(now)) / 1e9
    return {
        "id": job.id,
        "name": job.owner.name,
        "method": job.method,
        "plan": str(job.plan),
        "state": _state(job),
        "next": None if left is None else _moment(now.wall / 1e9 + left),
        "next_in_s": None if left is None else round(left, 3),
        "running": len(job.runs or ()),
        "waiting": len(job.waiting or ()),
        "fired": job.fired,
        "skipped": dict(job.skipped or {}),
        "last": None if job.ended is None else {"outcome": job.ended[0], "at": _moment(job.ended[1] / 1e9)},
    }


def _state(job: Job) -> str:
    """paused, away (its agent is), running, or armed."""
    if job.paused:
        return "paused"
    if not job.owner.ready:
        return "away"
    return "running" if job.runs else job.state


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
