"""What must have happened at least once over the seeds of the suite: else they prove nothing about it."""

from __future__ import annotations

from typing import Any, Final

from otpd.ipc import happenings
from otpd.ipc.peers import Standing
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.messages import Message
from tests.simulation.observe import Observer
from tests.simulation.scenario import KINDS

SOMETIMES: Final = (
    *(f"fault: {kind}" for kind in KINDS),
    "a back-off grows",
    "a breaker is closed (auto)",
    "a breaker is closed (close)",
    "a breaker is half_open (auto)",
    "a breaker is opened (auto)",
    "a breaker is opened (open)",
    "a broken link ends a script",
    "a broken link ends a worker",
    "a call fails: broker_lost",
    "a call fails: circuit_open",
    "a call fails: deadlock",
    "a call fails: down",
    "a call fails: expired",
    "a call fails: noproc",
    "a call fails: overloaded",
    "a call fails: stale",
    "a call fails: timeout",
    "a cast is rejected: broker_lost",
    "a cast is rejected: noproc",
    "a cast is rejected: overloaded",
    "a frozen worker is found by its silence",
    "a ghost has the pid of its original",
    "a group chooses: any",
    "a group chooses: hash",
    "a group chooses: least_loaded",
    "a group chooses: round_robin",
    "a group has taken several turns",
    "a group of several restarts",
    "a hello restores a key",
    "a link is made",
    "a listener hears several changes of a group",
    "a member leaves, a key stays",
    "a message comes from one that has just died",
    "a message comes from one that is long dead",
    "a message over 64 KiB is delivered",
    "a message over the window is delivered",
    "a monitor follows a name to its next incarnation",
    "a monitor tells a death",
    "a monitor tells noproc",
    "a name lives on in another life of root",
    "a probe passes a half-open breaker",
    "a process outlives its incarnation",
    "a question is refused: already_registered",
    "a question is refused: broker_lost",
    "a question is refused: deadlock",
    "a question is refused: not_holder",
    "a reply comes too late",
    "a second connection with the same routing id is mute",
    "a stable run ends the back-off",
    "a start suffers: ignores",
    "a start suffers: init_fails",
    "a start suffers: init_never",
    "a start suffers: init_slow",
    "a start suffers: no_process",
    "a subscriber has a gap",
    "a supervisor gives up",
    "a supervisor shuts down by itself",
    "a window is used up",
    "a worker ignores SIGTERM",
    "a worker leaves a helper behind",
    "a worker ends because of its own children",
    "an agent is fenced",
    "an agent starts a child of its own",
    "an agent waits for room",
    "an exit is trapped",
    "an expired request is shed unhandled",
    "casts are dropped by a full buffer",
    "casts expire in a buffer",
    "lock is granted",
    "messages wait for a name that restarts",
    "register is granted",
    "root tells its whole table again",
    "senders get their credit back behind a receiver that takes nothing",
    "somebody strikes out",
)


class Seen(Observer):
    """Counts what no invariant has to look at."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._snapshots: set[str] = set()

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] == "snapshot":
            self.sometimes["root tells its whole table again"] += broker.epoch in self._snapshots
            self._snapshots.add(broker.epoch)

    def router_rested(self, broker: SimulatedBroker) -> None:
        for entry in broker.router._table.entries.values():
            if entry.stalled:
                self.sometimes["senders get their credit back behind a receiver that takes nothing"] += 1

    def router_asked(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[1] == "strike":
            peers = broker.router._peers.values()
            self.sometimes["somebody strikes out"] += any(peer.standing is Standing.REFUSED for peer in peers)

    def broker_ended(self, broker: SimulatedBroker) -> None:
        counts = broker.router.counts()
        self.sometimes["casts are dropped by a full buffer"] += counts.dropped
        self.sometimes["casts expire in a buffer"] += counts.expired
        self.sometimes["a reply comes too late"] += broker.router.late_replies

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        match happening:
            case happenings.Gap():
                self.sometimes["a subscriber has a gap"] += 1
            case happenings.Fenced():
                self.sometimes["an agent is fenced"] += 1
