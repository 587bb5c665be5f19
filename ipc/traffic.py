"""Frames of casts and calls: whom they are for, and what their senders hear.

A batch of casts to a name is passed on as it is when all of it can be: its messages are not looked at. Everything else goes
message by message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otpd.ipc import limits
from otpd.ipc.counts import Counts
from otpd.ipc.delivery import ACCEPTED
from otpd.ipc.frames import FrameError
from otpd.ipc.inbox import Parcel
from otpd.ipc.wire import HEADER, INNER, MAX_BODY, Flag, Kind, message, split, split_key

if TYPE_CHECKING:
    from otpd.ipc.calls import Calls
    from otpd.ipc.delivery import Delivery
    from otpd.ipc.groups import Groups
    from otpd.ipc.letters import Letters
    from otpd.ipc.peers import Binding, Peer
    from otpd.ipc.registry import Registry
    from otpd.ipc.table import Entry, Table

_CAST, _CALL = int(Kind.CAST), int(Kind.CALL)
_KEYED, _CONFIRM = int(Flag.KEYED), int(Flag.CONFIRM)


class Request(NamedTuple):
    """One cast or call on its way in. `number` is the sender's own; `deadline` in ns, 0: none; `key`: "" for none."""

    sender: Peer
    number: int
    deadline: int
    key: str
    body: bytes | memoryview


class Routes:
    """What an address means at this moment."""

    def __init__(self, table: Table, groups: Groups, registry: Registry) -> None:
        self._table, self._groups, self._registry = table, groups, registry

    def one(self, binding: Binding, key: str, asker: Peer | None) -> Entry | None:
        """A name that is none may be a group, and then any of it is meant."""
        if binding.kind == "name":
            entry = self._table.get(binding.name)
            return self._groups.pick(binding.name, "any", key, asker) if entry is None else entry
        if binding.kind == "group":
            return self._groups.pick(binding.name, binding.policy, key, asker)
        holder = self._registry.holder(binding.name)
        return None if holder is None else holder.entry

    def all(self, binding: Binding) -> list[Entry]:
        return self._groups.members(binding.name)[1]


