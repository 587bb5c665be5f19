"""How a process gets a line of its own to a service that comes on demand: ["reach", ref, NAME] on the channel of an agent,
operation `reach` of the control socket for clients.

root starts the service if it is not there, waits until it is ready, and joins the two with a socketpair: one end goes to
the one who asked, the other to the service with who that is (docs/protocol.md). So nobody has to prove who he is, no
path leads to a service, and what goes over the line is none of root's business. A service sees by a pidfd when the other
end has died, also where somebody else holds the socket open.

Whoever asks, and reads no answer, costs root a bounded number of descriptors and a share of its time: an agent's requests
are bounded (`MAX_OPEN`) and rest (`_REST`), what it does not take of its answers as well (`MAX_HELD`), and lines to a
service that is behind are not made before it has taken the last one.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import pwd
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.frames import channel_pair
from otpd.supervisor import pools
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.events import StartChild
from otpd.supervisor.loop import Timer
from otpd.supervisor.problems import quote, show
from otpd.supervisor.services import SERVICES, on_demand, script_of
from otpd.supervisor.spec import SPEAKING, ChildSpec

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Counts that a service may show of itself in the tree.
MAX_COUNTS: Final = 16
#: Seconds that a service has to become ready before those who wait for it are told.
DEADLINE: Final = 15.0
#: Who waits for one service at a time.
MAX_WAITING: Final = 1000
#: Requests of one agent that have no answer yet, and lines for it that it has not taken: one is enough for each service.
MAX_OPEN, MAX_HELD = 64, 16
#: An agent's next request rests so many times as long as root has worked for the last one.
_REST: Final = 4.0
_AGAIN: Final = "try again; look with: otpd why"


@dataclass(slots=True, eq=False)
class Asker:
    """`caller`: what the service is told of it. `answer(ok, value, fd)`. Without `line` it only wants it to be up."""

    caller: dict[str, Any]
    pidfd: Callable[[], int]  # a new one, of the caller
    answer: Callable[[bool, str | None, int | None], None]
    line: bool = True
    late: Timer | None = None


@dataclass(slots=True)
class Asks:
    """Of one incarnation: the names that wait for their turn, and all that have no answer. None is looked at before
    `rests_until`."""

    queue: deque[tuple[int, str, bool]] = field(default_factory=deque)
    open: int = 0
    rests_until: float = 0.0


class Reaching:
    """Who waits for which service, by the path of that."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._waiting: dict[str, list[Asker]] = {}
        self._script = script_of("otpd.agents.tasks.dispatcher")
        self._user = _own_user()

    # --- who asks ---

    def heard(self, live: Live, packet: Any) -> None:
        """A packet of a worker; what is no such request is ignored."""
        match packet:
            case ["reach", int() as ref, str() as name, *rest] if live.launch.kind in SPEAKING and len(name) <= 64:
                self._queue(live, ref, name, rest[:1] != [False])
            case ["counts", dict(counts)] if live.launch.kind == "service" and _are_counts(counts):
                live.counts = counts

    def _queue(self, live: Live, ref: int, name: str, line: bool) -> None:
        if live.asks is None:
            live.asks = Asks()
        mine = live.asks
        if mine.open >= MAX_OPEN:
            _answer(live, ref, False, f"{mine.open} requests of {live.name} have no answer yet; await one first")
            return
        mine.open += 1
        mine.queue.append((ref, name, line))
        if len(mine.queue) == 1:
            self._rest(live, mine)

    def _rest(self, live: Live, mine: Asks) -> None:
        left = mine.rests_until - time.monotonic()
        if left > 0:
            self._root.loop.after(left, lambda: self._rest(live, mine))
        else:
            self._next(live, mine)

    def _next(self, live: Live, mine: Asks) -> None:
        if live.channel is None:
            mine.queue.clear()
        if not mine.queue:
            return
        began = time.monotonic()
        ref, name, line = mine.queue[0]

        def answer(ok: bool, value: str | None, fd: int | None) -> None:
            mine.open -= 1
            _answer(live, ref, ok, value, fd)

        user = None if live.launch.user == self._user else live.launch.user
        caller = {"name": live.name, "generation": live.generation, "user": user, "client": False}
        self._ask(name, Asker({**caller, "pid": live.pid}, lambda: os.dup(live.pidfd), answer, line))
        mine.queue.popleft()
        now = time.monotonic()
        mine.rests_until = now + _REST * (now - began)
        if mine.queue:
            self._rest(live, mine)

    def client(self, connection: Connection, request: dict[str, Any]) -> None:
        """The operation."""
        name = request.get("name")
        if not isinstance(name, str):
            raise OperationError(2, f"expected the name of a service, got {show(name)}")
        pid = connection.pid

        def answer(ok: bool, value: str | None, fd: int | None) -> None:
            if not ok:
                connection.fail(OperationError(3, value or "", _AGAIN))
            elif fd is None:
                connection.answer(None)
            else:
                connection.hand(fd)

        caller = {"name": f"@{pid}", "generation": 0, "user": None, "client": True, "pid": pid}
        self._ask(name, Asker(caller, lambda: os.pidfd_open(pid), answer, request.get("line", True) is not False))

    # --- what becomes of it ---

    def _ask(self, name: str, asker: Asker) -> None:
        found = self._reachable().get(name)
        if found is None:
            near = difflib.get_close_matches(name[:64], self._reachable(), 1)
            guess = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(self._reachable())}"
            asker.answer(False, f"the node has no pool or service {quote(name)} that could be reached{guess}", None)
            return
        sup, spec = found
        if name in pools.pools_of(self._root.node) and asker.caller["user"] is not None:
            asker.answer(False, _foreign(asker.caller, name), None)
            return
        path = f"{sup}/{spec.id}"
        waiting = self._waiting.setdefault(path, [])
        if len(waiting) >= MAX_WAITING:
            asker.answer(False, f"{MAX_WAITING} wait for {name} already", None)
            return
        waiting.append(asker)
        asker.late = self._root.loop.after(DEADLINE, lambda: self._late(path, asker))
        self._see_to(path, sup, spec)

    def _reachable(self) -> dict[str, tuple[str, ChildSpec]]:
        """Name -> the supervisor that it belongs to, and what to start there."""
        node, sup = self._root.node, self._root.path_below_top(pools.TASKS)
        own = pools.pools_of(node).items()
        found = {name: (sup, pools.pool_spec(name, options, node, self._script)) for name, options in own}
        services = self._root.path_below_top(SERVICES)
        return found | {name: (services, spec) for name, spec in on_demand(node).items()}

    def _see_to(self, path: str, sup: str, spec: ChildSpec) -> None:
        view = self._root.tree.view(path)
        live = self._root.workers.live(path)
        if view is None:
            self._start(path, sup, spec)
        elif view.state == "running" and live is not None:
            self.ready(live)
        elif view.state in ("stopped", "failed"):
            self._refuse(path, f"{spec.id} is {view.state}; start it with: otpd child start {spec.id}")

    def _start(self, path: str, sup: str, spec: ChildSpec) -> None:
        holder = self._root.names.holder(spec.id)
        if self._root.phase not in ("starting", "running"):
            return self._refuse(path, f"{spec.id} is not started any more: the node is stopping")
        if holder is not None:
            if holder != path:
                self._refuse(path, f"the name {spec.id} is taken by {self._root.shown(holder)}; rename that")
            return None  # it is on its way
        self._root.names.reserve(spec.id, path)

        def answered(result: Any) -> None:
            self._root.names.release(spec.id)
            if isinstance(result, list) and result[0] == "ok":
                self._root.keep_service(spec.id)
            else:
                self._refuse(path, f"{spec.id} did not start: {result}; what it printed: otpd logs {spec.id}")

        self._root.request(StartChild(sup, spec), answered)
        return None

    def ready(self, live: Live) -> None:
        """A worker is up: join those who have waited for it, as fast as it takes them."""
        waiting = self._waiting.get(live.path, [])
        while waiting and (live.channel is None or not live.channel.full):
            asker = waiting.pop(0)
            self._drop_timer(asker)
            if asker.line:
                self._join(live, asker)
            else:
                asker.answer(True, None, None)
        if waiting and live.channel is not None:
            live.channel.on_room = lambda: self.ready(live)
        elif not waiting:
            self._waiting.pop(live.path, None)

    def _join(self, live: Live, asker: Asker) -> None:
        with contextlib.ExitStack() as stack:
            try:
                ours, theirs = channel_pair()
                stack.callback(ours.close)
                stack.callback(theirs.close)
                pidfd = asker.pidfd()
                stack.callback(os.close, pidfd)
                if live.channel is not None:
                    live.channel.send(["caller", asker.caller], (theirs.fileno(), pidfd))
            except OSError as error:
                asker.answer(False, f"no line could be made: {error.strerror}", None)
                return
            asker.answer(True, None, ours.fileno())

    def _late(self, path: str, asker: Asker) -> None:
        waiting = self._waiting.get(path, [])
        if asker in waiting:
            waiting.remove(asker)
            name = path.rpartition("/")[2]
            asker.answer(False, f"{name} did not become ready within {DEADLINE:g} s; look with: otpd why {name}", None)

    def _refuse(self, path: str, why: str) -> None:
        for asker in self._waiting.pop(path, ()):
            self._drop_timer(asker)
            asker.answer(False, why, None)

    @staticmethod
    def _drop_timer(asker: Asker) -> None:
        if asker.late is not None:
            asker.late.cancel()


def _foreign(caller: dict[str, Any], pool: str) -> str:
    """A pool runs whatever function it is told the name of: that would be a way to become the node's user."""
    who = f'{caller["name"]} runs as {caller["user"]}, and pool {pool} runs functions as the user of the node'
    return f"{who}; have an agent of that user do it, and call that"


def _own_user() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _answer(live: Live, ref: int, ok: bool, value: str | None, fd: int | None = None) -> None:
    """A line that it can't be given is no reason to end root: the service sees that the other end is gone."""
    if live.channel is None:
        return
    if fd is not None and live.channel.holds >= MAX_HELD:
        ok, value, fd = False, f"{live.name} has not taken its last {MAX_HELD} lines; read them first", None
    try:
        live.channel.send(["reach", ref, ok, value], () if fd is None else (fd,))
    except OSError as error:
        live.channel.send(["reach", ref, False, f"the line could not be handed over: {error.strerror}"])


def _are_counts(counts: dict[Any, Any]) -> bool:
    small = len(counts) <= MAX_COUNTS and all(isinstance(key, str) and len(key) <= 32 for key in counts)
    return small and all(isinstance(value, int) for value in counts.values())
