"""Replays recorded OTP scenarios on the supervision tree and says where the two differ.

Levels: A compares results and snapshots, B also the events, C also what OTP's supervisor logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otpd.supervisor.events import (
    Boot,
    ChangeSpec,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    Op,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from otpd.supervisor.spec import INFINITY, ChildSpec, ChildType, Dynamic, SupervisorSpec
from otpd.supervisor.validate import SpecError, check_children
from otpd.supervisor.views import SupervisorView, View
from tests.conformance.world import NOPROC, Behaviour, ScriptedSupervisor, World, parallel

CRASHES = {"kill": "killed", "shutdown_term": "shutdown"}


@dataclass(frozen=True)
class Difference:
    scenario: str
    step: int  # 0: starting the tree
    what: str  # "result", "snapshot", "events"
    expected: Any
    got: Any

    def __str__(self) -> str:
        expected, got = json.dumps(self.expected), json.dumps(self.got)
        return f"{self.scenario}, step {self.step}: {self.what}: expected {expected}, got {got}"


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


#: Tags of scenarios that are not replayed, with the reason; counted and shown.
LEFT_OUT: dict[str, str] = {"quirk": "an accident of the original, not required"}


def left_out(scenario: dict[str, Any]) -> str | None:
    return next((LEFT_OUT[tag] for tag in scenario["tags"] if tag in LEFT_OUT), None)


def replay(scenario: dict[str, Any], level: str = "C") -> list[Difference]:
    """All differences; what the runner itself can't carry out counts as one."""
    found: list[Difference] = []
    try:
        found.extend(Replay(scenario).differences(level))
    except (AssertionError, LookupError, RuntimeError) as error:
        found.append(Difference(scenario["name"], -1, "not replayed", None, f"{type(error).__name__}: {error}"))
    return found


# --- nodes to specs ---


def supervisor_spec(node: dict[str, Any]) -> SupervisorSpec:
    """FORMAT 1.2 and 1.3. Flags are taken as they are: wrong ones too."""
    dynamic = Dynamic(node["engine"]) if node.get("kind") == "dynamic" else None
    template = node.get("template")
    return ScriptedSupervisor(
        behaviour=behaviour(node.get("behaviour")),
        strategy=node.get("strategy", "one_for_one"),
        max_restarts=node.get("intensity", 3 if dynamic is Dynamic.DYNAMIC else 1),
        max_seconds=node.get("period", 5),
        auto_shutdown=node.get("auto_shutdown", "never"),
        children=tuple(child_spec(child) for child in node.get("children") or ()),
        dynamic=dynamic,
        template=child_spec(template) if isinstance(template, dict) else None,
        max_children=node.get("max_children"),
    )


def child_spec(node: dict[str, Any]) -> ChildSpec:
    below = node.get("kind") in ("supervisor", "dynamic")
    kind = node.get("type", "supervisor" if below else "worker")
    start: object = supervisor_spec(node) if below else behaviour(node.get("behaviour"))
    return ChildSpec(
        id=node.get("name", node.get("id")),
        start=None if node.get("no_start") else start,
        restart=node.get("restart", "permanent"),
        shutdown=seconds(node.get("shutdown", INFINITY if kind == ChildType.SUPERVISOR else 5000)),
        type=kind,
        significant=node.get("significant", False),
    )


def behaviour(data: dict[str, Any] | None) -> Behaviour:
    return Behaviour(**(data or {}))


def seconds(shutdown: Any) -> Any:
    return shutdown / 1000 if isinstance(shutdown, int) else shutdown


# --- one scenario ---


