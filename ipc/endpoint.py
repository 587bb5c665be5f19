"""One end of the conversation with the broker, as a pure machine: what an agent, a client or a simulated agent is made of.

It holds the handles, calls in flight, credit, monitors, links, subscriptions and memberships of one incarnation, packs
messages into frames and takes frames apart. No socket, no clock: `now` is nanoseconds of CLOCK_MONOTONIC.

The runtime: say verbs; send what `outgoing()` gives; hand received frames to `received()`; work off `happened`. What has
come from `outgoing()` counts as sent. Before `lost()` it hands over what the old sockets still hold. `reception` is the
other half: what the broker says.

| phase | | connected | welcome | lost | stale |
|---|---|---|---|---|---|
| OFFLINE | verbs wait | GREETING | - | - | - |
| GREETING | hellos are sent, verbs wait | GREETING | LIVE | OFFLINE | FENCED |
| LIVE | all is sent | GREETING | - | OFFLINE | FENCED |
| FENCED | nothing is sent or heard any more | - | - | - | - |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from otpd.ipc.errors import fitting
from otpd.ipc.frames import pack
from otpd.ipc.happenings import Answered, CallFailed, Down, Exit, Happening, Lost, Replied, Up
from otpd.ipc.outbox import BACKLOG_BYTES, BACKLOG_MESSAGES, EVENTS, Address
from otpd.ipc.reception import NUMBER_BITS, WINDOW_BYTES, WINDOW_MESSAGES, Phase, Reception
from otpd.ipc.wire import MAX_BODY, VERSION, Flag, Kind, Lane, Status, keyed

__all__ = ["WINDOW_BYTES", "WINDOW_MESSAGES", "Address", "Endpoint", "Phase"]

_LAST: Final = 0xFFFFFFFF
_CONFIRMED: Final = int(Flag.CONFIRM)
_KEYED: Final = int(Flag.KEYED)
_CAST, _CALL, _EVENT = map(int, (Kind.CAST, Kind.CALL, Kind.EVENT))

class Endpoint(Reception):
    """One incarnation: (name, inc), with the token that proves it."""

    # --- the connection ---

    def connected(self, epoch: str, now: int) -> None:
        """Fresh sockets of a new epoch are open: says hello, with all that is to be restored."""
        if self.phase is Phase.FENCED:
            return
        self.lost(now)
        self.phase = Phase.GREETING
        self._window.begin()
        who = {"v": VERSION, "name": self.name, "inc": self.inc, "token": self._token}
        self._urgent.hello(Lane.SYSTEM, who | self._standing.restore())
        self._urgent.hello(Lane.DATA, who)
        for ref, pattern in self._questions.subscriptions:
            self._say_in_order("subscribe", ref, pattern)

    def lost(self, now: int) -> None:
        """The broker is gone. Calls in flight fail with broker_lost; casts not yet given to the socket are kept."""
        if self.phase in (Phase.OFFLINE, Phase.FENCED):
            return
        self.expire(now)
        self.phase = Phase.OFFLINE
        self._fail_sent("broker_lost", "the broker died during the call")
        for ref, what in self._questions.lose(self._urgent.reset()):
            why = f"the broker died before it answered '{what}'; whether it was done is not known"
            self.happened.append(Answered(ref, False, ("broker_lost", why)))
        self._new_epoch()
        self._outbox.reset()
        self.happened.append(Lost())

    def outgoing(self) -> list[tuple[Lane, bytes]]:
        """Frames to be given to the sockets now, within credit, in order."""
        if self.phase is not Phase.LIVE:
            return self._urgent.hellos()
        if self._grant_due:
            self._grant_due = False
            self._urgent.say(pack(["credit", *self._window.grant()]))
        return self._urgent.take() + self._outbox.take()

    @property
    def pending(self) -> bool:
        """Whether outgoing() would give a full batch: flush now (64 KiB or 128 messages)."""
        outbox = self._outbox
        return self.phase is Phase.LIVE and ((outbox.full and outbox.credit) or self._urgent.full)

    # --- verbs ---

    @property
    def room(self) -> bool:
        """Whether the backlog towards the broker is within bounds. Casts and calls are taken in any case; the runtime
        makes its caller wait while there is no room."""
        return self._outbox.count < BACKLOG_MESSAGES and self._outbox.size < BACKLOG_BYTES

    @property
    def unsent(self) -> int:
        """Messages that wait for credit or for a broker."""
        return self._outbox.count

    def call(self, to: Address, body: bytes, deadline: int, now: int) -> int:
        """The request id; exactly one Replied or CallFailed follows, at the latest from `expire`. `deadline` 0: none.

        TooLarge when the body is over the limit; nothing is queued then.
        """
        to, body, flags = _addressed("call", to, body)
        request = self._next_number()
        if to.name == self.name and to.kind == "name":
            self.happened.append(CallFailed(request, "deadlock", "no", f"{to.name} called itself and would wait for ever"))
        else:
            self._calls.add(request, deadline, self._outbox.put(_CALL, to, request, deadline, body, flags))
        return request

    def cast(self, to: Address, body: bytes, confirm: bool = False) -> int:
        """The number by which CastRejected or CastAccepted names it.

        TooLarge when the body is over the limit; nothing is queued then.
        """
        flags = 0
        if to.key is not None or len(body) > MAX_BODY:
            to, body, flags = _addressed("cast", to, body)
        number = self._number = self._number + 1 & _LAST
        if confirm:
            self._unconfirmed[number] = to.name
            flags |= _CONFIRMED
        self._outbox.put(_CAST, to, number, 0, body, flags)
        return number

    def publish(self, topic: str, body: bytes) -> None:
        """TooLarge when topic and body are over the limit, FrameError for a topic of over 1024 bytes."""
        body = fitting(f"event {topic}", keyed(topic, body))
        self._number = self._number + 1 & _LAST
        self._outbox.put(_EVENT, EVENTS, self._number, 0, body, _KEYED)

    def reply(self, call: int, status: Status, body: bytes) -> None:
        """`call` as Delivered said it. The reply to a call of an earlier broker is dropped: its caller has been told.

        TooLarge when the body is over the limit.
        """
        fitting("reply", body)
        if call >> NUMBER_BITS != self._epochs:
            self.outdated += 1
        else:
            self._urgent.reply(call & _LAST, status, body)

    def cancel(self, request: int) -> None:
        """Give a call up: nothing more is heard of it."""
        batch = self._calls.end(request)
        if batch is not None and not self._outbox.withdraw(batch, request):
            self._say("cancel", request)
        self._silence(lambda each: isinstance(each, Replied | CallFailed) and each.request == request)

    def settle(self) -> None:
        """Say how much is handled, whatever the window: before the end, because the rest counts as lost."""
        self._grant_due = self._window.is_news

    def expire(self, now: int) -> int | None:
        """Fail the calls whose deadline has passed; when the next one is due, or None."""
        for request in self._calls.due(now):
            batch = self._calls.end(request)
            if batch is not None and self._outbox.withdraw(batch, request):
                self.happened.append(CallFailed(request, "expired", "no", "the deadline passed before it was sent"))
            else:
                self.happened.append(CallFailed(request, "timeout", "maybe", "no reply within the deadline"))
        return self._calls.next_due

    def monitor(self, name: str, follow: bool = False) -> int:
        """A ref; Down (and Up) name it. Survives a new broker."""
        ref = self._next_ref()
        self._standing.monitor(ref, name, follow)
        self._say("monitor", ref, name, follow)
        return ref

    def demonitor(self, ref: int) -> None:
        """No Down of this ref is heard after this."""
        if self._standing.demonitor(ref):
            self._say("demonitor", ref)
        self._silence(lambda each: isinstance(each, Down | Up) and each.ref == ref)

    def link(self, name: str) -> None:
        self._standing.link(name)
        self._say("link", name)

    def unlink(self, name: str) -> None:
        """No Exit by this link is heard after this."""
        self._standing.unlink(name)
        self._say("unlink", name)
        self._silence(lambda each: isinstance(each, Exit) and each.name == name)

    def trap(self, on: bool) -> None:
        self._standing.trap(on)
        self._say("trap", on)

    def subscribe(self, pattern: str) -> int:
        """A ref: Answered (with the revision) and Gap name it."""
        ref = self._next_ref()
        self._questions.add(ref, "subscribe", pattern)
        self._say_in_order("subscribe", ref, pattern)
        return ref

    def unsubscribe(self, ref: int) -> None:
        self._questions.drop(ref)
        self._standing.unsubscribe(ref)
        self._say_in_order("unsubscribe", ref)

    def join(self, group: str) -> None:
        self._standing.join(group)
        self._say_in_order("join", group)

    def leave(self, group: str) -> None:
        self._standing.leave(group)
        self._say_in_order("leave", group)

    def ask(self, what: str, *arguments: Any) -> int:
        """A ref; exactly one Answered follows (not ok, "broker_lost", when the broker dies first)."""
        question = fitting(f"ask {what}", pack(["ask", self._ref + 1, what, *arguments]))
        ref = self._next_ref()
        self._questions.add(ref, what, *arguments)
        self._urgent.say(question, ref)
        return ref

    def give_up(self) -> int:
        """Before the end: drop the messages that wait for credit or for a broker; how many there were."""
        return self._outbox.drop()

    def bye(self) -> None:
        """Leave in order: what was said before on the data lane is still taken."""
        self._say_in_order("bye")

    def _say(self, *command: Any) -> None:
        """On the system lane. Without a broker it need not be said: the next hello will."""
        if self.phase in (Phase.GREETING, Phase.LIVE):
            self._urgent.say(pack(command))

    def _say_in_order(self, *command: Any) -> None:
        """On the data lane, behind what was said there."""
        if self.phase in (Phase.GREETING, Phase.LIVE):
            self._outbox.command(*command)

    def _next_number(self) -> int:
        """One that no call in flight has."""
        while True:
            self._number = self._number + 1 & _LAST
            if self._number not in self._calls:
                return self._number

    def _next_ref(self) -> int:
        self._ref += 1
        return self._ref

    def _silence(self, concerned: Callable[[Happening], bool]) -> None:
        """What has happened and was not worked off is not heard any more either."""
        if any(map(concerned, self.happened)):
            kept = [each for each in self.happened if not concerned(each)]
            self.happened.clear()
            self.happened.extend(kept)


def _addressed(what: str, to: Address, body: bytes) -> tuple[Address, bytes, int]:
    """Address without key, body with it, flags."""
    if to.key is None:
        return to, fitting(f"{what} to {to.name}", body), 0
    return to._replace(key=None), fitting(f"{what} to {to.name}", keyed(to.key, body)), _KEYED
