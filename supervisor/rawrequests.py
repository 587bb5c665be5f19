"""Operation `request` of the control socket: one of OTP's requests to one supervisor, as data, with its own answer.

`child`, `scale` and `reload` are for people: by name, many at once, in sentences. This one is for programs that keep
children of their own: {"op": "request", "request": {"op", "sup", "sup_generation"?, ...}, "by"?: who asks, for death
records}. `sup` is the path of a supervisor as `otpd tree` shows it, "" is the top. With `sup_generation` that incarnation
is meant and no later one, as OTP means a pid.

| op              | further keys                          | result when it goes well                 |
|-----------------|---------------------------------------|------------------------------------------|
| start_child     | child: a spec (`specdata.to_data`)    | ["ok", n], ["ok", "undefined"], "ignore" |
|                 | or name: one more simple_one_for_one  |                                          |
| terminate_child | id, generation?                       | "ok"                                     |
| restart_child   | id                                    | ["ok", n], ["ok", "undefined"]           |
| delete_child    | id                                    | "ok"                                     |
| which_children  |                                       | [[id, state, n, type]], newest first     |
| count_children  |                                       | {specs, active, supervisors, workers}    |
| get_childspec   | id, generation?                       | the spec with its defaults               |
| change_spec     | spec: the supervisor's new one        | "ok"                                     |

A child of a dynamic supervisor is meant by id and generation together. Where OTP answers {error, Why} the result is
["error", ...]: the supervisor's own word, as in the recorded traces, and no failure of the operation, which fails only
for what is no such request, or for a name that another child of the node has. The answer comes when the supervisor has
got to the request, after everything that was sent before it; `at` in it is the time of that, on the clock of the events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from otpd.supervisor import specdata
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.events import (
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
from otpd.supervisor.services import OWN_NAMES, is_own, with_services
from otpd.supervisor.spec import ChildSpec, SupervisorSpec
from otpd.supervisor.tree import SupervisorView, walk

if TYPE_CHECKING:
    from otpd.supervisor.changes import Changes
    from otpd.supervisor.root import Root

T = TypeVar("T")

OPS = (
    "start_child",
    "terminate_child",
    "restart_child",
    "delete_child",
    "which_children",
    "count_children",
    "get_childspec",
    "change_spec",
)


class RawRequests:
    def __init__(self, root: Root, changes: Changes) -> None:
        self._root, self._changes = root, changes

    def request(self, connection: Connection, request: dict[str, Any]) -> None:
        """The operation."""
        wanted: Any = request.get("request")
        op = self._beside_services(read(wanted, self._root.path_below_top))
        by = request.get("by", "operator")
        if not isinstance(by, str):
            raise OperationError(2, f"expected 'by' to be a text, got {by!r}")
        if self._is_gone(op.sup, _number(wanted, "sup_generation")):
            _answer(connection, ["error", "noproc"])
            return
        self._refuse_taken_names(op)

        def answered(result: Any) -> None:
            self._note(op, result)
            _answer(connection, result)

        if isinstance(op, DeleteChild):
            self._changes.delete(f"{op.sup}/{op.id}", answered)
            return
        if isinstance(op, TerminateChild) and self._root.workers.live(f"{op.sup}/{op.id}") is not None:
            self._root.workers.asked(f"{op.sup}/{op.id}", by)
        self._root.request(op, answered)

    def _beside_services(self, op: Op) -> Op:
        """The request as it concerns the user's tree: the node's own part of it stays as it is."""
        match op:
            case ChangeSpec(sup, spec) if "/" not in sup:
                return ChangeSpec(sup, with_services(replace(self._root.node, top=spec)))
            case ChangeSpec(sup) | StartChild(sup):
                self._changes.refuse_own(sup, "changed")
            case DeleteChild(sup, id):
                self._changes.refuse_own(f"{sup}/{id}", "deleted")
        return op

    def _is_gone(self, sup: str, generation: int | None) -> bool:
        view = self._root.tree.view(sup)
        return generation is not None and (view is None or view.generation != generation)

    def _note(self, op: Op, result: Any) -> None:
        """What was added by hand to a supervisor of the config is known as such until a reload."""
        if not (isinstance(op, StartChild) and isinstance(result, list) and result[0] == "ok"):
            return
        sup, child = self._root.tree.view(op.sup), self._root.tree.view(f"{op.sup}/{op.spec.id}")
        if isinstance(sup, SupervisorView) and sup.flags.dynamic is None and child is not None:
            self._root.runtime[child.path] = child.spec

    def _refuse_taken_names(self, op: Op) -> None:
        """A name is unique in the node: logs, death records and cookies go by it."""
        new = self._new(op)
        if not new:
            return
        taken = self._root.names.reserved
        taken |= {view.name: view.path for view in walk(self._root.tree.snapshot()) if "/" in view.path}
        for name, path in new:
            if name in OWN_NAMES and not is_own(path):
                raise OperationError(3, f"the node uses the name '{name}' itself", f"choose another, such as my-{name}")
            other = taken.setdefault(name, path)
            if other != path:
                text = f"the name '{name}' is taken by {self._root.shown(other)}"
                raise OperationError(3, text, "names are unique in a node; choose another")

    def _new(self, op: Op) -> list[tuple[str, str]]:
        """(name, path) of everything that the request brings."""
        match op:
            case ChangeSpec(sup, spec):
                return [*_below(sup, spec)]
            case StartChild(sup, spec):
                view = self._root.tree.view(sup)
                template = view.flags.template if isinstance(view, SupervisorView) else None
                start = spec.start if spec.start is not None or template is None else template.start
                path = f"{sup}/{spec.id}"
                return [(spec.id, path), *(_below(path, start) if isinstance(start, SupervisorSpec) else ())]
        return []


def _answer(connection: Connection, result: Any) -> None:
    connection.end({"ok": True, "result": result, "at": time.time()})


def _below(path: str, spec: SupervisorSpec) -> Iterator[tuple[str, str]]:
    for child in spec.children:
        yield child.id, f"{path}/{child.id}"
        if isinstance(child.start, SupervisorSpec):
            yield from _below(f"{path}/{child.id}", child.start)


# --- reading ---


def read(request: Any, path_of: Callable[[str], str]) -> Op:
    """The tree's request; `path_of` turns a path as people see it into the tree's. OperationError 2 for anything else."""
    if not isinstance(request, dict) or request.get("op") not in OPS:
        op = request.get("op") if isinstance(request, dict) else request
        raise OperationError(2, f"expected a request, a map with an op of {', '.join(OPS)}, got {op!r}")
    sup = path_of(_text(request, "sup"))
    match request["op"]:
        case "start_child":
            return StartChild(sup, _child(request))
        case "terminate_child":
            return TerminateChild(sup, _id(request, path_of), _number(request, "generation"))
        case "restart_child":
            return RestartChild(sup, _text(request, "id"))
        case "delete_child":
            return DeleteChild(sup, _text(request, "id"))
        case "which_children":
            return WhichChildren(sup)
        case "count_children":
            return CountChildren(sup)
        case "get_childspec":
            return GetChildSpec(sup, _text(request, "id"), _number(request, "generation"))
    return ChangeSpec(sup, _spec(request, "spec", specdata.supervisor_from_data))


def _child(request: dict[str, Any]) -> ChildSpec:
    if "name" in request:
        return ChildSpec(id=_text(request, "name"), start=None)
    return _spec(request, "child", specdata.child_from_data)


def _spec(request: dict[str, Any], key: str, read: Callable[[Any], T]) -> T:
    try:
        return read(request.get(key))
    except specdata.SpecDataError as error:
        raise OperationError(2, f"'{key}' of the request can't be read: {error}") from error


def _id(request: dict[str, Any], path_of: Callable[[str], str]) -> str:
    """With a slash it is the path of a process that need not be a child of this supervisor."""
    found = _text(request, "id")
    return path_of(found) if "/" in found else found


def _text(request: dict[str, Any], key: str) -> str:
    found = request.get(key)
    if not isinstance(found, str):
        raise OperationError(2, f"expected the text '{key}' in {request['op']}, got {found!r}")
    return found


def _number(request: dict[str, Any], key: str) -> int | None:
    found = request.get(key)
    if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
        raise OperationError(2, f"expected '{key}' in {request['op']} to be a number, got {found!r}")
    return found
