"""Monitors: who is told of whose death (messaging.md H1-H4).

| monitor | set on a live incarnation | set on none | that incarnation dies | another one is ready |
|---|---|---|---|---|
| plain | `up`, once | `down` noproc, and it is over | `down`, and it is over | - |
| follow | `up` as soon as it is ready | `down` noproc | `down` | `up` |

Each `down` of a follower is for an `up` before it. Refs are the watcher's own numbers and end with its incarnation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.ipc import limits
from otpd.ipc.peers import GENERATION

if TYPE_CHECKING:
    from otpd.ipc.delivery import Delivery
    from otpd.ipc.peers import Peer
    from otpd.ipc.table import Entry, Table


class Monitor:
    """`inc`: the incarnation that is watched, 0: none. `void`: nothing more is to be said. `dead`: whose `down` was the last
    notice, so that the next one comes after it; `in_order`: a notice went by the data lane, and so do all after it."""

    __slots__ = ("dead", "follow", "in_order", "inc", "name", "ref", "void", "watcher")

    def __init__(self, watcher: Peer, ref: int, name: str, follow: bool) -> None:
        self.watcher, self.ref, self.name, self.follow = watcher, ref, name, follow
        self.inc, self.void, self.in_order = 0, False, False
        self.dead: Peer | None = None

    def told(self) -> None:
        """A notice has been said. Until its `down` is, the watcher may still unset it."""
        if not self.follow and not self.inc:
            self.watcher.monitors.pop(self.ref, None)


class Monitors:
    def __init__(self, table: Table, delivery: Delivery) -> None:
        self._table, self._delivery = table, delivery
        self._of: dict[str, dict[tuple[int, int], Monitor]] = {}

    # --- set and unset ---

    def set(self, watcher: Peer, ref: int, name: str, follow: bool) -> None:
        """A ref that is set already is that monitor; one monitor too many is down at once."""
        monitor = self._add(watcher, ref, name, follow)
        if monitor is None:
            return
        entry = self._table.get(name)
        if entry is not None and (entry.ready if follow else entry.alive):
            self._up(monitor, entry.inc)
        else:
            self._down(monitor, 0, "noproc", None)

    def restore(self, watcher: Peer, ref: int, name: str, inc: int | None, follow: bool) -> None:
        """After a new broker: `inc` is the last incarnation that was `up`. If it has died meanwhile, root's table knows of
        what."""
        if inc is None:
            self.set(watcher, ref, name, follow)
            return
        monitor = self._add(watcher, ref, name, follow)
        if monitor is None:
            return
        entry = self._table.get(name)
        monitor.inc = inc
        if entry is not None and entry.alive and entry.inc == inc:
            return
        self._down(monitor, inc, self._table.reason(name, inc), None)
        if follow and entry is not None and entry.ready:
            self._up(monitor, entry.inc)

    def unset(self, watcher: Peer, ref: int) -> None:
        """Nothing of this ref is said after this (H1), also not what waits behind messages of the dead."""
        monitor = watcher.monitors.pop(ref, None)
        if monitor is not None:
            monitor.void = True
            self._forget(monitor)

    def release(self, watcher: Peer) -> None:
        """It is dead."""
        for ref in list(watcher.monitors):
            self.unset(watcher, ref)

    def _add(self, watcher: Peer, ref: int, name: str, follow: bool) -> Monitor | None:
        if ref in watcher.monitors:
            return None
        if len(watcher.monitors) >= limits.MONITORS:
            watcher.say("down", ref, name, 0, "overloaded")
            return None
        monitor = watcher.monitors[ref] = Monitor(watcher, ref, name, follow)
        self._of.setdefault(name, {})[watcher.id, ref] = monitor
        return monitor

    def _forget(self, monitor: Monitor) -> None:
        of = self._of.get(monitor.name, {})
        of.pop((monitor.watcher.id, monitor.ref), None)
        if not of:
            self._of.pop(monitor.name, None)

    # --- what happens ---

    def ready(self, entry: Entry) -> None:
        for monitor in list(self._of.get(entry.name, {}).values()):
            if monitor.follow and not monitor.inc:
                self._up(monitor, entry.inc)

    def died(self, name: str, inc: int, reason: str, dead: Peer | None) -> None:
        """`dead`: its connection, if it had one; what it sent a watcher comes first (B3)."""
        for monitor in list(self._of.get(name, {}).values()):
            if monitor.inc == inc:
                self._down(monitor, inc, reason, dead)

    def _up(self, monitor: Monitor, inc: int) -> None:
        monitor.inc = inc
        self._delivery.notify(monitor.watcher, monitor.dead, monitor, ["up", monitor.ref, monitor.name, inc & GENERATION])

    def _down(self, monitor: Monitor, inc: int, reason: str, dead: Peer | None) -> None:
        command = ["down", monitor.ref, monitor.name, inc & GENERATION, reason]
        monitor.inc, monitor.dead = 0, dead
        if not monitor.follow:
            self._forget(monitor)
        self._delivery.notify(monitor.watcher, dead, monitor, command)
