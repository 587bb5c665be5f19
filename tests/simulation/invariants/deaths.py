"""Invariants 17, 18, 19 and 21: monitors and links, seen from the watcher and beside the router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from otpd.ipc import happenings, limits
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import MS
from tests.simulation.messages import Message, short
from tests.simulation.observe import Observer
from tests.simulation.root import SimulatedRoot
from tests.simulation.workers import Live

Incarnation = tuple[str, int]
#: Between a death that the router knows and what it makes of it, beyond its grace.
_SLACK = 5 * MS
_NOBODY = ("noproc", "noconnection")


@dataclass(slots=True)
class Watch:
    """One monitor, as its watcher knows it."""

    name: str
    follow: bool
    downs: int = 0
    ups: int = 0
    last: str = ""
    over: bool = False
    seen: int = 0  # the incarnation that a router has said is watched


class Monitors(Observer):
    """17: exactly one down, none after demonitor. 18: for the true reason."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._watches: dict[tuple[str, int, int], Watch] = {}
        self._reasons: dict[Incarnation, str] = {}
        self._over: dict[tuple[str, int, int], int] = {}  # when the router read demonitor
        self._said: dict[tuple[str, int, int], str] = {}  # the last word of this epoch's router about a monitor

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] == "death":
            self._reasons[packet[1], packet[2]] = packet[3]

    def incarnation_ended(self, root: SimulatedRoot, live: Live, reason: str) -> None:
        """What root tells the broker is what it tells everybody, and what the kernel has seen."""
        told = self._reasons.setdefault((live.name, live.inc), reason)
        self.check(told == reason, 18, f"{live.name} {short(live.inc)} ended with {reason}, the broker was told {told}")
        status = live.incarnation.status
        if status is not None and status.signal == 9 and live.incarnation.cause is None:
            self.check(reason == "killed", 18, f"{live.name} was killed, root says {reason}")

    def broker_began(self, broker: SimulatedBroker) -> None:
        self._said.clear()
        self._over.clear()

    def router_heard(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        if command[0] == "demonitor" and len(command) == 2:
            self._over[(*who, command[1])] = self.world.clock.now

    def router_said(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        """Once, and not after demonitor, unless it was written in the same turn: not only the endpoint keeps that."""
        if command[0] not in ("down", "up"):
            return
        watch = self._watches.get((*who, command[1]))
        before = self._said.get((*who, command[1]))
        if watch is not None:
            text = f"{who[0]} is told {command} after {before}"
            self.check(before is None or (before != command[0] and (watch.follow or before == "up")), 17, text)
            over = self._over.get((*who, command[1]), self.world.clock.now)
            self.check(over == self.world.clock.now, 17, f"{who[0]} is told {command} after demonitor")
            self._said[(*who, command[1])] = command[0]
            if command[0] == "up":
                watch.seen = who[1] >> 32 << 32 | command[3]

    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None:
        if name == "monitor":
            ref, target, follow = arguments
            self._watches[agent.name, agent.inc, ref] = Watch(target, follow)
        elif name == "demonitor":
            self._watches[agent.name, agent.inc, arguments[0]].over = True

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        match happening:
            case happenings.Down(ref, name, generation, reason):
                self._down(agent, self._watches[agent.name, agent.inc, ref], name, generation, reason)
            case happenings.Up(ref, name, generation):
                watch = self._watches[agent.name, agent.inc, ref]
                self.check(watch.follow and not watch.over, 17, f"{agent.name} hears up of {name} by a monitor that is over")
                self.check(watch.last != "up", 17, f"{agent.name} hears up of {name} twice")
                watch.ups, watch.last = watch.ups + 1, "up"
                self.sometimes["a monitor follows a name to its next incarnation"] += watch.downs > 0

    def _down(self, agent: SimulatedAgent, watch: Watch, name: str, generation: int, reason: str) -> None:
        self.check(not watch.over, 17, f"{agent.name} hears down of {name} after demonitor")
        self.check(watch.follow or watch.downs == 0, 17, f"{agent.name} hears down of {name} twice")
        self.check(not watch.follow or watch.last != "down", 17, f"{agent.name} hears down of {name} twice without up")
        watch.downs, watch.last = watch.downs + 1, "down"
        true = self._reasons.get((name, agent.inc >> 32 << 32 | generation)) if generation else None
        text = f"{agent.name} hears that {name} {generation} ended with {reason}, it was {true}"
        self.check(reason in _NOBODY or reason == true, 18, text)
        self.sometimes["a monitor tells a death"] += reason == true
        self.sometimes["a monitor tells noproc"] += reason == "noproc"

    def finished(self) -> None:
        """Whom a monitor watches lives, or has been told down."""
        if self.world.scenario.mode != "liveness" or self.world.root is None:
            return
        for (name, inc, _), watch in self._watches.items():
            if (name, inc) in self.world.ends or watch.over or watch.last == "down":
                continue
            gone = (watch.name, watch.seen) in self.world.ends
            self.check(not gone, 17, f"{name} monitors {watch.name} {short(watch.seen)}, which is dead, and was not told")


class Released(Observer):
    """19: when a death is told, nothing is held by the dead any more."""

    def router_said(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        if command[0] not in ("down", "exit"):
            return
        name, generation = command[-3], command[-2]
        router = broker.router
        entry = router._table.get(name)
        if entry is None or not generation:
            return
        if not entry.alive:
            self.check(not router._hold.groups.of(entry), 19, f"{name} is down and still in {router._hold.groups.of(entry)}")
        for key, held in router._hold.registry._keys.items():
            dead = held.holder.name == name and held.holder.generation <= generation
            self.check(not dead, 19, f"{name} {generation} is down and still holds {key}")
        for key, lock in router._hold.registry._locks.items():
            dead = lock.holder.name == name and lock.holder.generation <= generation
            self.check(not dead, 19, f"{name} {generation} is down and still holds the lock {key}")


@dataclass(slots=True)
class Debt:
    """What a death makes the router say to one that was linked to the dead."""

    to: Incarnation
    dead: Incarnation
    reason: str
    due: int
    paid: bool = False


@dataclass(slots=True)
class Linked:
    """Of one epoch."""

    pairs: set[frozenset[Incarnation]] = field(default_factory=set)
    unlinked: dict[frozenset[str], int] = field(default_factory=dict)  # when a pair of names was last separated
    debts: list[Debt] = field(default_factory=list)
    dead: set[Incarnation] = field(default_factory=set)
    ended: set[Incarnation] = field(default_factory=set)  # root was told to end them


class Links(Observer):
    """21: a link is symmetric; an abnormal end ends who is linked and does not trap, once and soon; a normal one nobody."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._of: dict[str, Linked] = {}

    def _linked(self, broker: SimulatedBroker) -> Linked:
        return self._of.setdefault(broker.epoch, Linked())

    def broker_ended(self, broker: SimulatedBroker) -> None:
        self._of.pop(broker.epoch, None)

    def router_said(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        linked = self._linked(broker)
        match command:
            case ["linked", name, generation]:
                pair = frozenset({who, (name, who[1] >> 32 << 32 | generation)})
                names = frozenset(each[0] for each in pair)
                if linked.unlinked.get(names) != self.world.clock.now:  # else it is over already
                    linked.pairs.add(pair)
                self.sometimes["a link is made"] += 1
            case ["unlinked", name]:
                self._unlink(linked, who, name)
                self._pay(linked, who, name, None, "normal")
            case ["exit", name, generation, reason]:
                self._pay(linked, who, name, generation, reason)
                self.sometimes["an exit is trapped"] += 1

    def router_heard(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        linked = self._linked(broker)
        if command[0] == "unlink" and len(command) == 2:
            self._unlink(linked, who, command[1])
            linked.unlinked[frozenset({who[0], command[1]})] = self.world.clock.now
            of = who, command[1]  # one that has just died, too
            linked.debts = [debt for debt in linked.debts if (debt.to, debt.dead[0]) != of]

    def _unlink(self, linked: Linked, who: Incarnation, name: str) -> None:
        linked.pairs = {pair for pair in linked.pairs if not (who in pair and any(each[0] == name for each in pair))}

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] != "death":
            return
        linked = self._linked(broker)
        dead, reason = (packet[1], packet[2]), packet[3]
        linked.dead.add(dead)
        due = self.world.clock.now + limits.GRACE
        for pair in [pair for pair in linked.pairs if dead in pair]:
            linked.pairs.discard(pair)
            (other,) = pair - {dead}
            linked.debts.append(Debt(other, dead, reason, due))

    def router_asked(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] != "terminate":
            return
        linked = self._linked(broker)
        _, name, inc, why = packet
        to = (name, inc)
        self.check(to not in linked.ended, 21, f"{name} {short(inc)} is ended twice by its links")
        linked.ended.add(to)
        self.check(not why.endswith(", normal)") or "linked(" in why[7:], 21, f"{name} is ended by a normal end: {why}")
        for debt in linked.debts:
            debt.paid = debt.paid or debt.to == to

    def _pay(self, linked: Linked, who: Incarnation, name: str, generation: int | None, reason: str) -> None:
        """`unlinked` does not say which incarnation; it is only said for a normal end."""
        for debt in linked.debts:
            same = debt.reason == "normal" if generation is None else debt.dead[1] & 0xFFFFFFFF == generation
            if debt.to == who and debt.dead[0] == name and same:
                debt.paid = True
                text = f"{who[0]} hears that {name} ended with {reason}, it was {debt.reason}"
                self.check(debt.reason == reason, 21, text)

    def router_rested(self, broker: SimulatedBroker) -> None:
        linked, now = self._linked(broker), self.world.clock.now
        if not linked.debts:
            return
        kept = []
        for debt in linked.debts:
            if debt.paid or debt.to in linked.dead or debt.to in linked.ended:
                continue
            peer = broker.router._table.get(debt.to[0])
            absent = peer is None or peer.peer is None
            late = now > debt.due + _SLACK and not absent
            if late and debt.reason != "normal" and not self._waits(broker, debt):
                self.check(False, 21, f"{debt.to[0]} lives on after {debt.dead[0]}, linked to it, ended with {debt.reason}")
            kept.append(debt)
        linked.debts = kept

    def _waits(self, broker: SimulatedBroker, debt: Debt) -> bool:
        """The word stands behind messages of the dead that wait for credit (B3)."""
        entry = broker.router._table.get(debt.to[0])
        return entry is not None and entry.peer is not None and bool(entry.inbox or entry.peer.backlog)


