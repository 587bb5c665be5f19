"""The broker in the simulated world: the real router, behind sockets that behave like ZeroMQ's.

What those do (messaging.md 1.2): the first connection with a routing id has it until it closes, a second one is mute (T2);
nobody is told that a peer has gone (T11); what a dead broker has not read is lost (T22), and of what it has sent, an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.router import Router, Send
from otpd.ipc.wire import OUTER, Lane
from tests.simulation.clock import MS, Entry
from tests.simulation.kernel import Process
from tests.simulation.links import Pipe
from tests.simulation.tap import Tap
from tests.simulation.workers import Job

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Messages of the data lane that are read before system lane and root are looked at again.
BUDGET: Final = 256


class Connection:
    """Both lanes of one peer, for one epoch."""

    __slots__ = ("_broker", "identity", "open", "pid", "to_broker", "to_peer")

    def __init__(
        self, broker: SimulatedBroker, process: Process, identity: bytes, receive: Callable[[Lane, bytes], None]
    ) -> None:
        world, latency = broker.world, broker.world.latency
        self._broker, self.identity, self.pid = broker, identity, process.pid
        self.open = True
        self.to_broker = {
            lane: Pipe(world.clock, latency, lambda frame, lane=lane: broker.process.do(broker.read, self, lane, frame))
            for lane in Lane
        }
        self.to_peer = {
            lane: Pipe(world.clock, latency, lambda frame, lane=lane: process.do(receive, lane, frame)) for lane in Lane
        }
        process.at_exit.append(self.close)

    def send(self, lane: Lane, frame: bytes) -> None:
        self._broker.world.clock.note(frame)
        self.to_broker[lane].send(frame)

    def close(self) -> None:
        """The peer has closed its sockets or is dead: what the kernel has of it still arrives."""
        if not self.open:
            return
        self.open = False
        for lane, pipe in self.to_broker.items():
            pipe.cut(self._broker.world.chance.randint(0, pipe.under_way))
            pipe.end(lambda lane=lane: self._broker.hung_up(self, lane))
        for pipe in self.to_peer.values():
            pipe.cut()

    def lose(self) -> None:
        """The broker is dead."""
        for pipe in self.to_broker.values():
            pipe.cut()
        for pipe in self.to_peer.values():
            pipe.cut(self._broker.world.chance.randint(0, pipe.under_way))


class SimulatedBroker:
    """One incarnation of the broker, and so one epoch."""

    def __init__(self, world: World, process: Process, job: Job) -> None:
        self.world, self.process, self.job = world, process, job
        self.epoch = f"b{job.life}.{job.generation}"
        self.router = Router(self.epoch)
        self.unroutable = 0
        self.told_dead: dict[tuple[str, int], int] = {}  # when root has told that an incarnation is dead
        self._tap = Tap(self)
        self._say = job.say
        self._peers: dict[Lane, dict[bytes, Connection]] = {lane: {} for lane in Lane}
        self._connections: list[Connection] = []
        self._root: deque[list[Any]] = deque()
        self._system: deque[tuple[Connection, bytes]] = deque()
        self._data: deque[tuple[Connection, bytes]] = deque()
        self._turn: Entry | None = None
        self._tick: Entry | None = None
        process.at_exit.append(self._died)

    # --- a process ---

    def begin(self) -> None:
        self._say(["spawned"])
        self.process.after(self.world.chance.randrange(MS, 20 * MS), self._bound)

    def _bound(self) -> None:
        self.world.brokers[self.epoch] = self
        self.world.watch.broker_began(self)
        self._say(["ready"])

    def signalled(self, _number: int) -> None:
        self.process.exit(0)

    def orphaned(self) -> None:
        self.process.exit(1)

    def _died(self) -> None:
        self.world.brokers.pop(self.epoch, None)
        self.world.ends.add(self.epoch)
        self.world.watch.broker_ended(self)
        for connection in self._connections:
            connection.lose()

    # --- what comes in ---

    def told(self, packet: list[Any]) -> None:
        self._root.append(packet)
        self._soon()

    def connect(self, process: Process, identity: bytes, receive: Callable[[Lane, bytes], None]) -> Connection:
        connection = Connection(self, process, identity, receive)
        self._connections.append(connection)
        return connection

    def read(self, connection: Connection, lane: Lane, frame: bytes) -> None:
        """A frame has come as far as the socket of the broker."""
        holder = self._peers[lane].setdefault(connection.identity, connection)
        if holder is not connection:
            self.world.sometimes["a second connection with the same routing id is mute"] += 1
            return
        (self._system if lane is Lane.SYSTEM else self._data).append((connection, frame))
        self._soon()

    def hung_up(self, connection: Connection, lane: Lane) -> None:
        if self._peers[lane].get(connection.identity) is connection:
            del self._peers[lane][connection.identity]

    # --- its loop ---

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = self.process.after(self.world.turn.draw(), self._work)

    def _work(self) -> None:
        """One turn: root, then the system lane, then some of the data lane; then everything that follows is sent."""
        self._turn = None
        now, router, watch = self.world.clock.now, self.router, self.world.watch
        while self._root:
            packet = self._root.popleft()
            watch.router_told(self, packet)
            if packet[0] == "death":
                self.told_dead.setdefault((packet[1], packet[2]), now)
            router.root(packet, now)
        while self._system:
            self._take(Lane.SYSTEM, *self._system.popleft())
        left = BUDGET
        while self._data and left > 0:
            connection, frame = self._data.popleft()
            left -= OUTER.unpack_from(frame)[2] if len(frame) >= OUTER.size else 1
            self._take(Lane.DATA, connection, frame)
        self._due()
        if self._data:
            self._soon()

    def _take(self, lane: Lane, connection: Connection, frame: bytes) -> None:
        peer = connection.identity
        self._tap.read(peer, frame)
        pid = None if self.router.knows(peer) else connection.pid
        self.router.frame(peer, lane, frame, self.world.clock.now, pid)

    def _due(self) -> None:
        """What time has brought, and then the post."""
        due = self.router.tick(self.world.clock.now)
        self._flush()
        self.world.clock.cancel(self._tick)
        at = None if due is None else max(due, self.world.clock.now + 1)
        self._tick = None if at is None else self.world.clock.at(at, self.process.do, self._due)

    def _flush(self) -> None:
        watch = self.world.watch
        for effect in self.router.flush():
            if isinstance(effect, Send):
                self._tap.sent(effect.peer, effect.lane, effect.frame)
                self._post(effect)
            else:
                watch.router_asked(self, effect.packet)
                self._say(effect.packet)
        watch.router_rested(self)

    def _post(self, effect: Send) -> None:
        connection = self._peers[effect.lane].get(effect.peer)
        if connection is None:
            self.unroutable += 1
        else:
            self.world.clock.note(effect.frame)
            connection.to_peer[effect.lane].send(effect.frame)
