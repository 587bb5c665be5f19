"""Root in the simulated world: the real tree and the real link to the broker, over simulated processes.

Where the real root has an epoll loop, this has the clock; where that speaks to heart, this tells its world. It decides
nothing that `otpd.supervisor.root` leaves to a machine.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otpd.supervisor import services
from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    Boot,
    CancelTimer,
    Effect,
    EndWorker,
    Event,
    Notice,
    Op,
    Reply,
    Request,
    Spawn,
    Stop,
    StopTree,
    TimerFired,
    TreeEnded,
)
from otpd.supervisor.healthlink import HealthLink
from otpd.supervisor.life import Life
from otpd.supervisor.spec import INFINITY, ChildSpec, ChildType, NodeSpec
from otpd.supervisor.tree import Tree
from tests.simulation.clock import SECOND, Entry
from tests.simulation.kernel import Process
from tests.simulation.link import SimulatedLink
from tests.simulation.script import Clients
from tests.simulation.workers import Workers

if TYPE_CHECKING:
    from tests.simulation.world import World

TOP = "top"


@dataclass(frozen=True, slots=True)
class Loop:
    """As much of root's loop as the link to the broker needs."""

    process: Process

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.process.after(round(seconds * SECOND), action)

    def defer(self, action: Callable[[], None]) -> None:
        self.process.after(0, action)



class Paths:
    """No file is ever made."""

    runtime_dir = "/simulated"

    def endpoint(self, epoch: str) -> str:
        return f"{self.runtime_dir}/{epoch}"

    def endpoints(self) -> list[str]:
        return []


class Journal:
    """What root writes down of health is seen, and nowhere kept."""

    def __init__(self, world: World) -> None:
        self._world = world

    def clock(self) -> float:
        return self._world.clock.now / SECOND

    def event(self, kind: str, name: str, _path: str = "", generation: int = 0, **_: Any) -> None:
        self._world.watch.health("told", kind, name, generation)


class SimulatedRoot:
    """One life of root: a program like any other, whose children are all workers."""

    def __init__(self, world: World, process: Process, life: int) -> None:
        self.world, self.process = world, process
        self.life = Life(life)
        self.loop = Loop(process)
        self.paths, self.node_id = Paths(), "simulated"
        self.node = NodeSpec(name="simulated", state_dir="/simulated", config="", top=world.scenario.top)
        top = services.with_services(self.node, tuple(row for row in services.ROWS if row.name in world.services))
        self.tree = Tree(ChildSpec(id=TOP, start=top, type=ChildType.SUPERVISOR, shutdown=INFINITY))
        self.link, self.journal = SimulatedLink(self), Journal(world)
        self.health = HealthLink(self)  # type: ignore[arg-type]
        self.clients = Clients(self)
        self.workers = Workers(self)
        self.stopping = False
        self._inbox: deque[Event] = deque()
        self._pumping = False
        self._timers: dict[int, Entry] = {}
        self._replies: dict[int, Callable[[Any], None]] = {}
        self._requests = 0

    @property
    def now(self) -> float:
        """The tree counts seconds."""
        return self.world.clock.now / SECOND

    def begin(self) -> None:
        self.world.watch.root_began(self)
        self.feed(Boot())

    def signalled(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.stop()

    def stop(self) -> None:
        """The node is asked to stop, in order."""
        if not self.stopping:
            self.stopping = True
            self.feed(StopTree(urgent=True))

    def request(self, op: Op, then: Callable[[Any], None]) -> None:
        self._requests += 1
        self._replies[self._requests] = then
        self.feed(Request(self._requests, op))

    @staticmethod
    def shown(path: str) -> str:
        return path.partition("/")[2]

    # --- the tree ---

    def feed(self, event: Event) -> None:
        self._inbox.append(event)
        if self._pumping:
            return
        self._pumping = True
        while self._inbox:
            event = self._inbox.popleft()
            self.world.watch.tree_handling(self, event)
            effects = self.tree.handle(event, self.now)
            self.world.watch.tree_handled(self, event, effects)
            for effect in effects:
                self._carry_out(effect)
        self._pumping = False

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn():
                self.workers.spawn(effect)
            case Stop():
                self.workers.stop(effect)
            case AbortStart():
                self.workers.abort(effect)
            case EndWorker():
                self.workers.end_worker(effect)
            case ArmTimer(token, delay, _):
                self._timers[token] = self.process.after(round(delay * SECOND), self._timer_fired, token)
            case CancelTimer(token):
                self.world.clock.cancel(self._timers.pop(token, None))
            case Reply(number, result):
                self._replies.pop(number)(result)
            case Notice(kind, path, _, _):
                self.link.noticed(kind, path)
            case TreeEnded(reason, gave_up):
                self.world.node_ended(self, reason, gave_up)

    def _timer_fired(self, token: int) -> None:
        if self._timers.pop(token, None) is not None:
            self.feed(TimerFired(token))
