"""Scripts in the simulated world: programs that nobody supervises and that speak to agents (`connect()`, `otpd call`).

Root gives such a one a name for as long as its connection to the control socket lasts. A script leaves in order, or just
ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otpd.supervisor.addresses import Presence, Row
from otpd.supervisor.life import inc_of
from otpd.supervisor.spec import Launch
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import MS
from tests.simulation.kernel import Cookie, Process
from tests.simulation.links import Pipe
from tests.simulation.workers import Job

if TYPE_CHECKING:
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.world import World

STRANGER = Cookie("stranger", 0)
_LAUNCH = Launch(kind="agent", script="script")


class SimulatedScript(SimulatedAgent):
    """Like an agent's runtime, but ready from the beginning and answerable to nobody."""

    def begin(self) -> None:
        self.phase = "ready"
        if self.job.broker is not None:
            self._connect(self.job.broker)
        self.world.workload(self).begin()

    def leave(self, in_order: bool) -> None:
        if not in_order:
            self.process.exit(1)
            return
        self.phase = "stopping"
        self.endpoint.bye()
        self._flush()
        self.process.after(20 * MS, self.process.exit, 0)


@dataclass(slots=True)
class Client:
    row: Row
    to_script: Pipe


class Clients:
    """Root's side of the connections, as `otpd.supervisor.clients`."""

    def __init__(self, root: SimulatedRoot) -> None:
        self._root, self._world = root, root.world
        self._clients: dict[str, Client] = {}
        self._count = 0
        root.link.changes.append(self._broker_changed)
        root.link.packets.append(self._heard)

    def connect(self, process: Process) -> None:
        self._count += 1
        random = self._world.identities
        row = Row(
            name=f"@{process.pid}.{self._count}",
            kind="client",
            inc=inc_of(self._root.life.number, self._count),
            pid=process.pid,
            identity=b"\1" + random.randbytes(15),
            token=random.randbytes(32),
            state=Presence.READY,
        )
        pipe = Pipe(self._world.clock, self._world.root_latency, lambda part: process.do(self._told, process, part))
        self._clients[row.name] = Client(row, pipe)
        process.at_exit.append(lambda: self._hang_up(row))
        self._root.process.at_exit.append(lambda: pipe.end(lambda: process.do(process.exit, 1)))
        self._root.link.client_came(row)
        self._tell(self._clients[row.name])

    def _told(self, process: Process, part: list[Any]) -> None:
        """In the script: the first part makes it speak."""
        if part == ["end"]:
            process.exit(1)
        elif process.program is None:
            _, row, broker = part
            life, number = row.inc >> 32, row.inc & 0xFFFFFFFF
            job = Job(row.name, number, life, _LAUNCH, row.identity, row.token, broker, lambda packet: None)
            process.program = script = SimulatedScript(self._world, process, job)
            script.begin()
        else:
            process.program.told(["broker", part[2], None])

    def _tell(self, client: Client) -> None:
        endpoint = self._root.link.endpoint()
        client.to_script.send(["you are", client.row, None if endpoint is None else endpoint[0]])

    def _broker_changed(self) -> None:
        for client in self._clients.values():
            self._tell(client)

    def _heard(self, packet: list[Any]) -> None:
        match packet:
            case ["terminate", str(name), int(inc), _] if name in self._clients and self._clients[name].row.inc == inc:
                self._world.sometimes["a broken link ends a script"] += 1
                self._clients[name].to_script.send(["end"])

    def _hang_up(self, row: Row) -> None:
        """Its connection closes when it ends; root reads of that a moment later."""
        self._root.process.after(self._world.root_latency.draw(), self._went, row)

    def _went(self, row: Row) -> None:
        if self._clients.pop(row.name, None) is not None:
            self._root.link.client_went(row)


def start(world: World, root: SimulatedRoot, lifetime: int, in_order: bool) -> None:
    """A script that lives for so many nanoseconds at most."""
    process = world.kernel.spawn(STRANGER, None)
    root.process.after(world.root_latency.draw(), root.clients.connect, process)
    world.clock.after(lifetime, process.do, _leave, process, in_order)


def _leave(process: Process, in_order: bool) -> None:
    if isinstance(process.program, SimulatedScript):
        process.program.leave(in_order)
    else:
        process.exit(1)
