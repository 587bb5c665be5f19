"""Groups: names under one address, and which of them a message is for (messaging.md G1-G4).

| policy | who gets it |
|---|---|
| any | the next one in turn that takes messages at once and has no open breaker; else the next in turn |
| round_robin | the next one in turn |
| least_loaded | who has the least before it; among equals the next in turn |
| hash | the same one for the same key, while it is a member; when one leaves, only its keys move |
| all | a copy for each: only casts |

Who is not ready is passed over while another one is. The asker is passed over in calls: it would wait for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otpd.ipc.peers import Peer
    from otpd.ipc.table import Entry

#: Empty groups whose revision is remembered.
_REMEMBERED: Final = 4096


class Group:
    __slots__ = ("members", "name", "revision", "turn")

    def __init__(self, name: str, revision: int) -> None:
        self.name, self.revision = name, revision
        self.members: dict[str, Entry] = {}
        self.turn = 0


class Groups:
    """`announce(topic, data)` tells listeners. Revisions of a group have no gaps: a snapshot (`members`) and the changes
    after it give the current state."""

    def __init__(self, announce: Callable[[str, dict[str, Any]], None]) -> None:
        self._announce = announce
        self._groups: dict[str, Group] = {}
        self._of: dict[str, dict[str, None]] = {}  # name -> its groups
        self._revisions: OrderedDict[str, int] = OrderedDict()  # of empty ones
        self._highest = 0

    def __contains__(self, group: str) -> bool:
        return group in self._groups

    # --- membership ---

    def join(self, name: str, entry: Entry) -> None:
        """Joining twice is joining once."""
        group = self._groups.get(name)
        if group is None:
            # A revision that was forgotten begins above all that were ever said: a listener sees that it missed something.
            group = self._groups[name] = Group(name, self._revisions.pop(name, self._highest))
        if entry.name not in group.members:
            group.members[entry.name] = entry
            self._of.setdefault(entry.name, {})[name] = None
            self._changed(group, "joined", entry)

    def leave(self, name: str, entry: Entry) -> None:
        group = self._groups.get(name)
        if group is None or entry.name not in group.members:
            return
        del group.members[entry.name]
        self._of[entry.name].pop(name)
        if not self._of[entry.name]:
            del self._of[entry.name]
        self._changed(group, "left", entry)
        if not group.members:
            del self._groups[name]
            self._remember(group)

    def _remember(self, group: Group) -> None:
        self._revisions[group.name] = group.revision
        if len(self._revisions) > _REMEMBERED:
            forgotten = self._revisions.popitem(last=False)[1]
            self._highest = max(self._highest, forgotten)

    def leave_all(self, entry: Entry) -> None:
        """It is dead."""
        for name in list(self._of.get(entry.name, ())):
            self.leave(name, entry)

    def of(self, entry: Entry) -> list[str]:
        return list(self._of.get(entry.name, ()))

    def members(self, name: str) -> tuple[int, list[Entry]]:
        """Its revision, and who is in it."""
        group = self._groups.get(name)
        if group is None:
            return self._revisions.get(name, self._highest), []
        return group.revision, list(group.members.values())

    def _changed(self, group: Group, how: str, entry: Entry) -> None:
        group.revision += 1
        self._announce(f"otpd.group.{group.name}", {"revision": group.revision, how: entry.name})

    # --- choice ---

    def pick(self, name: str, policy: str, key: str, asker: Peer | None) -> Entry | None:
        """Who gets a message; None: nobody is there. `asker`: of a call."""
        group = self._groups.get(name)
        if group is None:
            return None
        choice = _candidates(list(group.members.values()), asker)
        if len(choice) == 1:
            return choice[0]
        if policy == "hash":
            return max(choice, key=lambda entry: _weight(key, entry.name))
        turn = group.turn % len(choice)
        order = choice[turn:] + choice[:turn]
        chosen = _CHOICES[policy](order, asker is not None)
        group.turn = (choice.index(chosen) + 1) % len(choice)
        return chosen


def _candidates(members: list[Entry], asker: Peer | None) -> list[Entry]:
    if asker is not None:
        members = [entry for entry in members if entry is not asker.entry] or members
    return [entry for entry in members if entry.ready] or members


def _next(order: list[Entry], calling: bool) -> Entry:
    return order[0]


def _any(order: list[Entry], calling: bool) -> Entry:
    return next((entry for entry in order if _free(entry, calling)), order[0])


def _free(entry: Entry, calling: bool) -> bool:
    return entry.open is not None and not entry.inbox and (not calling or entry.breaker.passes)


def _least_loaded(order: list[Entry], calling: bool) -> Entry:
    return min(order, key=lambda entry: (calling and not entry.breaker.passes, _load(entry)))


def _load(entry: Entry) -> int:
    """Messages before it. What was handled is known only to a quarter of the window; the calls among it exactly."""
    peer = entry.open
    if peer is None:
        return entry.inbox.messages
    unknown = max(0, peer.allowance.outstanding - peer.allowance.window // 4)
    return entry.inbox.messages + max(len(peer.serving), unknown)


def _weight(key: str, name: str) -> bytes:
    """Rendezvous hashing: a member's weight for a key depends on nobody else."""
    return blake2b(f"{name}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


_CHOICES: Final[dict[str, Callable[[list[Entry], bool], Entry]]] = {
    "any": _any,
    "round_robin": _next,
    "least_loaded": _least_loaded,
}
POLICIES: Final = (*_CHOICES, "hash", "all")
