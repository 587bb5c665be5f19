"""What root tells the broker of everybody who has an address: a level table, and the packets that carry it. Pure.

`brokerlink` is the shell: it feeds the table from root's workers and gives the packets to the broker's channel as fast as
that takes them (docs/protocol.md, 8). The table is the truth, a packet only news of it: when the broker is new, or so slow
that too much news has gathered, the news are thrown away and the whole table is told instead.

>>> table = Addresses()
>>> table.expect("feed", "agent")
>>> table.up("b1.1"); [packet[0] for packet in table.news()]
['snapshot', 'row', 'snapshot_end']
>>> table.born(Row(name="feed", kind="agent", inc=7, pid=42)); table.died("feed", 7, "killed")
>>> [(packet[0], packet[1:] if packet[0] == "death" else packet[1]["state"]) for packet in table.news()]
[('row', 'starting'), ('death', ['feed', 7, 'killed'])]

Guarantees: news are in the order of what happened; the death of an incarnation comes before the row of the next one, also
in a snapshot; incarnations of a name only grow; each death is told once per epoch unless a snapshot repeats it; at most
`BACKLOG` news beyond a snapshot wait.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from otpd.supervisor.spec import Inbox

#: News that may wait for a broker that does not read, beyond a snapshot.
BACKLOG: Final = 2000
#: Deaths that a new broker is told of, so that monitors which it takes over hear the right reason (H4).
DEATHS: Final = 4096


class Presence(enum.StrEnum):
    """Whether messages for a name can be delivered, wait, or have nobody to wait for."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One name. `inc` is of its last incarnation, 0 when it had none; pid, identity and token are of a living one."""

    name: str
    kind: str
    inc: int = 0
    pid: int | None = None
    identity: bytes | None = field(default=None, repr=False)
    token: bytes | None = field(default=None, repr=False)
    state: Presence = Presence.STARTING
    group: str | None = None
    inbox: Inbox | None = None
    owners: tuple[str, ...] = ()  # agents that it is an own child, or a client, of, the nearest first
    reason: str | None = None  # of its last death

    @property
    def alive(self) -> bool:
        return self.pid is not None

    def packet(self) -> list[Any]:
        inbox = self.inbox and {name: getattr(self.inbox, name) for name in ("messages", "bytes", "policy")}
        row = {name: getattr(self, name) for name in _TOLD}
        return ["row", row | {"state": self.state.value, "inbox": inbox, "owners": list(self.owners)}]


_TOLD: Final = ("name", "kind", "inc", "pid", "identity", "token", "group", "reason")


class Addresses:
    """`up` and `down` say whether there is a broker to tell."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._rows: dict[str, Row] = {}
        self._deaths: deque[tuple[str, int, str]] = deque(maxlen=DEATHS)
        self._epoch: str | None = None
        self._news: deque[list[Any]] = deque()
        self._most = 0  # news that may wait
        self._behind = False  # the whole table is to be told, in place of news
        self._untold: set[str] = set()  # names that have nobody, and the broker has not heard what is to become of them

    # --- what happens to names ---

    def row(self, name: str) -> Row | None:
        return self._rows.get(name)

    def names(self) -> list[str]:
        return list(self._rows)

    def expect(self, name: str, kind: str, group: str | None = None, inbox: Inbox | None = None) -> None:
        """A name that somebody has or is to get; also when its group or inbox is another one now."""
        old = self._rows.get(name)
        if old is None:
            self._put(Row(name=name, kind=kind, group=group, inbox=inbox))
        elif (old.group, old.inbox) != (group, inbox):
            self._put(replace(old, group=group, inbox=inbox))

    def born(self, row: Row) -> None:
        """A process has the name from now on. ValueError when it is no later one than the last (A1)."""
        old = self._rows.get(row.name)
        if old is not None and row.inc <= old.inc:
            raise ValueError(f"{row.name}: expected an incarnation after {old.inc}, got {row.inc}")
        if old is not None and old.alive:
            self.died(row.name, old.inc, "killed")
        self._put(replace(row, reason=old.reason if old is not None else None))

    def ready(self, name: str, inc: int) -> None:
        row = self._rows.get(name)
        if row is not None and row.inc == inc and row.alive:
            self._put(replace(row, state=Presence.READY))

    def died(self, name: str, inc: int, reason: str) -> None:
        """That incarnation has ended; a second word about it changes nothing. Until `settle` it counts as restarting."""
        row = self._rows.get(name)
        if row is None or row.inc != inc or not row.alive:
            return
        state = Presence.RESTARTING
        self._rows[name] = replace(row, pid=None, identity=None, token=None, state=state, reason=reason)
        self._untold.add(name)
        self._deaths.append((name, inc, reason))
        self._tell(["death", name, inc, reason])

    def settle(self, name: str, state: Presence) -> None:
        """What becomes of a name that nobody has now."""
        row = self._rows.get(name)
        if row is not None and not row.alive and (row.state is not state or name in self._untold):
            self._put(replace(row, state=state))

    def remove(self, name: str) -> None:
        """The name is no more."""
        row = self._rows.get(name)
        if row is not None:
            self.died(name, row.inc, "killed")
            del self._rows[name]
            self._untold.discard(name)
            self._tell(["gone", name])

    def _put(self, row: Row) -> None:
        self._rows[row.name] = row
        self._untold.discard(row.name)
        self._tell(row.packet())

    # --- the broker ---

    def up(self, epoch: str) -> None:
        """There is a new broker: it knows nothing yet."""
        self._epoch = epoch
        self._tell_all()

    def down(self) -> None:
        self._epoch = None
        self._news.clear()

    def next(self) -> list[Any] | None:
        """The packet to send now, None when the broker knows all."""
        if self._behind and not self._news and self._epoch is not None:
            self._news.extend(self._snapshot(self._epoch))
            self._behind, self._most = False, len(self._news) + self._backlog
        return self._news.popleft() if self._news else None

    def news(self) -> Iterator[list[Any]]:
        """All packets that there are to send."""
        while (packet := self.next()) is not None:
            yield packet

    def _tell(self, packet: list[Any]) -> None:
        if self._epoch is None or self._behind:
            return
        self._news.append(packet)
        if len(self._news) > self._most:
            self._tell_all()

    def _tell_all(self) -> None:
        """The snapshot is made when there is room for its first packet, so that a broker that stands still costs nothing."""
        self._news.clear()
        self._behind = True

    def _snapshot(self, epoch: str) -> Iterator[list[Any]]:
        """Deaths first, also of names that are gone: each is told before any later row of its name."""
        yield ["snapshot", epoch]
        yield from (["death", *death] for death in self._deaths)
        yield from (row.packet() for row in self._rows.values())
        yield ["snapshot_end"]
