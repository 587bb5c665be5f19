"""The supervision tree as a pure machine: OTP's supervisors in one table, `handle(event, now) -> effects`.

`supervision` is one supervisor, `own` that of a worker's own children; this holds them all, gives each its turn, and stands
above the top one. No I/O, no clock, no randomness: the same events give the same effects, in the daemon, in a test and
against the recorded OTP traces.

>>> top = ChildSpec(id="top", start=SupervisorSpec(children=(ChildSpec(id="a", start="how"),)), type=ChildType.SUPERVISOR)
>>> tree = Tree(top)
>>> [effect for effect in tree.handle(Boot(), now=0.0) if isinstance(effect, Spawn)][0].path
'top/a'
>>> tree.handle(Started("top/a", 1), now=0.1)[-1]
TreeStarted()

Guarantees: at most one process per path; no Spawn of a path before the end of its last process, and of all that was below
it, was reported; work per
event grows with what changes, not with the number of children; a Request is answered by exactly one Reply; after StopTree
(urgent or not) there is exactly one TreeEnded, once the shell has answered every Stop and AbortStart; after an urgent one
nothing is spawned any more, and who waits for its turn to stop restarts nobody and answers no request. AbortStart is used
for an urgent StopTree and for killing a supervisor whose time to stop has passed. Events that fit nothing are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from otpd.supervisor import answers, leaving
from otpd.supervisor.answers import Answer
from otpd.supervisor.child import Child, ChildState
from otpd.supervisor.events import (
    Boot,
    Effect,
    Event,
    Exited,
    Reply,
    Request,
    Spawn,
    StartChild,
    Started,
    StartFailed,
    StartIgnored,
    StopTree,
    TimerFired,
    TreeEnded,
    TreeStarted,
)
from otpd.supervisor.intensity import Budget
from otpd.supervisor.job import LEAVING, Doing, Job, ParentStop
from otpd.supervisor.ledger import Gate, Kill, Ledger
from otpd.supervisor.notices import NOTICES
from otpd.supervisor.own import OwnSupervisor
from otpd.supervisor.spec import ChildSpec, ChildType, SupervisorSpec
from otpd.supervisor.supervision import Supervisor
from otpd.supervisor.views import SupervisorView, View, WorkerView, view_of, walk

__all__ = ["NOTICES", "ChildType", "Spawn", "SupervisorView", "Tree", "View", "WorkerView", "walk"]


def _admit_all(_path: str, _generation: int) -> None:
    return None


class Tree:
    """`top.start` must be a SupervisorSpec; `top.id` is the first part of every path.

    `gate` may decline the start of a supervisor, by path and generation, where that depends on more than its spec.
    """

    def __init__(self, top: ChildSpec, gate: Gate = _admit_all) -> None:
        if not isinstance(top.start, SupervisorSpec):
            raise TypeError(f"expected the start of {top.id!r}, the top, to be a SupervisorSpec, got: {top.start!r}")
        self._ledger: Ledger[Supervisor] = Ledger(gate)
        self._seat = Child(top, top.id)
        self._top: Supervisor | None = None
        self._over = False

    # --- the machine ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Effects in the order in which they must be carried out. `now` in seconds, never going back."""
        ledger = self._ledger
        ledger.now = max(now, ledger.now)
        match event:
            case Started() | StartFailed() | StartIgnored() | Exited():
                self._on_answer(event)
            case Request():
                self._on_request(event)
            case TimerFired(token):
                self._on_timer(token)
            case Boot():
                self._boot()
            case StopTree(urgent):
                self._stop(urgent)
        return self._settle()

    def suspend(self, path: str) -> None:
        """Like OTP's sys:suspend: what comes for an idle supervisor queues, until it is resumed or must leave."""
        sup = self._ledger.supervisors[path]
        if sup.job.doing is not Doing.NOTHING:
            raise RuntimeError(f"expected {path} to be idle, it is doing: {sup.job.doing.value}; wait until it has done it")
        sup.job = Job(Doing.SUSPENDED)

    def resume(self, path: str, now: float) -> list[Effect]:
        """Work off what has queued. Harmless when it is not suspended (any more)."""
        self._ledger.now = max(now, self._ledger.now)
        sup = self._ledger.supervisors.get(path)
        if sup is not None and sup.job.doing is Doing.SUSPENDED:
            sup.job = Job()
            sup.wake()
        return self._settle()

    def adopt_history(self, path: str) -> None:
        """A name that has lived at another path goes on counting there: (name, generation) never means two processes."""
        self._ledger.adopt(path)

    def _settle(self) -> list[Effect]:
        ready = self._ledger.ready
        while ready:
            ready.popleft().run()
        effects, self._ledger.effects = self._ledger.effects, []
        return effects

    def _on_answer(self, event: Answer) -> None:
        sup, child = self._locate(event.path)
        below = self._ledger.supervisors.get(event.path)
        if below is None:
            if sup is not None and child is not None:
                answers.worker_said(sup, child, event)
        elif isinstance(event, Exited) and event.generation == below.generation:
            leaving.kill(below)

    def _on_request(self, request: Request) -> None:
        op = request.op
        sup = self._ledger.keeper(op.sup)
        if sup is None and isinstance(op, StartChild) and op.owner is not None:
            sup = self._own_supervisor(op.sup, op.owner)
        if sup is None or sup.job.doing is Doing.ENDED:
            self._ledger.emit(Reply(request.id, ["error", "noproc"]))
        else:
            sup.post(request)

    def _own_supervisor(self, path: str, generation: int) -> Supervisor | None:
        """Of the worker at `path`, in this incarnation and while it is not told to stop; made now."""
        sup, child = self._locate(path)
        if sup is None or child is None or child.generation != generation or self._ledger.closing:
            return None
        if child.end is not None or child.state not in (ChildState.STARTING, ChildState.RUNNING):
            return None
        return OwnSupervisor(sup, child)

    def _on_timer(self, token: int) -> None:
        path, message = self._ledger.timers.pop(token, ("", None))
        sup = self._ledger.keeper(path)
        if sup is None or message is None:
            return
        if isinstance(message, Kill):
            leaving.kill(sup)
        else:
            sup.post(message)

    # --- above the top ---

    def _boot(self) -> None:
        if self._top is not None or self._over:
            return
        seat = self._seat
        seat.generation = self._ledger.attempt(seat.path, automatic=False)
        seat.state = ChildState.STARTING
        assert isinstance(seat.spec.start, SupervisorSpec)
        self._top = Supervisor(self._ledger, self, seat, seat.spec.start)
        self._top.begin()

    def _stop(self, urgent: bool) -> None:
        if self._over:
            return
        if self._top is None:
            self._end("shutdown", gave_up=False)
        elif urgent:
            self._ledger.closing = True
            leaving.urge(self._top)
        elif not any(isinstance(message, ParentStop) for message in self._top.mailbox):
            self._top.post(ParentStop())

    def answer(self, child: Child, event: Answer) -> None:
        """For the top supervisor, whose owner is the tree."""
        if isinstance(event, Started):
            child.state, child.lived, child.ready_at = ChildState.RUNNING, child.generation, self._ledger.now
            self._ledger.emit(TreeStarted())
            return
        assert self._top is not None
        child.state = ChildState.DOWN
        asked = self._top.job.asked
        child.reason = "ignore" if isinstance(event, StartIgnored) else event.reason
        child.failed = not asked
        self._end(child.reason, gave_up=not asked)

    def _end(self, reason: object, *, gave_up: bool) -> None:
        self._over = True
        self._ledger.emit(TreeEnded(reason, gave_up))

    # --- looking ---

    @property
    def busy(self) -> bool:
        """Whether any supervisor awaits an answer or has messages. Grows with the number of supervisors."""
        return any(sup.job.doing is not Doing.NOTHING or sup.mailbox for sup in self._keepers())

    @property
    def ended(self) -> bool:
        return self._over

    @property
    def stopping(self) -> bool:
        """The top is on its way out, or gone."""
        return self._over or (self._top is not None and self._top.job.doing in LEAVING)

    def snapshot(self, now: float | None = None) -> SupervisorView:
        """The whole picture, at once, whatever is going on. `now` (default: of the last event) is for the windows."""
        view = view_of(self._ledger, self._seat, None, self._ledger.now if now is None else now)
        assert isinstance(view, SupervisorView)
        return view

    def view(self, path: str, now: float | None = None) -> View | None:
        """The picture of one child; walks the tree only for what lies below a supervisor that is not running."""
        sup, child = self._locate(path)
        if child is None:
            return next((view for view in walk(self.snapshot(now)) if view.path == path), None)
        job = sup.job if sup is not None and (child.state is not ChildState.DOWN or child in sup.job.starts) else None
        return view_of(self._ledger, child, job, self._ledger.now if now is None else now)

    def find(self, name: str) -> list[str]:
        """Paths that `name` means: itself if it is one, else every path that ends in it, in start order."""
        if self._locate(name)[1] is not None:
            return [name]
        return [view.path for view in walk(self.snapshot()) if name in (view.name, view.path)]

    def budget(self, path: str, now: float) -> Budget:
        """Of the supervisor at `path`; nothing used and no limit when it does not run."""
        sup = self._ledger.keeper(path)
        return Budget() if sup is None else Budget(sup.window.count(now), sup.spec.max_restarts, sup.spec.max_seconds)

    def living(self) -> list[tuple[str, int]]:
        """(path, generation) of every worker that has, or may still have, a process."""
        sups = self._ledger.supervisors
        rows = (child for sup in self._keepers() for child in sup.children.values())
        return [(row.path, row.generation) for row in rows if row.has_process and row.path not in sups]

    def holder(self, name: str) -> str | None:
        """The path of a child of that name in the table of a running supervisor. Grows with the number of supervisors."""
        return next((sup.children[name].path for sup in self._keepers() if name in sup.children), None)

    def is_own(self, path: str) -> bool:
        """Whether a worker has started it."""
        return path.rpartition("/")[0] in self._ledger.own

    def owners(self, path: str) -> tuple[str, ...]:
        """Names of the workers that it is an own child of, the nearest first."""
        found = []
        while self.is_own(path):
            path = path.rpartition("/")[0]
            found.append(path.rpartition("/")[2])
        return tuple(found)

    def own_paths(self) -> Iterator[str]:
        """Of all own children of workers."""
        return (child.path for sup in self._ledger.own.values() for child in sup.children.values())

    def _keepers(self) -> Iterator[Supervisor]:
        return chain(self._ledger.supervisors.values(), self._ledger.own.values())

    def _locate(self, path: str) -> tuple[Supervisor | None, Child | None]:
        """The owner and the row of `path`."""
        if path == self._seat.path:
            return None, self._seat
        above, _, last = path.rpartition("/")
        sup = self._ledger.keeper(above)
        return sup, sup.children.get(last) if sup is not None else None
