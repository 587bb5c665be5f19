"""What an endpoint has to say on the data lane: messages in batches per destination, handles, and credit. Pure.

`endpoint` decides what is said; this keeps it in order until credit lets it go. Each destination has at most one open
batch; a batch is closed when it is full, when the kind of message changes, or when a command has to keep its place behind
it. Closed batches leave in the order in which they were closed, so that the messages to one destination never change
places, while those to several may.

>>> from otpd.ipc.wire import Kind, commands, messages
>>> outbox = Outbox()
>>> outbox.grant(10, 1000)
>>> _ = outbox.put(Kind.CAST, Address("inventory"), 1, 0, b"restock")
>>> (_, bind), (_, cast) = outbox.take()
>>> list(commands(bind)), [(number, bytes(body)) for number, _, body in messages(cast)]
([['bind', 1, 'name', 'inventory', '']], [(1, b'restock')])
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from otpd.ipc.wire import BATCH_BYTES, BATCH_MESSAGES, INNER, Flag, Lane, outer, system

#: What may wait for credit or a broker before a sender should wait: as much as the broker takes at first (messaging.md 1.3).
BACKLOG_MESSAGES: Final = 1024
BACKLOG_BYTES: Final = 1024 * 1024
#: Handles in use at a time (docs/protocol.md, 3); the one that was bound longest ago is bound anew.
MAX_HANDLES: Final = 4096
_PLAIN: Final = int(Flag.NONE)
_INNER: Final = INNER.size
_pack: Final = INNER.pack


class Address(NamedTuple):
    """Whom a message is for. `policy` is for groups; `key` is what a group with policy "hash" goes by."""

    name: str
    kind: str = "name"
    policy: str = ""
    key: str | None = None


#: Events have no destination but share a batch.
EVENTS: Final = Address("", "event")


class _Route:
    """One destination. `handle` 0: not bound in this epoch."""

    __slots__ = ("address", "handle")

    def __init__(self, address: Address) -> None:
        self.address, self.handle = address, 0


class Batch:
    """Messages of one kind for one destination, each as it stands in the frame."""

    __slots__ = ("flags", "kind", "parts", "route", "size")

    def __init__(self, kind: int, route: _Route, flags: int) -> None:
        self.kind, self.route, self.flags = kind, route, flags
        self.parts: list[bytes] = []
        self.size = 0

    def numbers(self) -> Iterator[int]:
        return (INNER.unpack_from(part)[1] for part in self.parts)

    def remove(self, number: int) -> int:
        """Bytes of the message that was taken out; 0 when it is not here (any more)."""
        for index, found in enumerate(self.numbers()):
            if found == number:
                size = len(self.parts.pop(index))
                self.size -= size
                return size
        return 0


class Outbox:
    """`count` messages of `size` bytes wait."""

    def __init__(self) -> None:
        self.count = self.size = 0
        self._open: dict[Address, Batch] = {}
        self._closed: deque[Batch | bytes] = deque()  # bytes: the frame of a command
        self._routes: dict[Address, _Route] = {}
        self._bound: list[_Route | None] = [None] * MAX_HANDLES
        self._last_handle = 0
        self._sent_messages = self._sent_bytes = 0
        self._may_messages = self._may_bytes = 0

    # --- what is to be said ---

    def put(self, kind: int, to: Address, number: int, mark: int, body: bytes, flags: int = _PLAIN) -> Batch:
        """The batch that the message waits in."""
        length = len(body)
        size = length + _INNER
        batch = self._open.get(to)
        if batch is None or batch.kind != kind or batch.flags != flags or batch.size + size > BATCH_BYTES:
            batch = self._begin(kind, to, flags)
        parts = batch.parts
        parts.append(_pack(length, number, mark) + body)
        batch.size += size
        self.count += 1
        self.size += size
        if len(parts) == BATCH_MESSAGES or batch.size >= BATCH_BYTES:
            self._close(to)
        return batch

    def _begin(self, kind: int, to: Address, flags: int) -> Batch:
        if to in self._open:
            self._close(to)
        batch = self._open[to] = Batch(kind, self._route(to), flags)
        return batch

    def _route(self, to: Address) -> _Route:
        route = self._routes.get(to)
        if route is None:
            if len(self._routes) >= 2 * MAX_HANDLES:
                self._routes.clear()  # those in use are known to their batches, the others are bound again when needed
            route = self._routes[to] = _Route(to)
        return route

    def _close(self, to: Address) -> None:
        self._closed.append(self._open.pop(to))

    def command(self, *command: Any) -> None:
        """A command that stays behind all that was put before it."""
        self._closed.extend(self._open.values())
        self._open.clear()
        self._closed.append(system(list(command)))

    def withdraw(self, batch: Batch, number: int) -> bool:
        """Take a message back; False when it has left."""
        size = batch.remove(number)
        if size:
            self.count -= 1
            self.size -= size
        return size > 0

    def waiting(self, kind: int, flags: int = _PLAIN) -> set[int]:
        """Numbers of the messages of this kind that have not left; `flags`: those of them that have at least these."""
        batches = (each for each in (*self._closed, *self._open.values()) if isinstance(each, Batch))
        return {
            number for batch in batches if batch.kind == kind and batch.flags & flags == flags for number in batch.numbers()
        }

    def drop(self) -> int:
        """Give up what waits; how many messages that were. Commands stay."""
        dropped, self.count, self.size = self.count, 0, 0
        for batch in (*self._closed, *self._open.values()):
            if isinstance(batch, Batch):
                batch.parts, batch.size = [], 0
        self._closed = deque(each for each in self._closed if isinstance(each, bytes))
        self._open.clear()
        return dropped

    # --- the connection ---

    def reset(self) -> None:
        """A new epoch: no handle is bound, no credit given, nothing sent. Messages stay, commands are void."""
        for route in self._bound:
            if route is not None:
                route.handle = 0
        self._bound = [None] * MAX_HANDLES
        self._last_handle = 0
        self._sent_messages = self._sent_bytes = self._may_messages = self._may_bytes = 0
        self._closed = deque(each for each in self._closed if isinstance(each, Batch))

    def grant(self, messages: int, size: int) -> None:
        """Cumulative totals: what is less than before is an old word."""
        self._may_messages = max(self._may_messages, messages)
        self._may_bytes = max(self._may_bytes, size)

    @property
    def credit(self) -> bool:
        """Whether one more message may be sent."""
        return self._sent_messages < self._may_messages and self._sent_bytes < self._may_bytes

    @property
    def full(self) -> bool:
        """Whether there is more than open batches."""
        return bool(self._closed)

    def take(self) -> list[tuple[Lane, bytes]]:
        """Frames to be sent now. Open batches stay open while credit is missing, so that they fill."""
        frames: list[tuple[Lane, bytes]] = []
        closed = self._closed
        while closed:
            first = closed[0]
            if isinstance(first, bytes):
                frames.append((Lane.DATA, first))
            elif not self._send(first, frames):
                return frames
            closed.popleft()
        for batch in self._open.values():
            if not self._send(batch, frames):
                self._open = {to: each for to, each in self._open.items() if each.parts}
                return frames
        self._open.clear()
        return frames

    def _send(self, batch: Batch, frames: list[tuple[Lane, bytes]]) -> bool:
        """Whether nothing of the batch is left."""
        parts, size, left = batch.parts, batch.size, []
        if self._sent_messages + len(parts) > self._may_messages or self._sent_bytes + size > self._may_bytes:
            parts = self._allowed(parts)
            left = batch.parts[len(parts) :]
            size = sum(map(len, parts))
        batch.parts, batch.size = left, batch.size - size
        if parts:
            count, route = len(parts), batch.route
            self._sent_messages += count
            self._sent_bytes += size
            self.count -= count
            self.size -= size
            if not route.handle and route.address is not EVENTS:
                frames.append((Lane.DATA, self._bind(route)))
            frames.append((Lane.DATA, b"".join((outer(batch.kind, count, route.handle, size, batch.flags), *parts))))
        return not left

    def _allowed(self, parts: list[bytes]) -> list[bytes]:
        """The first ones: each may go while the sums before it are below the totals."""
        room = min(len(parts), self._may_messages - self._sent_messages)
        sent = self._sent_bytes
        for index in range(room):
            if sent >= self._may_bytes:
                return parts[:index]
            sent += len(parts[index])
        return parts[:room]

    def _bind(self, route: _Route) -> bytes:
        handle = self._last_handle % MAX_HANDLES + 1
        former = self._bound[handle - 1]
        if former is not None:
            former.handle = 0
        self._bound[handle - 1] = route
        route.handle = self._last_handle = handle
        to = route.address
        return system(["bind", handle, to.kind, to.name, to.policy])
