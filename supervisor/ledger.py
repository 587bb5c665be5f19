"""What all supervisors of one tree share: attempt counters, running supervisors, timers, and the effects of this event.

Pure bookkeeping; `supervision` decides. `wake` is how a supervisor asks for its turn, so that none ever calls another one's
machine from inside its own, however deep or wide the tree is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from otpd.supervisor.events import ArmTimer, CancelTimer, Effect, Notice, StartFailed, StartIgnored

S = TypeVar("S")
#: Asked before a supervisor starts, with its path and generation: None goes on, the events decline for it.
Gate: TypeAlias = Callable[[str, int], StartFailed | StartIgnored | None]


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

    __slots__ = ("_tokens", "closing", "effects", "gate", "now", "ready", "records", "supervisors", "timers")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.now = 0.0
        self.closing = False  # an urgent stop is under way: only who leaves goes on
        self.effects: list[Effect] = []
        self.records: dict[str, Record] = {}
        self.supervisors: dict[str, S] = {}
        self.ready: deque[S] = deque()
        self.timers: dict[int, tuple[str, Retry | Kill]] = {}
        self._tokens = 0

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def notice(self, kind: str, path: str, generation: int, **data: Any) -> None:
        self.effects.append(Notice(kind, path, generation, data))

    def attempt(self, path: str, *, automatic: bool) -> int:
        """Count one more start attempt of `path` and give its generation."""
        record = self.records.setdefault(path, Record())
        record.generation += 1
        record.restarts += automatic
        return record.generation

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