class Replay:
    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        tree = scenario["tree"]
        self.world = World(child_spec(tree))
        self.dynamic: set[str] = set()
        self.crashed: set[tuple[str, int]] = set()

    def differences(self, level: str = "C") -> Iterator[Difference]:
        expect = self.scenario["expect"]
        steps: list[dict[str, Any] | None] = [None, *self.scenario["steps"]]
        for number, (step, outcome) in enumerate(zip(steps, expect, strict=True)):
            self.world.log, self.crashed = [], set()
            result = self._boot() if step is None else self._do(step)
            got = {"result": result, "snapshot": self._snapshot()}
            if level != "A":
                got["events"] = without_reports(self._folded(), level)
            for what, value in got.items():
                expected = without_reports(outcome[what], level) if what == "events" else outcome[what]
                if normal(expected) != normal(value):
                    yield Difference(self.scenario["name"], number, what, expected, value)

    def _boot(self) -> Any:
        self.world.feed(Boot())
        ended = self.world.ended
        if ended is None:
            return "ok"
        return "ignore" if ended.reason == "ignore" else ["error", "start_failed", ended.reason]

    # --- steps ---

    def _do(self, step: dict[str, Any]) -> Any:
        self._note_dynamic(self.world.tree.snapshot())
        match step["op"]:
            case "batch":
                return self._batch(step)
            case "hold":
                return self._hold(step)
            case "advance_ms":
                self.world.now += step["ms"] / 1000
                return "ok"
            case "check_specs":
                return check(step)
        number = self._act(step)
        return "ok" if number is None else self.world.replies[number]

    def _act(self, action: dict[str, Any], name: int | None = None) -> int | None:
        """A crash, stop_tree or a request; gives the number of the request."""
        world = self.world
        match action["op"]:
            case "crash":
                self.crashed |= {key for key in world.alive if key[0] == action["path"]}
                world.crash(action["path"], CRASHES.get(action["reason"], action["reason"]))
                return None
            case "stop_tree":
                world.stop_tree()
                return None
        op = self._request(action)
        return world.request(op, name)

    def _batch(self, step: dict[str, Any]) -> Any:
        self.world.suspend(step["sup"])
        for name, action in enumerate(step["actions"]):
            self._act(action, name)
        self.world.resume(step["sup"])
        self._unanswered_last()
        return "ok"

    def _hold(self, step: dict[str, Any]) -> Any:
        self.world.hold = (step["phase"], step["path"])
        trigger = self._act(step["trigger"])
        for name, action in enumerate(step["during"]):
            self._act(action, name)
        self.world.release()
        self._unanswered_last()
        return "ok" if trigger is None else self.world.replies[trigger]

    def _unanswered_last(self) -> None:
        log = self.world.log
        log.sort(key=lambda entry: entry[0] == "reply" and entry[2] == NOPROC)

    def _request(self, step: dict[str, Any]) -> Op:
        sup = step["sup"]
        name = step.get("pid_of") or step.get("name") or step.get("id")
        generation = step.get("n")
        if "pid_of" in step:
            view = self.world.tree.view(step["pid_of"])
            generation = view.generation if view else 0
        match step["op"]:
            case "start_child":
                return StartChild(sup, self._new_child(step))
            case "terminate_child":
                return TerminateChild(sup, name, generation)
            case "restart_child":
                return RestartChild(sup, name)
            case "delete_child":
                return DeleteChild(sup, name)
            case "which_children":
                return WhichChildren(sup)
            case "count_children":
                return CountChildren(sup)
            case "get_childspec":
                return GetChildSpec(sup, name, generation)
            case "change_spec":
                return ChangeSpec(sup, self._changed(step))
        raise ValueError(f"unknown op: {step['op']}")

    def _new_child(self, step: dict[str, Any]) -> ChildSpec:
        if "spec" in step:
            return child_spec(step["spec"])
        start: object = behaviour(step["behaviour"]) if "behaviour" in step else None
        view = self.world.tree.view(step["sup"])
        template = view.flags.template if isinstance(view, SupervisorView) else None
        if start is not None and template is not None and isinstance(template.start, ScriptedSupervisor):
            start = replace(template.start, behaviour=start)
        return ChildSpec(id=step["name"], start=start)

    def _changed(self, step: dict[str, Any]) -> SupervisorSpec:
        """The given fields over the node as it is now, its original children included."""
        view = self.world.tree.view(step["sup"])
        if not isinstance(view, SupervisorView):
            return SupervisorSpec()
        kind = "dynamic" if view.flags.dynamic else "supervisor"
        fields = supervisor_spec({"kind": kind, "engine": view.flags.dynamic} | step)
        names = {"intensity": "max_restarts", "period": "max_seconds"}
        given = {names.get(key, key) for key in step} - {"op", "sup"}
        return replace(view.flags, **{key: getattr(fields, key) for key in given})

    # --- outcomes ---

    def _note_dynamic(self, view: View) -> None:
        if isinstance(view, SupervisorView):
            if view.flags.dynamic is not None:
                self.dynamic.add(view.path)
            for child in view.children:
                self._note_dynamic(child)

    def _folded(self) -> list[Any]:
        """FORMAT 4.2, 1: what dynamic supervisors stopped stands in `parallel`."""
        self._note_dynamic(self.world.tree.snapshot())
        folded: list[Any] = []
        for entry in self.world.log:
            if entry[0] == "stop" and entry[1] in self.dynamic:
                self._fold(folded, entry[1])
            folded.append(entry)
        return folded

    def _fold(self, log: list[Any], path: str) -> None:
        reports: list[Any] = []
        while log and log[-1][:3] == ["report", path, "shutdown_error"]:
            reports.append(log.pop())
        run: list[Any] = []
        while log and self._belongs(log[-1], path):
            run.insert(0, log.pop())
        if run:
            log.append(parallel(path, run))
        log.extend(sorted(reports, key=json.dumps))

    def _belongs(self, entry: list[Any], path: str) -> bool:
        if entry[0] not in ("stop", "report", "parallel") or not entry[1].startswith(path + "/"):
            return False
        return entry[0] != "stop" or (entry[1], entry[2]) not in self.crashed

    def _snapshot(self) -> list[Any]:
        rows: list[Any] = []
        if not self.world.tree.ended:
            self._rows(self.world.tree.snapshot(), rows)
        return rows

    def _rows(self, view: View, rows: list[Any]) -> None:
        if view.state != "running":
            rows.append([view.path, "undefined", None])
            return
        rows.append([view.path, "alive", view.generation])
        if isinstance(view, SupervisorView):
            rows[-1].append(self._counts(view.path))
            children = view.children if view.flags.dynamic is None else sorted(view.children, key=lambda c: c.name)
            for child in children:
                self._rows(child, rows)

    def _counts(self, path: str) -> list[int]:
        count = self.world.replies[self.world.request(CountChildren(path))]
        return [count[key] for key in ("specs", "active", "supervisors", "workers")]


def check(step: dict[str, Any]) -> Any:
    try:
        check_children([child_spec(node) for node in step["specs"]], step.get("auto_shutdown"))
    except SpecError as error:
        return ["error", "bad_spec", error.data]
    return "ok"


def without_reports(events: list[Any], level: str) -> list[Any]:
    if level == "C":
        return events
    kept = []
    for event in events:
        if event[0] == "parallel":
            branches = {name: without_reports(branch, level) for name, branch in event[2].items()}
            kept.append(["parallel", event[1], branches])
        elif event[0] != "report":
            kept.append(event)
    return kept


def normal(value: Any) -> Any:
    return json.loads(json.dumps(value))
