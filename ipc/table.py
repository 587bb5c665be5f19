"""Root's table, as the broker holds it: who there is, which incarnation, in which state; and who has died of what.

| state of a name | its process | a message for it |
|---|---|---|
| STARTING | runs init | waits in the restart buffer |
| READY, no connection | is up, has not said hello | waits in the restart buffer |
| READY | takes messages | goes to it, or into its inbox when it has no credit |
| RESTARTING, or dead | none; another one will come | waits in the restart buffer |
| STOPPED, or unknown | none, for good | noproc |
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from otpd.ipc import limits
from otpd.ipc.breaker import Breaker
from otpd.ipc.counts import Counts
from otpd.ipc.inbox import Inbox, Memory

if TYPE_CHECKING:
    from otpd.ipc.peers import Peer


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Policy(enum.Enum):
    """What happens to a cast when the restart buffer is full (DESIGN 9.3)."""

    REJECT = "reject"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a restart buffer."""

    messages: int = limits.BUFFER_MESSAGES
    bytes: int = limits.BUFFER_BYTES
    policy: Policy = Policy.REJECT

    @classmethod
    def of(cls, given: dict[str, Any]) -> Bounds:
        values = {key: given[key] for key in ("messages", "bytes") if given.get(key) is not None}
        return replace(cls(**values), policy=Policy(given.get("policy") or "reject"))


@dataclass(frozen=True, slots=True)
class Row:
    """What root says of a name. `pid` is that of the incarnation `inc`; both mean nothing unless it lives."""

    name: str
    kind: str
    inc: int
    state: State
    pid: int | None = None
    identity: bytes = b""
    token: bytes = b""
    group: str | None = None
    bounds: Bounds = Bounds()
    owners: tuple[str, ...] = ()  # agents that it is an own child, or a client, of, the nearest first
    reason: str = ""

    @classmethod
    def of(cls, given: dict[str, Any]) -> Row:
        return cls(
            name=given["name"],
            kind=given.get("kind") or "agent",
            inc=given.get("inc") or 0,
            state=State(given["state"]),
            pid=given.get("pid"),
            identity=given.get("identity") or b"",
            token=given.get("token") or b"",
            group=given.get("group") or None,
            bounds=Bounds.of(given.get("inbox") or {}),
            owners=tuple(given.get("owners") or ()),
            reason=given.get("reason") or "",
        )

    @property
    def has_process(self) -> bool:
        """A name whose first process is yet to be started is `starting` without one."""
        return self.pid is not None and self.state in (State.STARTING, State.READY)


class Entry:
    """A name. `open` is who takes messages now: ready, connected and alive. `peer` is who is connected, ready or not."""

    __slots__ = (
        "alive",
        "breaker",
        "counts",
        "high",
        "inbox",
        "leaving",
        "moved",
        "name",
        "open",
        "peer",
        "row",
        "stalled",
        "tombstone",
    )

    def __init__(self, row: Row, memory: Memory, tombstone: int) -> None:
        self.name, self.row, self.tombstone = row.name, row, tombstone
        self.alive = False
        self.leaving = False  # root has said that the name is gone
        self.peer: Peer | None = None
        self.open: Peer | None = None
        self.inbox = Inbox(memory)
        self.stalled, self.moved = False, 0  # whether its receiver takes nothing; when it last took something, ns
        self.high = False  # whether root was told that it is far behind
        self.breaker = Breaker()
        self.counts = Counts()

    @property
    def inc(self) -> int:
        return self.row.inc

    @property
    def ready(self) -> bool:
        return self.alive and self.row.state is State.READY

    @property
    def stopped(self) -> bool:
        return not self.alive and self.row.state is State.STOPPED


class Table:
    """Tombstones: an incarnation up to the highest one that died never comes back (A5). A name that is gone keeps its
    tombstone among the last 4096: root's channel keeps order, so what could still speak for it are processes of that name
    that were stopped and continued, and they meet an unknown name."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.memory = Memory()
        self._deaths: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._tombstones: OrderedDict[str, int] = OrderedDict()

    def get(self, name: str) -> Entry | None:
        return self.entries.get(name)

    def put(self, row: Row) -> Entry:
        """The entry of a new name."""
        entry = Entry(row, self.memory, self._tombstones.pop(row.name, 0))
        self.entries[row.name] = entry
        return entry

    def forget(self, entry: Entry) -> None:
        del self.entries[entry.name]
        self._bury_name(entry.name, entry.tombstone)

    def died(self, name: str, inc: int, reason: str) -> None:
        """Remembered; also of a name that root has not announced (yet)."""
        self._deaths[name, inc] = reason[: limits.REASON]
        if len(self._deaths) > limits.DEATHS:
            self._deaths.popitem(last=False)
        entry = self.entries.get(name)
        if entry is None:
            self._bury_name(name, inc)
        else:
            entry.tombstone = inc

    def _bury_name(self, name: str, tombstone: int) -> None:
        self._tombstones[name] = tombstone
        if len(self._tombstones) > limits.DEATHS:
            self._tombstones.popitem(last=False)

    def is_dead(self, name: str, inc: int) -> bool:
        entry = self.entries.get(name)
        return inc <= (self._tombstones.get(name, 0) if entry is None else entry.tombstone)

    def reason(self, name: str, inc: int) -> str:
        """Of what an incarnation died; `noproc` when nobody remembers."""
        return self._deaths.get((name, inc), "noproc")
