"""Publish and subscribe: one copy per subscriber, each with a bounded queue, so that a slow one loses only its own.

A publisher is never held up: its credit returns at once. What a subscriber does not take in time is dropped, the oldest
first, and where it was stands a gap: ["gap", ref, count] comes before the next event.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otpd.ipc import limits
from otpd.ipc.frames import FrameError, pack
from otpd.ipc.topics import TopicError, Trie, is_reserved, words_of_pattern
from otpd.ipc.wire import HEADER, INNER, Flag, Kind, keyed, message, split, split_key

if TYPE_CHECKING:
    from otpd.ipc.inbox import Memory, Parcel
    from otpd.ipc.peers import Peer

_EVENT, _KEYED = int(Kind.EVENT), int(Flag.KEYED)


class Waiting(NamedTuple):
    """One event in a queue. `ref`: a subscription that it matches; `source` None: the broker itself."""

    ref: int
    source: Peer | None
    payload: bytes


class Run:
    """Events of one topic, as they stand in a frame."""

    __slots__ = ("_payload", "messages", "topic")

    def __init__(self, topic: str, messages: list[bytes]) -> None:
        self.topic, self.messages = topic, messages
        self._payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        if self._payload is None:
            self._payload = b"".join(self.messages)
        return self._payload


class Backlog:
    """What one subscriber has not taken: events, and notices that must not overtake them."""

    __slots__ = ("_gaps", "_memory", "_queue", "events", "size")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._queue: deque[Waiting | Parcel] = deque()
        self._gaps: dict[int, int] = {}  # what was dropped before the first of the queue: ref -> count
        self.events = self.size = 0

    def __bool__(self) -> bool:
        return bool(self._queue or self._gaps)

    def add(self, event: Waiting) -> int:
        """How many were dropped to make room, itself included if there was none even so."""
        size, dropped = len(event.payload), 0
        while self.events and not self._fits(size):
            self._drop_oldest()
            dropped += 1
        if not self._memory.fits(size):
            self._gap(event.ref)
            return dropped + 1
        self._queue.append(event)
        self._count(event, 1)
        return dropped

    def _fits(self, size: int) -> bool:
        return (
            self.events < limits.EVENT_MESSAGES and self.size + size <= limits.EVENT_BYTES and self._memory.fits(size)
        )

    def _drop_oldest(self) -> None:
        for index, item in enumerate(self._queue):
            if isinstance(item, Waiting):
                del self._queue[index]
                self._count(item, -1)
                self._gap(item.ref)
                return

    def _gap(self, ref: int) -> None:
        self._gaps[ref] = self._gaps.get(ref, 0) + 1

    def _count(self, event: Waiting, sign: int) -> None:
        self.events += sign
        self.size += sign * len(event.payload)
        self._memory.used += sign * len(event.payload)

    def note(self, notice: Parcel) -> None:
        self._queue.append(notice)

    def holds(self, source: Peer) -> bool:
        """Events that it published, or a notice of its death."""
        return any(item.source is source for item in self._queue)

    def gaps(self) -> dict[int, int]:
        """To be said now; they are forgotten here."""
        gaps, self._gaps = self._gaps, {}
        return gaps

    @property
    def first(self) -> Waiting | Parcel | None:
        return self._queue[0] if self._queue else None

    def pop(self) -> None:
        item = self._queue.popleft()
        if isinstance(item, Waiting):
            self._count(item, -1)

    def forget(self, ref: int) -> None:
        self._gaps.pop(ref, None)

    def clear(self) -> None:
        for item in self._queue:
            if isinstance(item, Waiting):
                self._count(item, -1)
        self._queue.clear()
        self._gaps.clear()


class Events:
    """The subscriptions, and the way of an event to those who have them. `revision` grows with each change of them."""

    def __init__(self) -> None:
        self._trie: Trie[tuple[Peer, int]] = Trie()
        self.revision = 0

    # --- subscriptions ---

    def subscribe(self, peer: Peer, ref: int, pattern: str) -> int:
        """The revision: what is published after it is matched. TopicError for a pattern that is none, or one too many."""
        words_of_pattern(pattern)
        if ref in peer.subscriptions:
            raise TopicError(f"expected a new ref, got {ref} again; unsubscribe it first")
        if len(peer.subscriptions) >= limits.SUBSCRIPTIONS:
            raise TopicError(f"expected at most {limits.SUBSCRIPTIONS} subscriptions; use a pattern with * or **")
        peer.subscriptions[ref] = pattern
        self._trie.add(pattern, (peer, ref))
        self.revision += 1
        return self.revision

    def unsubscribe(self, peer: Peer, ref: int) -> None:
        """What is queued may still come."""
        pattern = peer.subscriptions.pop(ref, None)
        if pattern is not None:
            self._trie.remove(pattern, (peer, ref))
            peer.backlog.forget(ref)
            self.revision += 1

    def release(self, peer: Peer) -> None:
        """It is dead."""
        for ref in list(peer.subscriptions):
            self.unsubscribe(peer, ref)
        peer.backlog.clear()

    # --- events ---

    def publish(self, source: Peer, frame: bytes) -> None:
        """Every event of a frame; FrameError when it is malformed. One with a bad topic, or one of the broker's own, is
        rejected."""
        batch = _runs(frame)
        source.give_back(sum(len(run.messages) for run in batch), len(frame) - HEADER)
        for run in batch:
            try:
                if is_reserved(run.topic, source.entry.row.kind == "service"):
                    raise TopicError(f"{run.topic} is the node's own")
                self._send(source, run)
            except TopicError:
                for message in run.messages:
                    source.say("rejected", INNER.unpack_from(message)[1], "refused", run.topic)

    def announce(self, topic: str, data: dict[str, Any]) -> None:
        """An event of the broker's own. A name that does not make a topic has no listeners either."""
        if self._trie.empty:
            return
        try:
            self._send(None, Run(topic, [message(0, 0, keyed(topic, pack(data)))]))
        except (TopicError, FrameError):
            return

    def _send(self, source: Peer | None, run: Run) -> None:
        seen: set[int] = set()
        for peer, ref in self._trie.find(run.topic):
            if peer.id not in seen and peer.connected:
                seen.add(peer.id)
                self._give(peer, ref, source, run)

    def _give(self, peer: Peer, ref: int, source: Peer | None, run: Run) -> None:
        count = len(run.messages)
        flows = peer.entry.open is peer and not peer.backlog
        if flows and peer.allowance.fits(count, len(run.payload)):
            self._hand(peer, source, count, run.payload)
            return
        for payload in run.messages:
            peer.entry.counts.missed += peer.backlog.add(Waiting(ref, source, payload))
        while flows and peer.backlog and self.step(peer):
            pass  # what there is credit for; the queue was empty, so that no notice is in it

    def _hand(self, peer: Peer, source: Peer | None, count: int, payload: bytes) -> None:
        peer.hand(_EVENT, source, _KEYED, count, payload)
        peer.entry.counts.events += count

    def step(self, peer: Peer) -> Parcel | bool:
        """Send the first of its backlog. False: it has no credit for it. A notice is given back, to be said now."""
        backlog = peer.backlog
        first = backlog.first
        if isinstance(first, Waiting) and not peer.allowance.fits(1, len(first.payload)):
            return False
        for ref, count in backlog.gaps().items():
            peer.say_in_order("gap", ref, count)
        if first is None:
            return True
        backlog.pop()
        if isinstance(first, Waiting):
            self._hand(peer, first.source, 1, first.payload)
            return True
        return first


def _runs(frame: bytes) -> list[Run]:
    """The events of a frame; those with the same topic that follow each other go together."""
    found: list[Run] = []
    last: bytes | None = None
    for number, _, body in split(frame):
        key = body[: 2 + int.from_bytes(body[:2], "little")]
        if key != last:
            found.append(Run(split_key(body)[0], []))
            last = key
        found[-1].messages.append(message(number, 0, body))
    return found
