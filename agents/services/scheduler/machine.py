"""Every timer of the node, without a clock: schedules by the name of their owner, and what is due. Pure.

`handle` methods take what has happened and the `Instant` at which it did, and leave what is to be done in `effects`, in
order. Intervals and `after` live on the monotonic clock, cron lines and `at` on the wall clock: a jump of that one moves
nothing on the other. What a slot becomes is decided exactly once, in the order of slots:

1. Its time comes (`tick`). If its agent is away, the schedule is parked and decided when it is back.
2. `misfire` says which of the slots that have come are run and which are missed.
3. `runs` says what happens to a run while another one goes on, and hears of its end.

Guarantees: no slot is run twice, none before its time; each that is not run is counted with its reason; when a name is gone,
nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from otpd.agents.cronline import Cronline
from otpd.agents.schedules import Cron, Every, Once, Rules
from otpd.agents.services.scheduler import misfire
from otpd.agents.services.scheduler.declared import CORRECTED, Declared, first_slot
from otpd.agents.services.scheduler.due import Timers
from otpd.agents.services.scheduler.effects import Effect, Forget, Instant, Note, Record
from otpd.agents.services.scheduler.job import Job, Owner, Presence
from otpd.agents.services.scheduler.runs import Runs

SECOND: Final = 1_000_000_000
#: How long a name must be stopped until its schedules go: a supervisor that restarts shows its children
#: as stopped on the way.
STOPPED: Final = 2 * SECOND
#: How long after its own start the scheduler keeps what is on disk for names that nobody has: agents that others start.
ABSENT: Final = 600 * SECOND
#: Timers of the node, and bytes of their arguments: memory must have a bound.
MOST: Final = 1_000_000
MOST_BYTES: Final = 256 * 1024 * 1024


class Full(Exception):
    """No more timers fit."""


class Scheduler:
    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.jobs: dict[str, Job] = {}
        self.owners: dict[str, Owner] = {}
        self.mono, self.wall = Timers(), Timers()
        self._bytes = 0
        self._ahead: int | None = None  # of the wall clock, at the last look
        self.runs = Runs(self.effects, self.mono, self)

    def take(self) -> list[Effect]:
        """What is to be done, and nothing of it again."""
        effects = self.effects[:]
        self.effects.clear()
        return effects

    # --- time ---

    @property
    def next(self) -> tuple[int | None, int | None]:
        """When to call `tick` at the latest, on each clock."""
        return self.mono.next, self.wall.next

    def tick(self, now: Instant) -> None:
        """All that is due by now; also after each change of the wall clock."""
        self._look_at_clock(now)
        for what in self.mono.pop(now.mono):
            if isinstance(what, Job):
                what.timer = None
                self._come(what, now)
            elif isinstance(what, Owner):
                self.gone(what.name)
            else:
                kind, job, run = what
                self.runs.rung(kind, job, run, now)
        for job in self.wall.pop(now.wall):
            job.timer = None
            self._come(job, now)

    def _look_at_clock(self, now: Instant) -> None:
        """After a small step back cron lines wait for what they have not had yet; after a large one they start over."""
        ahead = now.wall - now.mono
        if self._ahead is not None and ahead < self._ahead - CORRECTED:
            for job in [job for job in self.jobs.values() if isinstance(job.plan, Cron) and job.last > now.wall]:
                job.last = now.wall
                self._arm_next(job, now.wall)
        self._ahead = ahead

    def _come(self, job: Job, now: Instant) -> None:
        if not job.owner.ready or not self.runs.open or (job.paused and not job.declared):
            job.parked = True
        else:
            job.parked = False
            self._decide(job, now)

    def _decide(self, job: Job, now: Instant) -> None:
        """What becomes of the slots that have come."""
        rules = job.plan.rules
        slots, count = job.come(now, misfire.wanted(rules))
        if not slots:
            self._arm(job, job.slot)
            return
        job.last = slots[-1]
        if job.paused:
            self.runs.skip(job, "paused", count)
            self._arm_after(job, now)
            return
        dues = {job.due(slot): slot for slot in slots}
        choice = misfire.choose(sorted(dues), count, job.now(now), rules)
        if choice.missed:
            self.runs.skip(job, "misfire", choice.missed)
        run = sorted(dues[due] for due in choice.run)
        self._arm_next(job, job.last)
        self.runs.wish(job, run, rules.misfire == "run_all" and not choice.on_time, now)
        if run:
            self.runs.keep(job, now)
        else:
            self._nothing_runs(job, now)

    def _nothing_runs(self, job: Job, now: Instant) -> None:
        if isinstance(job.plan, Once):
            self.drop(job)
        else:
            self._arm_after(job, now)
            self.runs.keep(job, now)

    def _arm_next(self, job: Job, slot: int) -> None:
        """For those that go by the clock alone."""
        coming = job.coming(slot)
        if coming is not None:
            self._arm(job, coming)

    def _arm_after(self, job: Job, now: Instant) -> None:
        """When nothing of it runs: fixed delay counts from here."""
        if isinstance(job.plan, Every) and job.plan.delay:
            if not job.runs and not job.waiting:
                self._arm(job, now.mono + job.plan.interval)
        else:
            self._arm_next(job, job.last)

    def _arm(self, job: Job, slot: int) -> None:
        timers = self.wall if job.wall else self.mono
        timers.cancel(job.timer)
        job.slot, job.parked = slot, False
        job.timer = timers.arm(job.due(slot), job)

    # --- runs, as `runs` tells of them ---

    def idle(self, job: Job, now: Instant) -> None:
        """Nothing of it runs or waits any more."""
        if isinstance(job.plan, Once):
            self.drop(job)
        elif isinstance(job.plan, Every) and job.plan.delay and job.timer is None and not job.parked:
            self._arm(job, now.mono + job.plan.interval)

    def ended(self, id_: str, run: int, outcome: str, now: Instant, why: str = "") -> None:
        """A run is over: done, rejected, raised, died, lost; or undelivered (it has reached nobody) or unknown (the broker
        died, and it may go on)."""
        job = self.jobs.get(id_)
        if job is not None:
            self.runs.ended(job, run, outcome, why, now)

    # --- what owners say ---

    def declare(self, name: str, generation: int, declared: Iterable[Declared], now: Instant) -> None:
        """All that this incarnation declares: what it does not name any more is gone."""
        owner = self._spoken(name, generation, now)
        if owner is None:
            return
        wanted = {each.id: each for each in declared}
        for job in [job for job in owner.jobs.values() if job.declared and job.id not in wanted]:
            self.drop(job)
        for each in wanted.values():
            self._declare(owner, each, now)
        for id_ in list(owner.memory):
            del owner.memory[id_]
            self.effects.append(Forget(id_))
        self._tidy(owner)

    def _declare(self, owner: Owner, each: Declared, now: Instant) -> None:
        job, memory = self.jobs.get(each.id), owner.memory.pop(each.id, None)
        if job is not None and job.plan == each.plan and job.method == each.method:
            return
        kept = job
        if kept is not None:
            self._take_out(kept)
        job = Job(each.id, owner, each.method, each.plan)
        if isinstance(each.plan, Cron):
            job.line = Cronline(each.plan.expression, each.plan.timezone)
        if kept is not None:
            job.paused, job.fired, job.skipped, job.runs = kept.paused, kept.fired, kept.skipped, kept.runs
        self._put_in(job)
        job.paused = job.paused or (memory is not None and memory.paused)
        slot = first_slot(job, each, memory, now)
        if slot is not None:
            self._arm(job, slot)
        self.runs.take_over(job, each, memory, now)
        if memory is None:
            self.runs.keep(job, now)
        else:
            self.runs.keep_or_forget(job, now)

    def schedule(self, name: str, generation: int, id_: str, method: str, plan: Once, args: bytes, now: Instant) -> None:
        """A one-shot timer. One of the same id is replaced; the same once more changes nothing. Full: there are too many."""
        if len(self.jobs) >= MOST or self._bytes + len(args) > MOST_BYTES:
            raise Full
        owner = self._spoken(name, generation, now)
        if owner is None:
            return
        known = self.jobs.get(id_)
        if known is not None and (known.method, known.plan, known.args) == (method, plan, args):
            return
        if known is not None:
            self._take_out(known)
        job = Job(id_, owner, method, plan, args)
        self._put_in(job)
        self._arm(job, plan.due)
        self.runs.keep(job, now)

    def cancel(self, name: str, id_: str) -> bool:
        """Whether there was one; it does not run after this."""
        job = self.jobs.get(id_)
        if job is None or job.owner.name != name or job.declared or job.runs:
            return False
        if any(only is not None for _, only in job.waiting or ()):
            return False  # an earlier life of the scheduler may have given it
        self.drop(job)
        return True

    # --- what becomes of names ---

    def presence(self, name: str, state: str | None, generation: int, now: Instant) -> None:
        """What the broker says of a name: starting, ready, restarting, stopped, gone; None when nobody has it."""
        owner = self.owners.get(name)
        if owner is None or (generation and generation < owner.generation) or _is_old(owner, state, generation):
            return
        owner.generation = max(owner.generation, generation)
        match state:
            case "ready":
                self._ready(owner, now)
            case "starting":
                self._unready(owner, Presence.AWAY)
            case "restarting":
                owner.dead = max(owner.dead, generation)
                self._unready(owner, Presence.AWAY)
            case "stopped" if generation:
                owner.dead = max(owner.dead, generation)
                self._unready(owner, Presence.STOPPED, now.mono + STOPPED)
            case "gone":
                self.gone(name)
            case _ if owner.presence in (Presence.AWAY, Presence.ABSENT) and not owner.generation:
                self._unready(owner, Presence.ABSENT, now.mono + ABSENT)
            case _:
                self.gone(name)

    def heard(self, name: str) -> tuple[int, int, Presence] | None:
        """What is known of a name. Who asks what has become of one compares: what has changed meanwhile is newer than an
        answer that nobody has it."""
        owner = self.owners.get(name)
        return None if owner is None else (owner.generation, owner.dead, owner.presence)

    def _ready(self, owner: Owner, now: Instant) -> None:
        self.mono.cancel(owner.patience)
        owner.patience, owner.presence = None, Presence.READY
        self._let_go(owner, now)

    def _let_go(self, owner: Owner, now: Instant) -> None:
        for job in [job for job in owner.jobs.values() if job.parked or job.waiting]:
            if job.parked:
                self._come(job, now)
            self.runs.pump(job, now)

    def connected(self, is_open: bool, now: Instant) -> None:
        """Whether there is a broker. Without one nothing is given: what has not left this process must not count as if
        its agent might have it."""
        self.runs.open = is_open
        if is_open:
            for owner in [owner for owner in self.owners.values() if owner.ready]:
                self._let_go(owner, now)

    def _unready(self, owner: Owner, presence: Presence, until: int | None = None) -> None:
        if owner.presence is presence and owner.patience is not None:
            return
        self.mono.cancel(owner.patience)
        owner.presence = presence
        owner.patience = None if until is None else self.mono.arm(until, owner)

    def gone(self, name: str) -> None:
        """Nobody will have the name: nothing of it is left."""
        owner = self.owners.pop(name, None)
        if owner is None:
            return
        self.mono.cancel(owner.patience)
        for job in list(owner.jobs.values()):
            self._take_out(job)
            self.effects.append(Forget(job.id))
            for run in job.runs or ():
                self.effects.append(Note("ended", job.id, {"run": run, "outcome": "gone"}))
        self.effects.extend(Forget(id_) for id_ in owner.memory)
        if owner.jobs or owner.memory:
            self.effects.append(Note("gone", name, {"schedules": len(owner.jobs) + len(owner.memory)}))

    def _spoken(self, name: str, generation: int, now: Instant) -> Owner | None:
        """Its owner lives, unless its end has been heard of; None for one that a newer generation has replaced."""
        owner = self._owner(name)
        if generation < owner.generation:
            self._tidy(owner)
            return None
        owner.generation = generation
        if generation > owner.dead and not owner.ready:
            self._ready(owner, now)
        return owner

    def _owner(self, name: str) -> Owner:
        return self.owners.get(name) or self.owners.setdefault(name, Owner(name))

    def _tidy(self, owner: Owner) -> None:
        if not owner.jobs and not owner.memory and self.owners.get(owner.name) is owner:
            self.mono.cancel(owner.patience)
            del self.owners[owner.name]

    # --- from disk ---

    def restore(self, records: Iterable[Record]) -> None:
        """What an earlier life of the scheduler has kept. A name that was heard of in this life of root, and that nobody
        has any more, is gone; others may have been meant to come."""
        for record in records:
            owner = self._owner(record.name)
            owner.generation = max(owner.generation, min(record.generation, 1))
            if record.kind == "declared":
                owner.memory[record.id] = record
                continue
            plan = Once(record.due, Rules(misfire="run_once", grace=record.grace), record.wall)
            job = Job(record.id, owner, record.method, plan, record.args, record.due)
            job.paused = record.paused
            self._put_in(job)
            if record.run is None:
                self._arm(job, record.due)
            else:
                self.runs.remember(job, record)

    # --- operators ---

    def run_now(self, id_: str, now: Instant) -> str | None:
        """One run beside the slots, which changes none of them; why not, or None."""
        job = self.jobs[id_]
        if not job.owner.ready or not self.runs.open:
            return f"{job.owner.name} is not ready"
        if (job.runs or job.waiting) and (job.plan.rules.overlap == "skip" or not job.declared):
            return "a run of it goes on, and it does not overlap"
        if isinstance(job.plan, Once):  # the one run that it has
            self._disarm(job)
            self.runs.wish(job, [job.slot], False, now)
            self.runs.keep(job, now)
        else:
            self.runs.wish(job, [-now.mono], False, now)
        return None

    def pause(self, id_: str, now: Instant) -> None:
        job = self.jobs[id_]
        job.paused = True
        self.runs.keep_or_forget(job, now)

    def resume(self, id_: str, now: Instant) -> None:
        job = self.jobs[id_]
        job.paused = False
        self.runs.keep_or_forget(job, now)
        if job.parked:
            self._come(job, now)
        self.runs.pump(job, now)

    # --- the table ---

    def _put_in(self, job: Job) -> None:
        self.jobs[job.id] = job.owner.jobs[job.id] = job
        self._bytes += len(job.args)

    def _take_out(self, job: Job) -> None:
        self._disarm(job)
        self.mono.cancel(job.retry)
        for run in (job.runs or {}).values():
            self.mono.cancel(run.limit)
        self.jobs.pop(job.id, None)
        self._bytes -= len(job.args)

    def drop(self, job: Job) -> None:
        """It is over, or cancelled."""
        self._take_out(job)
        job.owner.jobs.pop(job.id, None)
        self.effects.append(Forget(job.id))
        self._tidy(job.owner)

    def _disarm(self, job: Job) -> None:
        (self.wall if job.wall else self.mono).cancel(job.timer)
        job.timer, job.parked = None, False

    def counts(self) -> Mapping[str, int]:
        """For metrics: what there is."""
        return {
            "schedules": len(self.jobs),
            "armed": sum(1 for job in self.jobs.values() if job.timer is not None),
            "running": sum(len(job.runs or ()) for job in self.jobs.values()),
        }


def _is_old(owner: Owner, state: str | None, generation: int) -> bool:
    """Answers and events come on two lanes, so what was true before may be heard behind what is: an incarnation that was
    ready does not start any more, and one that has died is not ready."""
    if state == "starting":
        return owner.ready and generation <= owner.generation
    return state == "ready" and 0 < generation <= owner.dead
