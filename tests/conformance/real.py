"""Drives one recorded OTP scenario through a running node: real root, real processes, the control socket.

`replay` does the same with the pure tree in virtual time; comparison and folding are its own. The scenario is a subtree
of a lane (a supervisor of the node), so that many share one root and `lanes` runs them side by side. A child's id is its
path in the scenario, because names are unique in a node; whatever the node says is turned back before it is compared.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from otpd.supervisor.events import Notice
from otpd.supervisor.spec import ChildSpec, Dynamic, SupervisorSpec
from otpd.supervisor.specdata import to_data
from tests.conformance.desk import PATIENCE, Desk, Line
from tests.conformance.replay import Replay, child_spec, supervisor_spec
from tests.conformance.scripted import SLOWER, Names, slower_clock
from tests.conformance.world import Behaviour
from tests.helpers import eventually

#: How the runner ends a worker.
CRASHES = {
    "error": signal.SIGUSR1,
    "normal": signal.SIGUSR2,
    "shutdown": signal.SIGHUP,
    "shutdown_term": signal.SIGALRM,
    "kill": signal.SIGKILL,
}
ENDS = {"kill": "killed", "shutdown_term": "shutdown"}
_FINAL = ("running", "stopped", "failed")
_SEEN_AS = {"child.started", "child.start_failed", "child.ignored"}


class RealReplay(Replay):
    """`log` is made from root's events; the ends that the runner made itself stand where it made them."""

    def __init__(self, scenario: dict[str, Any], desk: Desk, lane: str, key: str, lines: list[Line]) -> None:
        super().__init__(scenario)
        self.desk, self.lane = desk, lane
        self.names = Names(key, desk.script, str(desk.gates), slower_clock(scenario))
        self.line, *self.lines = lines
        self.nodes = dict(_paths("root", scenario["tree"]))
        self.changed: dict[tuple[str, int], SupervisorSpec] = {}
        self.dynamic = {path for path, node in self.nodes.items() if node.get("kind") == "dynamic"}
        self.marks: list[tuple[float, list[Any]]] = []
        self.events: list[dict[str, Any]] = []
        self.resolved: set[tuple[str, int]] = set()
        self.exited: set[tuple[str, int]] = set()
        self.ends: dict[tuple[str, int], str] = {}
        self.held: str | None = None

    # --- steps ---

    def _boot(self) -> Any:
        spec = self.names.child(replace(child_spec(self.scenario["tree"]), restart="temporary"), "root")
        result = self._ask({"op": "start_child", "sup": self.lane, "child": to_data(spec)})
        self._settle()
        self._write_log()
        match result:
            case ["ok", "undefined"]:
                return "ignore"
            case ["ok", _]:
                return "ok"
        return self._result(result)

    def _do(self, step: dict[str, Any]) -> Any:
        result = self._carry_out(step)
        self._settle()
        self._write_log()
        return result

    def _carry_out(self, step: dict[str, Any]) -> Any:
        match step["op"]:
            case "advance_ms":
                end = time.monotonic() + step["ms"] / 1000 * self.names.clock
                eventually(lambda: time.monotonic() >= end, PATIENCE)
                return "ok"
            case "crash":
                self._crash(step, self._pids([step]))
                return "ok"
            case "stop_tree":
                self._ask(self._wire(step))
                return "ok"
            case "batch":
                return self._batch(step)
            case "hold":
                return self._hold(step)
        return self._result(self._ask(self._wire(step)))

    def _batch(self, step: dict[str, Any]) -> Any:
        actions = step["actions"]
        assert len(actions) < len(self.lines)
        pids = self._pids(actions)
        wires = [None if action["op"] == "crash" else self._addressed(action) for action in actions]
        with self.desk.frozen():
            for action, wire, line in zip(actions, wires, self.lines, strict=False):
                if wire is None:
                    self._kill(action, pids)
                else:
                    line.send("request", request=wire)
        self._see_ends()
        self._gather(actions)
        return "ok"

    def _hold(self, step: dict[str, Any]) -> Any:
        trigger, during = step["trigger"], step["during"]
        assert len(during) < len(self.lines)
        with self._gate(step["phase"], step["path"]) as opened:
            if trigger["op"] == "crash":
                self._crash(trigger, self._pids([trigger]))
            else:
                self.line_of_trigger.send("request", request=self._wire(trigger))
            fd = eventually(opened, PATIENCE, f"{step['path']} is held in its {step['phase']}")
        self.held = step["path"]
        try:
            now = time.time()
            generation = self._settle()[self.held]["generation"]
            self.marks.append((now, ["held", step["phase"], self.held, generation]))
            for action, line in zip(during, self.lines, strict=False):
                self._do_during(action, line)
        finally:
            self.held = None
            os.close(fd[0])
        self._gather(during)
        return "ok" if trigger["op"] == "crash" else self._result(self.line_of_trigger.receive()["result"])

    def _do_during(self, action: dict[str, Any], line: Line) -> None:
        if action["op"] == "crash":
            self._crash(action, self._pids([action]))
        else:
            line.send("request", request=self._addressed(action))
        self._settle()

    @property
    def line_of_trigger(self) -> Line:
        return self.lines[-1]

    def _gather(self, actions: list[dict[str, Any]]) -> None:
        """The answers to what was asked meanwhile."""
        for number, (action, line) in enumerate(zip(actions, self.lines, strict=False)):
            if action["op"] != "crash":
                answer = line.receive()
                if action["op"] != "stop_tree":
                    self.marks.append((answer["at"], ["reply", number, self._result(answer["result"])]))

    @contextmanager
    def _gate(self, phase: str, path: str) -> Iterator[Any]:
        """A fifo that holds the worker up; `opened` gives the end that must be closed, as soon as it stands there."""
        fifo = self.desk.gates / f"{phase}.{self.names.of(path)}"
        os.mkfifo(fifo)

        def opened() -> tuple[int] | None:
            try:
                return (os.open(fifo, os.O_WRONLY | os.O_NONBLOCK),)
            except OSError:
                return None

        try:
            yield opened
        finally:
            fifo.unlink()

    # --- ends ---

    def _pids(self, actions: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
        """Path to (pid, generation) of what the actions will end."""
        rows = self._rows_now()
        crashes = (action["path"] for action in actions if action["op"] == "crash")
        return {path: (rows[path]["pid"], rows[path]["generation"]) for path in crashes}

    def _crash(self, action: dict[str, Any], pids: dict[str, tuple[int, int]]) -> None:
        self._kill(action, pids)
        self._see_ends()

    def _kill(self, action: dict[str, Any], pids: dict[str, tuple[int, int]]) -> None:
        """End the process and wait until it is dead, which root need not have noticed."""
        path, reason = action["path"], action["reason"]
        pid, generation = pids[path]
        pidfd, now = os.pidfd_open(pid), time.time()
        try:
            signal.pidfd_send_signal(pidfd, CRASHES[reason])
            assert select.select([pidfd], [], [], PATIENCE)[0], f"{path} survived {CRASHES[reason].name}"
        finally:
            os.close(pidfd)
        end = ENDS.get(reason, reason)
        self.ends[path, generation] = end
        self.crashed.add((path, generation))
        self.marks.append((now, ["stop", path, generation, end]))

    def _see_ends(self) -> None:
        eventually(lambda: self._take() is not None and self.crashed <= self.exited, PATIENCE, "root has seen the ends")

    # --- requests ---

    def _ask(self, wire: dict[str, Any]) -> Any:
        return self.line.ask("request", request=wire)

    def _wire(self, step: dict[str, Any]) -> dict[str, Any]:
        """The step as operation `request` takes it."""
        if step["op"] == "stop_tree":
            return {"op": "terminate_child", "sup": self.lane, "id": self.names.key}
        wire: dict[str, Any] = {"op": step["op"], "sup": self.names.path(self.lane, step["sup"])}
        match step["op"]:
            case "start_child":
                return wire | self._new(step)
            case "change_spec":
                return wire | {"spec": to_data(self.names.supervisor(self._changed(step), step["sup"]))}
        if "pid_of" in step:
            row = self._rows_now()[step["pid_of"]]
            return wire | {"id": self.names.path(self.lane, step["pid_of"]), "generation": row["generation"]}
        name = step.get("name", step.get("id"))
        if name is None:
            return wire
        return wire | {"id": self.names.of(f"{step['sup']}/{name}"), "generation": step.get("n")}

    def _addressed(self, action: dict[str, Any]) -> dict[str, Any]:
        """For the incarnation of the supervisor that is there when the request is sent, whoever is when it arrives."""
        row = self._rows_now().get(action.get("sup", ""))
        return self._wire(action) | ({"sup_generation": row["generation"]} if row else {})

    def _new(self, step: dict[str, Any]) -> dict[str, Any]:
        if "spec" in step:
            spec = child_spec(step["spec"])
            path = f"{step['sup']}/{spec.id}"
            self.nodes |= dict(_paths(path, step["spec"]))
            self.dynamic |= {path for path, node in self.nodes.items() if node.get("kind") == "dynamic"}
            return {"child": to_data(self.names.child(spec, path))}
        path = f"{step['sup']}/{step['name']}"
        if "behaviour" not in step:
            return {"name": self.names.of(path)}
        return {"child": to_data(self.names.child(ChildSpec(id="", start=Behaviour(**step["behaviour"])), path))}

    def _changed(self, step: dict[str, Any]) -> SupervisorSpec:
        """The given fields over the supervisor's node as it is now: the original one, or that of the last change."""
        path = step["sup"]
        row = self._rows_now().get(path)
        incarnation = path, row["generation"] if row else 0
        old = self.changed.get(incarnation) or supervisor_spec(self.nodes[path])
        kind = {"kind": "dynamic" if old.dynamic else "supervisor", "engine": str(old.dynamic or Dynamic.SIMPLE)}
        fields = supervisor_spec(kind | step)
        renamed = {"intensity": "max_restarts", "period": "max_seconds"}
        given = {renamed.get(key, key) for key in step} - {"op", "sup"}
        self.nodes |= dict(_paths(path, step, own=False))
        new = replace(old, **{key: getattr(fields, key) for key in given})
        self.changed[incarnation] = new
        return new

    def _result(self, result: Any) -> Any:
        match self.names.back(result):
            case ["error", "start_failed", why]:
                return ["error", "start_failed", _why(why)]
            case {"shutdown": int(shutdown)} as spec:
                return spec | {"shutdown": shutdown // SLOWER}
            case other:
                return other

    # --- looking ---

    def _rows_now(self) -> dict[str, dict[str, Any]]:
        """Every row of the scenario by path, in the order of the tree; empty when root is not running."""
        lanes = self.line.ask("tree")["tree"]["children"]
        lane = next(row for row in lanes if row["name"] == self.lane)
        found = {}
        stack = [row for row in lane["children"] if row["name"] == self.names.key]
        while stack:
            row = stack.pop()
            found[self.names.path_back(row["path"])] = row
            stack.extend(reversed(row.get("children", ())))
        return found

    def _settle(self) -> dict[str, dict[str, Any]]:
        """The rows, when nothing will happen any more without the runner."""
        rows: dict[str, dict[str, Any]] = {}

        def settled() -> bool:
            nonlocal rows
            self._take()
            rows = self._rows_now()
            return not self._take() and not any(self._in_flight(path, row) for path, row in rows.items())

        eventually(settled, PATIENCE, "the tree has settled")
        return rows

    def _in_flight(self, path: str, row: dict[str, Any]) -> bool:
        """Something is about to happen to it. While a child is held what waits for it is not in flight."""
        if self.held is None:
            return row["state"] not in _FINAL
        if row["type"] == "supervisor" or path == self.held:
            return False
        begun = row["generation"] > 0 and (path, row["generation"]) not in self.resolved
        return begun or row["state"] == "stopping"

    def _take(self) -> list[dict[str, Any]]:
        """What root has told since."""
        found = self.desk.events.take(self.names.key)
        for event in found:
            incarnation = self.names.path_back(event["path"]), event["generation"]
            kind = event["event"].removeprefix("otpd.")
            if kind in _SEEN_AS:
                self.resolved.add(incarnation)
            elif kind == "child.exited":
                self.exited.add(incarnation)
        self.events += found
        return found

    # --- the log ---

    def _write_log(self) -> None:
        """The step's log from what root told and what the runner did, in the order of time."""
        entries: list[tuple[float, Any]] = [(event["at"], event) for event in self.events]
        for _, entry in sorted([*entries, *self.marks], key=lambda entry: entry[0]):
            if isinstance(entry, list):
                self.world.log.append(entry)
            elif (notice := self._notice(entry)) is not None:
                self.world._notice(notice)
        self.events, self.marks = [], []
        self._unanswered_last()

    def _notice(self, event: dict[str, Any]) -> Notice | None:
        """What the tree had said; None for the end of a process that the runner ended, once."""
        kind = event["event"].removeprefix("otpd.").removeprefix("report.").replace(".", "_", 1)
        path, generation = self.names.path_back(event["path"]), event["generation"]
        data = self.names.back({key: value for key, value in event.items() if key not in ("at", "event", "name")})
        if "reason" in data:
            failed = kind in ("child_start_failed", "supervisor_start_failed", "start_error")
            data["reason"] = _why(data["reason"]) if failed else _class(data["reason"])
        if kind == "child_exited" and self.ends.get((path, generation)) == data["reason"]:
            del self.ends[path, generation]
            return None
        return Notice(kind, path, generation, data)

    def _folded(self) -> list[Any]:
        folded: list[Any] = []
        for entry in self.world.log:
            if entry[0] == "stop" and entry[1] in self.dynamic:
                self._fold(folded, entry[1])
            folded.append(entry)
        return folded

    def _snapshot(self) -> list[Any]:
        rows: list[Any] = []
        for path, row in self._in_order(self._rows_now()):
            if row["state"] != "running":
                rows.append([path, "undefined", None])
            elif row["type"] == "worker":
                rows.append([path, "alive", row["generation"]])
            else:
                rows.append([path, "alive", row["generation"], self._counts(path)])
        return rows

    def _in_order(self, rows: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """Children of dynamic supervisors by name; below what is not running nothing."""
        dead = [path for path, row in rows.items() if row["state"] != "running"]
        shown = {path: row for path, row in rows.items() if not any(path.startswith(other + "/") for other in dead)}
        order = {path: number for number, path in enumerate(shown)}

        def key(item: tuple[str, Any]) -> list[tuple[int, str]]:
            parts = item[0].split("/")
            above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
            by_name = [n > 0 and above[n - 1] in self.dynamic for n in range(len(parts))]
            return [(0, parts[n]) if by_name[n] else (order[above[n]], "") for n in range(len(parts))]

        return sorted(shown.items(), key=key)

    def _counts(self, path: str) -> list[int]:
        count = self._ask({"op": "count_children", "sup": self.names.path(self.lane, path)})
        return [count[key] for key in ("specs", "active", "supervisors", "workers")]

    def clear_away(self) -> None:
        """Whatever the scenario has left: its lane is empty afterwards."""
        self._ask({"op": "terminate_child", "sup": self.lane, "id": self.names.key})
        assert self._rows_now() == {}
        self._take()


def _paths(path: str, node: dict[str, Any], own: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    if own:
        yield path, node
    for child in node.get("children") or ():
        yield from _paths(f"{path}/{child['id']}", child)


def _why(reason: Any) -> Any:
    """Why a start failed, in the words of the scenario."""
    match reason:
        case ["failed_to_start_child", child, why]:
            return ["failed_to_start_child", child, _why(why)]
        case "error(1)":
            return "fail"
    return reason


def _class(reason: str) -> str:
    """`error(1)` is `error`, `shutdown(term)` is `shutdown`."""
    return reason.partition("(")[0]
