"""Queues of what waits in the broker: batches as they came, in order, counted in messages and bytes.

An `Inbox` belongs to a name: it is the restart buffer while the name has no incarnation that takes messages, and the
overflow of a receiver's credit while it has. A `Parcel` is a batch of casts of one sender, one call, or a notice that must
not overtake the messages before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.frames import FrameError
from otpd.ipc.wire import INNER, Kind

if TYPE_CHECKING:
    from otpd.ipc.calls import Call
    from otpd.ipc.monitors import Monitor
    from otpd.ipc.peers import Peer


class Memory:
    """Bytes of bodies in all queues of the broker together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = limits.MEMORY) -> None:
        self.limit, self.used = limit, 0

    def fits(self, size: int) -> bool:
        return self.used + size <= self.limit


class Parcel:
    """`payload`: messages as they stand in a frame. `charged`: they still use the sender's credit. `since`: when it was
    queued; `until`: when a cast in a restart buffer expires, 0: never. `notice`: the monitor that a SYSTEM parcel speaks
    for."""

    __slots__ = ("call", "charged", "count", "kind", "notice", "payload", "serial", "since", "source", "until")

    def __init__(self, kind: int, source: Peer, count: int, payload: bytes | memoryview, call: Call | None = None) -> None:
        self.kind, self.source, self.count, self.payload, self.call = kind, source, count, payload, call
        self.charged, self.since, self.until, self.serial = True, 0, 0, 0
        self.notice: Monitor | None = None

    @property
    def size(self) -> int:
        return len(self.payload)

    def release(self) -> None:
        """Its sender may send something else."""
        if self.charged:
            self.charged = False
            self.source.give_back(self.count, len(self.payload))

    def messages(self) -> Iterator[tuple[int, memoryview]]:
        """(number, body) of each message; of a malformed batch, those that there are."""
        view, at = memoryview(self.payload), 0
        while at + INNER.size <= len(view):
            length, number, _mark = INNER.unpack_from(view, at)
            at += INNER.size + length
            yield number, view[at - length : at]

    def split(self) -> Parcel:
        """The first message as a parcel of its own; this keeps the others. FrameError: this is no batch."""
        view = memoryview(self.payload)
        end = INNER.size + INNER.unpack_from(view)[0]
        if end + (self.count - 1) * INNER.size > len(view):
            raise FrameError(f"expected {self.count} messages in {len(view)} bytes, got a first one of {end}")
        first = Parcel(self.kind, self.source, 1, bytes(view[:end]))  # a copy, or it would keep the whole batch in memory
        first.charged, first.since, first.until, first.serial = self.charged, self.since, self.until, self.serial
        self.count -= 1
        self.payload = view[end:]
        return first


class Inbox:
    """First in, first out; anything may be taken from the middle. Counts notices as nothing."""

    __slots__ = ("_parcels", "_serial", "memory", "messages", "size")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._parcels: OrderedDict[int, Parcel] = OrderedDict()
        self._serial = self.messages = self.size = 0

    def __bool__(self) -> bool:
        return bool(self._parcels)

    def __iter__(self) -> Iterator[Parcel]:
        """A snapshot: the queue may be changed meanwhile."""
        return iter(list(self._parcels.values()))

    def add(self, parcel: Parcel) -> None:
        self._serial += 1
        parcel.serial = self._serial
        self._parcels[self._serial] = parcel
        self._count(parcel, 1)

    @property
    def first(self) -> Parcel:
        return next(iter(self._parcels.values()))

    def remove(self, parcel: Parcel) -> None:
        """Take it out; what becomes of the sender's credit is the caller's to say. Harmless when it is not here."""
        if self._parcels.get(parcel.serial) is parcel:
            del self._parcels[parcel.serial]
            self._count(parcel, -1)

    def split_first(self) -> Parcel:
        """The first message of the first parcel, taken out."""
        parcel = self.first
        if parcel.count <= 1:
            self.remove(parcel)
            return parcel
        first = parcel.split()
        self._count(first, -1)
        return first

    def _count(self, parcel: Parcel, sign: int) -> None:
        if parcel.kind != Kind.SYSTEM:
            size = sign * len(parcel.payload)
            self.messages += sign * parcel.count
            self.size += size
            self.memory.used += size
