"""What one end hears of the broker: frames taken apart, and what they mean put into `happened`. Pure; half of `endpoint`.

Here is the state of one incarnation, and what the broker's words do to it; what is said to the broker, and when, is in
`endpoint`. What can't be read is dropped and counted, and counts as handled, so that no credit is lost with it.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, Final

from otpd.ipc.frames import FrameError
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
    Replied,
    Up,
    Welcomed,
)
from otpd.ipc.inflight import Calls
from otpd.ipc.outbox import Outbox
from otpd.ipc.questions import Questions
from otpd.ipc.standing import Standing, Word
from otpd.ipc.urgent import Urgent
from otpd.ipc.window import Window
from otpd.ipc.wire import HEADER, INNER, Flag, Kind, Lane, Status, commands, fields, split, split_key

#: What the broker may send ahead of what was handled. A crash loses what is in it; with half of it the broker spends as much
#: on credit as on messages.
WINDOW_MESSAGES: Final = 512
WINDOW_BYTES: Final = 256 * 1024
#: A call is known by epoch << NUMBER_BITS | number, so that those of an earlier broker are told from those of this one.
NUMBER_BITS: Final = 32
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


class Reception:
    """`malformed` counts what was dropped of the broker's because it could not be read, `late` replies that came when nobody
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

    def _new_epoch(self) -> None:
        """What the last broker has named and asked means nothing any more."""
        self._epochs += 1
        self._sources = dict(_BROKER)

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
            epoch = self._epochs << NUMBER_BITS
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
                call = self._epochs << NUMBER_BITS | number if kind == _CALL else None
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
            case ["cancel", int(call), *died]:
                self.happened.append(CallCancelled(self._epochs << NUMBER_BITS | call, died == ["down"]))
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
                self._watched(ref, name, Word(generation, reason))
            case ["up", int(ref), str(name), int(generation)]:
                self._watched(ref, name, Word(generation, None))
            case ["exit", str(name), int(generation), str(reason)]:
                if self._standing.unlink(name):
                    self.happened.append(Exit(name, generation, reason))
            case ["linked", str(name), int(generation)]:
                self._standing.linked(name, generation)
            case ["unlinked", str(name)]:
                self._standing.unlink(name)
            case _:
                self.malformed += 1

    def _watched(self, ref: int, name: str, word: Word) -> None:
        for generation, reason in self._standing.watched(ref, word):
            self.happened.append(Up(ref, name, generation) if reason is None else Down(ref, name, generation, reason))

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

    def handled(self, messages: int, size: int) -> None:
        """So many deliveries, of so many bytes of body, are done; renews the broker's credit at a quarter window."""
        if self._window.done(messages, size + messages * INNER.size):
            self._grant_due = True

    def _fail_sent(self, code: str, detail: str) -> None:
        """Calls and confirmed casts that the broker may have."""
        waiting = self._outbox.waiting(_CALL)
        for request in [each for each in self._calls.requests if each not in waiting]:
            self._calls.end(request)
            self.happened.append(CallFailed(request, code, "maybe", detail))
        waiting = self._outbox.waiting(_CAST, _CONFIRMED)
        for number in [each for each in self._unconfirmed if each not in waiting]:
            self.happened.append(CastRejected(number, code, self._unconfirmed.pop(number)))


#: A named tuple's own constructor is Python and takes three times as long; this is half of what a message costs here.
_new: Final = tuple.__new__
