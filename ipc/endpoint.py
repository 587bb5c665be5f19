"""One end of the conversation with the broker, as a pure machine: what an agent, a client or a simulated agent is made of.

It holds the handles, calls in flight, credit, monitors, links, subscriptions and memberships of one incarnation, packs
messages into frames and takes frames apart. No socket, no clock: `now` is nanoseconds of CLOCK_MONOTONIC.

The runtime: say verbs; send what `outgoing()` gives; hand received frames to `received()`; work off `happened`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from otpd.ipc.happenings import Happening
from otpd.ipc.wire import Lane, Status

#: What the broker may send ahead of what was handled (messaging.md 1.3).
WINDOW_MESSAGES: Final = 256
WINDOW_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Whom a message is for. `policy` is for groups; `key` is what a group with policy "hash" goes by."""

    name: str
    kind: str = "name"
    policy: str = ""
    key: str | None = None


class Endpoint:
    """One incarnation: (name, inc), with the token that proves it."""

    def __init__(self, name: str, inc: int, token: bytes) -> None:
        self.name, self.inc, self._token = name, inc, token
        self.happened: deque[Happening] = deque()

    # --- the connection ---

    def connected(self, epoch: str, now: int) -> None:
        """Fresh sockets of a new epoch are open: says hello, with all that is to be restored."""
        raise NotImplementedError

    def lost(self, now: int) -> None:
        """The broker is gone. Calls in flight fail with broker_lost; casts not yet given to the socket are kept."""
        raise NotImplementedError

    def received(self, lane: Lane, frame: bytes, now: int) -> None:
        """A frame of the broker; what it means goes to `happened`. A malformed frame is dropped and counted."""
        raise NotImplementedError

    def outgoing(self) -> list[tuple[Lane, bytes]]:
        """Frames to be given to the sockets now, within credit, in order."""
        raise NotImplementedError

    @property
    def pending(self) -> bool:
        """Whether outgoing() would give a full batch: flush now (64 KiB or 128 messages)."""
        raise NotImplementedError

    # --- verbs ---

    @property
    def room(self) -> bool:
        """Whether the backlog towards the broker is within bounds. Casts and calls are taken in any case; the runtime
        makes its caller wait while there is no room."""
        raise NotImplementedError

    def call(self, to: Address, body: bytes, deadline: int, now: int) -> int:
        """The request id; exactly one Replied or CallFailed follows, at the latest from `expire`."""
        raise NotImplementedError

    def cast(self, to: Address, body: bytes, confirm: bool = False) -> int:
        """The number by which CastRejected or CastAccepted names it."""
        raise NotImplementedError

    def publish(self, topic: str, body: bytes) -> None:
        raise NotImplementedError

    def reply(self, call: int, status: Status, body: bytes) -> None:
        raise NotImplementedError

    def cancel(self, request: int) -> None:
        """Give a call up: nothing more is heard of it."""
        raise NotImplementedError

    def handled(self, messages: int, size: int) -> None:
        """So many deliveries, of so many bytes of body, are done; renews the broker's credit at a quarter window."""
        raise NotImplementedError

    def expire(self, now: int) -> int | None:
        """Fail the calls whose deadline has passed; when the next one is due, or None."""
        raise NotImplementedError

    def monitor(self, name: str, follow: bool = False) -> int:
        """A ref; Down (and Up) name it. Survives a new broker."""
        raise NotImplementedError

    def demonitor(self, ref: int) -> None:
        """No Down of this ref is heard after this."""
        raise NotImplementedError

    def link(self, name: str) -> None:
        raise NotImplementedError

    def unlink(self, name: str) -> None:
        raise NotImplementedError

    def trap(self, on: bool) -> None:
        raise NotImplementedError

    def subscribe(self, pattern: str) -> int:
        """A ref: Answered (with the revision) and Gap name it."""
        raise NotImplementedError

    def unsubscribe(self, ref: int) -> None:
        raise NotImplementedError

    def join(self, group: str) -> None:
        raise NotImplementedError

    def leave(self, group: str) -> None:
        raise NotImplementedError

    def ask(self, what: str, *arguments: Any) -> int:
        """A ref; exactly one Answered follows (not ok, "broker_lost", when the broker dies first)."""
        raise NotImplementedError

    def bye(self) -> None:
        raise NotImplementedError
