"""root's answers to agents that keep children of their own: ["child", ref, ...] on an agent's channel (docs/protocol.md, 1).

`own` decides what becomes of them; this reads what an agent says, which need not be true or decent, and puts it before
the tree. Requests of one incarnation are answered one at a time, in the order in which they came; when it is gone so are
they. Whatever an agent sends costs root a bounded amount of memory (`MAX_WAITING`) and a share of its time (`_REST`).
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.frames import pack, unpack
from otpd.supervisor import linux
from otpd.supervisor.events import StartChild, TerminateChild
from otpd.supervisor.incarnation import Phase
from otpd.supervisor.own import MAX_CHILDREN
from otpd.supervisor.problems import quote, show
from otpd.supervisor.spec import SPEAKING, ChildSpec

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Requests of one agent that wait for their turn, and the bytes of all of them.
MAX_WAITING: Final = 1000
MAX_BYTES: Final = 1024 * 1024
#: Children of children of ... that are possible.
MAX_DEPTH: Final = 32
#: An agent's next request rests so many times as long as root has worked for the last one.
_REST: Final = 4.0
_LIVING: Final = frozenset({Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING, Phase.DUMPING, Phase.STOPPING})
_TEXT_LIMIT: Final = 4000
_EXPECTED: Final = "expected start and a table, stop and a name, or which"


class Refused(Exception):
    """The answer is no; the text says why."""


@dataclass(slots=True)
class Requests:
    """Of one incarnation. `busy`: one of them is being worked on, or is about to be; none is before `rests_until`."""

    waiting: deque[tuple[Any, bytes]] = field(default_factory=deque)
    size: int = 0  # bytes
    busy: bool = False
    rests_until: float = 0.0


class OwnChildren:
    def __init__(self, root: Root) -> None:
        self._root, self._loop = root, root.loop
        self._left: dict[str, list[str]] = {}  # by path of those that are being stopped: what could not be ended

    # --- the queue ---

    def heard(self, live: Live, packet: Any) -> None:
        """A packet of an agent; what is no request is ignored, as everything that is not understood."""
        match packet:
            case ["child", int() | str() as ref, *request] if len(str(ref)) <= 64 and live.launch.kind in SPEAKING:
                self._queue(live, ref, request)

    def _queue(self, live: Live, ref: Any, request: list[Any]) -> None:
        if live.requests is None:
            live.requests = Requests()
        mine = live.requests
        body = pack(request)
        if len(mine.waiting) >= MAX_WAITING or mine.size + len(body) > MAX_BYTES:
            text = f"{len(mine.waiting)} requests of {live.name} wait already ({mine.size} bytes); await an answer first"
            _answer(live, ref, False, text)
            return
        mine.waiting.append((ref, body))
        mine.size += len(body)
        if not mine.busy:
            mine.busy = True
            self._loop.after(0.0, lambda: self._next(live, mine))

    def _next(self, live: Live, mine: Requests) -> None:
        """In a turn of its own: by then it is known whether the one that asks is still there."""
        if live.incarnation.phase not in _LIVING or live.channel is None:
            mine.waiting.clear()
        if not mine.waiting:
            mine.busy, mine.size = False, 0
            return
        began = time.monotonic()
        if began < mine.rests_until:
            self._loop.after(mine.rests_until - began, lambda: self._next(live, mine))
            return
        ref, body = mine.waiting.popleft()
        mine.size -= len(body)
        try:
            self._serve(live, ref, unpack(body))
        except Refused as refused:
            self._answered(live, ref, False, str(refused))
        now = time.monotonic()
        mine.rests_until = now + _REST * (now - began)

    def _answered(self, live: Live, ref: Any, ok: bool, value: Any) -> None:
        _answer(live, ref, ok, value)
        mine = live.requests
        assert mine is not None
        self._loop.after(0.0, lambda: self._next(live, mine))

    # --- the requests ---

    def _serve(self, live: Live, ref: Any, request: list[Any]) -> None:
        match request:
            case ["start", table]:
                self._start(live, ref, self._spec(live, table))
            case ["stop", name]:
                self._stop(live, ref, name)
            case ["which"]:
                self._answered(live, ref, True, self._which(live))
            case [what, *rest]:
                raise Refused(f"{_EXPECTED}; got {show(what)} and {len(rest)} more")
            case _:
                raise Refused(f"{_EXPECTED}; got nothing")

    def _start(self, live: Live, ref: Any, spec: ChildSpec) -> None:
        name, path = spec.id, f"{live.path}/{spec.id}"
        self._root.names.reserve(name, path)

        def answered(result: Any) -> None:
            self._root.names.release(name)
            match result:
                case ["ok", int(generation)]:
                    self._answered(live, ref, True, {"name": name, "generation": generation})
                case _:
                    self._answered(live, ref, False, _why_not_started(name, live.name, result))

        self._root.request(StartChild(live.path, spec, owner=live.generation), answered)

    def _spec(self, live: Live, table: Any) -> ChildSpec:
        if live.incarnation.phase is Phase.STOPPING or self._root.phase not in ("starting", "running"):
            raise Refused(f"{live.name} is being stopped, and with it its children; none is started any more")
        if live.path.count("/") >= MAX_DEPTH:
            raise Refused(f"expected at most {MAX_DEPTH} workers below each other, {live.name} is the last that is possible")
        spec = self._read(live, table)
        self._refuse_taken(live, spec.id)
        return spec

    def _read(self, live: Live, table: Any) -> ChildSpec:
        """Imported when the first agent asks: most nodes never need it."""
        from otpd.supervisor import childtable

        try:
            return childtable.child_of(table, live.launch, self._root.workers.starts.native.may_hang)
        except childtable.TableError as error:
            raise Refused(str(error)) from error
        except Exception as error:  # a table's mistake is the table's, never root's; nothing has been changed yet
            linux.complain(traceback.format_exc())
            raise Refused(f"the table can't be read: {type(error).__name__}: {error}") from error

    def _refuse_taken(self, live: Live, name: str) -> None:
        path = self._root.names.holder(name)
        if path is None:
            return
        above = path.rpartition("/")[0]
        view = self._root.tree.view(path)
        if above == live.path:
            how = f"generation {view.generation}, {view.state}" if view is not None else "being started"
            raise Refused(f"{name} is a child of {live.name} already ({how}); stop it first, or choose another name")
        of = f", a child of {above.rpartition('/')[2]}" if self._root.tree.is_own(path) else ""
        taken = f"the name {name} is taken by {self._root.shown(path)}{of}"
        raise Refused(f"{taken}; names are unique in a node, choose another")

    def _stop(self, live: Live, ref: Any, name: Any) -> None:
        if not isinstance(name, str):
            raise Refused(f"expected the name of a child, got {show(name)}")
        path = f"{live.path}/{name}"
        view = self._root.tree.view(path) if "/" not in name else None
        if view is None:
            raise Refused(self._no_child(live, name))
        self._root.workers.asked(path, live.name)
        self._left[path] = []

        def answered(result: Any) -> None:
            left = self._left.pop(path, [])
            if left:
                self._answered(live, ref, False, f"{name} is stopped, but this could not be ended: {', '.join(left)}")
            elif result == "ok":
                self._answered(live, ref, True, {"name": name, "generation": view.generation})
            else:
                self._answered(live, ref, False, self._no_child(live, name))

        self._root.request(TerminateChild(live.path, name), answered)

    def _no_child(self, live: Live, name: str) -> str:
        path = self._root.names.holder(name)
        if path is None:
            return f"{live.name} has no child {quote(name)}"
        return f"{name} is no child of {live.name}: it is {self._root.shown(path)}, and only who started it stops it"

    def _which(self, live: Live) -> list[dict[str, Any]]:
        """In the order of their starts."""
        view = self._root.tree.view(live.path)
        assert view is not None
        rows = []
        for child in view.children:
            process = self._root.workers.live(child.path)
            row = {"name": child.name, "state": child.state, "generation": child.generation}
            rows.append({**row, "pid": process.pid if process else None, "restarts": child.restarts})
        return rows

    # --- what else happens ---

    def removed(self, path: str, left: list[str], reason: str = "") -> None:
        """The child is no more; this of it could not be ended. A service hears why."""
        owner = self._root.workers.live(path.rpartition("/")[0])
        if owner is not None and owner.launch.kind == "service" and owner.channel is not None:
            owner.channel.send(["ended", path.rpartition("/")[2], reason])
        if path in self._left:
            self._left[path] = left


def _answer(live: Live, ref: Any, ok: bool, value: Any) -> None:
    if live.channel is not None:
        live.channel.send(["child", ref, ok, value[:_TEXT_LIMIT] if isinstance(value, str) else value])


def _why_not_started(name: str, owner: str, result: Any) -> str:
    match result:
        case "ignore":
            return f"{name} declined to start: it says that there is nothing to run"
        case ["error", "start_failed", why]:
            return f"{name} did not start: {why}; what it printed: otpd logs {name}"
        case ["error", "max_children"]:
            return f"{owner} has {MAX_CHILDREN} children, the most that an agent may have; stop one before you start {name}"
        case ["error", "noproc"]:
            return f"{name} is not started any more: {owner} is about to end"
    return f"{name} did not start: {result}"
