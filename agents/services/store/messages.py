"""What the queue of durable messages is made of: messages and their states, what is asked of it, what it wants done.

Values only; `queue` moves them. Times are ns of CLOCK_MONOTONIC, but `at`, which is wall clock, for people, and minutes of
the store's own running time, which go on over its restarts.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

SECOND: Final = 1_000_000_000


class Kind(enum.IntEnum):
    """CAST has a method, EVENT a topic."""

    CAST = 0
    EVENT = 1


class State(enum.Enum):
    """See the table in `queue`."""

    JOURNALING = enum.auto()
    WAITING = enum.auto()
    CHARGING = enum.auto()
    IN_FLIGHT = enum.auto()
    SETTLING = enum.auto()
    GONE = enum.auto()
    REFUSED = enum.auto()


@dataclass(slots=True, eq=False, kw_only=True)
class Message:
    """One durable message on its way to one agent; its body is the journal's.

    `lease` is the incarnation that it is with, 0: none; `turn` counts dispatches, so that those that are with one
    incarnation have an order; `origin` is the dead letter that it repeats, 0: none; `since` is the minute of the store in
    which it came.
    """

    seq: int
    target: str
    key: str
    sender: str
    id: str
    kind: Kind
    name: str
    size: int
    at: float
    max_attempts: int
    attempts: int = 0
    lease: int = 0
    turn: int = 0
    origin: int = 0
    since: int = 0
    state: State = State.JOURNALING
    suspect: bool = False  # its receiver has died while it had this and perhaps others


@dataclass(frozen=True, slots=True)
class Request:
    """One durable message that is to be kept. `target` is a name, or for an EVENT its topic; `key` "": the sender."""

    kind: Kind
    target: str
    name: str
    body: bytes
    key: str = ""
    id: str = ""
    max_attempts: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, for people: what was raised, with its traceback, or the exit reason of who died with it."""

    reason: str
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Burial:
    """A message becomes a dead letter. `body`: of one that was never queued."""

    message: Message
    failure: Failure
    body: bytes | None = None


@dataclass(slots=True, eq=False)
class Receipt:
    """The last submission of a sender, so that one whose answer was lost may be said again.

    `answer` is None until it is committed; who waits for it is in `refs`.
    """

    sender: str
    inc: int
    number: int
    minute: int
    answer: list[Any] | None = None
    refs: list[Hashable] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Unit:
    """What is committed together or not at all. Only one with a receipt may fail; the store ends when another one does."""

    inserts: list[tuple[Message, bytes]] = field(default_factory=list)
    charges: list[Message] = field(default_factory=list)
    releases: list[Message] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    opened: dict[int, int] = field(default_factory=dict)  # dead letters that leave, replayed or purged, and their bytes
    subscriptions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    receipt: Receipt | None = None
    outcomes: list[Message | int | str] = field(default_factory=list)
    replaced: Receipt | None = None
    state: Any = None  # what else is committed with it; the queue does not look at it
    ref: Hashable = None  # who waits, where there is no receipt
    minute: int = 0

    def __bool__(self) -> bool:
        return bool(
            self.inserts or self.charges or self.releases or self.settled or self.burials or self.opened
            or self.subscriptions or self.receipt or self.minute
        )  # fmt: skip


# --- what the shell has to do ---


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send it to its target, for this incarnation only. The same may come again: the receiver tells by seq and attempt."""

    message: Message
    attempt: int
    inc: int


@dataclass(frozen=True, slots=True)
class Answer:
    """To who has submitted: `value`, or why not (`code`)."""

    ref: Hashable
    value: Any = None
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Follow the incarnations of this name, or (not `on`) do so no more."""

    target: str
    on: bool = True


@dataclass(frozen=True, slots=True)
class Tell:
    """For telemetry."""

    event: str
    data: dict[str, Any]


#: (sender, id, target) of messages that have ended within memory, and their seqs.
Finished: TypeAlias = Mapping[tuple[str, str, str], int]
Effect: TypeAlias = Deliver | Answer | Watch | Tell


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the queue holds at most, how often it tries, how long it waits. Seconds; bytes are of bodies,
    those of letters with their errors and tracebacks. `age` is of the store's running time."""

    messages: int = 100_000
    bytes: int = 256 * 2**20
    per_target: int = 50_000
    letters: int = 10_000
    letter_bytes: int = 256 * 2**20
    max_attempts: int = 5
    age: float = 7 * 86_400.0
    window: int = 64
    backoff: float = 0.1
    backoff_max: float = 60.0
    reminder: float = 30.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the journal held when the store was started."""

    messages: Sequence[Message] = ()  # in the order of seq
    corrupt: Sequence[Message] = ()  # what was damaged there, and is a letter now
    letters: Mapping[int, int] = field(default_factory=dict)  # by death, and their bytes
    subscriptions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    receipts: Sequence[Receipt] = ()
    next_seq: int = 1
    next_turn: int = 1
    minute: int = 0
