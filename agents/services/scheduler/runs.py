"""What happens to a run: given to its agent, put behind another, skipped, cancelled, ended. Pure; a part of `machine`.

A run that is wished while another of the same schedule goes on:

| overlap | then |
|---|---|
| `skip` | it is skipped |
| `queue(n)` | it waits, behind at most n - 1 others; else it is skipped |
| `allow` | it is given to the agent, which handles one after the other |
| `kill_previous` | those that go on are cancelled, and it is given |

How a run ends, as `timetable` hears it:

| outcome | means | then |
|---|---|---|
| done, rejected, raised, died | the handler has ended, or its agent has | it is over |
| undelivered | it has reached nobody | an interval's is skipped; others are tried again, for the same ones |
| unknown | the broker died meanwhile | its agent is asked again, this generation only |
| lost | its generation has ended, and may have handled it | it is over, and counted |
| early | an earlier scheduler's run of this fixed delay came first | it is over |
| cancelled | the handler was cancelled | it is over |
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Protocol

from otpd.agents.schedules import MOST, Cron, Every, Once
from otpd.agents.services.scheduler.due import Timers
from otpd.agents.services.scheduler.effects import Cancel, Effect, Fire, Forget, Instant, Keep, Note, Record
from otpd.agents.services.scheduler.job import Job, Run

if TYPE_CHECKING:
    from otpd.agents.services.scheduler.declared import Declared

#: Until what has reached nobody is tried again: its inbox was full, or its breaker open.
RETRY: Final = 1_000_000_000
#: Runs of one schedule with overlap allow that its agent may have at a time.
ALLOWED: Final = 100
#: An interval of at least this goes on where it was after a restart of the node.
KEPT_INTERVAL: Final = 60_000_000_000


class Whole(Protocol):
    def idle(self, job: Job, now: Instant) -> None: ...


class Runs:
    def __init__(self, effects: list[Effect], mono: Timers, whole: Whole) -> None:
        self._effects, self._mono, self._whole = effects, mono, whole
        self.open = True  # whether there is a broker that takes them

    # --- begin ---

    def wish(self, job: Job, runs: list[int], made_up: bool, now: Instant) -> None:
        """These slots are to run. `made_up`: they were missed, and come one after the other, behind what goes on."""
        for run in runs:
            if not made_up:
                self._overlap(job, run, now)
            elif len(job.waiting or ()) < MOST:
                self._wait(job, run)
            else:
                self.skip(job, "overlap", 1)
        self.pump(job, now)

    def _overlap(self, job: Job, run: int, now: Instant) -> None:
        rules, busy = job.plan.rules, len(job.runs or ())
        if not busy and not job.waiting:
            self._give(job, run, None, now)
            return
        match rules.overlap:
            case "queue" if len(job.waiting or ()) < rules.queue:
                self._wait(job, run)
            case "allow" if not job.waiting and busy < ALLOWED:
                self._give(job, run, None, now)
            case "allow" if job.waiting and len(job.waiting) < MOST:
                self._wait(job, run)
            case "kill_previous":
                self._kill(job, now)
                self._give(job, run, None, now)
            case _:
                self.skip(job, "overlap", 1)

    def _wait(self, job: Job, run: int, only: int | None = None) -> None:
        if job.waiting is None:
            job.waiting = deque()
        job.waiting.append((run, only))

    def _give(self, job: Job, run: int, only: int | None, now: Instant) -> None:
        if job.runs is None:
            job.runs = {}
        generation = job.owner.generation if only is None else only
        limit = job.plan.rules.max_runtime
        timer = None if limit is None else self._mono.arm(now.mono + limit, ("limit", job, run))
        late = self._late(job, run, now) if only is None else 0
        job.runs[run] = Run(generation, now.mono, timer, late, only)
        job.fired += only is None
        if isinstance(job.plan, Cron | Once):
            self.keep(job, now)
        self._effects.append(Fire(job.id, run, job.owner.name, job.method, job.args, only))
        if only is None:
            self._effects.append(Note("fired", job.id, {"run": run, "late": late}))

    @staticmethod
    def _late(job: Job, run: int, now: Instant) -> int:
        """ns after its time; 0 for one that an operator has asked for."""
        return 0 if run < 0 else max(0, job.now(now) - job.due(run))

    def pump(self, job: Job, now: Instant) -> None:
        """What waits may go on."""
        if job.waiting and not job.runs and job.retry is None and not job.paused and job.owner.ready and self.open:
            run, only = job.waiting.popleft()
            self._give(job, run, only, now)

    # --- end ---

    def ended(self, job: Job, run: int, outcome: str, why: str, now: Instant) -> None:
        live = self._take(job, run)
        if live is None:
            return
        match outcome:
            case "unknown":
                self._ask_again(job, run, live.generation, now)
                return
            case "undelivered" if isinstance(job.plan, Every) or run < 0:
                job.fired -= 1
                self.skip(job, why, 1)
            case "undelivered":
                job.fired -= live.only is None
                self._try_again(job, run, live.only, now)
            case _:
                job.ended = (outcome, now.wall)
                self._effects.append(over(job, run, live, outcome, now))
        self._go_on(job, now)

    def _ask_again(self, job: Job, run: int, generation: int, now: Instant) -> None:
        if self.open:
            self._give(job, run, generation, now)
        else:
            job.waiting = job.waiting or deque()
            job.waiting.appendleft((run, generation))
            self.keep(job, now)

    def _go_on(self, job: Job, now: Instant) -> None:
        self.pump(job, now)
        if not job.runs and not job.waiting:
            if not isinstance(job.plan, Once):
                self.keep(job, now)
            self._whole.idle(job, now)

    def _take(self, job: Job, run: int) -> Run | None:
        live = (job.runs or {}).pop(run, None)
        if live is not None:
            self._mono.cancel(live.limit)
        return live

    def _try_again(self, job: Job, run: int, only: int | None, now: Instant) -> None:
        """`only`: a question that has reached nobody does not undo that this generation may have had the run."""
        if job.waiting is None:
            job.waiting = deque()
        job.waiting.appendleft((run, only))
        if job.retry is None:
            job.retry = self._mono.arm(now.mono + RETRY, ("retry", job, run))
        self.keep(job, now)

    def rung(self, kind: str, job: Job, run: int, now: Instant) -> None:
        """A timer of a run has come: it has had its time, or is tried again."""
        if kind == "retry":
            job.retry = None
            self.pump(job, now)
        elif (live := self._take(job, run)) is not None:
            self._effects.append(Cancel(job.id, run))
            job.ended = ("overrun", now.wall)
            self._effects.append(over(job, run, live, "overrun", now))
            self._go_on(job, now)

    def _kill(self, job: Job, now: Instant) -> None:
        for run, live in list((job.runs or {}).items()):
            self._take(job, run)
            self._effects.append(Cancel(job.id, run))
            self._effects.append(over(job, run, live, "killed", now))
        if job.waiting:
            self.skip(job, "overlap", len(job.waiting))
            job.waiting = None

    def skip(self, job: Job, why: str, count: int) -> None:
        if job.skipped is None:
            job.skipped = Counter()
        job.skipped[why] += count
        self._effects.append(Note("skipped", job.id, {"why": why, "count": count}))

    # --- what another life of the scheduler has begun ---

    def take_over(self, job: Job, each: Declared, memory: Record | None, now: Instant) -> None:
        """What its agent has at hand is attached to; what was about to be given is given, if it has not come."""
        for run in each.running:
            if run not in (job.runs or {}) and (run, job.owner.generation) not in (job.waiting or ()):
                self._ask_again(job, run, job.owner.generation, now)
        if memory is not None and memory.run is not None and memory.run not in each.running and memory.run != each.last:
            self._wait(job, memory.run, memory.generation)
            self.pump(job, now)

    def remember(self, job: Job, record: Record) -> None:
        """A one-shot that was given to a generation: that one knows whether it has it."""
        assert record.run is not None
        self._wait(job, record.run, record.generation)

    # --- on disk ---

    def keep(self, job: Job, now: Instant) -> None:
        """What a later life would have to know."""
        record = _record(job, now)
        if record is not None:
            self._effects.append(Keep(record))

    def keep_or_forget(self, job: Job, now: Instant) -> None:
        record = _record(job, now)
        self._effects.append(Forget(job.id) if record is None else Keep(record))


def over(job: Job, run: int, live: Run, outcome: str, now: Instant) -> Note:
    """The end of a run, with all that its span needs: when it ended, how long it took, and how late it had begun."""
    times = {"at": now.wall, "took": now.mono - live.since, "late": live.late}
    data = {"run": run, "generation": live.generation, **times}
    return Note("overrun", job.id, data) if outcome == "overrun" else Note("ended", job.id, {**data, "outcome": outcome})


def _given(job: Job) -> tuple[int | None, int]:
    """A run that a generation may have, and which: until its end is known, no other must have it. Without one, who was
    heard of last."""
    for run, live in (job.runs or {}).items():
        return run, live.generation
    for run, only in job.waiting or ():
        if only is not None:
            return run, only
    return None, job.owner.generation


def _record(job: Job, now: Instant) -> Record | None:
    """None when its agent knows all that there is to know."""
    run, generation = _given(job)
    match job.plan:
        case Once(due=due, wall=wall, rules=rules):
            return Record(
                job.id, job.owner.name, job.method, "once", None, run, generation, job.paused,
                due, wall, due if wall else now.wall + due - now.mono, rules.grace, job.args,
            )  # fmt: skip
        case Cron():
            last = min((run - 1 for run, only in job.waiting or () if only is None), default=job.last)
        case Every(interval=interval, delay=delay) if job.paused or interval >= KEPT_INTERVAL:
            waits = job.timer is not None or job.parked
            last = now.mono if delay and not waits else job.slot - interval
            due_wall = now.wall + last - now.mono
            return Record(
                job.id, job.owner.name, job.method, "declared", generation=generation, paused=job.paused, due=last,
                due_wall=due_wall,
            )  # fmt: skip
        case _:
            return None
    return Record(job.id, job.owner.name, job.method, "declared", last, run, generation, job.paused, wall=True)
