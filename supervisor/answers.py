"""What the answer of a child does to its row and to the job of its supervisor: one table, state x event -> function. Pure.

Both kinds of children answer here: workers through the shell, supervisors directly. An event that is not in the table is
late (its incarnation is over, or was given up) and changes nothing. The end of a worker with children of its own is told
to observers at once, and to its supervisor when they are gone (see `own`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from otpd.supervisor import leaving
from otpd.supervisor.child import Child, ChildState, is_clean
from otpd.supervisor.events import Exited, Started, StartFailed, StartIgnored
from otpd.supervisor.job import Doing, Exit, Job
from otpd.supervisor.notices import offender
from otpd.supervisor.spec import Dynamic, Restart

if TYPE_CHECKING:
    from otpd.supervisor.supervision import Supervisor

Answer: TypeAlias = Started | StartFailed | StartIgnored | Exited


def worker_said(sup: Supervisor, child: Child, event: Answer) -> None:
    """An event of the shell: told to observers, then handled, if it is about the present incarnation."""
    if event.generation != child.generation or (child.state, type(event)) not in _TABLE or child.end is not None:
        return
    _notice(sup, child, event)
    own = sup.ledger.own.get(child.path)
    if own is None or isinstance(event, Started):
        handle(sup, child, event)
    elif own.job.doing is Doing.ENDED:
        del sup.ledger.own[child.path]
        handle(sup, child, event)
    else:
        child.end = event
        leaving.urge(own)


def handle(sup: Supervisor, child: Child, event: Answer) -> None:
    step = _TABLE.get((child.state, type(event)))
    if step is not None:
        step(sup, child, event)
        sup.wake()


def _started(sup: Supervisor, child: Child, _event: Answer) -> None:
    sup.job.pending.discard(child)
    child.state, child.reason, child.failed = ChildState.RUNNING, None, False
    child.lived, child.ready_at = child.generation, sup.ledger.now
    sup.job.result = ["ok", child.generation]
    if sup.job.doing is Doing.REVIVE:
        child.delay = None


def _ignored(sup: Supervisor, child: Child, _event: Answer) -> None:
    """No process and no error. Kept as a spec, unless OTP would not (rules 6, 7, 29, 78, 91, 93)."""
    sup.job.pending.discard(child)
    child.reason, child.failed = "ignored", False
    sup.job.result = "ignore" if sup.spec.dynamic is Dynamic.DYNAMIC else ["ok", "undefined"]
    if sup.job.doing is Doing.REVIVE:
        sup.lay_down(child)
    else:
        sup.forget(child)


def _start_failed(sup: Supervisor, child: Child, event: Answer) -> None:
    sup.job.pending.discard(child)
    child.reason, child.failed = _why(event), True
    sup.lay_down(child)
    match sup.job.doing:
        case Doing.INIT:
            _failed_in_init(sup, child)
        case Doing.RESTART:
            sup.job.starts.clear()
            sup.report("start_error", child, child.reason)
            sup.retry_failed_start(child)
        case Doing.ADD:
            sup.remove(child)
            sup.job.result = ["error", "start_failed", child.reason]
        case _:
            sup.job.result = ["error", "start_failed", child.reason]


def _failed_in_init(sup: Supervisor, child: Child) -> None:
    """Fatal (rules 3-5), unless the supervisor isolates."""
    sup.report("start_error", child, child.reason)
    if not sup.spec.isolate:
        reason = ["failed_to_start_child", child.id, child.reason]
        sup.job = Job(Doing.ROLLBACK, stops=sup.all_reversed(), reason=reason)
    elif child.spec.restart == Restart.TEMPORARY:
        sup.remove(child)
    else:
        sup.retry_failed_start(child)


def _aborted(sup: Supervisor, child: Child, event: Answer) -> None:
    sup.job.pending.discard(child)
    child.reason, child.failed = _why(event), False
    sup.forget(child)


def _died(sup: Supervisor, child: Child, event: Answer) -> None:
    child.state, child.reason = ChildState.DEAD, _why(event)
    child.failed = child.is_supervisor or not is_clean(child.reason)  # a supervisor that ends by itself gave up
    child.uptime = sup.ledger.now - child.ready_at
    sup.mailbox.append(Exit(child.id, child.generation))


def _stopped(sup: Supervisor, child: Child, event: Answer) -> None:
    sup.job.pending.discard(child)
    if sup.job.doing is Doing.KILL:
        child.reason, child.failed = _why(event), False
        sup.lay_down(child)
    else:
        sup.stopped(child, _why(event), unnoticed=False)


def _why(event: Answer) -> Any:
    return event.reason if isinstance(event, StartFailed | Exited) else "ignored"


def _notice(sup: Supervisor, child: Child, event: Answer) -> None:
    def tell(kind: str, **data: object) -> None:
        sup.ledger.notice(kind, child.path, child.generation, **data)

    match event, child.state:
        case Started(), _:
            tell("child_started", restart=child.automatic, offender=offender(child))
        case StartIgnored(), _:
            tell("child_ignored")
        case Exited(reason=reason), ChildState.RUNNING | ChildState.STOPPING:
            asked = child.state is ChildState.STOPPING
            tell("child_exited", reason=reason, asked=asked, uptime=sup.ledger.now - child.ready_at)
        case StartFailed(reason=reason) | Exited(reason=reason), _:
            tell("child_start_failed", reason=reason, asked=child.state is ChildState.ABORTING)


_TABLE: dict[tuple[ChildState, type[Answer]], Callable[[Supervisor, Child, Answer], None]] = {
    (ChildState.STARTING, Started): _started,
    (ChildState.STARTING, StartIgnored): _ignored,
    (ChildState.STARTING, StartFailed): _start_failed,
    (ChildState.STARTING, Exited): _start_failed,
    (ChildState.ABORTING, StartIgnored): _aborted,
    (ChildState.ABORTING, StartFailed): _aborted,
    (ChildState.ABORTING, Exited): _aborted,
    (ChildState.RUNNING, Exited): _died,
    (ChildState.STOPPING, Exited): _stopped,
}
