"""Changes to a running tree that are more than one of OTP's requests: restart and delete by hand, scale, reload.

Each is a row of ordinary requests to supervisors, so that everything that holds for those holds for these; `plan` says
what a reload consists of. What was changed by hand (scaled, deleted) is remembered until a reload, which goes by the
config alone; a child that was stopped by hand stays down until it is started by hand. Scale and reload take turns.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from otpd.supervisor import picture, pools, services, specdata
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
        self._turns: deque[tuple[Connection, Callable[[], None]]] = deque()

    def restart(self, path: str, then: Callable[[Any], None]) -> None:
        """Stop and start in one go: both requests stand in the mailbox before anybody else's."""
        sup, _, child = path.rpartition("/")
        view = self._root.tree.view(path)
        assert view is not None
        forgotten = view.spec.restart is Restart.TEMPORARY or self._root.tree.is_own(path)
        again = StartChild(sup, view.spec) if forgotten else RestartChild(sup, child)

        def done(results: list[Any]) -> None:
            self._root.names.release(child)
            then(results[-1])

        self._root.workers.asked(path, "operator")
        self._root.names.reserve(child, path)
        self._all([TerminateChild(sup, child), again], done)

    def delete(self, path: str, then: Callable[[Any], None]) -> None:
        """Of a child that is down."""
        sup, _, child = path.rpartition("/")

        def answered(result: Any) -> None:
            if result == "ok":
                self._deleted(path)
            then(result)

        self._root.request(DeleteChild(sup, child), answered)

    def refuse_own(self, path: str, what: str) -> None:
        """The node would be another one without its services, or with more of them."""
        if services.is_own(path):
            name = self._root.shown(path)
            raise OperationError(3, f"{name} is the node's own and can't be {what}", f"{_STOP_IT} {_id(path)}")

    def _deleted(self, path: str) -> None:
        if path in _paths(self._root.node.top, self._root.path_below_top("")):
            self._root.deleted.add(path)

    # --- turns ---

    def _in_turn(self, connection: Connection, action: Callable[[], None]) -> None:
        """Begin `action` when the one before it is over; it ends with `_turn_over`, or with an OperationError."""
        self._turns.append((connection, action))
        if len(self._turns) == 1:
            self._begin_turn()

    def _begin_turn(self) -> None:
        connection, action = self._turns[0]
        try:
            action()
        except OperationError as error:
            connection.fail(error)
            self._turn_over()

    def _turn_over(self) -> None:
        self._turns.popleft()
        if self._turns:
            self._begin_turn()

    # --- scale ---

    def scale(self, connection: Connection, request: dict[str, Any]) -> None:
        """Operation `scale`: n instances of a child, until the next reload or start of the node."""
        name, n = request.get("name"), request.get("n")
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= MAX_INSTANCES:
            raise OperationError(2, f"expected a number of instances from 0 to {MAX_INSTANCES}, got {n!r}")
        self._in_turn(connection, lambda: self._scale(connection, str(name), n))

    def _scale(self, connection: Connection, name: str, n: int) -> None:
        members = self._members(name)
        for path in members:
            self.refuse_own(path, "scaled")
        if not members and name not in self._templates:
            self._root.operations.path_of(name)  # says what is wrong with the name
        if members:
            self._templates[name] = (members[0].rpartition("/")[0], self._spec(members[0]))
        sup, template = self._templates[name]
        removed = members[n:][::-1]
        free = _free(members, template.id, name, n - len(members), self._is_taken)
        added = [_instance(template, id, name) for id in free]
        ops: list[Op] = [op for path in removed for op in (TerminateChild(sup, _id(path)), DeleteChild(sup, _id(path)))]
        ops += [StartChild(sup, spec) for spec in added]
        for path in removed:
            self._root.workers.asked(path, "scale")
        self._root.runtime.update({f"{sup}/{spec.id}": spec for spec in added})

        def done(results: list[Any]) -> None:
            for path in removed:
                self._deleted(path)
            problems = [_problem(op, result) for op, result in zip(ops, results, strict=True) if _failed(op, result)]
            if problems:
                connection.fail(OperationError(1, f"scaling {name}: {'; '.join(problems)}", "look with: otpd status"))
            else:
                connection.answer({"added": [spec.id for spec in added], "removed": [_id(path) for path in removed]})
            self._turn_over()

        self._all(ops, done)

    # --- reload ---

    def reload(self, connection: Connection, request: dict[str, Any]) -> None:
        """Operation `reload`: what differs between the running node and `spec`; with `plan`, only says so."""
        try:
            new = specdata.from_data(request.get("spec"))
        except (specdata.SpecDataError, TypeError, ValueError) as error:
            raise OperationError(2, f"the new configuration can't be read: {error}", "use the node's own otpd") from error
        if self._root.node.commands is not None:
            new = services.keeping(new, frozenset({services.COMMANDS}))
        if request.get("plan"):
            _answer(connection, self._plan(new), applied=False)
        else:
            self._in_turn(connection, lambda: self._reload(connection, new))

    def _plan(self, new: NodeSpec) -> Plan:
        """Against the node as it is, with what was changed by hand since it was configured."""
        root, top = self._root, self._root.path_below_top("")
        runtime = {path: spec for path, spec in root.runtime.items() if root.tree.view(path) is not None}
        deleted = {path for path in root.deleted if root.tree.view(path) is None}
        old = replace(root.node, top=_as_it_is(top, root.node.top, runtime, deleted))
        plan = diff(*(replace(each, top=services.with_services(each)) for each in (old, new)))
        return replace(plan, refused=(*plan.refused, *root.names.clashes(new)))

    def _reload(self, connection: Connection, new: NodeSpec) -> None:
        plan = self._plan(new)
        if plan.refused:
            raise OperationError(3, "; ".join(plan.refused), "stop the node and start it again")

        def done(problems: list[str]) -> None:
            if self._root.phase in ("stopping", "ending"):
                connection.fail(OperationError(3, "the node is stopping; the reload did not get to its end", "otpd start"))
            elif problems:
                connection.fail(OperationError(1, f"reloaded, but: {'; '.join(problems)}", "look with: otpd why NAME"))
            else:
                _answer(connection, plan, applied=not plan.empty)
            self._turn_over()

        self._apply(plan, new, done)

    def _apply(self, plan: Plan, new: NodeSpec, then: Callable[[list[str]], None]) -> None:
        """First everything goes that must go, everywhere (a child may move); then the new specs; then what must start."""
        self._root.names.expect(new)
        first = self._ends_of_pools(plan)
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
        top = services.with_services(new)
        supervisors = [] if plan.empty else _supervisors(self._root.path_below_top(""), top)
        tasks = self._root.path_below_top(pools.TASKS)  # what is below it came on demand, and is in no configuration
        changes: list[Op] = [ChangeSpec(path, spec) for path, spec in supervisors if path != tasks]

        def removed(_results: list[Any]) -> None:
            for path in _paths(top, self._root.path_below_top("")):
                self._root.tree.adopt_history(path)
            self._all(changes, changed)

        def changed(_results: list[Any]) -> None:
            self._adopt(new)
            self._all(last, started)

        def started(results: list[Any]) -> None:
            then([_problem(op, result) for op, result in zip(last, results, strict=True) if _failed(op, result)])

        self._all(first, removed)

    def _ends_of_pools(self, plan: Plan) -> list[Op]:
        """Those that run and are not any more what the configuration says."""
        sup = self._root.path_below_top(pools.TASKS)
        changed = [change.name.removeprefix("pools.") for change in plan.node if change.name.startswith("pools.")]
        ids = [id for id in map(pools.child_name, changed) if self._root.tree.view(f"{sup}/{id}") is not None]
        for id in ids:
            self._root.workers.asked(f"{sup}/{id}", "reload")
        return [op for id in ids for op in (TerminateChild(sup, id), DeleteChild(sup, id))]

    def _adopt(self, new: NodeSpec) -> None:
        self._root.node = new
        self._root.names.expect(None)
        self._root.runtime.clear()
        self._root.deleted.clear()
        self._templates.clear()
        self._root.set_log_policy()
        self._root.health.reloaded()
        self._root.link.look_soon()
        with contextlib.suppress(OSError):
            self._root.save_spec()

    def _rests(self, path: str) -> bool:
        """It is down because it was stopped by hand, or because it has done its work."""
        view = self._root.tree.view(path)
        return view is None or view.state == "stopped"

    def _members(self, name: str) -> list[str]:
        """The child of that name and the instances of that group, in start order."""
        own = [path for path in self._root.tree.find(name) if path.rpartition("/")[2] == name]
        return own + [path for path in picture.group(self._root, name) if path not in own]

    def _is_taken(self, name: str) -> bool:
        """By a child of a running agent."""
        path = self._root.names.holder(name)
        return path is not None and self._root.tree.is_own(path)

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


