"""Invariant 16: an open breaker lets no request through, a half-open one a single probe; but for questions about health."""

from __future__ import annotations

from typing import Any

from otpd.ipc import limits
from otpd.ipc.breaker import Circuit
from otpd.ipc.wire import OUTER, Kind
from tests.simulation.broker import SimulatedBroker
from tests.simulation.messages import Message
from tests.simulation.observe import Observer


class Breakers(Observer):
    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._barred: set[int] = set()
        self._half: dict[int, str] = {}  # calls that were read while their target's breaker was half open
        self._probes: dict[str, Message] = {}  # the one that has passed since

    def broker_began(self, broker: SimulatedBroker) -> None:
        for book in (self._barred, self._half, self._probes):
            book.clear()

    def router_asked(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        if packet[0] != "event" or not packet[1].startswith("breaker."):
            return
        self.sometimes[f"a {packet[1].replace('.', ' is ')} ({packet[3]['mode']})"] += 1
        self._probes.pop(packet[2], None)

    def router_took(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, frame: bytes) -> None:
        if message.kind is not Kind.CALL or message.sender == limits.HEALTH:
            return
        router = broker.router
        identity = next((id for id, peer in router._peers.items() if (peer.name, peer.inc) == who), None)
        binding = router._peers[identity].handles.get(OUTER.unpack_from(frame)[3]) if identity is not None else None
        entry = router._table.get(binding.name) if binding is not None and binding.kind == "name" else None
        if entry is None:
            return
        if entry.breaker.circuit is Circuit.OPEN:
            self._barred.add(message.number)
        elif entry.breaker.circuit is Circuit.HALF_OPEN:
            self._half[message.number] = entry.name

    def router_passed(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, mark: int) -> None:
        self.check(message.number not in self._barred, 16, f"{message} passes an open breaker")
        name = self._half.pop(message.number, None)
        if name is None:
            return
        first = self._probes.get(name)
        if first is not None and self._is_open(broker, first):
            leased = first.deadline and first.deadline > self.world.clock.now
            self.check(not leased, 16, f"{message} passes a half-open breaker beside {first}")
        self._probes[name] = message
        self.sometimes["a probe passes a half-open breaker"] += 1

    def _is_open(self, broker: SimulatedBroker, message: Message) -> bool:
        """Whether its call has no outcome in the router yet, and its breaker has not moved since."""
        for call in broker.router._calls._open.values():
            if (call.caller.name, call.caller.inc, call.request) == (message.sender, message.inc, message.request):
                return True
        return False
