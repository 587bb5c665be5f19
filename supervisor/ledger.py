"""What all supervisors of one tree share: attempt counters, running supervisors, timers, and the effects of this event.

(name, generation) never means two processes: a name that lives at another path later, or again, goes on counting. Counters
of own children (see `own`) are kept by name for a while and then folded into `floor`, where names not known begin.

Pure bookkeeping; `supervision` decides. `wake` is how a supervisor asks for its turn, so that none ever calls another one's
machine from inside its own, however deep or wide the tree is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeAlias, TypeVar

from otpd.supervisor.events import ArmTimer, CancelTimer, Effect, Notice, StartFailed, StartIgnored

S = TypeVar("S")
#: Asked before a supervisor starts, with its path and generation: None goes on, the events decline for it.
Gate: TypeAlias = Callable[[str, int], StartFailed | StartIgnored | None]
#: Names of own children that are no more whose counters are kept.
RETIRED_KEPT: Final = 10_000


@dataclass(slots=True)
class Record:
    """Counters of one path, for the life of the tree."""

    generation: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """The next attempt of a child is due. `token` None: queued at once, as OTP does."""

    id: str
    token: int | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """The time that the supervisor had for its orderly stop is over."""


class Ledger(Generic[S]):
    """`now` is the time of the event that is being handled; `effects` what it has led to so far."""

    __slots__ = (
        "_names", "_retired", "_tokens", "closing", "effects", "floor", "gate", "now", "own", "ready", "records",
        "supervisors", "timers",
    )  # fmt: skip

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.now = 0.0
        self.closing = False  # an urgent stop is under way: only who leaves goes on
        self.effects: list[Effect] = []
        self.records: dict[str, Record] = {}
        self.supervisors: dict[str, S] = {}
        self.own: dict[str, S] = {}  # the own supervisors of workers, by the worker's path
        self.ready: deque[S] = deque()
        self.timers: dict[int, tuple[str, Retry | Kill]] = {}
        self.floor = 0
        self._names: dict[str, Record] = {}  # of each name that of its highest generation
        self._retired: dict[str, None] = {}  # names in order of their end
        self._tokens = 0

    def keeper(self, path: str) -> S | None:
        """The running supervisor whose children lie below `path`: it itself, or that of the worker there."""
        return self.supervisors.get(path) or self.own.get(path)

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def notice(self, kind: str, path: str, generation: int, **data: Any) -> None:
        self.effects.append(Notice(kind, path, generation, data))

    def attempt(self, path: str, *, automatic: bool) -> int:
        """Count one more start attempt of `path` and give its generation."""
        record = self.records.get(path)
        if record is None:
            record = self.records[path] = Record(self._left_by_own_children(_name(path)))
        record.generation += 1
        record.restarts += automatic
        self._note(_name(path), record)
        return record.generation

    def adopt(self, path: str) -> None:
        """The name at `path` has lived elsewhere, or may have: it goes on counting here."""
        known = self._names.get(_name(path)) or Record(self.floor)
        if known.generation:
            self.records[path] = replace(known)

    def enlist(self, path: str) -> None:
        """A new own child: it has not been restarted yet, whatever happened to others of its name."""
        known = self._names.get(_name(path)) or Record(self.floor)
        self.records[path] = Record(known.generation)

    def retire(self, path: str) -> None:
        """An own child is no more."""
        name = _name(path)
        self._note(name, self.records.pop(path, Record(self.floor)))
        self._retired.pop(name, None)
        self._retired[name] = None
        if len(self._retired) > RETIRED_KEPT:
            oldest = next(iter(self._retired))
            del self._retired[oldest]
            self.floor = max(self.floor, self._names.pop(oldest).generation)

    def _note(self, name: str, record: Record) -> None:
        if self._names.setdefault(name, record).generation < record.generation:
            self._names[name] = record

    def _left_by_own_children(self, name: str) -> int:
        """The generation that the last of them of this name had."""
        return self._names[name].generation if name in self._retired else self.floor

    def record(self, path: str) -> Record:
        return self.records.get(path) or Record()

    def wake(self, supervisor: S) -> None:
        self.ready.append(supervisor)

    def next_token(self) -> int:
        self._tokens += 1
        return self._tokens

    def arm(self, token: int, sup: str, message: Retry | Kill, delay: float, path: str) -> None:
        """`message` goes to supervisor `sup` after `delay` seconds; `path` is for people."""
        self.timers[token] = (sup, message)
        self.effects.append(ArmTimer(token, delay, path))

    def disarm(self, token: int | None) -> None:
        """Harmless when the timer has fired already."""
        if token is not None and token in self.timers:
            del self.timers[token]
            self.effects.append(CancelTimer(token))


def _name(path: str) -> str:
    return path.rpartition("/")[2]
