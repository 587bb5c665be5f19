"""What a supervisor answers to management requests, in OTP's words (rules 75-94). Pure; `supervision` starts and stops.

Called when the supervisor takes the request from its mailbox, so nothing else is going on in it. Replies are plain data,
ready for JSON: "ok", ["ok", generation], ["error", code, ...], lists and dicts. An id means a child of a static
supervisor; children of dynamic supervisors are meant by (name, generation), as OTP means them by pid. The own supervisor
of a worker (see `own`) is dynamic, and means its children by name.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from otpd.supervisor.child import AWAITS_RESTART, HAS_PID, Child, ChildState, instance
from otpd.supervisor.events import (
    ChangeSpec,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    Reply,
    Request,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from otpd.supervisor.job import Doing, Job
from otpd.supervisor.spec import ChildSpec, ChildType, Dynamic, SupervisorSpec
from otpd.supervisor.validate import SpecError, check_child, check_supervisor, in_milliseconds

if TYPE_CHECKING:
    from otpd.supervisor.supervision import Supervisor

NOT_FOUND = ["error", "not_found"]
NOT_BY_ID = ["error", "simple_one_for_one"]


def handle(sup: Supervisor, request: Request) -> None:
    """Answer at once, or begin the job that will answer."""
    op = request.op
    match op:
        case StartChild():
            result = _start_child(sup, request.id, op)
        case TerminateChild():
            result = _terminate_child(sup, request.id, op)
        case RestartChild():
            result = _restart_child(sup, request.id, op)
        case DeleteChild():
            result = _delete_child(sup, op)
        case WhichChildren():
            result = which_children(sup)
        case CountChildren():
            result = count_children(sup)
        case GetChildSpec():
            result = _get_child_spec(sup, op)
        case ChangeSpec():
            result = _change_spec(sup, op.spec)
    if result is not None:
        sup.ledger.emit(Reply(request.id, result))


# --- start ---


def _start_child(sup: Supervisor, request: int, op: StartChild) -> Any:
    if sup.ledger.closing:
        return ["error", "noproc"]
    spec = op.spec
    if sup.spec.dynamic is Dynamic.SIMPLE and sup.spec.template is not None:
        spec = instance(sup.spec.template, spec.id, spec.start)
    try:
        check_child(spec, sup.spec.auto_shutdown)
    except SpecError as error:
        return ["error", "bad_spec", error.data]
    present = sup.children.get(spec.id)
    if present is not None:
        running = present.state in HAS_PID
        return ["error", "already_started", present.generation] if running else ["error", "already_present"]
    if _is_full(sup):
        return ["error", "max_children"]
    child = sup.children[spec.id] = sup.row(spec)
    sup.job = Job(Doing.ADD, starts=deque([child]), request=request)
    return None


def _is_full(sup: Supervisor) -> bool:
    """Restarting children keep their places (rule 89)."""
    limit = sup.spec.max_children
    return sup.spec.dynamic is not None and limit is not None and len(sup.children) >= limit


def _restart_child(sup: Supervisor, request: int, op: RestartChild) -> Any:
    if _not_by_id(sup):
        return NOT_BY_ID
    child = sup.children.get(op.id)
    if child is None or child.state is not ChildState.DOWN:
        return _why_not(child)
    sup.job = Job(Doing.REVIVE, starts=deque([child]), request=request)
    return None


# --- stop ---


def _terminate_child(sup: Supervisor, request: int, op: TerminateChild) -> Any:
    if _not_by_id(sup) and op.generation is None:
        return NOT_BY_ID
    child = sup.children.get(op.id)
    if child is None or not _is_meant(child, op.generation):
        dead = sup.spec.dynamic is Dynamic.SIMPLE and not _is_alive(sup, op.id, op.generation)
        return "ok" if dead else NOT_FOUND
    sup.job = Job(Doing.TERMINATE, stops=deque([child]), request=request, result="ok")
    return None


def _delete_child(sup: Supervisor, op: DeleteChild) -> Any:
    if _not_by_id(sup):
        return NOT_BY_ID
    child = sup.children.get(op.id)
    if child is None or child.state is not ChildState.DOWN:
        return _why_not(child)
    sup.remove(child)
    return "ok"


def _not_by_id(sup: Supervisor) -> bool:
    return sup.spec.dynamic is not None and not sup.by_name


def _why_not(child: Child | None) -> Any:
    if child is None:
        return NOT_FOUND
    return ["error", "restarting" if child.state in AWAITS_RESTART else "running"]


def _is_meant(child: Child, generation: int | None) -> bool:
    """The last incarnation that lived is the handle of a child, also while it waits for its restart."""
    return generation is None or (child.lived == generation and child.state is not ChildState.DOWN)


def _is_alive(sup: Supervisor, name: str, generation: int | None) -> bool:
    """Whether the handle, a full path here, is that of a living process anywhere in the tree."""
    if (other := sup.ledger.supervisors.get(name)) is not None:
        return other.generation == generation
    path, _, last = name.rpartition("/")
    owner = sup.ledger.keeper(path)
    child = owner.children.get(last) if owner else None
    return child is not None and child.generation == generation and child.state in HAS_PID


# --- look ---


def which_children(sup: Supervisor) -> list[list[Any]]:
    """[id, state, generation, type], newest first; of a dynamic supervisor the living by name, then the others."""
    rows = [_which(child) for child in reversed(sup.children.values())]
    if sup.spec.dynamic is None:
        return rows
    alive = sorted(row for row in rows if row[1] == "alive")
    return alive + [[None, *row[1:]] for row in rows if row[1] != "alive"]


def _which(child: Child) -> list[Any]:
    kind = str(child.spec.type)
    if child.state in HAS_PID:
        return [child.id, "alive", child.generation, kind]
    return [child.id, "restarting" if child.state in AWAITS_RESTART else "undefined", None, kind]


def count_children(sup: Supervisor) -> dict[str, int]:
    """Specs, living ones, and how many are declared supervisors and workers."""
    children = sup.children.values()
    supervisors = sum(child.spec.type == ChildType.SUPERVISOR for child in children)
    return {
        "specs": 1 if sup.spec.dynamic is Dynamic.SIMPLE else len(children),
        "active": sum(child.state in HAS_PID for child in children),
        "supervisors": supervisors,
        "workers": len(children) - supervisors,
    }


def _get_child_spec(sup: Supervisor, op: GetChildSpec) -> Any:
    template = sup.spec.template if sup.spec.dynamic is Dynamic.SIMPLE else None
    if template is not None and op.generation is None and op.id == template.id:
        return spec_as_data(template)
    child = sup.children.get(op.id)
    if child is None or not _is_meant(child, op.generation):
        return NOT_FOUND
    return spec_as_data(child.spec) | ({"id": template.id} if template is not None else {})


def spec_as_data(spec: ChildSpec) -> dict[str, Any]:
    """All fields of OTP, as OTP writes them: `shutdown` in milliseconds."""
    return {
        "id": spec.id,
        "restart": str(spec.restart),
        "shutdown": in_milliseconds(spec.shutdown),
        "significant": spec.significant,
        "type": str(spec.type),
    }


# --- change ---


def _change_spec(sup: Supervisor, new: SupervisorSpec) -> Any:
    """New flags and specs, all or nothing; starts and stops nobody (rule 87)."""
    try:
        _check_change(sup.spec, new)
    except SpecError as error:
        return ["error", "bad_spec", error.data]
    old_template = sup.spec.template
    sup.spec = new
    sup.window.change(new.max_restarts, new.max_seconds)
    match new.dynamic:
        case None:
            sup.children = _merged(sup, new.children)
        case Dynamic.SIMPLE if new.template is not None:
            for child in sup.children.values():
                own = child.spec.start if old_template is None or child.spec.start is not old_template.start else None
                child.spec = instance(new.template, child.id, own)
    return "ok"


def _check_change(old: SupervisorSpec, new: SupervisorSpec) -> None:
    if old.dynamic is not new.dynamic:
        was = old.dynamic or "static"
        sentence = f"a running supervisor keeps its engine ({was}); stop and delete it, then start the new one"
        raise SpecError(["invalid_dynamic", str(new.dynamic)], sentence)
    try:
        check_supervisor(new)
    except SpecError as error:
        raise SpecError(error.data[-1], str(error)) from error


def _merged(sup: Supervisor, specs: tuple[ChildSpec, ...]) -> dict[str, Child]:
    """The listed ones in their order, then those that are no longer listed, in theirs."""
    merged: dict[str, Child] = {}
    for spec in specs:
        child = merged[spec.id] = sup.children.get(spec.id) or sup.row(spec)
        child.spec = spec
    return merged | {name: child for name, child in sup.children.items() if name not in merged}
