"""The router as a pure machine: names, calls, casts, monitors, links, groups, topics, buffers, credit, breakers.

`broker` is the shell that gives it frames and packets and sends what it says. No socket, no clock, no randomness, and no
decoding of bodies. `now` is nanoseconds of CLOCK_MONOTONIC and never goes back.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc import limits
from otpd.ipc.answers import Answers
from otpd.ipc.calls import Calls
from otpd.ipc.counts import Counts
from otpd.ipc.delivery import Delivery
from otpd.ipc.events import Backlog, Events
from otpd.ipc.frames import FrameError
from otpd.ipc.groups import Groups
from otpd.ipc.letters import Letters
from otpd.ipc.links import Links
from otpd.ipc.lives import Holdings, Lives
from otpd.ipc.lobby import Lobby
from otpd.ipc.monitors import Monitors
from otpd.ipc.peers import Peer, Standing
from otpd.ipc.post import Effect, Post, Send, Tell
from otpd.ipc.registry import Refusal, Registry
from otpd.ipc.table import Row, Table
from otpd.ipc.timers import Timers
from otpd.ipc.topics import TopicError
from otpd.ipc.traffic import Routes, Traffic
from otpd.ipc.verbs import Verbs
from otpd.ipc.wire import BATCH_BYTES, BATCH_MESSAGES, HEADER, INNER, OUTER, VERSION, Kind, Lane, commands, split

if TYPE_CHECKING:
    from otpd.ipc.hello import Hello
    from otpd.ipc.table import Entry

__all__ = ["Effect", "Router", "Send", "Tell"]

_SYSTEM, _CAST, _CALL, _REPLY, _EVENT = (int(kind) for kind in Kind)
_PAID: Final = (_CAST, _CALL, _EVENT)


class Router:
    """One epoch: it begins empty, is given root's snapshot, and lives until the broker dies."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._peers: dict[bytes, Peer] = {}
        self._numbers: list[int] = []  # source ids that are free again
        self._past = Counts()
        timers = self._timers = Timers()
        post = self._post = Post()
        table = self._table = Table()
        events = Events()
        self._calls = Calls(timers, post)
        self._letters = Letters(timers, post)
        delivery = Delivery(self._calls, events, self._letters, timers, post)
        self._hold = Holdings(
            calls=self._calls,
            delivery=delivery,
            events=events,
            groups=Groups(events.announce),
            links=Links(table, delivery, post),
            monitors=Monitors(table, delivery),
            registry=Registry(events.announce),
        )
        routes = Routes(table, self._hold.groups, self._hold.registry)
        self._traffic = Traffic(table, routes, delivery, self._calls, self._letters)
        self._answers = Answers(table, self._hold.groups, self._hold.registry, self._calls, self._letters, post)
        self._verbs = Verbs(self._hold, self._answers)
        self._lives = Lives(table, self._hold, timers, self._past, self._drop)
        self._lobby = Lobby(table, self._lives, post, timers, self._admit)

    # --- root ---

    def root(self, packet: list[Any], now: int) -> None:
        """A packet of root's."""
        match packet:
            case ["row", dict(row)]:
                self._lives.row(Row.of(row), now)
                self._lobby.announced(row["name"], now)
            case ["death", str(name), int(inc), str(reason)]:
                self._lives.death(name, inc, reason, now)
                self._lobby.announced(name, now)
            case ["gone", str(name)]:
                self._lives.gone(name, now)
                self._lobby.announced(name, now)
            case ["snapshot", self.epoch]:
                self._lives.begin_snapshot()
            case ["snapshot_end"]:
                self._lives.end_snapshot(now)
                self._lobby.loaded(now)
            case ["stats", ref]:
                self._answers.stats(ref)
            case ["breaker", ref, str(name), str(mode)]:
                self._answers.breaker(ref, name, mode)

    # --- peers ---

    def knows(self, peer: bytes) -> bool:
        """Whether frames of this routing id can be taken without asking who sent them (both hellos were accepted)."""
        return peer in self._peers

    def frame(self, peer: bytes, lane: Lane, frame: bytes, now: int, pid: int | None = None) -> None:
        """One frame. `pid`: of the process at the other end, as the kernel tells it; needed until the peer is known."""
        known = self._peers.get(peer)
        if known is None:
            self._lobby.frame(peer, lane, frame, now, pid)
        elif known.standing is not Standing.REFUSED:
            try:
                self._take(known, lane, frame, now)
            except FrameError as error:
                self._strike(known, str(error), now)

    def stray(self, peer: bytes, now: int) -> None:
        """A message in more than one part, or of no part: a strike."""
        known = self._peers.get(peer)
        if known is None:
            self._lobby.refuse(peer, Lane.SYSTEM, "expected messages of one part, got another number of them")
        elif known.standing is not Standing.REFUSED:
            self._strike(known, "expected messages of one part, got another number of them", now)

    def _take(self, peer: Peer, lane: Lane, frame: bytes, now: int) -> None:
        head = _header(frame)
        if head[0] in _PAID:
            self._take_paid(peer, lane, head, frame, now)
        elif head[0] == _REPLY:
            for number, status, body in split(frame):
                self._calls.reply(peer, number, status, body)
        else:
            for command in list(commands(frame)):
                self._verbs.said(peer, lane, command, now)

    def _take_paid(self, peer: Peer, lane: Lane, head: tuple[int, int, int, int], frame: bytes, now: int) -> None:
        """What credit is needed for. It returns when the frame is malformed: then nothing of it was taken."""
        kind, count, handle, flags = head
        size = len(frame) - HEADER
        if lane is not Lane.DATA or not peer.intake.take(count, size):
            raise FrameError(f"expected kind {kind} on the data lane and within the credit, got {count} messages beyond")
        try:
            if kind == _CAST:
                self._traffic.casts(peer, handle, flags, count, frame, now)
            elif kind == _CALL:
                self._traffic.calls(peer, handle, flags, frame, now)
            else:
                self._hold.events.publish(peer, frame)
        except FrameError:
            peer.give_back(count, size)
            raise

    def _strike(self, peer: Peer, why: str, now: int) -> None:
        """K7: the third within a minute ends the conversation; root sees to the rest when the agent has exited."""
        strikes = peer.strikes
        strikes.append(now)
        while strikes[0] <= now - limits.STRIKE_WINDOW:
            strikes.popleft()
        self._post.tell("event", "strike", peer.name, {"generation": peer.generation, "why": why, "count": len(strikes)})
        if len(strikes) >= limits.STRIKES and peer.connected:
            peer.standing = Standing.REFUSED
            self._hold.delivery.closed(peer.entry, now)
            self._post.answer(peer.identity, Lane.SYSTEM, "stale", f"protocol: {why}")

    # --- coming and going ---

    def _admit(self, identity: bytes, entry: Entry, hello: Hello, now: int) -> None:
        """Both hellos are accepted: a peer, and what it wants restored, before anything else reaches it."""
        number = heapq.heappop(self._numbers) if self._numbers else len(self._peers) + 1
        peer = Peer(number, identity, entry, Backlog(self._table.memory), self._post.dirty)
        self._peers[identity] = peer
        intake = peer.intake
        granted = [intake.granted_messages, intake.granted_bytes]
        peer.say("welcome", {"epoch": self.epoch, "credit": granted, "id": number})
        peer.trap = hello.trap
        self._lives.connected(entry, peer, now)
        self._restore(peer, hello)
        if entry.ready:
            self._hold.delivery.opened(entry, now)

    def _restore(self, peer: Peer, hello: Hello) -> None:
        """Silent, but for what is not so any more; a key that somebody else holds by now stays with its holder."""
        hold = self._hold
        for group in hello.groups[: limits.GROUPS]:
            hold.groups.join(group, peer.entry)
        for ref, pattern in hello.topics:
            try:
                hold.events.subscribe(peer, ref, pattern)
            except TopicError as error:
                peer.say("refused", ref, "refused", str(error))
        for key, value in hello.keys:
            try:
                hold.registry.register(peer, key, value)
            except Refusal as refusal:
                self._post.tell("event", "key_lost", peer.name, {"key": key[:80], "why": refusal.text})
        for ref, name, inc, follow in hello.monitors:
            hold.monitors.restore(peer, ref, name, inc, follow)
        for name, inc in hello.links:
            hold.links.restore(peer, name, inc)

    def _drop(self, peer: Peer) -> None:
        """It is buried. Its source id may mean somebody else from now on; each receiver is told so before it does."""
        if self._peers.pop(peer.identity, None) is not None:
            heapq.heappush(self._numbers, peer.id)
        peer.forget()

    # --- time ---

    def tick(self, now: int) -> int | None:
        """Do what is due (deadlines, graces, leases, time to live); when the next thing is due, or None."""
        while (key := self._timers.pop(now)) is not None:
            self._due(key, now)
        return self._timers.next

    def _due(self, key: Any, now: int) -> None:
        match key:
            case ("call", int(number)):
                self._calls.due(number, now)
            case ("bury", str(name), int(inc)):
                self._lives.bury(name, inc, now)
            case ("patience", bytes(identity)):
                self._lobby.impatient(identity, now)
            case ("stall", str(name)):
                self._hold.delivery.stall(self._table.entries[name], now)
            case ("ttl", str(name)):
                self._hold.delivery.expire(self._table.entries[name], now)
            case ("breaker", str(name)):
                self._calls.half_open(self._table.entries[name])
            case "letters":
                self._letters.report()

    def flush(self) -> list[Effect]:
        """What is to be sent after the events since the last flush: one frame per destination and lane, system first."""
        return self._post.flush()

    # --- to look at ---

    def counts(self) -> Counts:
        """What became of all messages of this epoch, also of those for names that are gone or never were."""
        total = Counts()
        for counts in (self._past, self._traffic.unrouted, *(entry.counts for entry in self._table.entries.values())):
            total.add(counts)
        return total

    def rows(self) -> list[dict[str, Any]]:
        """As `otpd top` shows them."""
        return self._answers.rows()

    @property
    def late_replies(self) -> int:
        """Replies to calls that had ended (D5)."""
        return self._calls.late_replies

    @property
    def memory(self) -> int:
        """Bytes of bodies in all queues."""
        return self._table.memory.used


def _header(frame: bytes) -> tuple[int, int, int, int]:
    """(kind, count, peer, flags), checked as far as the header tells; FrameError."""
    if len(frame) < HEADER:
        raise FrameError(f"expected a frame of at least {HEADER} bytes, got {len(frame)}")
    version, kind, count, handle, length, flags = OUTER.unpack_from(frame)
    if version != VERSION or length != len(frame):
        raise FrameError(f"expected version {VERSION} and the length {len(frame)}, got {version} and {length}")
    if not 1 <= kind <= 5 or flags > 3:
        raise FrameError(f"expected a kind from 1 to 5 and flags to 3, got {kind} and {flags}")
    if not 1 <= count <= BATCH_MESSAGES or length < HEADER + count * INNER.size:
        raise FrameError(f"expected 1 to {BATCH_MESSAGES} messages that fit into {length} bytes, got {count}")
    if count > 1 and length > HEADER + BATCH_BYTES:
        raise FrameError(f"expected a batch of at most {BATCH_BYTES} bytes, got {length}")
    return kind, count, handle, flags
