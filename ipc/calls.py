"""Calls: a request becomes a numbered call, and ends in exactly one way (DESIGN 9.4; messaging.md D1-D6).

| state | reply | deadline | cancel | its callee dies | its caller dies |
|---|---|---|---|---|---|
| QUEUED (`callee` None) | - | expired, executed no | taken out | - (it waits for the next) | taken out |
| SENT | to the caller | timeout, executed maybe | the callee is told | down, executed maybe | the callee is told |

What is over is forgotten: a reply without its call is a late one, counted and dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.breaker import Circuit, Mode
from otpd.ipc.frames import FrameError
from otpd.ipc.wire import BATCH_BYTES, INNER, Kind, Status

if TYPE_CHECKING:
    from otpd.ipc.inbox import Parcel
    from otpd.ipc.peers import Peer
    from otpd.ipc.post import Post
    from otpd.ipc.table import Entry
    from otpd.ipc.timers import Timers

_REPLY = int(Kind.REPLY)
_LAST_STATUS = int(Status.REJECTED)
_U32 = 0xFFFF_FFFF
#: What an error says where the code alone doesn't.
_TEXT = {
    "expired": "the deadline passed before it was delivered",
    "timeout": "delivered, but not answered before the deadline",
    "circuit_open": "the breaker of {name} is open; it is probed after 30 s, or: otpd breaker {name} close",
    "overloaded": "{name} takes no more messages: its queue or the broker's memory is full",
    "noproc": "nobody is called {name}, or it is stopped for good",
    "deadlock": "{name} called itself and would wait for ever",
    "refused": "{name}: ask `members` and call each; only casts go to all of a group",
}


class Call:
    """`deadline` in ns, 0: none. `counts`: its outcome moves the breaker; `probe`: a half-open one waits for it."""

    __slots__ = ("callee", "caller", "counts", "deadline", "entry", "number", "parcel", "probe", "request")

    def __init__(
        self, number: int, caller: Peer, request: int, entry: Entry, deadline: int, probe: bool, counts: bool
    ) -> None:
        self.number, self.caller, self.request = number, caller, request
        self.entry, self.deadline, self.probe, self.counts = entry, deadline, probe, counts
        self.callee: Peer | None = None
        self.parcel: Parcel | None = None

    def sent(self, callee: Peer) -> None:
        self.callee, self.parcel = callee, None
        callee.serving[self.number] = self


class Calls:
    """All that are open, and the breakers that their outcomes move."""

    def __init__(self, timers: Timers, post: Post) -> None:
        self._timers, self._post = timers, post
        self._open: dict[int, Call] = {}
        self._number = 0
        self.late_replies = 0

    def __len__(self) -> int:
        return len(self._open)

    # --- the beginning ---

    def open(self, caller: Peer, request: int, entry: Entry, deadline: int, counts: bool = True) -> Call:
        number = self._next_number()
        probe = counts and entry.breaker.circuit is Circuit.HALF_OPEN
        call = Call(number, caller, request, entry, deadline, probe, counts)
        self._open[number] = caller.asked[request] = call
        if deadline:
            self._timers.set(("call", number), deadline)
        return call

    def _next_number(self) -> int:
        self._number = self._number % _U32 + 1
        while self._number in self._open:
            self._number = self._number % _U32 + 1
        return self._number

    def refuse(self, caller: Peer, request: int, name: str, code: str) -> None:
        """It never became a call."""
        caller.say("failed", request, code, "no", _TEXT.get(code, "").format(name=name))

    # --- the end ---

    def reply(self, peer: Peer, number: int, status: int, body: bytes) -> None:
        """Only who was asked can answer; FrameError for a status that there is not."""
        if status > _LAST_STATUS:
            raise FrameError(f"expected the mark of a reply to be 0, 1 or 2, got {status}")
        call = self._open.get(number)
        if call is None or call.callee is not peer:
            self.late_replies += 1
            return
        self._close(call)
        call.entry.counts.replied += 1
        if call.counts and not call.entry.breaker.at_rest:
            self._succeeded(call)
        self._deliver(call, status, body)

    def _deliver(self, call: Call, status: int, body: bytes) -> None:
        caller = call.caller
        if caller.connected:
            lane = caller.system if len(body) <= BATCH_BYTES else caller.data
            lane.add(_REPLY, 0, 0, 1, INNER.pack(len(body), call.request, status) + body)
            caller.touch()

    def fail(self, call: Call, code: str, executed: str, detail: str = "") -> None:
        self._close(call)
        call.entry.counts.failed += 1
        text = detail or _TEXT.get(code, "").format(name=call.entry.name)
        call.caller.say("failed", call.request, code, executed, text)

    def expire(self, call: Call, now: int) -> None:
        """Its deadline has passed. That it was never delivered says nothing of its target: no failure for the breaker."""
        if call.callee is None:
            self.fail(call, "expired", "no")
            self._abandon(call)
        else:
            self.fail(call, "timeout", "maybe")
            if call.counts:
                self.failed(call.entry, now, call.probe)

    def due(self, number: int, now: int) -> None:
        call = self._open.get(number)
        if call is not None:
            self.expire(call, now)

    def cancel(self, caller: Peer, request: int) -> None:
        """The caller hears nothing more of it. One that has not come yet is remembered: lanes overtake each other."""
        call = caller.asked.get(request)
        if call is not None:
            self._give_up(call, "cancel", call.number)
            return
        caller.cancelled[request] = None
        if len(caller.cancelled) > limits.EARLY_CANCELS:
            caller.cancelled.popitem(last=False)

    def _give_up(self, call: Call, *words: object) -> None:
        """`words`: to the callee, if it has it."""
        self._close(call)
        self._abandon(call)
        if call.callee is not None:
            call.callee.say(*words)

    def _abandon(self, call: Call) -> None:
        if call.probe:
            call.entry.breaker.abandoned()

    def drop_caller(self, caller: Peer) -> None:
        """It is dead: nobody waits for these."""
        for call in list(caller.asked.values()):
            self._give_up(call, "cancel", call.number, "down")

    def lose_callee(self, callee: Peer, reason: str, now: int) -> None:
        """It is dead: what it was asked is not answered. One death is one failure, however many calls it ended."""
        lost = list(callee.serving.values())
        for call in lost:
            self.fail(call, "down", "maybe", reason)
        if any(call.counts for call in lost):
            self.failed(callee.entry, now, any(call.probe for call in lost))

    def _close(self, call: Call) -> None:
        del self._open[call.number]
        del call.caller.asked[call.request]
        if call.deadline:
            self._timers.cancel(("call", call.number))
        if call.callee is not None:
            call.callee.serving.pop(call.number, None)
        if call.parcel is not None:
            call.entry.inbox.remove(call.parcel)
            call.parcel.release()

    # --- breakers ---

    def _succeeded(self, call: Call) -> None:
        before = call.entry.breaker.circuit
        call.entry.breaker.succeeded(call.probe)
        self.moved(call.entry, before)

    def failed(self, entry: Entry, now: int, probe: bool) -> None:
        before = entry.breaker.circuit
        entry.breaker.failed(now, probe)
        self.moved(entry, before)

    def half_open(self, entry: Entry) -> None:
        before = entry.breaker.circuit
        entry.breaker.half_open()
        self.moved(entry, before)

    def force(self, entry: Entry, mode: Mode) -> None:
        before = entry.breaker.circuit
        entry.breaker.force(mode)
        self.moved(entry, before)

    def moved(self, entry: Entry, before: Circuit) -> None:
        """Tell root of a change, and see to it that what opened by itself is probed later."""
        breaker = entry.breaker
        if breaker.circuit is before:
            return
        kind = "breaker.opened" if breaker.circuit is Circuit.OPEN else f"breaker.{breaker.circuit.value}"
        self._post.tell("event", kind, entry.name, {"failures": breaker.failures, "mode": breaker.mode.value})
        if breaker.circuit is Circuit.OPEN and breaker.mode is Mode.AUTO:
            self._timers.set(("breaker", entry.name), breaker.reopens)
        else:
            self._timers.cancel(("breaker", entry.name))
