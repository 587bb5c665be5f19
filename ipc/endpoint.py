"""One end of the conversation with the broker, as a pure machine: what an agent, a client or a simulated agent is made of.

It holds the handles, calls in flight, credit, monitors, links, subscriptions and memberships of one incarnation, packs
messages into frames and takes frames apart. No socket, no clock: `now` is nanoseconds of CLOCK_MONOTONIC.

The runtime: say verbs; send what `outgoing()` gives; hand received frames to `received()`; work off `happened`. What has
come from `outgoing()` counts as sent. Before `lost()` it hands over what the old sockets still hold.

| phase | | connected | welcome | lost | stale |
|---|---|---|---|---|---|
| OFFLINE | verbs wait | GREETING | - | - | - |
| GREETING | hellos are sent, verbs wait | GREETING | LIVE | OFFLINE | FENCED |
| LIVE | all is sent | GREETING | - | OFFLINE | FENCED |
| FENCED | nothing is sent or heard any more | - | - | - | - |
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from otpd.ipc.errors import fitting
from otpd.ipc.frames import FrameError, pack
from otpd.ipc.happenings import (
    Answered,
    CallCancelled,
    CallFailed,
    CastAccepted,
    CastRejected,
    Delivered,
    Down,
    EventReceived,
    Exit,
    Fenced,
    Gap,
    Happening,
    Lost,
    Replied,
    Up,
    Welcomed,
)
from otpd.ipc.inflight import Calls
from otpd.ipc.outbox import BACKLOG_BYTES, BACKLOG_MESSAGES, EVENTS, Address, Outbox
from otpd.ipc.questions import Questions
from otpd.ipc.standing import Standing
from otpd.ipc.urgent import Urgent
from otpd.ipc.window import Window
from otpd.ipc.wire import (
    HEADER,
    INNER,
    MAX_BODY,
    VERSION,
    Flag,
    Kind,
    Lane,
    Status,
    commands,
    fields,
    keyed,
    split,
    split_key,
)

__all__ = ["WINDOW_BYTES", "WINDOW_MESSAGES", "Address", "Endpoint", "Phase"]

#: What the broker may send ahead of what was handled. A crash loses what is in it; with half of it the broker spends as much
#: on credit as on messages.
WINDOW_MESSAGES: Final = 512
WINDOW_BYTES: Final = 256 * 1024
_LAST: Final = 0xFFFFFFFF
_NUMBER_BITS: Final = 32
_CONFIRMED: Final = int(Flag.CONFIRM)
_KEYED: Final = int(Flag.KEYED)
_SYSTEM, _CAST, _CALL, _REPLY, _EVENT = map(int, Kind)
#: The source that is never named: what the broker itself publishes.
_BROKER: Final[dict[int, tuple[str, int]]] = {0: ("broker", 0)}
_STATUSES: Final = {int(status): status for status in Status}


class Phase(enum.Enum):
    OFFLINE = enum.auto()
    GREETING = enum.auto()
    LIVE = enum.auto()
    FENCED = enum.auto()


class Endpoint:
    """One incarnation: (name, inc), with the token that proves it.

    `malformed` counts what was dropped of the broker's because it could not be read, `late` replies that came when nobody
    waited any more, `outdated` replies to calls that had ended with their broker.
    """

    def __init__(self, name: str, inc: int, token: bytes) -> None:
        self.name, self.inc, self._token = name, inc, token
        self.happened: deque[Happening] = deque()
        self.malformed = self.late = self.outdated = 0
        self.phase = Phase.OFFLINE
        self._epochs = 0
        self._grant_due = False
        self._number = self._ref = 0
        self._standing = Standing(inc)
        self._questions = Questions(self._standing)
        self._urgent = Urgent()
        self._outbox = Outbox()
        self._calls = Calls()
        self._unconfirmed: dict[int, str] = {}  # casts: to whom
        self._window = Window(WINDOW_MESSAGES, WINDOW_BYTES)
        self._sources = dict(_BROKER)

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
        self._epochs += 1
        self._sources = dict(_BROKER)
        self._outbox.reset()
        self.happened.append(Lost())

    def _fail_sent(self, code: str, detail: str) -> None:
        """Calls and confirmed casts that the broker may have."""
        waiting = self._outbox.waiting(_CALL)
        for request in [each for each in self._calls.requests if each not in waiting]:
            self._calls.end(request)
            self.happened.append(CallFailed(request, code, "maybe", detail))
        waiting = self._outbox.waiting(_CAST, _CONFIRMED)
        for number in [each for each in self._unconfirmed if each not in waiting]:
            self.happened.append(CastRejected(number, code, self._unconfirmed.pop(number)))

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
        if call >> _NUMBER_BITS != self._epochs:
            self.outdated += 1
        else:
            self._urgent.reply(call & _LAST, status, body)

    def cancel(self, request: int) -> None:
        """Give a call up: nothing more is heard of it."""
        batch = self._calls.end(request)
        if batch is not None and not self._outbox.withdraw(batch, request):
            self._say("cancel", request)
        self._silence(lambda each: isinstance(each, Replied | CallFailed) and each.request == request)

    def handled(self, messages: int, size: int) -> None:
        """So many deliveries, of so many bytes of body, are done; renews the broker's credit at a quarter window."""
        if self._window.done(messages, size + messages * INNER.size):
            self._grant_due = True

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

    # --- what the broker says ---

    def received(self, lane: Lane, frame: bytes, now: int) -> None:
        """A frame of the broker; what it means goes to `happened`. A malformed frame is dropped and counted."""
        if self.phase in (Phase.OFFLINE, Phase.FENCED):
            return
        try:
            kind, count, peer, flags = fields(frame)
            if kind == _SYSTEM:
                for command in list(commands(frame)):
                    self._hear(command)
            elif kind == _REPLY:
                self._take_replies(frame)
            else:
                self._take_deliveries(kind, count, peer, flags, frame)
        except FrameError:
            self.malformed += 1

    def _take_replies(self, frame: bytes) -> None:
        for request, status, body in split(frame):
            if status not in _STATUSES:
                self.malformed += 1
            elif self._calls.end(request) is None:
                self.late += 1
            else:
                self.happened.append(Replied(request, _STATUSES[status], body))

    def _take_deliveries(self, kind: int, count: int, peer: int, flags: int, frame: bytes) -> None:
        """Calls, casts and events. All of the frame counts as taken; what can't be read is handled at once."""
        size = len(frame) - HEADER
        self._window.took(count, size)
        source = self._sources.get(peer)
        try:
            parts = split(frame)
            if source is None or (kind == _EVENT and not flags & _KEYED):
                raise FrameError(f"expected a source that was named, and topics of events; got {source} and flags {flags}")
        except FrameError:
            self.handled(count, size - count * INNER.size)
            raise
        if flags & _KEYED:
            self._take_keyed(kind, source, parts)
        elif kind == _CAST:
            name, generation = source
            self.happened.extend([_new(Delivered, (name, generation, None, mark, body)) for _, mark, body in parts])
        else:
            name, generation = source
            epoch = self._epochs << _NUMBER_BITS
            calls = [_new(Delivered, (name, generation, epoch | number, mark, body)) for number, mark, body in parts]
            self.happened.extend(calls)

    def _take_keyed(self, kind: int, source: tuple[str, int], parts: list[tuple[int, int, bytes]]) -> None:
        """The runtime knows nothing of the key's bytes: they are handled here."""
        for number, mark, whole in parts:
            try:
                key, rest = split_key(whole)
            except FrameError:
                self.handled(1, len(whole))
                self.malformed += 1
                continue
            self._window.done(0, len(whole) - len(rest))
            if kind == _EVENT:
                self.happened.append(EventReceived(key, *source, bytes(rest)))
            else:
                call = self._epochs << _NUMBER_BITS | number if kind == _CALL else None
                self.happened.append(Delivered(*source, call, mark, bytes(rest)))

    def _hear(self, command: list[Any]) -> None:
        match command:
            case ["failed", int(request), str(code), str(executed), detail]:
                self._fail(request, code, executed, str(detail or ""))
            case ["credit", int(messages), int(size)]:
                self._outbox.grant(messages, size)
            case ["rejected", int(number), str(code), str(target)]:
                self._unconfirmed.pop(number, None)
                self.happened.append(CastRejected(number, code, target))
            case ["accepted", int(number)]:
                if self._unconfirmed.pop(number, None) is not None:
                    self.happened.append(CastAccepted(number))
            case ["cancel", int(call)]:
                self.happened.append(CallCancelled(self._epochs << _NUMBER_BITS | call))
            case ["name", int(source), str(name), int(generation)]:
                self._sources[source] = (name, generation)
            case ["gap", int(ref), int(count)]:
                self.happened.append(Gap(ref, count))
            case ["answer", int(ref), value]:
                self._answer(ref, True, value)
            case ["refused", int(ref), str(code), str(text)]:
                self._answer(ref, False, (code, text))
            case ["welcome", {"epoch": str(epoch), "credit": [int(messages), int(size)]}]:
                self._welcome(epoch, messages, size)
            case ["stale", why]:
                self._fence(str(why))
            case _:
                self._hear_of_others(command)

    def _hear_of_others(self, command: list[Any]) -> None:
        """Words about deaths and lives; what is none of these either is dropped."""
        match command:
            case ["down", int(ref), str(name), int(generation), str(reason)]:
                if self._standing.down(ref, generation):
                    self.happened.append(Down(ref, name, generation, reason))
            case ["up", int(ref), str(name), int(generation)]:
                if self._standing.up(ref, generation):
                    self.happened.append(Up(ref, name, generation))
            case ["exit", str(name), int(generation), str(reason)]:
                if self._standing.unlink(name):
                    self.happened.append(Exit(name, generation, reason))
            case ["linked", str(name), int(generation)]:
                self._standing.linked(name, generation)
            case ["unlinked", str(name)]:
                self._standing.unlink(name)
            case _:
                self.malformed += 1

    def _welcome(self, epoch: str, messages: int, size: int) -> None:
        if self.phase is Phase.GREETING:
            self.phase = Phase.LIVE
            self._outbox.grant(messages, size)
            self._urgent.first(["credit", *self._window.grant()])
            self._grant_due = False
            self.happened.append(Welcomed(epoch))

    def _fence(self, why: str) -> None:
        """The end: what waits is told so, and nothing leaves any more."""
        self._fail_sent("stale", why)
        for request in list(self._calls.requests):
            self._fail(request, "stale", "no", why)
        for ref, _ in self._questions.lose(set()):
            self.happened.append(Answered(ref, False, ("stale", why)))
        self.phase = Phase.FENCED
        self.happened.append(Fenced(why))

    def _fail(self, request: int, code: str, executed: str, detail: str) -> None:
        if self._calls.end(request) is None:
            self.late += 1
        else:
            self.happened.append(CallFailed(request, code, executed, detail))

    def _answer(self, ref: int, ok: bool, value: Any) -> None:
        if self._questions.answered(ref, ok, value):
            self.happened.append(Answered(ref, ok, value))
        else:
            self.late += 1


#: A named tuple's own constructor is Python and takes three times as long; this is half of what a message costs here.
_new: Final = tuple.__new__


def _addressed(what: str, to: Address, body: bytes) -> tuple[Address, bytes, int]:
    """Address without key, body with it, flags."""
    if to.key is None:
        return to, fitting(f"{what} to {to.name}", body), 0
    return to._replace(key=None), fitting(f"{what} to {to.name}", keyed(to.key, body)), _KEYED
