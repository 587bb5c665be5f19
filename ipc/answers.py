"""Questions of peers and of root: what they look at and what they change (docs/protocol.md, 6 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from otpd.ipc import limits
from otpd.ipc.breaker import Mode
from otpd.ipc.frames import FrameError, pack
from otpd.ipc.peers import GENERATION
from otpd.ipc.registry import Refusal

if TYPE_CHECKING:
    from otpd.ipc.calls import Calls
    from otpd.ipc.groups import Groups
    from otpd.ipc.letters import Letters
    from otpd.ipc.peers import Peer
    from otpd.ipc.post import Post
    from otpd.ipc.registry import Registry
    from otpd.ipc.table import Entry, Table

#: The answer comes later.
_LATER = object()


class Answers:
    def __init__(
        self, table: Table, groups: Groups, registry: Registry, calls: Calls, letters: Letters, post: Post
    ) -> None:
        self._table, self._groups, self._registry = table, groups, registry
        self._calls, self._letters, self._post = calls, letters, post
        self._known: dict[str, tuple[tuple[type, ...], Callable[..., Any]]] = {
            "whereis": ((str,), self._whereis),
            "members": ((str,), self._members),
            "lookup": ((str,), lambda peer, ref, key: registry.lookup(key)),
            "register": ((str, object), lambda peer, ref, key, value: registry.register(peer, key, value)),
            "update": ((str, object), lambda peer, ref, key, value: registry.update(peer, key, value)),
            "replace": ((str, object, int), lambda peer, ref, key, value, seen: registry.update(peer, key, value, seen)),
            "unregister": ((str,), lambda peer, ref, key: registry.unregister(peer, key)),
            "keys": ((), lambda peer, ref: list(peer.keys)),
            "lock": ((str,), self._lock),
            "unlock": ((str,), lambda peer, ref, key: registry.unlock(peer, key)),
            "stats": ((), lambda peer, ref: self.rows()),
            "letters": ((), lambda peer, ref: letters.rows()),
            "breaker": ((str, str), lambda peer, ref, name, mode: self._force(name, mode)),
        }

    # --- of peers ---

    def ask(self, peer: Peer, ref: int, what: str, *values: Any) -> None:
        """Exactly one `answer` or `refused`; FrameError for a question that there is not."""
        types, method = self._known.get(what, (None, None))
        if types is None or method is None:
            raise FrameError(f"expected a question of {', '.join(self._known)}, got {what[:80]!r}")
        if len(values) != len(types) or not all(map(isinstance, values, types)):
            raise FrameError(f"expected {what} with {kinds(types)}, got {kinds(map(type, values))}")
        try:
            answer = method(peer, ref, *values)
        except Refusal as refusal:
            peer.say("refused", ref, refusal.code, refusal.text)
            return
        if answer is not _LATER:
            peer.say("answer", ref, answer)

    def _whereis(self, peer: Peer, ref: int, name: str) -> dict[str, Any] | None:
        entry = self._table.get(name)
        if entry is None:
            return None
        found = {"name": name, "generation": entry.inc & GENERATION, "state": _state(entry)}
        return {**found, "owners": list(entry.row.owners)}

    def _members(self, peer: Peer, ref: int, group: str) -> list[Any]:
        revision, members = self._groups.members(group)
        return [revision, [entry.name for entry in members]]

    def _lock(self, peer: Peer, ref: int, key: str) -> Any:
        return True if self._registry.lock(peer, key, ref) else _LATER

    def _force(self, name: str, mode: str) -> str:
        entry = self._table.get(name)
        if entry is None:
            raise Refusal("noproc", f"nobody is called {name}; see: otpd status")
        try:
            self._calls.force(entry, Mode(mode))
        except ValueError:
            raise Refusal("refused", f"expected a breaker to be set to open, close or auto, got {mode!r}") from None
        return entry.breaker.circuit.value

    # --- of root ---

    def stats(self, ref: Any) -> None:
        """In parts that fit into a packet."""
        part: list[dict[str, Any]] = []
        size = 0
        for row in self.rows():
            length = len(pack(row))
            if part and (len(part) >= limits.PART_ROWS or size + length > limits.PART_BYTES):
                self._post.tell("answer", ref, part, False)
                part, size = [], 0
            part.append(row)
            size += length
        self._post.tell("answer", ref, part, True)

    def breaker(self, ref: Any, name: str, mode: str) -> None:
        """The state that it is in then, or {"code", "text"} of why not."""
        try:
            answer: Any = self._force(name, mode)
        except Refusal as refusal:
            answer = {"code": refusal.code, "text": refusal.text}
        self._post.tell("answer", ref, answer, True)

    def rows(self) -> list[dict[str, Any]]:
        """What `otpd top` shows of each name."""
        return [self._row(entry) for entry in self._table.entries.values()]

    def _row(self, entry: Entry) -> dict[str, Any]:
        counts, peer = entry.counts, entry.peer
        return {
            "name": entry.name,
            "kind": entry.row.kind,
            "state": _state(entry),
            "generation": entry.inc & GENERATION,
            "connected": peer is not None and peer.connected,
            "inbox": entry.inbox.messages,
            "inbox_bytes": entry.inbox.size,
            "oldest": (entry.inbox.first.since or None) if entry.inbox else None,
            "casts": counts.casts,
            "calls": counts.calls,
            "events": counts.events,
            "processed": counts.processed,
            "replied": counts.replied,
            "failed": counts.failed,
            "rejected": sum(counts.rejected.values()),
            "dropped": counts.dropped,
            "expired": counts.expired,
            "lost": counts.lost,
            "missed": counts.missed,
            "breaker": entry.breaker.circuit.value,
            "breaker_mode": entry.breaker.mode.value,
            "groups": self._groups.of(entry),
            "on_way": 0 if peer is None else peer.allowance.outstanding,
            "serving": 0 if peer is None else len(peer.serving),
            "asking": 0 if peer is None else len(peer.asked),
            "held": 0 if peer is None else peer.intake.held,
            "subscriptions": 0 if peer is None else len(peer.subscriptions),
            "backlog": 0 if peer is None else peer.backlog.events,
        }


def kinds(types: Iterable[type]) -> str:
    """Their names, for an error: values of peers may be as large as they like."""
    return ", ".join(kind.__name__ for kind in islice(types, 10)) or "nothing"


def _state(entry: Entry) -> str:
    """A dead one whose next row has not come yet is one that restarts."""
    if not entry.alive and entry.row.has_process:
        return "restarting"
    return entry.row.state.value
