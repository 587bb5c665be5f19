"""How a process gets a line of its own to a service that comes on demand: ["reach", ref, NAME] on the channel of an agent,
operation `reach` of the control socket for clients.

root starts the service if it is not there, waits until it is ready, and joins the two with a socketpair: one end goes to
the one who asked, the other to the service with who that is (docs/protocol.md). So nobody has to prove who he is, no
path leads to a service, and what goes over the line is none of root's business. A service sees by a pidfd when the other
end has died, also where somebody else holds the socket open.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
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
_AGAIN: Final = "try again; look with: otpd why"


@dataclass(slots=True, eq=False)
class Asker:
    """`caller`: what the service is told of it. `answer(ok, value, fd)`. Without `line` it only wants it to be up."""

    caller: dict[str, Any]
    pidfd: Callable[[], int]  # a new one, of the caller
    answer: Callable[[bool, str | None, int | None], None]
    line: bool = True
    late: Timer | None = None


class Reaching:
    """Who waits for which service, by the path of that."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._waiting: dict[str, list[Asker]] = {}
        self._script = script_of("otpd.agents.tasks.dispatcher")

    # --- who asks ---

    def heard(self, live: Live, packet: Any) -> None:
        """A packet of a worker; what is no such request is ignored."""
        match packet:
            case ["reach", int() as ref, str() as name, *rest] if live.launch.kind in SPEAKING and len(name) <= 64:
                caller = {"name": live.name, "generation": live.generation, "user": live.launch.user, "client": False}

                def answer(ok: bool, value: str | None, fd: int | None) -> None:
                    if live.channel is not None:
                        live.channel.send(["reach", ref, ok, value], () if fd is None else (fd,))

                line = rest[:1] != [False]
                self._ask(name, Asker({**caller, "pid": live.pid}, lambda: os.dup(live.pidfd), answer, line))
            case ["counts", dict(counts)] if live.launch.kind == "service" and _are_counts(counts):
                live.counts = counts

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
            near = difflib.get_close_matches(name, self._reachable(), 1)
            guess = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(self._reachable())}"
            asker.answer(False, f"the node has no pool or service {quote(name)} that could be reached{guess}", None)
            return
        sup, spec = found
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
        """A worker is up: join those who have waited for it."""
        for asker in self._waiting.pop(live.path, ()):
            self._drop_timer(asker)
            if asker.line:
                self._join(live, asker)
            else:
                asker.answer(True, None, None)

    def _join(self, live: Live, asker: Asker) -> None:
        with contextlib.ExitStack() as stack:
            try:
                ours, theirs = channel_pair()
                stack.callback(ours.close)
                stack.callback(theirs.close)
                pidfd = asker.pidfd()
                stack.callback(os.close, pidfd)
            except OSError as error:
                asker.answer(False, f"no line could be made: {error.strerror}", None)
                return
            if live.channel is not None:
                live.channel.send(["caller", asker.caller], (theirs.fileno(), pidfd))
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


def _are_counts(counts: dict[Any, Any]) -> bool:
    small = len(counts) <= MAX_COUNTS and all(isinstance(key, str) and len(key) <= 32 for key in counts)
    return small and all(isinstance(value, int) for value in counts.values())
