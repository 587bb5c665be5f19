"""A process that speaks for an incarnation that it is not, or that is no more: a forked copy, a clone, an attacker.

It has whatever the incarnation has had (routing id, token), sometimes even its pid, and says hello, and speaks, at its
leisure: now, or when the incarnation is long dead. Nothing of it may ever be believed.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from otpd.ipc.wire import Kind, Lane, join, message, outer, system
from tests.simulation.clock import MS, SECOND
from tests.simulation.kernel import Process
from tests.simulation.script import STRANGER

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.broker import Connection, SimulatedBroker
    from tests.simulation.world import World

#: Nanoseconds after which the grace for last words is over.
_LONG_DEAD: Final = 100 * MS


class Ghost:
    def __init__(self, world: World, of: Process, salt: int) -> None:
        self._world, self._of = world, of
        self._random = Random(f"{world.scenario.seed}/{salt}/ghost")
        self._agent: SimulatedAgent = of.program  # type: ignore[assignment]

    # --- as somebody that it is not ---

    def appear(self) -> None:
        """Soon, or when its original has had time to die."""
        delay = self._random.choice((0, MS, 100 * MS, SECOND, 5 * SECOND))
        self._world.clock.after(delay, self._hello)

    def _hello(self) -> None:
        broker = self._world.brokers.get(self._epoch() or "")
        if broker is None or not self._world.scenario.agents or self._world.over:
            return
        process = self._process()
        knows = self._random.random() < 0.7 and (process.pid != self._of.pid or self._is_known_to_be_dead(broker))
        identity = self._agent.job.identity if self._knows_identity(broker) else self._random.randbytes(16)
        token = self._agent.job.token if knows else bytes(32)
        connection = broker.connect(process, identity, lambda lane, frame: None)
        for lane in Lane:
            about = {"v": 1, "name": self._agent.name, "inc": self._agent.inc, "token": token, "lane": lane.value}
            connection.send(lane, system(["hello", about]))
        self._speak(connection)
        process.after(self._random.randrange(MS, SECOND), process.exit, 0)

    def _process(self) -> Process:
        """Its own; sometimes under the very pid that the original had."""
        kernel = self._world.kernel
        process = kernel.spawn(STRANGER, None)
        process.program = self  # type: ignore[assignment]
        if self._of.pid not in kernel.table:
            del kernel.table[process.pid]
            process.pid = process.group = self._of.pid
            kernel.table[process.pid] = process
            self._world.sometimes["a ghost has the pid of its original"] += 1
        return process

    def _is_known_to_be_dead(self, broker: SimulatedBroker) -> bool:
        """Until then, whoever has the token and the very pid is the incarnation, as far as anybody can tell."""
        return broker.router._table.is_dead(self._agent.name, self._agent.inc)

    def _knows_identity(self, broker: SimulatedBroker) -> bool:
        """It comes neither before its original, which would find its place taken, nor so soon after it that it might as well
        be its last words: a routing id is a secret, and who is known by it is believed until root has told the death."""
        mute = self._agent.epoch == broker.epoch and self._of.alive
        told = broker.told_dead.get((self._agent.name, self._agent.inc))
        late = told is not None and self._world.clock.now - told > _LONG_DEAD
        return (mute or late) and self._random.random() < 0.6

    def _epoch(self) -> str | None:
        return next(iter(self._world.brokers), None)

    def _speak(self, connection: Connection) -> None:
        """Messages that must reach nobody: their bodies lead to no Message, so a delivery is seen at once."""
        name = self._random.choice(self._world.scenario.agents)
        bodies = [(number, 0, b"\xff" * 8) for number in range(1, 4)]
        connection.send(Lane.DATA, system(["bind", 1, "name", name, ""]))
        connection.send(Lane.DATA, join(Kind.CAST, 1, bodies))
        connection.send(Lane.SYSTEM, system(["monitor", 1, name, False], ["credit", 1000, 1 << 20]))

    # --- rubbish from a real peer ---

    def throw(self) -> None:
        """Frames that no endpoint makes, out of the agent's own sockets."""
        connection = self._agent.connection
        if connection is None:
            return
        for _ in range(self._random.choice((1, 1, 2, 4))):
            connection.send(self._random.choice(list(Lane)), self._rubbish())

    def _rubbish(self) -> bytes:
        random = self._random
        part = message(1, 0, b"x" * 8)
        return random.choice(
            (
                random.randbytes(random.randrange(40)),
                outer(Kind.CAST, 3, 1, len(part)) + part,
                outer(Kind.CAST, 1, 4_000_000, len(part)) + part,
                outer(Kind.SYSTEM, 1, 0, len(part)) + part,
                system(["no such verb", 1]),
                system(["monitor"]),
                join(Kind.EVENT, 0, [(1, 0, b"\xff\xff" + bytes(8))]),
            )
        )

    # --- a program ---

    def begin(self) -> None: ...

    def signalled(self, _number: int) -> None: ...
