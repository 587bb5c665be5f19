"""How a supervisor leaves out of turn: `urge` (an urgent stop, in order but before everything queued) and `kill`. Pure.

The orderly way, in its turn, is `Supervisor.shut_down`. Both end only when nothing is left below: a supervisor is never gone
while a process of its subtree may still live (rule 60).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.supervisor.child import HAS_PROCESS, Child, ChildState
from otpd.supervisor.events import AbortStart, Stop
from otpd.supervisor.job import LEAVING, Doing, Job
from otpd.supervisor.spec import BRUTAL_KILL

if TYPE_CHECKING:
    from otpd.supervisor.supervision import Supervisor


def urge(sup: Supervisor) -> None:
    """Leave now, giving up what is being started (T24). Harmless when it is leaving already."""
    job = sup.job
    if job.doing in (Doing.KILL, Doing.ENDED):
        return
    if job.doing not in LEAVING:
        sup.refuse(job.request)
        doing = Doing.ROLLBACK if job.doing is Doing.INIT else Doing.SHUTDOWN
        sup.job = Job(doing, sup.all_reversed(), pending=job.pending, reason="shutdown", asked=True)
    sup.job.urgent = True
    for child in sup.job.pending:
        _urge_child(sup, child)
    sup.wake()


def _urge_child(sup: Supervisor, child: Child) -> None:
    """The own children of a worker go when it has ended: it may need them to the last."""
    below = sup.ledger.supervisors.get(child.path)
    if child.state is ChildState.STARTING:
        child.state = ChildState.ABORTING
        if below is None and child.has_process:
            sup.ledger.emit(AbortStart(child.path, child.generation))
    if below is not None:
        urge(below)


def kill(sup: Supervisor) -> None:
    """Kill everything that is left below, at once; then the supervisor ends as `killed`."""
    if sup.job.doing in (Doing.KILL, Doing.ENDED):
        return
    sup.notice("supervisor_killed")
    sup.refuse(sup.job.request)
    sup.job = Job(Doing.KILL, asked=sup.job.asked)
    for child in sup.children.values():
        if child.state in HAS_PROCESS:
            _kill_child(sup, child)
        else:
            sup.lay_down(child)
    sup.wake()


def _kill_child(sup: Supervisor, child: Child) -> None:
    """A start is aborted, a ladder cut short, a supervisor killed in turn, also that of a worker's own children."""
    sup.job.pending.add(child)
    below = sup.ledger.keeper(child.path)
    tell = child.has_process and child.path not in sup.ledger.supervisors
    match child.state:
        case ChildState.STARTING:
            child.state = ChildState.ABORTING
            if tell:
                sup.ledger.emit(AbortStart(child.path, child.generation))
        case ChildState.RUNNING | ChildState.STOPPING:
            child.state = ChildState.STOPPING
            if tell:
                sup.ledger.emit(Stop(child.path, child.generation, BRUTAL_KILL))
    if below is not None:
        kill(below)
