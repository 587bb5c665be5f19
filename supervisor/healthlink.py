"""root's side of the health service: whom it must watch, what it found, and which incarnation must make room for another.

Two operations of the control socket, for the health service alone. `watch_health` is answered in parts as long as its
connection lasts: what the service must know, and a row whenever that changes.

| part | says |
|---|---|
| ["watch", name, generation, pid, ready_at, probe, limits] | an incarnation that is ready; again when its spec has changed |
| ["forget", name, generation] | it has ended, or is not to be watched any more |
| ["table", [condition]] | all that there is has been said; the alerts that root knows of |

`report_health` brings what was found. Identity is (name, generation) on all ways, so nobody is restarted for what the one
before him did. What the service has found is believed as long as it is there: when it goes, everybody's health is unknown
until its next incarnation has looked again. Whether somebody uses more than he may is compared once more here, with what the
spec says now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.services import ENABLED, HEALTH, is_own
from otpd.supervisor.spec import ExecReady, Health, HttpReady, Launch, RestartWhen, TcpReady
from otpd.supervisor.units import format_duration, format_size

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Characters of what the service says of a child.
_TEXT_LIMIT: Final = 500
_UNKNOWN: Final = "unknown"
_STATES: Final = ("healthy", "unhealthy")
#: An agent that has a method for it is asked, also when its config says nothing.
_OWN_METHOD: Final = Health(check="call")


@dataclass(frozen=True, slots=True)
class Found:
    """The health of one incarnation, `at` in seconds since 1970."""

    state: str
    why: str
    at: float

    def to_dict(self) -> dict[str, Any]:
        return {"state": self.state, "why": self.why or None, "at": self.at}


class HealthLink:
    """`alerts`: by condition, what is wrong with the host as the service last said."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._watcher: Connection | None = None
        self._watched: set[tuple[str, int]] = set()  # whom the watcher was told of
        self._found: dict[tuple[str, int], Found] = {}
        self._before: dict[tuple[str, int], Found] = {}  # what an earlier incarnation of the service found
        self.alerts: dict[str, dict[str, Any]] = {}

    # --- operations ---

    def watch(self, connection: Connection, _request: dict[str, Any]) -> None:
        """It has no last answer: it ends with its connection. A later one takes the place of the one before."""
        self._require_service(connection)
        if self._watcher is not None:
            self._watcher.close()
        self._watcher = connection
        self._before |= self._found
        self._found.clear()
        connection.on_close = lambda: self._closed(connection)
        for live in self._root.workers.running():
            self.tell(live)
        self._say(["table", sorted(self.alerts)])

    def report(self, connection: Connection, request: dict[str, Any]) -> None:
        """All items, each once; one that is not current any more is passed over."""
        self._require_service(connection)
        items = request.get("items")
        if not isinstance(items, list):
            raise OperationError(2, f"expected a list of items, got {type(items).__name__}")
        for item in items:
            self._take(item)
        connection.answer(len(items))

    def _take(self, item: Any) -> None:
        match item:
            case ["mark", str(name), int(generation), str(state), str(why)] if state in _STATES:
                self._mark(name, generation, state, why[:_TEXT_LIMIT])
            case ["replace", str(name), int(generation), str(why)]:
                self._replace(name, generation, why[:_TEXT_LIMIT])
            case ["over", str(name), int(generation), str(measure), (int() | float()) as used]:
                self._over(name, generation, measure, used)
            case ["alert", str(condition), bool(raised), (int() | float()) as value, (int() | float()) as threshold]:
                self._alert(condition, raised, value, threshold)
            case ["problem", str(text)]:
                self._root.journal.event("health.problem", HEALTH, detail=text[:_TEXT_LIMIT])
            case _:
                raise OperationError(2, f"not an item of report_health: {item!r}"[:200])

    def _require_service(self, connection: Connection) -> None:
        """The socket is the operator's; this is not for him, nor for an agent."""
        live = self._root.workers.named(HEALTH)
        if live is None or not is_own(live.path) or live.pid != connection.pid:
            raise OperationError(5, "only the health service asks this", "look at health with: otpd status, otpd health")

    def _closed(self, connection: Connection) -> None:
        if self._watcher is connection:
            self._watcher = None
            self._watched.clear()

    # --- what it must know ---

    def tell(self, live: Live) -> None:
        """It is ready, or its spec has changed."""
        health, limits = self._wanted(live)
        key = (live.name, live.generation)
        if health is None and limits is None:
            if key in self._watched:
                self._forget(key)
        elif self._watcher is not None:
            self._watched.add(key)
            self._say(["watch", *key, live.pid, live.ready_at, _probe(health, live.launch), _allowed(limits)])

    def reloaded(self) -> None:
        """What is asked of those that run on may have changed."""
        for live in self._root.workers.running():
            self.tell(live)

    def died(self, live: Live) -> None:
        key = (live.name, live.generation)
        if key in self._watched:
            self._forget(key)
        self._found.pop(key, None)
        self._before.pop(key, None)

    def _forget(self, key: tuple[str, int]) -> None:
        self._watched.discard(key)
        self._found.pop(key, None)
        self._say(["forget", *key])

    def _say(self, packet: list[Any]) -> None:
        if self._watcher is not None:
            self._watcher.part({"said": packet})

    def _wanted(self, live: Live) -> tuple[Health | None, RestartWhen | None]:
        """As the spec says now, which a reload may have changed under the process."""
        view = self._root.tree.view(live.path)
        what = view.spec.start if view is not None and isinstance(view.spec.start, Launch) else live.launch
        return self._asked(live, what), what.restart_when if self._is_there else None

    def _asked(self, live: Live, what: Launch) -> Health | None:
        return (what.health or (_OWN_METHOD if live.tells_health else None)) if self._is_there else None

    @property
    def _is_there(self) -> bool:
        """Whether this node has the service at all."""
        return bool(self._root.node.services.get(HEALTH, {}).get(ENABLED, True))

    # --- what it found ---

    def state_of(self, live: Live, what: Launch) -> dict[str, Any] | None:
        """Of an incarnation whose spec says `what`. None: nobody asks it."""
        if self._asked(live, what) is None:
            return None
        found = self._found.get((live.name, live.generation)) if self._watcher is not None else None
        return found.to_dict() if found is not None else {"state": _UNKNOWN, "why": None, "at": None}

    def _mark(self, name: str, generation: int, state: str, why: str) -> None:
        """A health service that begins anew finds much that was known: only what is new is an event."""
        live = self._current(name, generation)
        if live is None:
            return
        key = (name, generation)
        before = self._found.get(key) or self._before.pop(key, None)
        if before is not None and before.state == state:
            self._found[key] = before
            return
        self._found[key] = Found(state, why, self._root.journal.clock())
        more = {"reason": why} if why else {}
        self._root.journal.event(f"health.{state}", name, self._root.shown(live.path), generation, **more)

    def _replace(self, name: str, generation: int, why: str) -> None:
        live = self._current(name, generation)
        health = self._wanted(live)[0] if live is not None else None
        if live is not None and health is not None and health.action == "restart":
            self._end(live, f"health: {why}")

    def _over(self, name: str, generation: int, measure: str, used: float) -> None:
        live = self._current(name, generation)
        limits = self._wanted(live)[1] if live is not None else None
        allowed = getattr(limits, measure, None) if limits is not None and measure in _SHOWN else None
        if live is not None and limits is not None and allowed is not None and used > allowed:
            self._end(live, _why(measure, used, limits))

    def _end(self, live: Live, why: str) -> None:
        live.asked_by = live.asked_by or HEALTH
        self._root.workers.end(live, why)

    def _current(self, name: str, generation: int) -> Live | None:
        live = self._root.workers.named(name)
        return live if live is not None and live.generation == generation else None

    def _alert(self, condition: str, raised: bool, value: float, threshold: float) -> None:
        """One event per change, whoever says it and how often."""
        if raised == (condition in self.alerts):
            return
        data: dict[str, Any] = {"value": round(value, 1), "limit": threshold}
        if raised:
            self.alerts[condition] = {"condition": condition, **data, "at": self._root.journal.clock()}
        else:
            del self.alerts[condition]
        self._root.journal.event(f"alert.{'raised' if raised else 'cleared'}", condition, **data)


