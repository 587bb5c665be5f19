"""The picture of the tree at one moment, for `otpd tree` and everything that asks: frozen values, made from the table.

Unlike a request it never waits in a mailbox: a supervisor that is busy is shown busy. What is not running is shown as
well, with what its spec says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from otpd.supervisor.child import Child, ChildState
from otpd.supervisor.job import LEAVING, Doing, Job
from otpd.supervisor.ledger import Ledger
from otpd.supervisor.spec import ChildSpec, SupervisorSpec
from otpd.supervisor.supervision import Supervisor

State: TypeAlias = Literal["starting", "running", "backoff", "restarting", "stopping", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """`reason`: why there is no process. `ready_at` and `next_attempt` are on the clock of `now`."""

    name: str
    path: str
    state: State
    generation: int  # of the last attempt; 0: none yet
    restarts: int  # automatic ones, for the life of the tree
    spec: ChildSpec
    reason: Any = None
    ready_at: float | None = None
    next_attempt: float | None = None
    delay: float | None = None  # the back-off that is being waited for, before jitter
    own: SupervisorView | None = None  # of its own children, if it has had any in this generation
    type: Literal["worker"] = "worker"

    @property
    def children(self) -> tuple[View, ...]:
        """Its own children."""
        return () if self.own is None else self.own.children


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorView:
    """`flags` are those in force now, after any change; `spec` is what its owner would restart it with."""

    name: str
    path: str
    state: State
    generation: int
    restarts: int
    spec: ChildSpec
    flags: SupervisorSpec
    strategy: str
    max_restarts: int | None
    max_seconds: int
    restarts_in_window: int
    children: tuple[View, ...]
    doing: str = Doing.NOTHING.value  # what it is busy with
    queued: int = 0  # messages that wait in its mailbox
    reason: Any = None
    ready_at: float | None = None
    next_attempt: float | None = None
    delay: float | None = None
    type: Literal["supervisor"] = "supervisor"


View: TypeAlias = WorkerView | SupervisorView


def view_of(ledger: Ledger[Supervisor], child: Child, job: Job | None, now: float) -> View:
    """`job` is what the owner of `child` is busy with."""
    state = _state(child, job)
    common = {
        "name": child.id,
        "path": child.path,
        "generation": child.generation or ledger.record(child.path).generation,
        "restarts": ledger.record(child.path).restarts,
        "spec": child.spec,
        "reason": child.reason,
        "ready_at": child.ready_at if child.state in (ChildState.RUNNING, ChildState.STOPPING) else None,
        "next_attempt": child.next_attempt,
        "delay": child.delay if child.state is ChildState.BACKOFF else None,
    }
    running = ledger.supervisors.get(child.path)
    if running is not None:
        return _running_supervisor(ledger, running, state, common, now)
    own = ledger.own.get(child.path)
    if own is not None:
        return WorkerView(state=state, own=_running_supervisor(ledger, own, state, common, now), **common)
    if isinstance(child.spec.start, SupervisorSpec):
        return _supervisor(child.spec.start, _below(ledger, child, state), 0, common | {"state": state})
    return WorkerView(state=state, **common)


def walk(view: View) -> Iterator[View]:
    """`view` and everything below it, parents first, in start order."""
    yield view
    for child in view.children:
        yield from walk(child)


def _running_supervisor(
    ledger: Ledger[Supervisor], sup: Supervisor, state: State, common: dict[str, Any], now: float
) -> SupervisorView:
    waiting = set(sup.job.starts)
    children = tuple(
        view_of(ledger, child, sup.job if child.state is not ChildState.DOWN or child in waiting else None, now)
        for child in sup.children.values()
    )
    if state == "running" and sup.job.doing in LEAVING:
        state = "stopping"
    busy = {"state": state, "doing": sup.job.doing.value, "queued": len(sup.mailbox)}
    return _supervisor(sup.spec, children, sup.window.count(now), common | busy)


def _supervisor(flags: SupervisorSpec, children: tuple[View, ...], used: int, common: dict[str, Any]) -> SupervisorView:
    return SupervisorView(
        flags=flags,
        strategy=str(flags.dynamic or flags.strategy),
        max_restarts=flags.max_restarts,
        max_seconds=flags.max_seconds,
        restarts_in_window=used,
        children=children,
        **common,
    )


def _below(ledger: Ledger[Supervisor], owner: Child, state: State) -> tuple[View, ...]:
    """The static children of a supervisor that is not running: waiting for it, or stopped with it."""
    assert isinstance(owner.spec.start, SupervisorSpec)
    job = Job(Doing.INIT) if state in ("starting", "restarting", "backoff") else None
    rows = [Child(spec, f"{owner.path}/{spec.id}") for spec in owner.spec.start.children]
    return tuple(view_of(ledger, row, job, 0.0) for row in rows)


def _state(child: Child, job: Job | None) -> State:
    """`job` None: nobody is about to start what is down."""
    if child.end is not None:
        return "stopping"
    restarting = job is not None and job.doing is Doing.RESTART
    match child.state:
        case ChildState.RUNNING:
            return "running"
        case ChildState.STOPPING | ChildState.ABORTING:
            return "stopping"
        case ChildState.BACKOFF:
            return "backoff"
        case ChildState.RESTARTING | ChildState.DEAD:
            return "restarting"
        case ChildState.STARTING:
            return "restarting" if restarting else "starting"
    if job is not None:
        return "restarting" if restarting else "starting"
    return "failed" if child.failed else "stopped"
