"""What leaves the router: frames for peers, packets for root, gathered until the flush."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from otpd.ipc.wire import Lane, system

if TYPE_CHECKING:
    from otpd.ipc.peers import Peer


class Send(NamedTuple):
    """Give this frame to the peer with this routing id."""

    peer: bytes
    lane: Lane
    frame: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Give this packet to root (docs/protocol.md, 8)."""

    packet: list[Any]


Effect: TypeAlias = Send | Tell
_SYSTEM, _DATA = Lane.SYSTEM, Lane.DATA
#: A named tuple's own constructor is Python and takes three times as long.
_new: Final = tuple.__new__


class Post:
    """Peers put themselves on `dirty` when there is something for them."""

    def __init__(self) -> None:
        self.dirty: list[Peer] = []
        self._packets: list[Effect] = []
        self._answers: list[Effect] = []

    def tell(self, *packet: Any) -> None:
        """To root."""
        self._packets.append(Tell(list(packet)))

    def answer(self, identity: bytes, lane: Lane, *command: Any) -> None:
        """To somebody who is no peer (any more)."""
        self._answers.append(Send(identity, lane, system(list(command))))

    def flush(self) -> list[Effect]:
        """All of it, the system lane first."""
        effects = [*self._packets, *self._answers]
        self._packets, self._answers = [], []
        bulk: list[Effect] = []
        for peer in self.dirty:
            peer.touched = False
            if not peer.connected:
                continue
            if peer.intake.due:
                peer.system.command(["credit", *peer.intake.renew()])
            identity = peer.identity
            for frame in peer.system.frames():
                effects.append(_new(Send, (identity, _SYSTEM, frame)))
            for frame in peer.data.frames():
                bulk.append(_new(Send, (identity, _DATA, frame)))
        self.dirty.clear()
        return effects + bulk
