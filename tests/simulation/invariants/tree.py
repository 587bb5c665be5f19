"""Invariants 35, 36, 37 and 42: which children restart, in which order, how often and how late."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import floor
from typing import Any

from otpd.supervisor.child import Child, ChildState, is_clean
from otpd.supervisor.events import ArmTimer, Effect, Event, Exited, Notice, Op, Spawn, Stop
from otpd.supervisor.job import Doing, Job
from otpd.supervisor.spec import AutoShutdown, Backoff, Launch, Restart, Strategy
from otpd.supervisor.supervision import Supervisor
from otpd.supervisor.tree import Tree, walk
from tests.simulation.observe import Observer
from tests.simulation.root import SimulatedRoot

_LIVING = (ChildState.RUNNING, ChildState.STOPPING)


@dataclass(slots=True)
class Expected:
    """What one group restart must do, as long as its job goes on."""

    job: Job
    stops: list[str]
    starts: list[str]


class Restarts(Observer):
    """A crash of a running child of an idle supervisor: what follows is decided by three small tables of OTP's."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._crash: tuple[Supervisor, Child, str] | None = None
        self._expected: dict[str, Expected] = {}
        self._seen: dict[str, Job] = {}
        self._windows: dict[tuple[str, int], list[int]] = defaultdict(list)

    def root_began(self, root: SimulatedRoot) -> None:
        for book in (self._expected, self._seen, self._windows):
            book.clear()

    def tree_handling(self, root: SimulatedRoot, event: Event) -> None:
        self._crash = None
        if not isinstance(event, Exited):
            return
        expected = self._expected.get(event.path.rpartition("/")[0])
        if expected is not None and event.path in expected.stops:
            expected.stops.remove(event.path)  # it has ended by itself, before its turn to be stopped
        if root.stopping or event.path in root.tree._ledger.own:
            return
        sup = _supervisors(root.tree).get(event.path.rpartition("/")[0])
        child = sup.children.get(event.path.rpartition("/")[2]) if sup is not None else None
        if sup is None or child is None or sup.job.doing is not Doing.NOTHING or sup.mailbox:
            return
        if child.state is ChildState.RUNNING and child.generation == event.generation:
            self._crash = sup, child, event.reason

    def tree_handled(self, root: SimulatedRoot, event: Event, effects: list[Effect]) -> None:
        self._count(root, effects)
        if self._crash is not None:
            self._check_crash(root, *self._crash, effects)
        if self._expected:
            self._check_orders(root, effects)

    # --- 36: restart intensity ---

    def _count(self, root: SimulatedRoot, effects: list[Effect]) -> None:
        now = floor(root.now)
        for effect in effects:
            if isinstance(effect, Notice) and effect.kind == "gave_up":
                window = self._window(effect.path, effect.generation, now, effect.data["max_seconds"])
                limit = effect.data["max_restarts"]
                self.check(len(window) == limit, 36, f"{effect.path} gives up after {len(window)} restarts of {limit}")
                self.sometimes["a supervisor gives up"] += 1
        for path, sup in _supervisors(root.tree).items():
            if sup.job.doing is Doing.RESTART and self._seen.get(path) is not sup.job:
                self._seen[path] = sup.job
                self._windows[path, sup.generation].append(now)
                window = self._window(path, sup.generation, now, sup.spec.max_seconds)
                limit = sup.spec.max_restarts
                self.check(limit is None or len(window) <= limit, 36, f"{path}: restart {len(window)} of {limit}")

    def _window(self, path: str, generation: int, now: int, period: int) -> list[int]:
        return [second for second in self._windows[path, generation] if now - second <= period]

    # --- 37: restart types ---

    def _check_crash(self, root: SimulatedRoot, sup: Supervisor, child: Child, reason: str, effects: list[Effect]) -> None:
        restart, clean = child.spec.restart, is_clean(reason)
        wanted = restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and not clean)
        spawned = any(isinstance(effect, Spawn | ArmTimer) and effect.path == child.path for effect in effects)
        here = _supervisors(root.tree).get(sup.path) is sup
        restarting = here and (spawned or sup.job.doing is Doing.RESTART)
        notices = [effect.kind for effect in effects if isinstance(effect, Notice) and effect.path == sup.path]
        if "gave_up" in notices:
            return
        self.check(restarting == wanted, 37, f"{child.path} ({restart}) ended with {reason}; restarted: {restarting}")
        self._check_auto(sup, child, wanted, effects)
        if sup.job.doing is Doing.RESTART:
            self._expect(sup, child, effects)

    def _check_auto(self, sup: Supervisor, child: Child, wanted: bool, effects: list[Effect]) -> None:
        ended = any(isinstance(each, Notice) and each.kind == "auto_shutdown" and each.path == sup.path for each in effects)
        due = sup.spec.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT and child.spec.significant and not wanted
        if due or sup.spec.auto_shutdown is AutoShutdown.NEVER:
            self.check(ended == due, 37, f"{sup.path} after {child.path}: automatic shutdown {ended}, expected {due}")
        self.sometimes["a supervisor shuts down by itself"] += ended

    # --- 35: sets and orders ---

    def _expect(self, sup: Supervisor, child: Child, effects: list[Effect]) -> None:
        """`sup` has already begun, and its rows have already changed: the order is that of the table."""
        rows = list(sup.children.values())
        strategy = sup.spec.strategy
        group = {Strategy.ONE_FOR_ONE: [child], Strategy.ONE_FOR_ALL: rows}.get(strategy) or rows[rows.index(child) :]
        living = [row for row in group if row is not child and row.end is None and row.state in _LIVING]
        stops = [row.path for row in reversed(living) if not row.is_supervisor]
        starts = [row.path for row in group if row.spec.restart is not Restart.TEMPORARY and not row.is_supervisor]
        self._expected[sup.path] = Expected(sup.job, stops, starts)
        if len(stops) > 1:
            self.sometimes["a group of several restarts"] += 1

    def _check_orders(self, root: SimulatedRoot, effects: list[Effect]) -> None:
        sups = _supervisors(root.tree)
        for effect in effects:
            path = effect.path.rpartition("/")[0] if isinstance(effect, Spawn | Stop) else ""
            expected, sup = self._expected.get(path), sups.get(path)
            if expected is None:
                continue
            if sup is None or sup.job is not expected.job:
                del self._expected[path]
                continue
            left = expected.stops if isinstance(effect, Stop) else expected.starts
            self.check(
                left and left.pop(0) == effect.path and (isinstance(effect, Stop) or not expected.stops), 35,
                f"{type(effect).__name__} {effect.path}, expected before it: {expected.stops} {left}",
            )  # fmt: skip


