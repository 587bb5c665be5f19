"""Invariants 1-5, 9-13, 15 and 40: what becomes of each message, seen by its sender, its receiver and beside the router."""

from __future__ import annotations

from typing import Any

from otpd.ipc import happenings, limits
from otpd.ipc.wire import Kind
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import MS
from tests.simulation.messages import Message, short
from tests.simulation.observe import Observer

#: What an outcome may be late beyond its deadline, while the loop of its agent turns (messaging.md D1).
_SLACK = 50 * MS
#: What the sender of a cast hears that says nothing of whether it was delivered.
_UNKNOWN = ("accepted", "broker_lost", "stale")
#: A topic's messages keep their order among themselves; so do casts and calls to one destination (docs/protocol.md, 3).
_Stream = tuple[str, int, str, int, str]


class Order(Observer):
    """1: no reordering. 2: nothing twice. 40: nothing before ready."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._last: dict[_Stream, int] = {}

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        if isinstance(happening, happenings.Delivered):
            self.check(message, 3, f"{agent.name} gets {happening.body[:16]!r}, which no agent has ever sent")
        elif not isinstance(happening, happenings.EventReceived) or message is None:
            return
        assert message is not None
        me = (agent.name, agent.inc)
        self.check(agent.phase != "init", 40, f"{agent.name} gets {message} before it is ready")
        stream = (message.sender, message.inc, *me, message.stream)
        last = self._last.get(stream, -1)
        self.check(message.number > last, 1, f"{agent.name} gets {message} after {last}")
        self._last[stream] = message.number
        several = message.policy == "all" or message.kind is Kind.EVENT
        seen = any(name == agent.name for name, _ in message.delivered) if several else bool(message.delivered)
        self.check(not seen, 2, f"{agent.name} gets {message}, which went to {message.delivered} already")
        message.delivered.append(me)
        self.sometimes["a message over 64 KiB is delivered"] += message.size > 65536
        self.sometimes["a message over the window is delivered"] += message.size > 262144


class Fencing(Observer):
    """3: nothing of a dead incarnation is accepted. 4: nothing is given to one. 13: nothing expired is given to anybody."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._dead: dict[str, int] = {}  # name -> highest incarnation whose death the router has been told
        self._until: dict[tuple[str, int], int] = {}  # until when its last messages may be taken
        self._rested = 0
        self._void: set[int] = set()

    def broker_began(self, broker: SimulatedBroker) -> None:
        self._dead.clear()
        self._until.clear()

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        now = self.world.clock.now
        if packet[0] == "death":
            _, name, inc, _ = packet
            self._dead[name] = max(inc, self._dead.get(name, 0))
            self._until.setdefault((name, inc), now + limits.GRACE)
        elif packet[0] == "row" and packet[1]["state"] == "ready":
            for name, inc in self._until:
                if name == packet[1]["name"] and inc < packet[1]["inc"]:
                    self._until[name, inc] = min(now, self._until[name, inc])

    def router_rested(self, broker: SimulatedBroker) -> None:
        self._rested = self.world.clock.now

    def router_took(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, frame: bytes) -> None:
        until = self._until.get(who)
        if until is None:
            return
        self.sometimes["a message comes from one that has just died"] += 1
        if self._rested > until:
            self.sometimes["a message comes from one that is long dead"] += 1
            self._void.add(message.number)

    def router_passed(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, mark: int) -> None:
        name, inc = who
        self.check(message.number not in self._void, 3, f"{message} was taken after its sender had gone, and passed on")
        self.check(inc > self._dead.get(name, 0), 4, f"{message} is given to {name} {short(inc)}, which is dead")
        if message.kind is Kind.CALL and mark:
            self.check(mark > self.world.clock.now, 13, f"{message} is given to {name} after its deadline")


class Outcomes(Observer):
    """10: one outcome for each call. 11: in time. 12: none after it. 15: `executed no` means that nobody handled it."""

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        match happening:
            case happenings.Replied():
                self._end(agent, message, "reply")
            case happenings.CallFailed(code=code, executed=executed, detail=detail):
                self.sometimes[f"a call fails: {code}"] += 1
                if message is not None and executed == "no":
                    self.check(not message.handled, 15, f"{message} failed with {code}, not executed, but was handled")
                self.check(executed in ("no", "maybe"), 15, f"{message} failed with executed {executed!r} ({detail})")
                self._end(agent, message, f"{code}/{executed}")
            case happenings.CastRejected(code=code):
                self.sometimes[f"a cast is rejected: {code}"] += 1
                self._cast(message, code)
            case happenings.CastAccepted():
                self._cast(message, "accepted")

    def _end(self, agent: SimulatedAgent, message: Message | None, how: str) -> None:
        self.check(message, 12, f"{agent.name} hears of a call that has an outcome already: {how}")
        assert message is not None
        self.check(not message.outcomes, 10, f"{message} ends with {how} after {message.outcomes}")
        message.outcomes.append(how)
        late = self.world.clock.now - max(message.deadline, message.at, agent.process.since)
        self.check(late <= _SLACK or not message.deadline, 11, f"{message} ends with {how} {late / MS:.1f} ms too late")

    def _cast(self, message: Message | None, how: str) -> None:
        assert message is not None
        self.check(not message.outcomes or not message.confirm, 10, f"{message} is {how} after {message.outcomes}")
        message.outcomes.append(how)
        if how not in _UNKNOWN and message.policy != "all":
            self.check(not message.delivered, 15, f"{message} is rejected ({how}), but was delivered")

    def handled(self, agent: SimulatedAgent, message: Message) -> None:
        message.handled.append((agent.name, agent.inc))
        not_executed = [how for how in message.outcomes if how.endswith("/no")]
        self.check(not not_executed, 15, f"{agent.name} handles {message}, which failed with {not_executed}")

    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None:
        if name == "cancel":
            arguments[0].outcomes.append("cancelled")

    def shed(self, agent: SimulatedAgent, message: Message) -> None:
        self.sometimes["an expired request is shed unhandled"] += 1


class Conservation(Observer):
    """5 and 9: each message ends somewhere, and its sender hears of it unless somebody died or it only was too late."""

    def finished(self) -> None:
        if self.world.scenario.mode != "liveness":
            return
        living = {(agent.name, agent.inc): agent for agent in self.world.agents() if agent.process.alive}
        ends = self.world.ends
        for message in self.world.mail.all:
            if message.kind is Kind.CAST and (message.sender, message.inc) in living:
                self._check(message, ends)

    def _check(self, message: Message, ends: set[Any]) -> None:
        """Its sender lives. Brokers and receivers may have died, and what they held is lost with them."""
        if message.delivered or any(how != "accepted" for how in message.outcomes):
            return
        self.check(message.read_by or ends, 5, f"{message} was never read by a broker, and none has died")
        lost = any(who in ends for who in message.passed) or any(epoch in ends for epoch in message.read_by)
        unread = not message.read_by
        accounted = lost or unread or self._counted(message)
        self.check(accounted, 5, f"{message} is neither delivered, rejected, counted nor lost")

    def _counted(self, message: Message) -> bool:
        """Dropped or expired in the buffer of a name: the router has a counter for it."""
        for broker in self.world.brokers.values():
            counts = broker.router.counts()
            if counts.dropped + counts.expired + sum(counts.rejected.values()) + counts.lost:
                return True
        return False
