"""A node in memory: the router of the real broker, with endpoints around it and the test in the place of root.

Nothing of the semantics is imitated: names, monitors, groups, topics, buffers and breakers are the router's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from otpd.agents.conversation import Conversation
from otpd.ipc.endpoint import Endpoint
from otpd.ipc.router import Router, Send, Tell

_LIFE: Final = 1
_PID: Final = 1


@dataclass(slots=True)
class Member:
    """One incarnation that takes part."""

    endpoint: Endpoint
    generation: int
    identity: bytes
    work_off: Callable[[], None]
    state: str = "ready"


@dataclass(slots=True)
class Node:
    """`terminate(name, reason)`: what root is asked to end because of a link."""

    now: Callable[[], int]
    terminate: Callable[[str, str], None]
    epoch: int = 0
    _router: Router = field(init=False)
    _members: dict[str, Member] = field(default_factory=dict)
    _generations: dict[str, int] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.new_broker()

    # --- root ---

    def endpoint(self, name: str) -> tuple[Endpoint, int]:
        """For the next incarnation of a name, and its generation."""
        generation = self._generations[name] = self._generations.get(name, 0) + 1
        return Endpoint(name, _LIFE << 32 | generation, _token(name)), generation

    def join(self, conversation: Conversation, state: str = "ready", kind: str = "agent") -> Member:
        """It is up, in state "starting" or "ready", and connects."""
        endpoint = conversation.endpoint
        generation = endpoint.inc & 0xFFFFFFFF
        identity = f"{endpoint.name}:{generation}".encode()
        member = Member(endpoint, generation, identity, conversation.work_off, state)
        self._members[endpoint.name] = member
        self._row(member, kind)
        endpoint.connected(str(self.epoch), self.now())
        return member

    def ready(self, name: str) -> None:
        self._members[name].state = "ready"
        self._row(self._members[name])

    def died(self, name: str, reason: str) -> None:
        """Its incarnation has ended; the name waits for the next one."""
        member = self._members.pop(name)
        self._router.root(["death", name, member.endpoint.inc, reason], self.now())
        self._router.root(["row", {"name": name, "inc": member.endpoint.inc, "state": "restarting"}], self.now())

    def gone(self, name: str) -> None:
        """Stopped for good."""
        if name in self._members:
            self.died(name, "shutdown")
        self._router.root(["gone", name], self.now())

    def _row(self, member: Member, kind: str = "agent") -> None:
        row = {"name": member.endpoint.name, "kind": kind, "inc": member.endpoint.inc, "pid": _PID, "state": member.state}
        row |= {"identity": member.identity, "token": _token(member.endpoint.name)}
        self._router.root(["row", row], self.now())

    def new_broker(self) -> None:
        """The one that there was has died with all that it held; everybody connects to the next."""
        self.epoch += 1
        self._router = Router(str(self.epoch))
        self._router.root(["snapshot", str(self.epoch)], self.now())
        for member in self._members.values():
            self._row(member)
        self._router.root(["snapshot_end"], self.now())
        for member in self._members.values():
            member.endpoint.lost(self.now())
            member.endpoint.connected(str(self.epoch), self.now())

    # --- frames ---

    def turn(self) -> bool:
        """Move frames until there are none; whether there were any."""
        moved = False
        while self._collect() | self._deliver():
            moved = True
        return moved

    def due(self) -> int | None:
        return self._router.tick(self.now())

    def _collect(self) -> bool:
        frames = [(each, lane, frame) for each in list(self._members.values()) for lane, frame in each.endpoint.outgoing()]
        for member, lane, frame in frames:
            self._router.frame(member.identity, lane, frame, self.now(), _PID)
        return bool(frames)

    def _deliver(self) -> bool:
        self._router.tick(self.now())
        effects = self._router.flush()
        members = {each.identity: each for each in self._members.values()}
        for effect in effects:
            match effect:
                case Send(peer=peer, lane=lane, frame=frame) if peer in members:
                    members[peer].endpoint.received(lane, bytes(frame), self.now())
                case Tell(packet=["terminate", str(name), _, str(reason)]):
                    self.terminate(name, reason)
        for member in members.values():
            if member.endpoint.happened:
                member.work_off()
        return bool(effects)


def _token(name: str) -> bytes:
    return f"token of {name}".encode()
