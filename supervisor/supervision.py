"""One supervisor as OTP has it: a mailbox, one message at a time, and a table of children. Pure; `tree` holds them all.

What it does at a time is a Job (see `job`), what state each child is in a ChildState (see `child`). What children answer is
handled in `answers`, requests in `requests`, urgent ends in `leaving`. Guarantees: a child has at most one process; it is
started only after the one before it is gone; while an answer is pending messages wait in order of arrival; an end that a
stop meets while its notice still waits consumes the notice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import ClassVar, Protocol

from otpd.supervisor import answers, leaving, requests
from otpd.supervisor.answers import Answer
from otpd.supervisor.backoff import next_delay, spread, stable
from otpd.supervisor.child import ACTIVE, Child, ChildState
from otpd.supervisor.events import Exited, Reply, Request, Spawn, Started, StartFailed, StartIgnored, Stop
from otpd.supervisor.intensity import Window
from otpd.supervisor.job import LEAVING, Doing, Exit, Job, Message, ParentStop
from otpd.supervisor.ledger import Kill, Ledger, Retry
from otpd.supervisor.notices import is_crash, is_stop_error, needs_restart, offender
from otpd.supervisor.spec import BRUTAL_KILL, AutoShutdown, ChildSpec, Dynamic, Restart, Strategy, SupervisorSpec
from otpd.supervisor.validate import SpecError, check_supervisor


class Owner(Protocol):
    """Whoever started a supervisor and waits for its answers: another supervisor, or the tree for the top."""

    def answer(self, child: Child, event: Answer) -> None: ...


class Supervisor:
    """`seat` is its row in the table of its owner. Ended means gone: a restart makes a new one, with an empty window."""

    __slots__ = ("children", "generation", "job", "ledger", "mailbox", "owner", "path", "seat", "spec", "window")
    #: Its children are meant by name, whatever its engine.
    by_name: ClassVar[bool] = False

    def __init__(self, ledger: Ledger[Supervisor], owner: Owner, seat: Child, spec: SupervisorSpec) -> None:
        self.ledger = ledger
        self.owner = owner
        self.seat = seat
        self.path = seat.path
        self.generation = seat.generation
        self.spec = spec
        self.children: dict[str, Child] = {}  # in start order
        self.job = Job()
        self.mailbox: deque[Message] = deque()
        self.window = Window(spec.max_restarts, spec.max_seconds)

    # --- its turn ---

    def begin(self) -> None:
        """Check everything, then start the children (rules 1-10)."""
        self.ledger.supervisors[self.path] = self
        declined = self.ledger.gate(self.path, self.generation)
        if isinstance(declined, StartIgnored):
            self.notice("supervisor_ignored")
            self._close(declined)
        elif declined is not None:
            self._fail(declined.reason, None)
        else:
            self.notice("supervisor_init")
            self._begin_children()

    def _begin_children(self) -> None:
        try:
            check_supervisor(self.spec)
        except SpecError as error:
            self._fail(error.data, str(error))
            return
        if self.spec.dynamic is None:
            self.children = {spec.id: self.row(spec) for spec in self.spec.children}
        self.job = Job(Doing.INIT, starts=deque(self.children.values()))
        self.wake()

    def _fail(self, reason: object, text: str | None) -> None:
        self.job = Job(Doing.ROLLBACK, reason=reason, text=text)
        self.wake()

    def run(self) -> None:
        """Work until an answer is awaited or there is nothing left to do."""
        while True:
            job = self.job
            if job.doing in (Doing.SUSPENDED, Doing.ENDED) or self._waits_to_leave:
                return
            if job.stops and (self._parallel or not job.pending):
                self._stop(job.stops.popleft())
            elif job.pending:
                return
            elif job.starts:
                self._start(job.starts.popleft())
            elif job.doing is not Doing.NOTHING:
                _CONCLUSIONS[job.doing](self, job)
            elif self.mailbox:
                self._receive(self.mailbox.popleft())
            else:
                return

    def answer(self, child: Child, event: Answer) -> None:
        """Of a supervisor below."""
        answers.handle(self, child, event)

    def post(self, message: Message) -> None:
        self.mailbox.append(message)
        self.wake()

    def wake(self) -> None:
        self.ledger.wake(self)

    def _receive(self, message: Message) -> None:
        match message:
            case Exit():
                self._on_exit(message)
            case Retry():
                self._on_retry(message)
            case ParentStop():
                self.shut_down(asked=True)
            case Request():
                requests.handle(self, message)

    # --- ends of children ---

    def _on_exit(self, message: Exit) -> None:
        child = self.children.get(message.id)
        if child is None or child.state is not ChildState.DEAD or child.generation != message.generation:
            return  # was consumed by a stop
        if is_crash(child.spec, child.reason):
            self.report("child_terminated", child, child.reason)
        if needs_restart(child.spec, child.reason):
            self._restart_after_run(child)
        else:
            self.forget(child)
            self._auto_shutdown(child)

    def _auto_shutdown(self, child: Child) -> None:
        """Rules 69-73; `child` has ended by itself and for good."""
        mode = self.spec.auto_shutdown
        if mode == AutoShutdown.NEVER or not child.spec.significant:
            return
        others = (other for other in self.children.values() if other.state in ACTIVE)
        if mode == AutoShutdown.ANY_SIGNIFICANT or not any(other.spec.significant for other in others):
            self.notice("auto_shutdown", child=child.id)
            self.shut_down(asked=False)

    def _restart_after_run(self, child: Child) -> None:
        if stable(child.spec.backoff, child.uptime):
            child.delay = None
        delay = self._next_delay(child)
        if delay > 0:
            self._back_off(child, delay)
        else:
            self._restart(child)

    def retry_failed_start(self, child: Child) -> None:
        """Behind everything that waits already, so that requests see the child as restarting (rules 39, 40)."""
        delay = self._next_delay(child)
        if delay > 0:
            self._back_off(child, delay)
        else:
            child.state = ChildState.RESTARTING
            self.post(Retry(child.id))

    def _next_delay(self, child: Child) -> float:
        child.delay = next_delay(child.spec.backoff, child.delay)
        return spread(child.spec.backoff, child.delay, child.path, child.generation)

    def _back_off(self, child: Child, delay: float) -> None:
        child.state = ChildState.BACKOFF
        child.timer = self.ledger.next_token()
        child.next_attempt = self.ledger.now + delay
        self.ledger.arm(child.timer, self.path, Retry(child.id, child.timer), delay, child.path)
        data = {"delay": delay, "next_attempt": child.next_attempt, "reason": child.reason}
        self.ledger.notice("restart_scheduled", child.path, child.generation, **data)

    def _on_retry(self, message: Retry) -> None:
        child = self.children.get(message.id)
        if child is None:
            return
        queued = message.token is None and child.state is ChildState.RESTARTING
        timed = child.state is ChildState.BACKOFF and message.token == child.timer
        if queued or timed:
            self._restart(child)

    def _restart(self, child: Child) -> None:
        """Count it, then restart what the strategy says, or give up (rules 31-36, 43-47)."""
        if not self.window.admit(self.ledger.now):
            self._give_up(child)
            return
        self.lay_down(child)
        if self.strategy == Strategy.ONE_FOR_ONE:
            self.job = Job(Doing.RESTART, starts=deque([child]))
            return
        group = self._group(child)
        starts = deque(other for other in reversed(group) if other.spec.restart != Restart.TEMPORARY)
        self.job = Job(Doing.RESTART, stops=deque(group), starts=starts)

    def _group(self, child: Child) -> list[Child]:
        """The children that restart with `child`, last first."""
        if self.strategy == Strategy.ONE_FOR_ALL:
            return list(reversed(self.children.values()))
        group = []
        for other in reversed(self.children.values()):
            group.append(other)
            if other is child:
                break
        return group

    def _give_up(self, child: Child) -> None:
        self.report("shutdown", child, "reached_max_restart_intensity")
        self.notice("gave_up", child=child.id, max_restarts=self.window.limit, max_seconds=self.window.period)
        child.failed = True
        self.forget(child)
        self.shut_down(asked=False)

    # --- starting and stopping one child ---

    def _start(self, child: Child) -> None:
        child.automatic = self.job.doing is Doing.RESTART
        child.generation = self.ledger.attempt(child.path, automatic=child.automatic)
        child.state = ChildState.STARTING
        self.job.pending.add(child)
        if isinstance(child.spec.start, SupervisorSpec):
            Supervisor(self.ledger, self, child, child.spec.start).begin()
        else:
            self.ledger.emit(Spawn(child.path, child.generation, child.spec))

    def _stop(self, child: Child) -> None:
        match child.state:
            case ChildState.RUNNING:
                self._ask_to_stop(child)
            case ChildState.DEAD:
                self.stopped(child, child.reason, unnoticed=True)
            case ChildState.RESTARTING | ChildState.BACKOFF | ChildState.DOWN:
                child.failed = False  # from now on it is down because it was told to
                self.forget(child)
            case _:
                pass  # is on its way already

    def _ask_to_stop(self, child: Child) -> None:
        child.state = ChildState.STOPPING
        self.job.pending.add(child)
        below = self.ledger.supervisors.get(child.path)
        if below is None:
            if child.has_process:
                self.ledger.emit(Stop(child.path, child.generation, child.spec.shutdown))
        elif child.spec.shutdown == BRUTAL_KILL:
            leaving.kill(below)
        else:
            self._ask_supervisor(child, below)

    def _ask_supervisor(self, child: Child, below: Supervisor) -> None:
        limit = child.spec.shutdown
        if not isinstance(limit, str):
            child.timer = self.ledger.next_token()
            self.ledger.arm(child.timer, child.path, Kill(), limit, child.path)
        if self.job.urgent:
            leaving.urge(below)
        else:
            below.post(ParentStop())

    def stopped(self, child: Child, reason: str, *, unnoticed: bool) -> None:
        child.reason, child.failed = reason, False
        if is_stop_error(self.spec.dynamic, child.spec, reason, unnoticed=unnoticed):
            if self._parallel:
                self.job.odd.append((child, reason))
            else:
                self.report("shutdown_error", child, reason)
        self.forget(child)

    def lay_down(self, child: Child) -> None:
        """No process any more, nor a timer for the next one."""
        self.ledger.disarm(child.timer)
        child.timer = child.next_attempt = None
        child.state = ChildState.DOWN

    def forget(self, child: Child) -> None:
        """OTP's del_child: the spec stays, unless the child is temporary or belongs to a dynamic supervisor."""
        self.lay_down(child)
        if child.spec.restart == Restart.TEMPORARY or self.spec.dynamic is not None:
            self.remove(child)

    def remove(self, child: Child) -> None:
        if self.children.get(child.id) is child:
            del self.children[child.id]
            self.ledger.notice("child_removed", child.path, child.generation)

    # --- leaving ---

    def shut_down(self, *, asked: bool) -> None:
        self.job = Job(Doing.SHUTDOWN, stops=self.all_reversed(), asked=asked)

    # --- conclusions ---

    def _rest(self, _job: Job) -> None:
        self.job = Job()

    def _reply(self, job: Job) -> None:
        self.job = Job()
        if job.request is not None:
            self.ledger.emit(Reply(job.request, job.result))

    def _is_up(self, _job: Job) -> None:
        self.job = Job()
        self.notice("supervisor_started", restart=self.seat.automatic)
        self.owner.answer(self.seat, Started(self.path, self.generation))

    def _start_has_failed(self, job: Job) -> None:
        self.notice("supervisor_start_failed", reason=job.reason, text=job.text)
        self._close(StartFailed(self.path, self.generation, job.reason))

    def _has_stopped(self, job: Job) -> None:
        self._report_odd_ends(job)
        self._ended("shutdown", job)

    def _is_killed(self, job: Job) -> None:
        for child in self.children.values():
            self.lay_down(child)
        self._ended("killed", job)

    def _ended(self, reason: str, job: Job) -> None:
        self.notice("supervisor_stopped", reason=reason, asked=job.asked)
        self._close(Exited(self.path, self.generation, reason))

    def _close(self, event: Answer) -> None:
        self.job.doing = Doing.ENDED
        del self.ledger.supervisors[self.path]
        self.refuse_all()
        self.owner.answer(self.seat, event)

    def refuse_all(self) -> None:
        """What waits is never worked off."""
        for message in self.mailbox:
            if isinstance(message, Request):
                self.refuse(message.id)
        self.mailbox.clear()

    def refuse(self, request: int | None) -> None:
        if request is not None:
            self.ledger.emit(Reply(request, ["error", "noproc"]))

    # --- helpers ---

    @property
    def strategy(self) -> Strategy:
        return Strategy.ONE_FOR_ONE if self.spec.dynamic is not None else self.spec.strategy

    @property
    def _waits_to_leave(self) -> bool:
        """The tree stops, and it is not its turn yet."""
        return self.ledger.closing and self.job.doing not in LEAVING

    @property
    def _parallel(self) -> bool:
        """A dynamic supervisor stops all children at once, when it leaves."""
        return self.spec.dynamic is not None and self.job.doing in LEAVING

    def all_reversed(self) -> deque[Child]:
        return deque(reversed(self.children.values()))

    def row(self, spec: ChildSpec) -> Child:
        return Child(spec, f"{self.path}/{spec.id}")

    def _report_odd_ends(self, job: Job) -> None:
        """simple_one_for_one merges equal reasons (rule 63)."""
        if self.spec.dynamic is not Dynamic.SIMPLE:
            for child, reason in job.odd:
                self.report("shutdown_error", child, reason)
            return
        for reason, count in Counter(reason for _, reason in job.odd).items():
            first = next(child for child, other in job.odd if other == reason)
            self.notice("shutdown_error", child=["children", count], reason=reason, offender=offender(first))

    def report(self, kind: str, child: Child, reason: object) -> None:
        self.notice(kind, child=child.id, reason=reason, offender=offender(child))

    def notice(self, kind: str, **data: object) -> None:
        self.ledger.notice(kind, self.path, self.generation, **data)


_CONCLUSIONS: dict[Doing, Callable[[Supervisor, Job], None]] = {
    Doing.INIT: Supervisor._is_up,
    Doing.ROLLBACK: Supervisor._start_has_failed,
    Doing.RESTART: Supervisor._rest,
    Doing.ADD: Supervisor._reply,
    Doing.REVIVE: Supervisor._reply,
    Doing.TERMINATE: Supervisor._reply,
    Doing.SHUTDOWN: Supervisor._has_stopped,
    Doing.KILL: Supervisor._is_killed,
}