class Traffic:
    def __init__(self, table: Table, routes: Routes, delivery: Delivery, calls: Calls, letters: Letters) -> None:
        self._table, self._routes, self._delivery = table, routes, delivery
        self._calls, self._letters = calls, letters
        self.unrouted = Counts()  # of addresses that nobody has

    # --- casts ---

    def casts(self, sender: Peer, handle: int, flags: int, count: int, frame: bytes, now: int) -> None:
        """FrameError for a handle that was not bound, or a malformed frame."""
        binding = _binding(sender, handle)
        if not flags and binding.kind == "name" and len(frame) <= MAX_BODY:
            entry = self._table.get(binding.name)
            if entry is not None and self._delivery.casts(entry, sender, count, frame, now):
                entry.counts.casts += count
                return
        requests = _requests(sender, frame, flags)
        if flags & _KEYED:
            _give_back_keys(sender, requests, frame)
        for request in requests:
            self._cast(binding, request, bool(flags & _CONFIRM), now)

    def _cast(self, binding: Binding, request: Request, confirm: bool, now: int) -> None:
        """One answer at most, also for a copy to each of a group: the first that was refused."""
        sender, number, _, key, body = request
        refused: list[tuple[str, str]] = []
        parcel = Parcel(_CAST, sender, 1, message(number, 0, body))
        for entry in self._targets(binding, key, refused):
            copy = Parcel(_CAST, sender, 1, parcel.payload)
            copy.charged, parcel.charged = parcel.charged, False  # the sender has paid once
            code = self._offer_cast(entry, copy, now)
            if code:
                copy.release()
                refused.append((entry.name, code))
        parcel.release()
        for target, code in refused:
            self._letters.add(sender, number, target, code, body, now)
        if refused and (confirm or refused[0][1] != "dropped"):
            target, code = refused[0]
            sender.say("rejected", number, "overloaded" if code == "dropped" else code, target)
        elif confirm:
            sender.say("accepted", number)

    def _targets(self, binding: Binding, key: str, refused: list[tuple[str, str]]) -> list[Entry]:
        targets: list[Entry] = []
        code = "noproc"
        if binding.kind == "group" and binding.policy == "hash" and not key:
            code = "refused"
        elif binding.kind == "group" and binding.policy == "all":
            targets = self._routes.all(binding)
        elif (entry := self._routes.one(binding, key, None)) is not None:
            targets = [entry]
        if not targets:
            self.unrouted.casts += 1
            self.unrouted.reject(code)
            refused.append((binding.name, code))
        return targets

    def _offer_cast(self, entry: Entry, parcel: Parcel, now: int) -> str:
        entry.counts.casts += 1
        code = "too_large" if parcel.size > MAX_BODY + INNER.size else self._delivery.offer(entry, parcel, now)
        if code == "dropped":
            entry.counts.dropped += 1
        elif code:
            entry.counts.reject(code)
        return code

    # --- calls ---

    def calls(self, sender: Peer, handle: int, flags: int, frame: bytes, now: int) -> None:
        """FrameError for a handle that was not bound, a request id that is in use, or a malformed frame."""
        binding = _binding(sender, handle)
        requests = _requests(sender, frame, flags)
        numbers = {request.number for request in requests}
        if len(numbers) < len(requests) or not numbers.isdisjoint(sender.asked):
            raise FrameError("expected new request ids, got one that has no outcome yet")
        if flags & _KEYED:
            _give_back_keys(sender, requests, frame)
        for request in requests:
            if request.number in sender.cancelled:
                del sender.cancelled[request.number]
                sender.give_back(1, INNER.size + len(request.body))
            elif sender.connected:  # nobody waits for the answers to one that died
                self._call(binding, request, now)

    def _call(self, binding: Binding, request: Request, now: int) -> None:
        sender, number, deadline, key, body = request
        is_answerable, counts = _is_answerable(binding, key), not _asks_for_health(sender)
        entry = self._routes.one(binding, key, sender) if is_answerable else None
        count = self.unrouted if entry is None else entry.counts
        count.calls += 1
        code = self._objection(entry, request, counts, now) if is_answerable else "refused"
        if code or entry is None:
            count.failed += 1
            sender.give_back(1, INNER.size + len(body))
            self._calls.refuse(sender, number, binding.name if entry is None else entry.name, code)
            return
        call = self._calls.open(sender, number, entry, deadline, counts)
        call.parcel = parcel = Parcel(_CALL, sender, 1, message(call.number, deadline, body), call)
        if self._delivery.offer(entry, parcel, now) != ACCEPTED:
            self._calls.fail(call, "overloaded", "no")
            if counts:
                self._calls.failed(entry, now, call.probe)

    def _objection(self, entry: Entry | None, request: Request, counts: bool, now: int) -> str:
        """Why it does not become a call. The breaker is asked last, because to ask it may be to take the probe."""
        if len(request.body) > MAX_BODY:
            return "too_large"
        if entry is None or entry.stopped:
            return "noproc"
        if entry.peer is request.sender:
            return "deadlock"
        if 0 < request.deadline <= now:
            return "expired"
        if len(request.sender.asked) >= limits.OPEN_CALLS:
            return "overloaded"
        return "" if not counts or entry.breaker.admit(now, request.deadline) else "circuit_open"


def _asks_for_health(sender: Peer) -> bool:
    """The health service finds out whether the target is well, so it passes breakers; and as its questions are answered
    beside the target's mailbox, the answers say nothing about calls that go through it."""
    return sender.name == limits.HEALTH and sender.entry.row.kind == "service"


def _binding(sender: Peer, handle: int) -> Binding:
    binding = sender.handles.get(handle)
    if binding is None:
        raise FrameError(f"expected a handle that was bound before, got {handle}")
    return binding


def _requests(sender: Peer, frame: bytes, flags: int) -> list[Request]:
    """All of a frame, or FrameError. `body` is without the key, which has done its work here and is not sent on."""
    if flags & _KEYED:
        return [Request(sender, number, deadline, *split_key(body)) for number, deadline, body in split(frame)]
    return [Request(sender, number, deadline, "", body) for number, deadline, body in split(frame)]


def _give_back_keys(sender: Peer, requests: list[Request], frame: bytes) -> None:
    sender.give_back(0, len(frame) - HEADER - sum(INNER.size + len(request.body) for request in requests))


def _is_answerable(binding: Binding, key: str) -> bool:
    """A call to all has no single outcome; one by key needs a key."""
    return binding.kind != "group" or (binding.policy != "all" and (binding.policy != "hash" or bool(key)))
