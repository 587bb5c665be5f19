"""What goes into the supervision tree and what comes out: events and effects, as values.

`tree.Tree.handle(event, now)` takes one of the events and gives back effects in the order in which the shell must carry
them out. Workers are addressed by (path, generation): path is the ids from the top joined by "/", generation counts the
start attempts of that path, 1, 2, 3, ..., for the life of the Tree (never reset). Exit reasons are strings: "normal",
"shutdown", "killed", "signal(n)", "error(detail)"; "normal" and everything that begins with "shutdown" is clean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from otpd.supervisor.spec import ChildSpec, Shutdown, SupervisorSpec

# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class Boot:
    """Start the top supervisor."""


@dataclass(frozen=True, slots=True)
class StopTree:
    """The node is asked to stop. Queues like any message; `urgent` goes first and aborts pending starts (T21, T24)."""

    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The worker is ready."""

    path: str
    generation: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The attempt failed; if there was a process, it is gone. `reason` is data for people and for replies."""

    path: str
    generation: int
    reason: Any


@dataclass(frozen=True, slots=True)
class StartIgnored:
    """The worker declined: there is nothing to run, and that is no error."""

    path: str
    generation: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone, by itself or because it was stopped. Before Started it counts as StartFailed."""

    path: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    token: int


@dataclass(frozen=True, slots=True)
class StartChild:
    sup: str
    #: For Dynamic.SIMPLE only its id counts (the instance's name); its start replaces the template's if not None.
    spec: ChildSpec
    #: `sup` is a worker and this its incarnation that asks: its first child makes its own supervisor (see `own`).
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class TerminateChild:
    sup: str
    id: str
    generation: int | None = None  # dynamic supervisors: this incarnation of `id`; own ones take the name alone


@dataclass(frozen=True, slots=True)
class RestartChild:
    sup: str
    id: str


@dataclass(frozen=True, slots=True)
class DeleteChild:
    sup: str
    id: str


@dataclass(frozen=True, slots=True)
class WhichChildren:
    sup: str


@dataclass(frozen=True, slots=True)
class CountChildren:
    sup: str


@dataclass(frozen=True, slots=True)
class GetChildSpec:
    sup: str
    id: str
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeSpec:
    """OTP's code change: new flags and children; see FORMAT "change_spec in detail"."""

    sup: str
    spec: SupervisorSpec


Op: TypeAlias = (
    StartChild
    | TerminateChild
    | RestartChild
    | DeleteChild
    | WhichChildren
    | CountChildren
    | GetChildSpec
    | ChangeSpec
)


def added_by(op: Op) -> Iterator[str]:
    """The paths of all that a request may bring into the tree.

    >>> inside = SupervisorSpec(children=(ChildSpec(id="a", start="how"),))
    >>> list(added_by(StartChild("top", ChildSpec(id="s", start=inside))))
    ['top/s', 'top/s/a']
    """
    match op:
        case StartChild(sup, spec):
            yield from _paths(sup, (spec,))
        case ChangeSpec(sup, spec):
            yield from _paths(sup, spec.children)


def _paths(sup: str, children: tuple[ChildSpec, ...]) -> Iterator[str]:
    for child in children:
        yield f"{sup}/{child.id}"
        if isinstance(child.start, SupervisorSpec):
            yield from _paths(f"{sup}/{child.id}", child.start.children)


@dataclass(frozen=True, slots=True)
class Request:
    """A management request; answered by exactly one Reply with the same id."""

    id: int
    op: Op


Event: TypeAlias = Boot | StopTree | Started | StartFailed | StartIgnored | Exited | TimerFired | Request

# --- effects: what to do ---


@dataclass(frozen=True, slots=True)
class Spawn:
    """Begin a start attempt; answer with Started, StartFailed, StartIgnored or Exited."""

    path: str
    generation: int
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Stop:
    """Begin the stop ladder (ask, wait `shutdown`, kill, verify); answer with Exited.

    `shutdown` may come a second time with a harder value (BRUTAL_KILL): then the ladder is cut short.
    """

    path: str
    generation: int
    shutdown: Shutdown


@dataclass(frozen=True, slots=True)
class AbortStart:
    """Give up a pending start attempt: kill it and answer with StartFailed or Exited.

    Nobody waits for it: the tree stops urgently, its supervisor is killed, or the worker whose own child it is has ended.
    """

    path: str
    generation: int


@dataclass(frozen=True, slots=True)
class EndWorker:
    """End a worker that nobody asked to stop, as its spec says: it can't go on, `why`. An abnormal end, before or after
    Started; answer with StartFailed or Exited."""

    path: str
    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Send TimerFired(token) after `delay` seconds."""

    token: int
    delay: float
    path: str


@dataclass(frozen=True, slots=True)
class CancelTimer:
    token: int


@dataclass(frozen=True, slots=True)
class Reply:
    id: int
    result: Any


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell observers; `kind` is one of the words in `tree.NOTICES`, `data` has its details."""

    kind: str
    path: str
    generation: int
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TreeStarted:
    """The top supervisor has finished starting."""


@dataclass(frozen=True, slots=True)
class TreeEnded:
    """The top supervisor is gone: `reason` "shutdown" after StopTree or giving up, or why its start failed.

    `gave_up` is true unless the end was asked for (T53: the node must not exit 0 then).
    """

    reason: Any
    gave_up: bool


Effect: TypeAlias = (
    Spawn | Stop | AbortStart | EndWorker | ArmTimer | CancelTimer | Reply | Notice | TreeStarted | TreeEnded
)
