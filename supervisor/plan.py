"""What `otpd reload` would do: the difference of two NodeSpecs, supervisor by supervisor. Pure; `root` carries it out.

A child is *changed* when its running process can't be what the new spec asks for (what it runs, its arguments, its
environment, its limits): it must be restarted. It is *updated* when only the node's handling of it differs (restart
type, shutdown, back-off, timeouts, strategy, intensity): nothing is restarted. A child under another parent is *moved*:
it counts as removed there and added here. Same specs, whatever the files look like: an empty plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from otpd.supervisor.spec import ChildSpec, ChildType, Launch, NodeSpec, SupervisorSpec
from otpd.supervisor.specdata import plain

#: Fields of a Launch that a running process has in it.
RESTART_FIELDS: Final = frozenset(
    {"kind", "script", "command", "args", "argv", "env", "cwd", "user", "umask", "limits", "watchdog", "spawn"}
)


@dataclass(frozen=True, slots=True)
class FieldChange:
    name: str
    old: Any
    new: Any

    def to_dict(self) -> dict[str, Any]:
        return {"field": self.name, "old": plain(self.old), "new": plain(self.new)}


@dataclass(frozen=True, slots=True)
class ChildChange:
    """A child that stays, by id, with the fields that differ."""

    id: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPlan:
    """What to do at one supervisor. `path` is below the top, which is "" itself."""

    path: str
    spec: SupervisorSpec  # as it must be afterwards, with all its children in order
    removed: tuple[str, ...] = ()  # in the order in which to stop them: the last started first
    added: tuple[ChildSpec, ...] = ()  # in the order in which to start them
    changed: tuple[ChildChange, ...] = ()  # to restart
    updated: tuple[ChildChange, ...] = ()  # to tell nobody but the tree
    flags: tuple[FieldChange, ...] = ()  # strategy, intensity, ... of the supervisor itself
    reordered: bool = False  # the children that stay are in another order

    @property
    def empty(self) -> bool:
        return not (self.removed or self.added or self.changed or self.updated or self.flags or self.reordered)

    def child(self, id: str) -> str:
        return f"{self.path}/{id}" if self.path else id


@dataclass(frozen=True, slots=True)
class Move:
    """A child that is found under another parent: `source` and `target` are its paths."""

    name: str
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Parents come before their children. `refused` says why nothing of it can be applied to the running node."""

    supervisors: tuple[SupervisorPlan, ...] = ()
    moved: tuple[Move, ...] = ()
    node: tuple[FieldChange, ...] = ()  # what changes for the node as a whole: log
    refused: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.supervisors or self.node or self.refused)

    def to_dict(self) -> dict[str, Any]:
        """For --json; every path is below the top."""
        plans = self.supervisors
        return {
            "empty": self.empty,
            "removed": [plan.child(id) for plan in plans for id in plan.removed],
            "added": [plan.child(child.id) for plan in plans for child in plan.added],
            "changed": [_change(plan, item) for plan in plans for item in plan.changed],
            "updated": [_change(plan, item) for plan in plans for item in plan.updated],
            "supervisors": [
                {"path": plan.path, "fields": [item.to_dict() for item in plan.flags]} for plan in plans if plan.flags
            ],
            "moved": [{"name": move.name, "from": move.source, "to": move.target} for move in self.moved],
            "reordered": [plan.path for plan in plans if plan.reordered],
            "node": [item.to_dict() for item in self.node],
            "refused": list(self.refused),
        }

    def lines(self) -> list[str]:
        """For people: one line per difference; what it does stands first."""
        if self.empty:
            return ["nothing to do: the file and the node are the same"]
        return [*(f"refused: {reason}" for reason in self.refused), *self._lines()]

    def _lines(self) -> Iterator[str]:
        places = {move.target: move.source for move in self.moved}
        gone = set(places.values())
        for plan in self.supervisors:
            yield from (f"stop     {plan.child(id)}" for id in plan.removed if plan.child(id) not in gone)
            for child in plan.added:
                path = plan.child(child.id)
                yield f"move     {places[path]} -> {path}" if path in places else f"start    {path}{_size(child)}"
            yield from (f"restart  {plan.child(item.id)}: {_words(item.fields)}" for item in plan.changed)
            yield from (f"update   {plan.child(item.id)}: {_words(item.fields)}" for item in plan.updated)
            if plan.flags:
                yield f"update   {plan.path or 'the top supervisor'}: {_words(plan.flags)}"
            if plan.reordered:
                yield f"reorder  children of {plan.path or 'the top supervisor'}"
        if self.node:
            yield f"update   node: {_words(self.node)}"


