"""A peer: one connected incarnation, what it is owed and what it holds. It dies with its incarnation.

Two kinds of thing meet in it: the account of the connection (credit both ways, handles, source ids that it was told), and
what the incarnation holds in the broker and loses at death (calls, monitors, groups, keys, subscriptions).
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otpd.ipc.credit import Allowance, Intake
from otpd.ipc.tray import Tray

if TYPE_CHECKING:
    from otpd.ipc.calls import Call
    from otpd.ipc.events import Backlog
    from otpd.ipc.monitors import Monitor
    from otpd.ipc.table import Entry

GENERATION = 0xFFFF_FFFF


class Standing(enum.Enum):
    CONNECTED = "connected"
    DYING = "dying"  # root has told its death; what it wrote before is still honoured
    REFUSED = "refused"  # it struck out; nothing of it is taken any more, and its death is awaited


class Binding(NamedTuple):
    """What a handle means."""

    kind: str
    name: str
    policy: str


class Peer:
    """`id` is its source id: unique among the living, used again later."""

    __slots__ = (
        "_dirty",
        "allowance",
        "asked",
        "backlog",
        "cancelled",
        "data",
        "entry",
        "groups",
        "handles",
        "id",
        "identity",
        "inc",
        "intake",
        "introduced",
        "keys",
        "locks",
        "monitors",
        "name",
        "on_way",
        "serving",
        "standing",
        "strikes",
        "subscriptions",
        "system",
        "touched",
        "trap",
    )

    def __init__(self, number: int, identity: bytes, entry: Entry, backlog: Backlog, dirty: list[Peer]) -> None:
        self.id, self.identity, self.entry, self.name, self.inc = number, identity, entry, entry.name, entry.inc
        self.standing = Standing.CONNECTED
        self._dirty, self.touched = dirty, False
        self.system, self.data = Tray(), Tray()
        self.intake, self.allowance = Intake(), Allowance()
        self.handles: dict[int, Binding] = {}
        self.introduced: dict[int, Peer] = {}  # source ids that it was told
        self.on_way: deque[tuple[int, int]] = deque()  # casts: (allowance.sent_messages after the frame, messages in it)
        self.asked: dict[int, Call] = {}  # by request id
        self.serving: dict[int, Call] = {}  # by call number
        self.cancelled: OrderedDict[int, None] = OrderedDict()
        self.backlog = backlog
        self.monitors: dict[int, Monitor] = {}  # by ref
        self.subscriptions: dict[int, str] = {}  # ref -> pattern
        self.groups: dict[str, None] = {}
        self.keys: dict[str, None] = {}
        self.locks: dict[str, None] = {}  # held and waited for
        self.trap = False
        self.strikes: deque[int] = deque()

    def forget(self) -> None:
        """What only a connection needs; others may know it a while longer, by its source id or by what waits of it."""
        self.system, self.data = Tray(), Tray()
        self.introduced.clear()
        self.handles.clear()

    @property
    def generation(self) -> int:
        return self.inc & GENERATION

    @property
    def connected(self) -> bool:
        return self.standing is Standing.CONNECTED

    def touch(self) -> None:
        """There is something for it in the next flush."""
        if not self.touched:
            self.touched = True
            self._dirty.append(self)

    def say(self, *command: Any) -> None:
        """On the system lane, which is the faster one. Nothing is said to the dying."""
        if self.standing is Standing.CONNECTED:
            self.system.command(list(command))
            self.touch()

    def say_in_order(self, *command: Any) -> None:
        """On the data lane: after the messages before it."""
        if self.standing is Standing.CONNECTED:
            self.data.command(list(command))
            self.touch()

    def hand(self, kind: int, source: Peer | None, flags: int, count: int, payload: bytes | memoryview) -> None:
        """Messages, for which there is credit. No source: the broker itself."""
        number = 0
        if source is not None:
            number = source.id
            if self.introduced.get(number) is not source:
                self.introduced[number] = source
                self.data.command(["name", number, source.name, source.inc & GENERATION])
        self.data.add(kind, number, flags, count, payload)
        self.allowance.spend(count, len(payload))
        if not self.touched:
            self.touch()

    def give_back(self, messages: int, size: int) -> None:
        """So many of its messages have left the broker's memory."""
        if self.intake.give_back(messages, size):
            self.touch()
