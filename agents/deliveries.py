"""Durable messages that the store has delivered to this incarnation: which it has, and which it has settled how.

The store may say the same one again, because it does not know what became of it. One that waits or is being handled is not
taken twice; one that was settled is settled again with the same word, without another handling.

>>> deliveries = Deliveries(inc=7)
>>> body = encoded(seq=1, attempt=1, inc=7, kind=0, name="note", body=b"", sender="shop", id="", at=0.0)
>>> first = deliveries.arrived(body)
>>> deliveries.arrived(body) is None and deliveries.again == []
True
>>> deliveries.settled(first, {"ok": True})
>>> deliveries.arrived(body) is None and deliveries.again
[{'ok': True}]
"""

from __future__ import annotations

import contextvars
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from otpd.agents.data import UNDECODABLE, decode

#: The method of the casts that bring them.
DURABLE: Final = "otpd.durable"
BEGINS: Final = b"\x92" + bytes([0xA0 | len(DURABLE)]) + DURABLE.encode()
#: Settled ones that are remembered: far more than the store has with one incarnation at a time.
_REMEMBERED: Final = 1024


@dataclass(slots=True, eq=False, kw_only=True)
class Delivery:
    """A durable message that is being handled: `seq` is its number in the store, `attempt` counts from 1, `sent_at` is wall
    clock. `settled`: a transaction has taken place, and its acknowledgement with it."""

    seq: int
    attempt: int
    sender: str
    id: str
    sent_at: float
    is_event: bool
    name: str
    body: bytes
    size: int
    settled: bool = False


#: Seen by tasks and threads that its handler starts, too.
DELIVERY: contextvars.ContextVar[Delivery | None] = contextvars.ContextVar("otpd_delivery", default=None)


class Deliveries:
    """Of one incarnation. `again`: what is to be said again now."""

    def __init__(self, inc: int) -> None:
        self._inc = inc
        self._held: set[tuple[int, int]] = set()
        self._done: OrderedDict[tuple[int, int], dict[str, Any]] = OrderedDict()
        self.again: list[dict[str, Any]] = []

    def arrived(self, message: bytes) -> Delivery | None:
        """What is to be handled now; None for one that is known, not for this incarnation, or no message at all."""
        try:
            _, it = decode(message)
            key = (it["seq"], it["attempt"])
            known = it["inc"] != self._inc or key in self._held
            if key in self._done:
                self.again.append(self._done[key])
            elif not known:
                delivery = Delivery(
                    seq=key[0], attempt=key[1], sender=it["sender"], id=it["id"], sent_at=it["at"],
                    is_event=it["kind"] == 1, name=it["name"], body=it["body"], size=len(message),
                )  # fmt: skip
                self._held.add(key)
                return delivery
        except (*UNDECODABLE, KeyError):
            return None
        return None

    def settled(self, delivery: Delivery, word: dict[str, Any]) -> None:
        """`word`: what the store is told."""
        key = (delivery.seq, delivery.attempt)
        self._held.discard(key)
        self._done[key] = word
        while len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)


def encoded(**fields: Any) -> bytes:
    """As the store sends one."""
    return msgpack.packb((DURABLE, fields))  # type: ignore[no-any-return]