def diff(old: NodeSpec, new: NodeSpec) -> Plan:
    """What turns a node that runs `old` into one that runs `new`."""
    refused = tuple(
        f"node.{name} can't change while the node runs: it is {getattr(old, name)}, the file says "
        f"{getattr(new, name)}; `otpd stop` and `otpd start` the node"
        for name in ("name", "state_dir")
        if getattr(old, name) != getattr(new, name)
    )
    return Plan(
        supervisors=tuple(plan for plan in _supervisor("", old.top, new.top) if not plan.empty),
        moved=tuple(_moves(old.top, new.top)),
        node=(*_differences(old.log, new.log, prefix="log."), *_pools(old, new)),
        refused=refused,
    )


def _pools(old: NodeSpec, new: NodeSpec) -> tuple[FieldChange, ...]:
    """A pool that is changed or gone ends with its tasks; the next one that wants it starts it anew."""
    names = dict.fromkeys((*old.pools, *new.pools))
    pairs = ((name, old.pools.get(name), new.pools.get(name)) for name in names)
    return tuple(FieldChange(f"pools.{name}", one, two) for name, one, two in pairs if not _same(one, two))


def _supervisor(path: str, old: SupervisorSpec, new: SupervisorSpec) -> Iterator[SupervisorPlan]:
    before = {child.id: child for child in old.children}
    after = {child.id: child for child in new.children}
    stay = [id for id in before if id in after and before[id].type is after[id].type]
    pairs = [(before[id], after[id]) for id in stay]
    plan = SupervisorPlan(
        path=path,
        spec=new,
        removed=tuple(id for id in reversed(before) if id not in stay),
        added=tuple(child for child in new.children if child.id not in stay),
        changed=tuple(ChildChange(one.id, _all_fields(one, two)) for one, two in pairs if _must_restart(one, two)),
        updated=tuple(
            ChildChange(one.id, found)
            for one, two in pairs
            if not _must_restart(one, two) and (found := _all_fields(one, two))
        ),
        flags=_differences(old, new, without=("children",)),
        reordered=stay != [id for id in after if id in stay],
    )
    yield plan
    for one, two in pairs:
        if isinstance(one.start, SupervisorSpec) and isinstance(two.start, SupervisorSpec):
            yield from _supervisor(plan.child(one.id), one.start, two.start)


def _must_restart(old: ChildSpec, new: ChildSpec) -> bool:
    return any(change.name in RESTART_FIELDS for change in _launch_fields(old, new))


def _all_fields(old: ChildSpec, new: ChildSpec) -> tuple[FieldChange, ...]:
    return (*_differences(old, new, without=("start",)), *_launch_fields(old, new))


def _launch_fields(old: ChildSpec, new: ChildSpec) -> tuple[FieldChange, ...]:
    if not isinstance(old.start, Launch) or not isinstance(new.start, Launch):
        return ()
    return _differences(old.start, new.start)


def _differences(old: Any, new: Any, without: tuple[str, ...] = (), prefix: str = "") -> tuple[FieldChange, ...]:
    if old is new:
        return ()
    names = [item.name for item in fields(old) if item.name not in without]
    return tuple(
        FieldChange(prefix + name, getattr(old, name), getattr(new, name))
        for name in names
        if not _same(getattr(old, name), getattr(new, name))
    )


def _same(old: Any, new: Any) -> bool:
    """Equal as a program sees it: True is not 1 and 1 is not 1.0."""
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(item, new[key]) for key, item in old.items())
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    return bool(old == new)


def _moves(old: SupervisorSpec, new: SupervisorSpec) -> Iterator[Move]:
    before = dict(_paths("", old))
    for name, target in _paths("", new):
        source = before.get(name, target)
        if _parent(source) != _parent(target):  # not: its parent moved and took it along
            yield Move(name, source, target)


def _parent(path: str) -> str:
    """The name of the parent in a path, "" for the top."""
    return path.rpartition("/")[0].rpartition("/")[2]


def _paths(path: str, supervisor: SupervisorSpec) -> Iterator[tuple[str, str]]:
    """Name and path of everything below; names are unique in a node."""
    for child in supervisor.children:
        below = f"{path}/{child.id}" if path else child.id
        yield child.id, below
        if isinstance(child.start, SupervisorSpec):
            yield from _paths(below, child.start)


def _change(plan: SupervisorPlan, item: ChildChange) -> dict[str, Any]:
    return {"path": plan.child(item.id), "fields": [change.to_dict() for change in item.fields]}


def _words(changes: tuple[FieldChange, ...]) -> str:
    return ", ".join(change.name for change in changes)


def _size(child: ChildSpec) -> str:
    if child.type is not ChildType.SUPERVISOR or not isinstance(child.start, SupervisorSpec):
        return ""
    inside = sum(1 for _ in _paths("", child.start))
    return f" with {inside} {'child' if inside == 1 else 'children'}"
