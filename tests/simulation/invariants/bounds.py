"""Invariants 5-8 and 14, inside the router: each queue within its bound, each count exact, each call at a living callee."""

from __future__ import annotations

from collections import Counter
from typing import Any

from otpd.ipc import limits
from otpd.ipc.inbox import Parcel
from otpd.ipc.router import Router
from otpd.ipc.table import Entry
from otpd.ipc.wire import HEADER, OUTER, Kind, Lane
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.messages import short
from tests.simulation.observe import Observer
from tests.simulation.tap import PAID, sizes

_CAST = int(Kind.CAST)
#: The router is looked into after so many turns; what is wrong in it stays wrong.
_EVERY = 8


class Inside(Observer):
    """5 (inside), 6, 8 and 14."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._turns = 0
        self._allowed: dict[str, int] = {}  # messages that a name which is away may have waiting

    def broker_began(self, broker: SimulatedBroker) -> None:
        self._allowed.clear()

    def router_rested(self, broker: SimulatedBroker) -> None:
        self._turns += 1
        for entry in broker.router._table.entries.values():
            if entry.open is None:
                self._check_buffer(entry)
            else:
                self._allowed.pop(entry.name, None)
        if self._turns % _EVERY == 0:
            self._look(broker.router)

    def _check_buffer(self, entry: Entry) -> None:
        """What waited when it went away may stay; what comes afterwards has to fit into the buffer."""
        allowed = self._allowed.setdefault(entry.name, max(entry.row.bounds.messages, entry.inbox.messages))
        waiting = entry.inbox.messages
        self.check(waiting <= allowed, 6, f"{entry.name} is away and has {waiting} messages waiting")

    def _look(self, router: Router) -> None:
        used = 0
        for entry in router._table.entries.values():
            self._check_inbox(entry)
            self._check_counts(entry)
            used += entry.inbox.size
        for peer in router._peers.values():
            backlog = peer.backlog
            events, size = backlog.events, backlog.size
            within = events <= limits.EVENT_MESSAGES and size <= limits.EVENT_BYTES
            self.check(within or events <= 1, 6, f"{peer.name} has {events} events of {size} bytes waiting")
            used += backlog.size
        self.check(used == router.memory, 8, f"queues hold {used} bytes, the router counts {router.memory}")
        self.check(router.memory <= limits.MEMORY, 8, f"queues hold {router.memory} bytes")
        self._check_calls(router)

    def _check_inbox(self, entry: Entry) -> None:
        inbox = entry.inbox
        messages = size = 0
        for parcel in inbox:
            if parcel.kind != Kind.SYSTEM:
                messages += parcel.count
                size += parcel.size
        self.check((messages, size) == (inbox.messages, inbox.size), 5, f"{entry.name} counts its inbox wrong")
        within = messages <= limits.INBOX_MESSAGES and size <= limits.INBOX_BYTES
        self.check(within or messages <= 1, 6, f"{entry.name} has {messages} messages of {size} bytes waiting")
        if entry.open is None and messages:
            self.sometimes["messages wait for a name that restarts"] += 1

    def _check_counts(self, entry: Entry) -> None:
        """C2: each cast is in one place."""
        counts = entry.counts
        queued = sum(parcel.count for parcel in entry.inbox if _is_cast(parcel))
        peers = [entry.peer] if entry.peer is not None else []
        peers += [grave.peer for grave in _graves(self.world, entry) if grave.peer is not None]
        on_way = sum(count for peer in peers for _, count in peer.on_way)
        ended = counts.processed + counts.dropped + counts.expired + counts.lost + sum(counts.rejected.values())
        self.check(
            counts.casts == ended + queued + on_way, 5,
            f"{entry.name}: {counts.casts} casts, {queued} queued, {on_way} on their way, {counts}",
        )  # fmt: skip

    def _check_calls(self, router: Router) -> None:
        for call in router._calls._open.values():
            callee = call.callee
            if callee is None:
                continue
            dying = router._lives._graves.get(callee.name, {})
            at_home = callee.entry.peer is callee or callee.inc in dying
            self.check(at_home, 14, f"a call waits for {callee.name} {short(callee.inc)}, which is gone")


class Gaps(Observer):
    """9: an event that is dropped leaves a gap. Who unsubscribes or dies does not want to know."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._said: Counter[str] = Counter()
        self._careless: set[str] = set()

    def broker_began(self, broker: SimulatedBroker) -> None:
        self._said.clear()
        self._careless.clear()

    def router_heard(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        if command[0] == "unsubscribe":
            self._careless.add(who[0])

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] == "death":
            self._careless.add(packet[1])

    def router_said(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        if command[0] == "gap":
            self._said[who[0]] += command[2]

    def router_rested(self, broker: SimulatedBroker) -> None:
        for entry in broker.router._table.entries.values():
            missed, peer = entry.counts.missed, entry.peer
            if not missed or peer is None or entry.name in self._careless:
                continue
            known = self._said[entry.name] + sum(peer.backlog._gaps.values())
            self.check(known == missed, 9, f"{entry.name} missed {missed} events and is told of {known}")


class Credit(Observer):
    """7: nobody is sent more than it has given credit for, in either direction."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._granted: dict[Any, list[int]] = {}  # (epoch, who) -> [messages, bytes] that the broker may send
        self._given: dict[Any, list[int]] = {}
        self._may: dict[Any, list[int]] = {}  # that the agent may send
        self._sent: dict[Any, list[int]] = {}

    def router_heard(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        if command[0] == "credit" and len(command) == 3:
            self._raise_to(self._granted, (broker.epoch, who), command[1:])

    def router_gave(self, broker: SimulatedBroker, who: tuple[str, int], frame: bytes) -> None:
        self._spend(self._given, self._granted, (broker.epoch, who), frame, f"the broker sends {who[0]}")

    def router_said(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        if command[0] == "welcome":
            self._raise_to(self._may, (broker.epoch, who), command[1]["credit"])
        elif command[0] == "credit":
            self._raise_to(self._may, (broker.epoch, who), command[1:])

    def gave(self, agent: SimulatedAgent, lane: Lane, frame: bytes) -> None:
        if frame[1] in PAID:
            key = (agent.epoch, (agent.name, agent.inc))
            self._spend(self._sent, self._may, key, frame, f"{agent.name} sends")

    def _raise_to(self, book: dict[Any, list[int]], key: Any, totals: list[int]) -> None:
        known = book.setdefault(key, [0, 0])
        book[key] = [max(known[0], totals[0]), max(known[1], totals[1])]

    def _spend(
        self, spent: dict[Any, list[int]], allowed: dict[Any, list[int]], key: Any, frame: bytes, who: str
    ) -> None:
        """The last message may pass the bytes; those before it may not (docs/protocol.md, 5)."""
        sent, may = spent.setdefault(key, [0, 0]), allowed.get(key, [0, 0])
        messages, size = OUTER.unpack_from(frame)[2], len(frame) - HEADER
        within = sent[1] + size <= may[1] or sent[1] + size - sizes(frame)[-1] < may[1]
        text = f"{who} {messages} messages of {size} bytes after {sent}, with credit for {may}"
        self.check(sent[0] + messages <= may[0] and within, 7, text)
        sent[0] += messages
        sent[1] += size
        if sent[0] == may[0]:
            self.sometimes["a window is used up"] += 1


def _is_cast(parcel: Parcel) -> bool:
    return parcel.call is None and parcel.kind == _CAST


def _graves(world: Any, entry: Entry) -> list[Any]:
    for broker in world.brokers.values():
        if broker.router._table.entries.get(entry.name) is entry:
            return list(broker.router._lives._graves.get(entry.name, {}).values())
    return []
