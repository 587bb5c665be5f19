"""Changes to a running tree that are more than one of OTP's requests: restart by hand, scale, reload.

Each is a row of ordinary requests to supervisors, so that everything that holds for those holds for these; `plan` says
what a reload consists of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from otpd.ipc.frames import pack
from otpd.supervisor import picture, specdata
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.events import ChangeSpec, DeleteChild, Op, RestartChild, StartChild, TerminateChild
from otpd.supervisor.plan import Plan, diff
from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, Restart, SupervisorSpec

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

MAX_INSTANCES = 10_000
Then = Callable[[list[Any]], None]


class Changes:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._templates: dict[str, tuple[str, ChildSpec]] = {}  # of groups that were scaled to nothing

    def restart(self, path: str, then: Callable[[Any], None]) -> None:
        """Stop and start in one go: both requests stand in the mailbox before anybody else's."""
        sup, _, child = path.rpartition("/")
        view = self._root.tree.view(path)
        assert view is not None
        again = StartChild(sup, view.spec) if view.spec.restart is Restart.TEMPORARY else RestartChild(sup, child)
        self._root.workers.asked(path, "operator")
        self._all([TerminateChild(sup, child), again], lambda results: then(results[-1]))

    def scale(self, connection: Connection, request: dict[str, Any]) -> None:
        """Operation `scale`: n instances of a child, from now until the next start of the node."""
        name, n = request.get("name"), request.get("n")
        if not isinstance(n, int) or not 0 <= n <= MAX_INSTANCES:
            raise OperationError(2, f"expected a number of instances from 0 to {MAX_INSTANCES}, got {n!r}")
        members = self._members(str(name))
        if not members and name not in self._templates:
            self._root.operations.path_of(name)  # says what is wrong with the name
        if members:
            self._templates[str(name)] = (members[0].rpartition("/")[0], self._spec(members[0]))
        sup, template = self._templates[str(name)]
        removed = members[n:][::-1]
        added = [_instance(template, str(name), k) for k in _free(members, str(name), n - len(members))]
        ops: list[Op] = [op for path in removed for op in (TerminateChild(sup, _id(path)), DeleteChild(sup, _id(path)))]
        ops += [StartChild(sup, spec) for spec in added]
        self._root.runtime.update(f"{sup}/{spec.id}" for spec in added)

        def done(results: list[Any]) -> None:
            problems = [str(result) for result in results if _failed(result)]
            if problems:
                connection.fail(OperationError(1, f"scaling {name}: {'; '.join(problems)}", "look with: otpd status"))
            else:
                connection.answer({"added": [spec.id for spec in added], "removed": [_id(path) for path in removed]})

        self._all(ops, done)

    def reload(self, connection: Connection, request: dict[str, Any]) -> None:
        """Operation `reload`: what differs between the running node and `spec`; with `plan`, only says so."""
        try:
            new = specdata.from_data(request.get("spec"))
        except (specdata.SpecDataError, TypeError, ValueError) as error:
            raise OperationError(2, f"the new configuration can't be read: {error}", "use the same otpd as the node's") from error
        plan = diff(self._root.node, new)
        if plan.refused and not request.get("plan"):
            raise OperationError(3, "; ".join(plan.refused), "stop the node and start it again")
        if request.get("plan") or plan.empty:
            connection.answer({**plan.to_dict(), "applied": False, "lines": plan.lines()})
        else:
            self._apply(plan, new, lambda problems: _reloaded(connection, plan, problems))

    def _apply(self, plan: Plan, new: NodeSpec, then: Callable[[list[str]], None]) -> None:
        """First everything goes that must go, everywhere (a child may move); then the new specs; then what must start."""
        first: list[Op] = []
        last: list[Op] = []
        for each in plan.supervisors:
            sup = self._root.path_below_top(each.path)
            for id in each.removed:
                first += [TerminateChild(sup, id), DeleteChild(sup, id)]
                self._root.workers.asked(f"{sup}/{id}", "reload")
            restarts = [item.id for item in each.changed if not self._rests(f"{sup}/{item.id}")]
            for id in restarts:
                first.append(TerminateChild(sup, id))
                self._root.workers.asked(f"{sup}/{id}", "reload")
            wanted = {*restarts, *(child.id for child in each.added)}
            last += [RestartChild(sup, child.id) for child in each.spec.children if child.id in wanted]
        changes: list[Op] = [ChangeSpec(self._root.path_below_top(path), spec) for path, spec in _supervisors("", new.top)]

        def removed(_results: list[Any]) -> None:
            self._all(changes, changed)

        def changed(_results: list[Any]) -> None:
            self._adopt(new)
            self._all(last, started)

        def started(results: list[Any]) -> None:
            then([f"{op.id}: {result}" for op, result in zip(last, results, strict=True) if _failed(result)])  # type: ignore[union-attr]

        self._all(first, removed)

    def _adopt(self, new: NodeSpec) -> None:
        """The new spec is what root starts with, should it have to start again."""
        self._root.node = new
        self._root.runtime.clear()
        self._root.set_log_policy()
        path = self._root.paths.spec
        draft = path.with_name("spec.new")
        with contextlib.suppress(OSError):
            with open(draft, "wb") as file:
                file.write(pack(specdata.to_data(new)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)

    def _rests(self, path: str) -> bool:
        view = self._root.tree.view(path)
        return view is not None and view.state == "stopped"

    def _members(self, name: str) -> list[str]:
        """The child of that name and the instances of that group, in start order."""
        own = [path for path in self._root.tree.find(name) if path.rpartition("/")[2] == name]
        return own + [path for path in picture.group(self._root, name) if path not in own]

    def _spec(self, path: str) -> ChildSpec:
        view = self._root.tree.view(path)
        assert view is not None
        if not isinstance(view.spec.start, Launch):
            raise OperationError(3, f"{_id(path)} is a supervisor; only workers have instances", "scale its children")
        return view.spec

    def _all(self, ops: list[Op], then: Then) -> None:
        """Post all requests at once; `then(results)` when the last one is answered."""
        results: list[Any] = [None] * len(ops)
        missing = len(ops)
        if not ops:
            then([])

        def answered(index: int, result: Any) -> None:
            nonlocal missing
            results[index] = result
            missing -= 1
            if missing == 0:
                then(results)

        for index, op in enumerate(ops):
            self._root.request(op, lambda result, index=index: answered(index, result))  # type: ignore[misc]


def _reloaded(connection: Connection, plan: Plan, problems: list[str]) -> None:
    if problems:
        connection.fail(OperationError(1, f"reloaded, but: {'; '.join(problems)}", "look with: otpd why NAME"))
    else:
        connection.answer({**plan.to_dict(), "applied": True, "lines": plan.lines()})


def _supervisors(path: str, spec: SupervisorSpec) -> Iterator[tuple[str, SupervisorSpec]]:
    yield path, spec
    for child in spec.children:
        if isinstance(child.start, SupervisorSpec):
            yield from _supervisors(f"{path}/{child.id}".lstrip("/"), child.start)


def _instance(template: ChildSpec, name: str, k: int) -> ChildSpec:
    assert isinstance(template.start, Launch)
    return replace(template, id=f"{name}-{k}", start=replace(template.start, group=name))


def _free(members: list[str], name: str, n: int) -> list[int]:
    """The n lowest instance numbers that nobody has."""
    taken = {_id(path) for path in members}
    first = 2 if name in taken else 1
    free = (k for k in range(first, 2 * MAX_INSTANCES) if f"{name}-{k}" not in taken)
    return [next(free) for _ in range(n)]


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _failed(result: Any) -> bool:
    return isinstance(result, list) and bool(result) and result[0] == "error"