_STOP_IT = "to be without it for a while: otpd child stop"


def _answer(connection: Connection, plan: Plan, applied: bool) -> None:
    connection.answer({**plan.to_dict(), "applied": applied, "lines": plan.lines()})


def _as_it_is(path: str, spec: SupervisorSpec, runtime: Mapping[str, ChildSpec], deleted: Set[str]) -> SupervisorSpec:
    """`spec` of the supervisor at `path` without what was deleted below it and with what was added at run time."""
    own = [child for child in spec.children if f"{path}/{child.id}" not in deleted]
    own += [child for each, child in runtime.items() if each == f"{path}/{child.id}"]
    return replace(spec, children=tuple(_child_as_it_is(path, child, runtime, deleted) for child in own))


def _child_as_it_is(path: str, child: ChildSpec, runtime: Mapping[str, ChildSpec], deleted: Set[str]) -> ChildSpec:
    if not isinstance(child.start, SupervisorSpec):
        return child
    return replace(child, start=_as_it_is(f"{path}/{child.id}", child.start, runtime, deleted))


def _supervisors(path: str, spec: SupervisorSpec) -> Iterator[tuple[str, SupervisorSpec]]:
    yield path, spec
    for child in spec.children:
        if isinstance(child.start, SupervisorSpec):
            yield from _supervisors(f"{path}/{child.id}", child.start)


