"""The lobby: whoever speaks without being known, until both its hellos are accepted or one is refused.

A hello is accepted when name, incarnation, token, routing id and process are those that root has announced (A2), and only
after root's snapshot (A6). One that is ahead of root's announcement, which travels on another socket, is held for a second.
Everybody else hears `stale` once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.frames import FrameError
from otpd.ipc.hello import Hello, read
from otpd.ipc.wire import Lane

if TYPE_CHECKING:
    from otpd.ipc.lives import Lives
    from otpd.ipc.post import Post
    from otpd.ipc.table import Entry, Table
    from otpd.ipc.timers import Timers


@dataclass(slots=True)
class Guest:
    """Who has said hello on one lane or two, and is not admitted yet."""

    pid: int | None
    said: dict[Lane, Hello] = field(default_factory=dict)
    size: int = 0

    @property
    def hello(self) -> Hello:
        return self.said.get(Lane.SYSTEM) or self.said[Lane.DATA]

    @property
    def complete(self) -> bool:
        return len(self.said) == len(Lane)

    def agrees(self, hello: Hello, pid: int | None) -> bool:
        """Whether this is the other half of what was said before."""
        mine = self.hello
        same = (mine.name, mine.inc, mine.token, self.pid) == (hello.name, hello.inc, hello.token, pid)
        return same and hello.lane not in self.said


class Lobby:
    """`admit(identity, entry, hello, now)` is told of who may come in."""

    def __init__(
        self,
        table: Table,
        lives: Lives,
        post: Post,
        timers: Timers,
        admit: Callable[[bytes, Entry, Hello, int], None],
    ) -> None:
        self._table, self._lives, self._post, self._timers, self._admit = table, lives, post, timers, admit
        self._guests: dict[bytes, Guest] = {}
        self._of: dict[str, dict[bytes, None]] = {}  # name -> who says to be it
        self._size = 0
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self.strays = 0

    def frame(self, identity: bytes, lane: Lane, frame: bytes, now: int, pid: int | None) -> None:
        try:
            guest = self._greet(identity, read(frame, lane), len(frame), now, pid)
        except FrameError as error:
            self.refuse(identity, lane, str(error))
            return
        self._consider(identity, guest, now)

    def _greet(self, identity: bytes, hello: Hello, size: int, now: int, pid: int | None) -> Guest:
        guest = self._guests.get(identity)
        if guest is None:
            if len(self._guests) >= limits.GUESTS or self._size + size > limits.GUEST_BYTES:
                raise FrameError("expected fewer hellos to wait for root at a time; try again later")
            guest = self._guests[identity] = Guest(pid)
            self._of.setdefault(hello.name, {})[identity] = None
            self._timers.set(("patience", identity), now + limits.PATIENCE)
        elif not guest.agrees(hello, pid):
            raise FrameError("expected the same hello once on each lane")
        guest.said[hello.lane] = hello
        guest.size += size
        self._size += size
        return guest

    def _consider(self, identity: bytes, guest: Guest, now: int) -> None:
        hello = guest.hello
        entry = self._table.get(hello.name)
        if not self._lives.loaded or entry is None or hello.inc > entry.inc:
            return  # root may announce it yet
        if (why := _objection(identity, guest, entry)) is not None:
            self._refuse_guest(identity, guest, why)
        elif guest.complete:
            self._leave(identity, guest)
            self._admit(identity, entry, hello, now)

    def announced(self, name: str, now: int) -> None:
        """Root has said something of this name: somebody may have waited for it."""
        for identity in list(self._of.get(name, ())):
            self._consider(identity, self._guests[identity], now)

    def loaded(self, now: int) -> None:
        """Root's first snapshot is complete: from here on a second of patience."""
        for identity, guest in list(self._guests.items()):
            self._timers.set(("patience", identity), now + limits.PATIENCE)
            self._consider(identity, guest, now)

    def impatient(self, identity: bytes, now: int) -> None:
        """The second has passed. Before root's snapshot everybody waits (A6); so does who is current and has only said one
        half of it, because a machine may be slow, and what is bounded by root's table needs no other bound."""
        guest = self._guests.get(identity)
        if guest is None:
            return
        hello = guest.hello
        entry = self._table.get(hello.name)
        if not self._lives.loaded:
            self._timers.set(("patience", identity), now + limits.PATIENCE)
        elif entry is None or hello.inc > entry.inc:
            self._refuse_guest(identity, guest, f"root has not announced incarnation {hello.inc} of {hello.name}")

    def _refuse_guest(self, identity: bytes, guest: Guest, why: str) -> None:
        self.refuse(identity, guest.hello.lane, why)

    def _leave(self, identity: bytes, guest: Guest) -> None:
        del self._guests[identity]
        self._size -= guest.size
        self._timers.cancel(("patience", identity))
        name = guest.hello.name
        of = self._of[name]
        of.pop(identity)
        if not of:
            del self._of[name]

    def refuse(self, identity: bytes, lane: Lane, why: str) -> None:
        """`stale`, once; on the lane that it spoke on, because it may not have the other."""
        self.strays += 1
        if identity in self._guests:
            self._leave(identity, self._guests[identity])
        if identity in self._refused or not self._lives.loaded:
            return
        self._refused[identity] = None
        if len(self._refused) > limits.STRANGERS:
            self._refused.popitem(last=False)
        self._post.answer(identity, lane, "stale", why)


def _objection(identity: bytes, guest: Guest, entry: Entry) -> str | None:
    """Why this is not the incarnation that root has announced."""
    row, hello = entry.row, guest.hello
    if hello.inc < entry.inc or hello.inc <= entry.tombstone or not entry.alive:
        return f"incarnation {hello.inc} of {hello.name} was replaced or is dead"
    if entry.peer is not None:
        return f"incarnation {hello.inc} of {hello.name} is connected already"
    if hello.token != row.token or identity != row.identity:
        return f"expected the token and the routing id that root gave to {hello.name}"
    if guest.pid is None or guest.pid != row.pid:
        return f"expected process {row.pid} to speak for {hello.name}, got {guest.pid}"
    return None
