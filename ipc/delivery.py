"""The way of casts and calls to a name: straight on, into its inbox, into its restart buffer, or not at all.

Guarantees: what one sender says to one name arrives in that order, whatever queues it passes (B1); nothing is delivered
before the name is ready (C6); nothing that expired is delivered (D4); no receiver is sent more than it gave credit for; what
was refused, dropped or has expired is counted and, if it was a cast, among the dead letters (C2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otpd.ipc import limits
from otpd.ipc.events import Events
from otpd.ipc.frames import FrameError, pack
from otpd.ipc.inbox import Parcel
from otpd.ipc.table import Policy
from otpd.ipc.wire import HEADER, Kind, message

if TYPE_CHECKING:
    from otpd.ipc.calls import Calls
    from otpd.ipc.letters import Letters
    from otpd.ipc.monitors import Monitor
    from otpd.ipc.peers import Peer
    from otpd.ipc.post import Post
    from otpd.ipc.table import Entry
    from otpd.ipc.timers import Timers

ACCEPTED: Final = ""
_CAST, _SYSTEM = int(Kind.CAST), int(Kind.SYSTEM)


class Delivery:
    def __init__(self, calls: Calls, events: Events, letters: Letters, timers: Timers, post: Post) -> None:
        self._calls, self._events, self._letters, self._timers, self._post = calls, events, letters, timers, post

    # --- casts as they came ---

    def casts(self, entry: Entry, sender: Peer, count: int, frame: bytes, now: int) -> bool:
        """Whether all messages of the frame are accepted; else nothing has changed. Mostly their receiver takes them at
        once, and then no parcel is made: this is what `offer` would do with it."""
        peer, size = entry.open, len(frame) - HEADER
        if peer is None or entry.inbox or not peer.allowance.fits(count, size):
            return self.offer(entry, Parcel(_CAST, sender, count, memoryview(frame)[HEADER:]), now) == ACCEPTED
        peer.hand(_CAST, sender, 0, count, memoryview(frame)[HEADER:])
        peer.on_way.append((peer.allowance.sent_messages, count))
        sender.give_back(count, size)
        return True

    # --- one parcel ---

    def offer(self, entry: Entry, parcel: Parcel, now: int) -> str:
        """ACCEPTED, or the code of why not; then nothing has changed. A parcel is accepted whole or not at all."""
        peer = entry.open
        if peer is None:
            return self._buffer(entry, parcel, now)
        if entry.inbox or not peer.allowance.fits(parcel.count, len(parcel.payload)):
            code = self._queue(entry, parcel, now)
            if peer.allowance.roomy:
                self.pump(entry, now)
            return code
        self._hand(peer, parcel)
        return ACCEPTED

    def _hand(self, peer: Peer, parcel: Parcel) -> None:
        peer.hand(parcel.kind, parcel.source, 0, parcel.count, parcel.payload)
        if parcel.call is None:
            peer.on_way.append((peer.allowance.sent_messages, parcel.count))
        else:
            parcel.call.sent(peer)
        parcel.release()

    def _queue(self, entry: Entry, parcel: Parcel, now: int) -> str:
        """Its receiver has no credit. A first message is taken whatever its size: no queue would ever be large enough."""
        inbox, size = entry.inbox, parcel.size
        full = inbox.messages + parcel.count > limits.INBOX_MESSAGES or inbox.size + size > limits.INBOX_BYTES
        if (full and inbox.messages) or not inbox.memory.fits(size):
            return "overloaded"
        if not inbox:
            entry.moved = now
        parcel.since = now
        inbox.add(parcel)
        self._watch(entry)
        if entry.stalled:
            parcel.release()
        elif ("stall", entry.name) not in self._timers:
            self._timers.set(("stall", entry.name), now + limits.STALL)
        return ACCEPTED

    def _buffer(self, entry: Entry, parcel: Parcel, now: int) -> str:
        if entry.stopped:
            return "noproc"
        bounds = entry.row.bounds
        if parcel.count > bounds.messages or parcel.size > bounds.bytes:
            return "overloaded"
        while not self._buffer_fits(entry, parcel):
            if bounds.policy is not Policy.DROP_OLDEST or not entry.inbox.messages:
                return "dropped" if bounds.policy is Policy.DROP_NEWEST else "overloaded"
            self._drop_oldest(entry, now)
        parcel.since, parcel.until = now, now + limits.CAST_TTL
        entry.inbox.add(parcel)
        parcel.release()
        if ("ttl", entry.name) not in self._timers:
            self._timers.set(("ttl", entry.name), parcel.until)
        return ACCEPTED

    def _buffer_fits(self, entry: Entry, parcel: Parcel) -> bool:
        inbox, bounds, size = entry.inbox, entry.row.bounds, parcel.size
        within = inbox.messages + parcel.count <= bounds.messages and inbox.size + size <= bounds.bytes
        return within and inbox.memory.fits(size)

    def _drop_oldest(self, entry: Entry, now: int) -> None:
        try:
            victim = entry.inbox.split_first()
        except FrameError:
            victim = self._malformed(entry)
        if victim.kind == _SYSTEM:
            if entry.peer is not None:
                self._say_notice(entry.peer, victim)
            return
        if victim.call is not None:
            self._calls.fail(victim.call, "overloaded", "no")
            return
        entry.counts.dropped += victim.count
        self._bury_casts(entry, victim, "dropped", now)

    # --- a queue that moves ---

    def pump(self, entry: Entry, now: int) -> None:
        """Send what the receiver's credit allows, casts and calls and events by turns."""
        peer = entry.open
        if peer is None:
            return
        sent = peer.allowance.sent_messages
        turning = True
        while turning:
            turning = bool(entry.inbox) and self._letter(entry, peer, now)
            turning = (bool(peer.backlog) and self._event(peer)) or turning
        if peer.allowance.sent_messages > sent:
            entry.moved, entry.stalled = now, False
            self._watch(entry)
        if entry.inbox and not entry.stalled and ("stall", entry.name) not in self._timers:
            self._timers.set(("stall", entry.name), now + limits.STALL)

    def _letter(self, entry: Entry, peer: Peer, now: int) -> bool:
        """Whether the first of the inbox has left it."""
        parcel = entry.inbox.first
        if parcel.kind == _SYSTEM:
            entry.inbox.remove(parcel)
            self._say_notice(peer, parcel)
            return True
        call = parcel.call
        if call is not None and 0 < call.deadline <= now:
            self._calls.expire(call, now)
            return True
        if peer.allowance.fits(parcel.count, parcel.size):
            entry.inbox.remove(parcel)
        elif parcel.count > 1 and peer.allowance.roomy:
            try:
                parcel = entry.inbox.split_first()
            except FrameError:
                parcel = self._malformed(entry)
                entry.counts.reject("malformed", parcel.count)
                parcel.release()
                return True
        else:
            return False
        self._hand(peer, parcel)
        return True

    def _event(self, peer: Peer) -> bool:
        said = self._events.step(peer)
        if isinstance(said, Parcel):  # all that the dead one published is before it; what is behind it are more notices
            self._say(peer, said)
            return True
        return said

    def _malformed(self, entry: Entry) -> Parcel:
        """A batch that was accepted without a look inside and turns out to be no batch: taken out whole."""
        parcel = entry.inbox.first
        entry.inbox.remove(parcel)
        return parcel

    def _watch(self, entry: Entry) -> None:
        """Tell root when a receiver falls far behind, and when it has caught up (K6)."""
        inbox = entry.inbox
        share = max(inbox.messages / limits.INBOX_MESSAGES, inbox.size / limits.INBOX_BYTES)
        if share >= limits.INBOX_HIGH if not entry.high else share <= limits.INBOX_LOW:
            entry.high = not entry.high
            kind = "inbox.high" if entry.high else "inbox.low"
            self._post.tell("event", kind, entry.name, {"messages": inbox.messages, "bytes": inbox.size})

    def stall(self, entry: Entry, now: int) -> None:
        """Its receiver may have taken nothing for a second: its senders get their credit back, here and from now on."""
        if entry.open is None or not entry.inbox:
            return
        if now - entry.moved < limits.STALL:
            self._timers.set(("stall", entry.name), entry.moved + limits.STALL)
            return
        entry.stalled = True
        for parcel in entry.inbox:
            parcel.release()

    # --- the receiver comes and goes ---

    def opened(self, entry: Entry, now: int) -> None:
        """It is ready and connected: first what waited, then what comes (C6)."""
        entry.open, entry.stalled, entry.moved = entry.peer, False, now
        self.pump(entry, now)

    def closed(self, entry: Entry, now: int) -> None:
        """Nobody takes messages now: what was not sent waits for the next incarnation; the senders are free."""
        entry.open, entry.stalled, entry.high = None, False, False
        self._timers.cancel(("stall", entry.name))
        for parcel in entry.inbox:
            if parcel.kind == _SYSTEM:
                entry.inbox.remove(parcel)
                continue
            parcel.until = parcel.until or now + limits.CAST_TTL
            parcel.release()
        self._arm_expiry(entry)

    def expire(self, entry: Entry, now: int) -> None:
        """Casts that have waited for 30 s. Calls have deadlines of their own."""
        if entry.open is not None:
            return
        for parcel in entry.inbox:
            if parcel.call is None and 0 < parcel.until <= now:
                entry.inbox.remove(parcel)
                entry.counts.expired += parcel.count
                self._bury_casts(entry, parcel, "expired", now)
        self._arm_expiry(entry)

    def _arm_expiry(self, entry: Entry) -> None:
        due = [parcel.until for parcel in entry.inbox if parcel.call is None and parcel.until]
        if due:
            self._timers.set(("ttl", entry.name), min(due))

    def stopped(self, entry: Entry, now: int) -> None:
        """Nobody will ever come for what waits (C4)."""
        for parcel in entry.inbox:
            if parcel.call is not None:
                self._calls.fail(parcel.call, "noproc", "no")
                continue
            entry.inbox.remove(parcel)
            if parcel.kind == _CAST:
                entry.counts.reject("noproc", parcel.count)
                self._bury_casts(entry, parcel, "noproc", now)
                parcel.release()

    def _bury_casts(self, entry: Entry, parcel: Parcel, code: str, now: int) -> None:
        for number, body in parcel.messages():
            self._letters.add(parcel.source, number, entry.name, code, body, now)

    # --- what the receiver has done ---

    def handled(self, peer: Peer) -> None:
        """Casts whose handler has ended: the credit that it gave tells how many."""
        done = peer.allowance.handled
        way, counts = peer.on_way, peer.entry.counts
        while way and way[0][0] <= done:
            counts.processed += way.popleft()[1]

    def lose(self, peer: Peer) -> None:
        """It is dead: casts that it was sent and did not handle are lost, as with a mailbox (C5)."""
        self.handled(peer)
        done, counts = peer.allowance.handled, peer.entry.counts
        for end, count in peer.on_way:
            rest = min(count, end - done)
            counts.processed += count - rest
            counts.lost += rest
        peer.on_way.clear()

    # --- notices ---

    def notify(self, peer: Peer, dead: Peer | None, monitor: Monitor | None, command: list[Any]) -> None:
        """Tell a peer of a death after every message that the dead one sent it (B3): behind those that wait here, and in
        the data lane while something that was sent there is not known to be handled."""
        if not peer.connected:
            return
        notice = Parcel(_SYSTEM, dead or peer, 1, message(0, 0, pack(command)))
        notice.charged, notice.notice = False, monitor
        if dead is not None and any(parcel.source is dead for parcel in peer.entry.inbox):
            peer.entry.inbox.add(notice)
        elif dead is not None and peer.backlog.holds(dead):
            peer.backlog.note(notice)
        else:
            self._say(peer, notice)

    def _say_notice(self, peer: Peer, notice: Parcel) -> None:
        """It has come to the front of one queue; the other one may still hold messages of the dead."""
        if peer.backlog.holds(notice.source):
            peer.backlog.note(notice)
        else:
            self._say(peer, notice)

    def _say(self, peer: Peer, notice: Parcel) -> None:
        monitor = notice.notice
        behind = peer.data or peer.allowance.outstanding  # messages that it has perhaps not read yet
        lane = peer.data if behind else peer.system
        if monitor is not None:
            if monitor.void:
                return
            monitor.told()
            lane = peer.data if monitor.in_order else lane
            monitor.in_order = lane is peer.data
        lane.add(_SYSTEM, 0, 0, 1, notice.payload)
        peer.touch()