def _paths(spec: SupervisorSpec, path: str) -> set[str]:
    """Of everything below the supervisor at `path`."""
    return {f"{sup}/{child.id}" for sup, each in _supervisors(path, spec) for child in each.children}


def _instance(template: ChildSpec, id: str, group: str) -> ChildSpec:
    assert isinstance(template.start, Launch)
    return replace(template, id=id, start=replace(template.start, group=group))


def _free(members: list[str], first: str, name: str, n: int, is_taken: Callable[[str], bool]) -> list[str]:
    """The n lowest instances that nobody is: `first`, then name-1 or name-2 and so on."""
    taken = {_id(path) for path in members}
    ids = [first] if first == name else []
    numbers = range(2 if first == name else 1, 2 * MAX_INSTANCES)
    free = (id for id in (*ids, *(f"{name}-{k}" for k in numbers)) if id not in taken and not is_taken(id))
    return [next(free) for _ in range(n)]


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _failed(op: Op, result: Any) -> bool:
    """Not failed: a temporary child is gone with its process, nothing is left to delete; and who is below a supervisor
    that does not run is started with it."""
    match op, result:
        case (DeleteChild(), ["error", "not_found"]) | (RestartChild(), ["error", "noproc"]):
            return False
    return isinstance(result, list) and bool(result) and result[0] == "error"


def _problem(op: Op, result: Any) -> str:
    match op, result:
        case (StartChild(spec=spec), ["error", "start_failed", why]):
            return f"{spec.id} did not start: {why}"
        case (RestartChild(id=id), ["error", "start_failed", why]):
            return f"{id} did not start: {why}"
        case (StartChild(spec=spec), _):
            return f"{spec.id}: {result}"
    return f"{getattr(op, 'id', op.sup)}: {result}"
