"""What root answers on the control socket: one method per operation, named like it.

Read operations (`tree`, `status`, `why`, `node`, `events`) are answered at once from root's own tables and never wait for
a worker or a supervisor. The others are requests to supervisors and are answered when those have got to them.
"""

from __future__ import annotations

import contextlib
import difflib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otpd.supervisor import picture
from otpd.supervisor.changes import Changes
from otpd.supervisor.clients import Clients
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.events import RestartChild, TerminateChild
from otpd.supervisor.loop import Timer
from otpd.supervisor.rawrequests import RawRequests
from otpd.supervisor.relay import Relay

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Seconds between two words of a stop that takes its time (T23).
PROGRESS = 2.0
#: Seconds between a change and the look at those who wait for one.
LOOK = 0.02
#: Seconds between looks when nothing changes.
LOOK_AGAIN = 0.1
_YEAR = 366 * 86_400.0
#: Names in one request, and characters of a name that may be guessed at: more of them take time.
MAX_NAMES, _GUESSED = 10_000, 200
_ACTIONS = ("start", "stop", "restart", "delete")
#: Refused while the node stops.
_CHANGING = ("child", "scale", "reload", "request", "signal")


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody who waits for a state. `by_time`: time alone may bring it (see `picture.SETTLED`), not only a change."""

    connection: Connection
    paths: tuple[str | None, ...]  # None: the whole tree
    wanted: str
    by_time: bool
    late: Timer | None = None


class Operations:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._waiters: list[Waiter] = []
        self._looking = False
        self._stops: list[Connection] = []
        self._changes = Changes(root)
        relay = Relay(root)
        self._table: dict[str, Callable[[Connection, dict[str, Any]], None]] = {
            "node": self._node,
            "tree": self._tree,
            "status": self._status,
            "wait": self._wait,
            "child": self._child,
            "stop": self._stop,
            "why": self._why,
            "events": self._events,
            "signal": self._signal,
            "scale": self._changes.scale,
            "reload": self._changes.reload,
            "request": RawRequests(root, self._changes).request,
            "connect": Clients(root).connect,
            "reach": lambda connection, request: root.reaching.client(connection, request),
            "stats": relay.stats,
            "breaker": relay.breaker,
            "watch_health": lambda connection, request: root.health.watch(connection, request),
            "report_health": lambda connection, request: root.health.report(connection, request),
        }

    def dispatch(self, connection: Connection, request: dict[str, Any]) -> None:
        operation = self._table.get(request["op"])
        if operation is None:
            unknown = request["op"][:_GUESSED]
            near = difflib.get_close_matches(unknown, self._table, 1)
            raise OperationError(2, f"unknown operation '{unknown}'", f"did you mean '{near[0]}'?" if near else "")
        if self._root.phase in ("stopping", "ending") and request["op"] in _CHANGING:
            raise OperationError(3, "the node is stopping", "wait for it, then: otpd start")
        operation(connection, request)

    def something_happened(self) -> None:
        """The tree has changed: look soon at everybody who waits, once for all that happens until then."""
        self._look_again(LOOK)

    def _look_again(self, delay: float) -> None:
        if self._waiters and not self._looking:
            self._looking = True
            self._root.loop.after(delay, self._look)

    def _look(self) -> None:
        """Once for all who wait for the same."""
        self._looking = False
        found: dict[tuple[Any, ...], str | OperationError | None] = {}
        for waiter in self._waiters[:]:
            what = (waiter.paths, waiter.wanted)
            if what not in found:
                found[what] = self._outcome(waiter)
            late = found[what]
            if isinstance(late, OperationError):
                self._forget(waiter)
                waiter.connection.fail(late)
            elif late is None:
                self._forget(waiter)
                waiter.connection.answer(True)
        if any(waiter.by_time for waiter in self._waiters):
            self._look_again(LOOK_AGAIN)

    def _late(self, paths: tuple[str | None, ...], wanted: str) -> str | None:
        late = (picture.not_yet(self._root, path, wanted) for path in paths)
        return ", ".join(filter(None, late)) or None

    def _outcome(self, waiter: Waiter) -> str | OperationError | None:
        try:
            return self._late(waiter.paths, waiter.wanted)
        except OperationError as error:
            return error

    def stopped(self, left: list[str]) -> None:
        """The last word to everybody who asked for the stop."""
        answer: dict[str, Any] = {"ok": not left, "result": {"left": left}}
        if left:
            answer |= {"code": 1, "error": f"could not end: {', '.join(left)}", "hint": _LEFT_HINT}
        for connection in self._stops:
            connection.end(answer)
        self._stops.clear()

    # --- reading ---

    def _node(self, connection: Connection, _request: dict[str, Any]) -> None:
        connection.answer(picture.node_facts(self._root))

    def _tree(self, connection: Connection, _request: dict[str, Any]) -> None:
        connection.answer(picture.tree(self._root))

    def _status(self, connection: Connection, request: dict[str, Any]) -> None:
        rows = picture.workers(self._root)
        name = request.get("name")
        if name is not None:
            meant = [self._root.shown(path) + "/" for path in self.paths_of(name)]
            rows = [row for row in rows if f"{row['path']}/".startswith(tuple(meant))]
        connection.answer(rows)

    def _why(self, connection: Connection, request: dict[str, Any]) -> None:
        path = self.path_of(request.get("name"))
        connection.answer(picture.why(self._root, path))

    def _events(self, connection: Connection, request: dict[str, Any]) -> None:
        connection.parts([{"event": event} for event in self._root.journal.last(int(_number(request, "n", 100.0, 1e6)))])
        if not request.get("follow"):
            connection.end({"ok": True})
            return
        if not connection.open:
            return
        connection.on_close = self._root.journal.follow(lambda event: connection.part({"event": event}))

    def _wait(self, connection: Connection, request: dict[str, Any]) -> None:
        name, wanted = request.get("name"), request.get("for", "ready")
        timeout = _number(request, "timeout", 60.0, _YEAR)
        paths: tuple[str | None, ...] = (*self.paths_of(name),) if name is not None else (None,)
        if wanted not in ("ready", "down"):
            raise OperationError(2, f"expected to wait for 'ready' or 'down', got {wanted!r}")
        if self._late(paths, wanted) is None:
            connection.answer(True)
            return
        waiter = Waiter(connection, paths, wanted, by_time=wanted == "ready")
        self._waiters.append(waiter)
        self._look_again(LOOK)
        connection.on_close = lambda: self._forget(waiter)
        waiter.late = self._root.loop.after(timeout, lambda: self._time_out(waiter))

    def _forget(self, waiter: Waiter) -> None:
        if waiter.late is not None:
            waiter.late.cancel()
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

    def _time_out(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._look()
        if waiter in self._waiters:
            self._forget(waiter)
            others = picture.busy(self._root)
            text = f"timed out: {self._late(waiter.paths, waiter.wanted)}{others and f': {others}'}"
            waiter.connection.fail(OperationError(8, text, "look with: otpd why NAME"))

    # --- changing ---

    def _child(self, connection: Connection, request: dict[str, Any]) -> None:
        action, names = request.get("action"), request.get("names")
        if action not in _ACTIONS or not isinstance(names, list) or not names:
            raise OperationError(2, f"expected one of {', '.join(_ACTIONS)} and a list of names, got {action!r} {names!r}")
        if len(names) > MAX_NAMES:
            raise OperationError(2, f"expected at most {MAX_NAMES} names, got {len(names)}")
        meant = picture.meant(self._root)
        paths = list(dict.fromkeys(path for name in names for path in self.paths_of(name, meant)))
        for path in paths if action == "delete" else ():
            self._changes.refuse_own(path, "deleted")
        rows: dict[str, dict[str, Any]] = {}

        def done(path: str, problem: str | None) -> None:
            row = {"name": path.rpartition("/")[2], "ok": problem is None}
            rows[path] = row if problem is None else {**row, "error": problem}
            if len(rows) == len(paths):
                _finish_child(connection, [rows[each] for each in paths])

        for path in paths:
            self._act(action, path, lambda problem, path=path: done(path, problem))  # type: ignore[misc]

    def _act(self, action: str, path: str, done: Callable[[str | None], None]) -> None:
        """OTP's requests by name. A restart is a stop and a start that nobody can come between."""
        sup, _, child = path.rpartition("/")
        name = self._root.shown(path)

        before = self._root.journal.last_death(child)

        def answered(result: Any) -> None:
            death = self._root.journal.last_death(child)
            left = death.left if death is not None and death is not before and not death.detached else []
            stuck = f"stopped, but this could not be ended: {', '.join(left)}" if left else None
            done(_problem(action, name, result) or stuck)

        match action:
            case "start":
                self._root.request(RestartChild(sup, child), answered)
            case "stop":
                self._root.workers.asked(path, "operator")
                self._root.request(TerminateChild(sup, child), answered)
            case "delete":
                self._changes.delete(path, answered)
            case "restart":
                self._changes.restart(path, answered)

    def _stop(self, connection: Connection, request: dict[str, Any]) -> None:
        self._stops.append(connection)
        connection.on_close = lambda: self._stops.remove(connection) if connection in self._stops else None
        self._root.stop(now=bool(request.get("now")))
        self._progress(connection)

    def _progress(self, connection: Connection) -> None:
        if connection in self._stops and connection.open:
            connection.part({"waiting": self._root.workers.alive_names()})
            self._root.loop.after(PROGRESS, lambda: self._progress(connection))

    def _signal(self, connection: Connection, request: dict[str, Any]) -> None:
        path = self.path_of(request.get("name"))
        try:
            number = signal.Signals(int(request.get("signal", 0)))
        except (TypeError, ValueError) as error:
            raise OperationError(2, f"expected a signal number, got {request.get('signal')!r}") from error
        pid = self._root.workers.send_signal(path, number)
        if pid is None:
            raise OperationError(3, f"{self._root.shown(path)} has no process now", "look with: otpd status")
        connection.answer({"pid": pid})

    # --- names ---

    def path_of(self, name: Any) -> str:
        """The one child that is meant by a name or a path; exit code 4 with the nearest names otherwise, 2 for a group."""
        found = self.paths_of(name)
        if len(found) > 1:
            names = ", ".join(path.rpartition("/")[2] for path in found[:10])
            raise OperationError(2, f"'{name}' is a group of {len(found)}: {names}", "name one of them")
        return found[0]

    def paths_of(self, name: Any, meant: dict[str, list[str]] | None = None) -> list[str]:
        """The children that are meant: a name, a path, or a group of instances."""
        if not isinstance(name, str):
            raise OperationError(2, f"expected a name, got {name!r}"[:_GUESSED])
        found = (picture.meant(self._root) if meant is None else meant).get(name)
        if found is not None:
            return found
        near = difflib.get_close_matches(name[:_GUESSED], picture.names(self._root), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see them all with: otpd tree"
        raise OperationError(4, f"no child is called '{name[:_GUESSED]}'", hint)


def _number(request: dict[str, Any], key: str, default: float, most: float) -> float:
    """A number that a timer or a ring can bear; anything else is the request's mistake."""
    found = request.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise OperationError(2, f"expected '{key}' to be a number from 0 to {most:g}, got {found!r}")
    return float(found)


def _finish_child(connection: Connection, results: list[dict[str, Any]]) -> None:
    failed = [row for row in results if not row["ok"]]
    if not failed:
        connection.answer(results)
        return
    text = "; ".join(f"{row['name']}: {row['error']}" for row in failed)
    code = 3 if all(row["error"].startswith("is ") for row in failed) else 1
    connection.fail(OperationError(code, text, "look with: otpd status"))


def _problem(action: str, name: str, result: Any) -> str | None:
    """What went wrong in words, or None; results are those of conformance/FORMAT section 3."""
    match result:
        case "ok" | ["ok", *_]:
            return None
        case ["error", "running"]:
            return f"is running already; to {action} it, stop it first: otpd child stop {name}"
        case ["error", "restarting"]:
            return f"is being restarted; to stop that: otpd child stop {name}"
        case ["error", "not_found"]:
            return "is not known to its supervisor any more"
        case ["error", "noproc"]:
            return "is below a supervisor that is not running; start that first"
        case ["error", "start_failed", why]:
            return f"did not start: {why}"
    return f"refused: {result}"


_LEFT_HINT = "look at them with: ps -fp PID; a process in state D ends when its device answers"