class Delays(Observer):
    """42: a back-off grows, is bounded, and begins anew after a stable run."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._last: dict[str, float] = {}

    def root_began(self, root: SimulatedRoot) -> None:
        self._last.clear()

    def operated(self, root: SimulatedRoot, op: Op) -> None:
        self._last.clear()

    def tree_handled(self, root: SimulatedRoot, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Notice):
                continue
            if effect.kind in ("supervisor_init", "supervisor_stopped", "supervisor_killed"):
                for path in [path for path in self._last if path.startswith(effect.path + "/")]:
                    del self._last[path]
            elif effect.kind == "child_exited":
                self._check_stable(root, effect)
            elif effect.kind == "restart_scheduled":
                self._check_delay(root, effect)

    def _policy(self, root: SimulatedRoot, path: str) -> Backoff | None:
        view = root.tree.view(path)
        return view.spec.backoff if view is not None else None

    def _check_stable(self, root: SimulatedRoot, notice: Notice) -> None:
        policy = self._policy(root, notice.path)
        if policy is not None and notice.data["uptime"] >= policy.reset_after and self._last.pop(notice.path, None):
            self.sometimes["a stable run ends the back-off"] += 1

    def _check_delay(self, root: SimulatedRoot, notice: Notice) -> None:
        view, delay = root.tree.view(notice.path), notice.data["delay"]
        assert view is not None and view.spec.backoff is not None
        policy = view.spec.backoff
        low, high = 1 - policy.jitter, 1 + policy.jitter
        self.check(policy.initial * low - 1e-9 <= delay <= policy.max * high + 1e-9, 42, f"{notice.path} waits {delay} s")
        last = self._last.get(notice.path)
        if last is not None and isinstance(view.spec.start, Launch):
            least = min(policy.max, last / high * policy.factor) * low
            self.check(delay >= least - 1e-9, 42, f"{notice.path} waits {delay} s after it waited {last} s")
            self.sometimes["a back-off grows"] += 1
        self._last[notice.path] = delay


class Recovered(Observer):
    """46: when the faults are over, everything that must run runs."""

    def finished(self) -> None:
        root = self.world.root
        if self.world.scenario.mode != "liveness":
            return
        self.check(root is not None, 46, "there is no root")
        assert root is not None
        for view in walk(root.tree.snapshot(root.now)):
            well = view.state == "running" or view.state == "stopped" or self._may_be_down(view)
            self.check(well, 46, f"{view.path} is {view.state} ({view.reason})")
        self.check(not root.tree.busy, 46, "the tree is busy")

    def _may_be_down(self, view: Any) -> bool:
        """`failed`: it gave up for good where its parent does not restart it, or an operator's request failed."""
        return view.state == "failed"


def _supervisors(tree: Tree) -> dict[str, Supervisor]:
    """Also those of agents' own children."""
    ledger = tree._ledger
    return {**ledger.supervisors, **ledger.own} if ledger.own else ledger.supervisors
