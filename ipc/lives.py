"""What root says of incarnations, and what follows from it: who may connect, whose messages flow, who is told of a death.

A death is worked off in two steps, because what the dead one wrote last may still be in the socket:

1. At once: nothing is routed to it any more; its name buffers; its groups, keys, locks and subscriptions are gone (B4).
2. After the grace of 20 ms, or as soon as a newer incarnation is ready or says hello (A3): its calls fail, `down` and `exit`
   are told, its connection is forgotten. Older ones first: the death of one implies that of all before it (A4).

Events may come late, twice, or not at all; an incarnation that is dead stays dead (A5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.peers import GENERATION, Standing
from otpd.ipc.table import Row, State

if TYPE_CHECKING:
    from otpd.ipc.calls import Calls
    from otpd.ipc.counts import Counts
    from otpd.ipc.delivery import Delivery
    from otpd.ipc.events import Events
    from otpd.ipc.groups import Groups
    from otpd.ipc.links import Links
    from otpd.ipc.monitors import Monitors
    from otpd.ipc.peers import Peer
    from otpd.ipc.registry import Registry
    from otpd.ipc.table import Entry, Table
    from otpd.ipc.timers import Timers


@dataclass(frozen=True, slots=True)
class Holdings:
    """All in which an incarnation can hold something, or wait for something."""

    calls: Calls
    delivery: Delivery
    events: Events
    groups: Groups
    links: Links
    monitors: Monitors
    registry: Registry


@dataclass(frozen=True, slots=True)
class _Grave:
    peer: Peer | None
    reason: str


class Lives:
    """`drop(peer)`: its connection is to be forgotten."""

    def __init__(
        self, table: Table, holdings: Holdings, timers: Timers, past: Counts, drop: Callable[[Peer], None]
    ) -> None:
        self._table, self._hold, self._timers, self._past, self._drop = table, holdings, timers, past, drop
        self._graves: dict[str, dict[int, _Grave]] = {}
        self._snapshot: dict[str, Row] | None = None
        self.loaded = False  # whether root's first snapshot is complete (A6)

    # --- snapshots ---

    def begin_snapshot(self) -> None:
        self._snapshot = {}

    def end_snapshot(self, now: int) -> None:
        """What it does not name is gone."""
        rows, self._snapshot = self._snapshot or {}, None
        for entry in [entry for name, entry in self._table.entries.items() if name not in rows]:
            self.gone(entry.name, now)
        for row in rows.values():
            self.row(row, now)
        self.loaded = True

    # --- rows ---

    def row(self, row: Row, now: int) -> None:
        if self._snapshot is not None:
            self._snapshot[row.name] = row
            return
        known = self._table.get(row.name)
        entry = known or self._table.put(row)
        if not row.inc:
            row = replace(row, inc=entry.inc)
        if row.inc < entry.inc:
            return  # late
        if entry.alive and (row.inc > entry.inc or not row.has_process):
            self.death(row.name, entry.inc, row.reason or "noconnection", now)
        if _is_void(row, entry):
            return
        old, was_ready = entry.row, entry.ready
        entry.row, entry.alive, entry.leaving = row, row.has_process, False
        if entry.ready and not was_ready:
            self._ready(entry, now)
        elif entry.ready and row.group != old.group:
            self._regroup(entry, old.group)
        elif row.state is State.STOPPED:
            self._hold.delivery.stopped(entry, now)
        if known is None or (old.state, old.inc) != (row.state, row.inc):
            self._announce(entry)

    def _regroup(self, entry: Entry, old: str | None) -> None:
        if old is not None:
            self._hold.groups.leave(old, entry)
        if entry.row.group is not None:
            self._hold.groups.join(entry.row.group, entry)

    def _ready(self, entry: Entry, now: int) -> None:
        self._bury_older(entry, now)
        if entry.row.group is not None:
            self._hold.groups.join(entry.row.group, entry)
        self._hold.calls.half_open(entry)
        self._hold.monitors.ready(entry)
        if entry.peer is not None and entry.peer.connected:
            self._hold.delivery.opened(entry, now)

    def gone(self, name: str, now: int) -> None:
        """The name is no more; what its last incarnation wrote before it died is still honoured."""
        entry = self._table.get(name)
        if entry is None:
            return
        if entry.alive:
            self.death(name, entry.inc, entry.row.reason or "noconnection", now)
        entry.row, entry.leaving = replace(entry.row, state=State.STOPPED), True
        self._hold.delivery.stopped(entry, now)
        if name not in self._graves:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        for key in ("stall", "ttl", "breaker"):
            self._timers.cancel((key, entry.name))
        self._table.forget(entry)
        self._past.add(entry.counts)
        self._hold.events.announce(f"otpd.name.{entry.name}", {"state": "gone", "generation": 0, "reason": ""})

    def _announce(self, entry: Entry) -> None:
        row = entry.row
        data = {"state": row.state.value, "generation": row.inc & GENERATION, "reason": row.reason}
        self._hold.events.announce(f"otpd.name.{entry.name}", data)

    # --- hello ---

    def connected(self, entry: Entry, peer: Peer, now: int) -> None:
        """Its hello was accepted."""
        self._bury_older(entry, now)
        entry.peer = peer
        self._hold.links.welcomed(peer)

    # --- death ---

    def death(self, name: str, inc: int, reason: str, now: int) -> None:
        """Step 1. That of an incarnation which root has never announced is remembered, too."""
        if self._table.is_dead(name, inc):
            return
        self._table.died(name, inc, reason)
        entry = self._table.get(name)
        if entry is None or not entry.alive or entry.inc > inc:
            return
        peer, entry.alive, entry.peer = entry.peer, False, None
        self._release(entry, peer, reason, now)
        self._graves.setdefault(name, {})[entry.inc] = _Grave(peer, reason)
        self._timers.set(("bury", name, entry.inc), now + limits.GRACE)

    def _release(self, entry: Entry, peer: Peer | None, reason: str, now: int) -> None:
        self._hold.delivery.closed(entry, now)
        self._hold.groups.leave_all(entry)
        if peer is not None:
            if peer.connected:
                peer.standing = Standing.DYING
            self._hold.registry.release(peer, reason)
            self._hold.events.release(peer)

    def bury(self, name: str, inc: int, now: int) -> None:
        """Step 2, and of those before it."""
        graves = self._graves.get(name, {})
        for each in sorted(each for each in graves if each <= inc):
            self._timers.cancel(("bury", name, each))
            self._bury(name, each, graves.pop(each), now)
        if not graves:
            self._graves.pop(name, None)
            entry = self._table.get(name)
            if entry is not None and entry.leaving:
                self._forget(entry)

    def _bury(self, name: str, inc: int, grave: _Grave, now: int) -> None:
        peer, hold = grave.peer, self._hold
        if peer is not None:
            self._drop(peer)
            hold.delivery.lose(peer)
            hold.calls.lose_callee(peer, grave.reason, now)
            hold.calls.drop_caller(peer)
            hold.monitors.release(peer)
        hold.monitors.died(name, inc, grave.reason, peer)
        hold.links.died(name, inc, grave.reason, peer)

    def _bury_older(self, entry: Entry, now: int) -> None:
        self.bury(entry.name, entry.inc - 1, now)


def _is_void(row: Row, entry: Entry) -> bool:
    """Whether root has said before that this incarnation is dead, or further on."""
    dead = row.has_process and row.inc <= entry.tombstone
    return dead or (entry.ready and row.inc == entry.inc and row.state is State.STARTING)