def _probe(health: Health | None, launch: Launch) -> dict[str, Any] | None:
    if health is None:
        return None
    match health.check:
        case TcpReady(port=port, host=host):
            check: list[Any] = ["tcp", host, port]
        case HttpReady(url=url):
            check = ["http", url]
        case ExecReady(argv=argv):
            check = ["exec", list(argv), launch.env, launch.cwd, launch.user]
        case _:
            check = ["call"]
    names = ("interval", "timeout", "failures", "successes", "grace", "action")
    return {"check": check, **{name: getattr(health, name) for name in names}}


def _allowed(limits: RestartWhen | None) -> dict[str, Any] | None:
    if limits is None:
        return None
    names = ("memory", "cpu", "cpu_over", "files", "threads", "age")
    return {name: getattr(limits, name) for name in names}


def _why(measure: str, used: float, limits: RestartWhen) -> str:
    """In whole MiB, as nobody reads bytes; the limit as it was written.

    >>> _why("memory", 431_000_000, RestartWhen(memory=400 * 2**20))
    'memory: its processes use 411MiB, restart_when.memory is 400MiB'
    >>> _why("cpu", 99.3, RestartWhen(cpu=90.0))
    'cpu: its processes use 99% over 1m, restart_when.cpu is 90%'
    """
    return f"{measure}: {_SHOWN[measure](used, limits)}"


_SHOWN: Final = {
    "memory": lambda used, it: f"its processes use {int(used) >> 20}MiB, restart_when.memory is {format_size(it.memory)}",
    "cpu": lambda used, it: (
        f"its processes use {used:.0f}% over {format_duration(it.cpu_over)}, restart_when.cpu is {it.cpu:g}%"
    ),
    "files": lambda used, it: f"its processes have {used} open, restart_when.files is {it.files}",
    "threads": lambda used, it: f"its processes have {used}, restart_when.threads is {it.threads}",
    "age": lambda used, it: f"it is ready for {used:.0f}s, restart_when.age is {format_duration(it.age)}",
}
