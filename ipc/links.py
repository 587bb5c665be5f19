"""Links: die together, unless exits are trapped (messaging.md H5, H6).

| the end of one | the other one traps exits | it does not |
|---|---|---|
| `normal` | `exit` | `unlinked` |
| any other reason, also noproc | `exit` | root is told to end it: linked(NAME, REASON) |

Symmetric, one per pair of incarnations. Who is alive but not connected to this broker yet is asked later, when its hello
has said whether it traps exits. A cycle of links ends each of its members once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.peers import GENERATION

if TYPE_CHECKING:
    from otpd.ipc.delivery import Delivery
    from otpd.ipc.peers import Peer
    from otpd.ipc.post import Post
    from otpd.ipc.table import Table

Incarnation = tuple[str, int]


class Links:
    def __init__(self, table: Table, delivery: Delivery, post: Post) -> None:
        self._table, self._delivery, self._post = table, delivery, post
        self._of: dict[Incarnation, dict[Incarnation, None]] = {}
        self._doomed: set[Incarnation] = set()  # root was told to end them
        self._waiting: dict[Incarnation, dict[Incarnation, str]] = {}  # exits for those who have not said hello

    # --- made and ended ---

    def link(self, peer: Peer, name: str) -> None:
        entry = self._table.get(name)
        if entry is None or not entry.alive:
            self._exit((peer.name, peer.inc), (name, 0), "noproc", None)
        else:
            self._join(peer, (name, entry.inc))

    def restore(self, peer: Peer, name: str, inc: int | None) -> None:
        """After a new broker. Without an incarnation it was asked for and never heard to be made."""
        entry = self._table.get(name)
        if inc is None:
            self.link(peer, name)
        elif entry is not None and entry.alive and entry.inc == inc:
            self._join(peer, (name, inc))
        else:
            self._exit((peer.name, peer.inc), (name, inc), self._table.reason(name, inc), None)

    def _join(self, peer: Peer, other: Incarnation) -> None:
        me = (peer.name, peer.inc)
        if other == me:
            return
        mine = self._of.get(me, {})
        if other in mine:
            return
        if len(mine) >= limits.LINKS:
            self._exit(me, other, "overloaded", None)
            return
        for one, its in ((me, other), (other, me)):
            self._of.setdefault(one, {})[its] = None
        self._tell(me, "linked", other[0], other[1] & GENERATION)
        self._tell(other, "linked", peer.name, peer.generation)

    def unlink(self, peer: Peer, name: str) -> None:
        me = (peer.name, peer.inc)
        for other in [each for each in self._of.get(me, {}) if each[0] == name]:
            self._separate(me, other)
            self._tell(other, "unlinked", peer.name)

    def _separate(self, one: Incarnation, other: Incarnation) -> None:
        for mine, its in ((one, other), (other, one)):
            of = self._of.get(mine, {})
            of.pop(its, None)
            if not of:
                self._of.pop(mine, None)

    # --- what happens ---

    def died(self, name: str, inc: int, reason: str, dead: Peer | None) -> None:
        me = (name, inc)
        self._doomed.discard(me)
        self._waiting.pop(me, None)
        for other in list(self._of.get(me, {})):
            self._separate(me, other)
            self._exit(other, me, reason, dead)

    def welcomed(self, peer: Peer) -> None:
        """Exits that waited to hear whether it traps them."""
        for dead, reason in self._waiting.pop((peer.name, peer.inc), {}).items():
            self._exit((peer.name, peer.inc), dead, reason, None)

    def _exit(self, to: Incarnation, dead: Incarnation, reason: str, source: Peer | None) -> None:
        entry = self._table.get(to[0])
        if entry is None or not entry.alive or entry.inc != to[1]:
            return
        peer = entry.peer
        if peer is None:
            self._waiting.setdefault(to, {})[dead] = reason
        elif peer.trap:
            self._delivery.notify(peer, source, None, ["exit", dead[0], dead[1] & GENERATION, reason])
        elif reason == "normal":
            peer.say("unlinked", dead[0])
        elif to not in self._doomed:
            self._doomed.add(to)
            self._post.tell("terminate", *to, f"linked({dead[0]}, {reason})"[: limits.REASON])

    def _tell(self, to: Incarnation, verb: str, *values: str | int) -> None:
        entry = self._table.get(to[0])
        if entry is not None and entry.inc == to[1] and entry.peer is not None:
            entry.peer.say(verb, *values)
