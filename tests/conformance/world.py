"""The processes of a scenario, simulated: carries out the tree's effects in virtual time and writes down what happened.

The other half of `replay`, which reads scenarios and compares. A worker's `start` is its scripted Behaviour.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any

from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    CancelTimer,
    Effect,
    Event,
    Exited,
    Notice,
    Op,
    Reply,
    Request,
    Spawn,
    Started,
    StartFailed,
    StartIgnored,
    Stop,
    StopTree,
    TimerFired,
    TreeEnded,
)
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, ChildSpec, Shutdown, SupervisorSpec
from otpd.supervisor.tree import Tree

NOPROC = ["error", "noproc"]
REPORTS = ("child_terminated", "start_error", "shutdown", "shutdown_error")
LOGGED = {
    "supervisor_init": "init",
    "child_started": "start",
    "supervisor_started": "start",
    "child_start_failed": "start_failed",
    "supervisor_start_failed": "start_failed",
    "child_ignored": "ignored",
    "supervisor_ignored": "ignored",
    "child_exited": "stop",
    "supervisor_stopped": "stop",
}


@dataclass(frozen=True)
class Behaviour:
    """FORMAT 1.4. `start`: attempt number or "*" to "ok", "fail" or "ignore"."""

    start: dict[str, str] = field(default_factory=dict)
    stop: Any = "clean"

    def outcome(self, attempt: int) -> str:
        return self.start.get(str(attempt), self.start.get("*", "ok"))

    def end(self, shutdown: Shutdown) -> tuple[float, str]:
        """When and with which reason it ends after the request to stop; infinitely late if never."""
        limit = float("inf") if shutdown == INFINITY else 0.0 if shutdown == BRUTAL_KILL else float(shutdown)
        if shutdown == BRUTAL_KILL:
            return 0.0, "killed"
        match self.stop:
            case "clean":
                return 0.0, "shutdown"
            case "exit0":
                return 0.0, "normal"
            case "error":
                return 0.0, "error"
            case {"slow_ms": ms} if ms / 1000 <= limit:
                return ms / 1000, "shutdown"
        return limit, "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedSupervisor(SupervisorSpec):
    """A supervisor whose own start may fail or be declined."""

    behaviour: Behaviour = Behaviour()


class World:
    """`log` is the trace of the current step; `held` names the one start or stop that blocks until `release`."""

    def __init__(self, top: ChildSpec) -> None:
        self.tree = Tree(top, self._gate)
        self.now = 0.0
        self.alive: dict[tuple[str, int], Behaviour] = {}
        self.log: list[list[Any]] = []
        self.replies: dict[int, Any] = {}
        self.reply_names: dict[int, int] = {}  # request id -> number of the action in a batch or hold
        self.hold: tuple[str, str] | None = None  # phase and path
        self.held: tuple[str, str, int] | None = None
        self.ended: TreeEnded | None = None
        self._requests = itertools.count(1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Event]] = []
        self._killed: list[str] = []
        self._cancelled: set[int] = set()

    def _gate(self, path: str, attempt: int) -> StartFailed | StartIgnored | None:
        view = self.tree.view(path)
        assert view is not None and isinstance(view.spec.start, ScriptedSupervisor)
        match view.spec.start.behaviour.outcome(attempt):
            case "fail":
                return StartFailed(path, attempt, "fail")
            case "ignore":
                return StartIgnored(path, attempt)
        return None

    # --- input ---

    def feed(self, event: Event) -> None:
        """One event, and everything that follows from it until nothing is left to do."""
        self._perform(self.tree.handle(event, self.now))
        self.settle()

    def settle(self) -> None:
        while self._events:
            when, _, event = heapq.heappop(self._events)
            if isinstance(event, TimerFired) and event.token in self._cancelled:
                continue
            self.now = max(self.now, when)
            self._perform(self.tree.handle(self._true(event), self.now))

    def _true(self, event: Event) -> Event:
        """What ends a process happens once: of two ends the first counts."""
        if isinstance(event, Exited | StartFailed | StartIgnored):
            if (event.path, event.generation) not in self.alive:
                return Exited("", 0, "")
            del self.alive[event.path, event.generation]
        return event

    def request(self, op: Op, name: int | None = None) -> int:
        number = next(self._requests)
        if name is not None:
            self.reply_names[number] = name
        self.feed(Request(number, op))
        return number

    def crash(self, path: str, reason: str) -> None:
        generation = next((n for p, n in self.alive if p == path), None)
        if generation is None:
            view = self.tree.view(path)
            generation = view.generation if view else 0
        else:
            del self.alive[path, generation]
        self.feed(Exited(path, generation, reason))

    def suspend(self, path: str) -> None:
        self.tree.suspend(path)

    def resume(self, path: str) -> None:
        self._perform(self.tree.resume(path, self.now))
        self.settle()

    def release(self) -> None:
        """The held start or stop goes on."""
        assert self.held is not None, f"nothing began that could be held: {self.hold}"
        phase, path, generation = self.held
        self.hold = self.held = None
        if phase == "start":
            self._start(path, generation)
        else:
            self._later(0.0, Exited(path, generation, "shutdown"))
        self.settle()

    def stop_tree(self) -> None:
        self.feed(StopTree())

    # --- effects ---

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn(path, generation, spec):
                    self._spawn(path, generation, spec)
                case Stop(path, generation, shutdown):
                    self._stop(path, generation, shutdown)
                case AbortStart(path, generation):
                    self._later(0.0, Exited(path, generation, "killed"))
                case ArmTimer(token, delay, _):
                    self._later(delay, TimerFired(token))
                case CancelTimer(token):
                    self._cancelled.add(token)
                case Reply(number, result):
                    self._reply(number, result)
                case Notice():
                    self._notice(effect)
                case TreeEnded():
                    self.ended = effect

    def _later(self, delay: float, event: Event) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def _spawn(self, path: str, generation: int, spec: ChildSpec) -> None:
        assert all(p != path for p, _ in self.alive), f"a second process of {path}"
        assert isinstance(spec.start, Behaviour)
        self.alive[path, generation] = spec.start
        if self.hold == ("start", path) and self.held is None:
            self.held = ("start", path, generation)
            self.log.append(["held", "start", path, generation])
        else:
            self._start(path, generation)

    def _start(self, path: str, generation: int) -> None:
        match self.alive[path, generation].outcome(generation):
            case "ok":
                self._later(0.0, Started(path, generation))
            case "fail":
                self._later(0.0, StartFailed(path, generation, "fail"))
            case _:
                self._later(0.0, StartIgnored(path, generation))

    def _stop(self, path: str, generation: int, shutdown: Shutdown) -> None:
        if self.hold == ("stop", path) and self.held is None and shutdown != BRUTAL_KILL:
            self.held = ("stop", path, generation)
            self.log.append(["held", "stop", path, generation])
            return
        delay, reason = self.alive[path, generation].end(shutdown)
        if delay < float("inf"):
            self._later(delay, Exited(path, generation, reason))

    # --- the trace ---

    def _reply(self, number: int, result: Any) -> None:
        self.replies[number] = result
        if number in self.reply_names:
            self.log.append(["reply", self.reply_names[number], result])

    def _notice(self, notice: Notice) -> None:
        kind, path, data = notice.kind, notice.path, notice.data
        if kind in REPORTS:
            self.log.append(["report", path, kind, data["child"], data["reason"]])
        elif kind == "supervisor_killed":
            self._killed.append(path)
            self.log.append(["stop", path, notice.generation, "killed"])
        elif kind == "supervisor_stopped" and path in self._killed:
            self._killed.remove(path)
            self._fold_killed(path, notice.generation)
        elif kind in LOGGED:
            reason = [data["reason"]] if "reason" in data else []
            self.log.append([LOGGED[kind], path, notice.generation, *reason])

    def _fold_killed(self, path: str, generation: int) -> None:
        """FORMAT 4.2, 2: what dies with a killed supervisor stands in one `parallel` behind it."""
        index = self.log.index(["stop", path, generation, "killed"]) + 1
        below = [entry for entry in self.log[index:] if entry[0] == "stop" and entry[1].startswith(path + "/")]
        if below:
            rest = [entry for entry in self.log[index:] if entry not in below]
            self.log[index:] = [parallel(path, below), *rest]


def parallel(path: str, entries: list[list[Any]]) -> list[Any]:
    """Entries that lie below `path`, by its direct children."""
    branches: dict[str, list[Any]] = {}
    for entry in entries:
        child = entry[1][len(path) + 1 :].split("/")[0]
        branches.setdefault(child, []).append(entry)
    return ["parallel", path, branches]
