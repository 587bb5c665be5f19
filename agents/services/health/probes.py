"""When each child is asked whether it is well, and what its answers mean. Pure; `service` asks and carries out.

One row per name, and in it one incarnation: (name, generation). The health of an incarnation:

| state | passed | failed | not known |
|---|---|---|---|
| UNKNOWN | HEALTHY | within its grace nothing; else, `failures` in a row: UNHEALTHY | - |
| HEALTHY | - | `failures` in a row: UNHEALTHY | - |
| UNHEALTHY | `successes` in a row: HEALTHY | with the action `restart`: its restart is asked for again | - |

*Not known* is a question that could not be put (no broker, no descriptor left): it says nothing about the child. The end of
the grace is `grace` seconds after the child is ready, or its first success. One question per child at a time: the next
is due an interval after the last was, so the deadline of each, which is at most the interval, delays nobody else. First
questions are spread over a second, later ones over the interval, so that what started together is not asked together.
"""

from __future__ import annotations

import enum
import heapq
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: Seconds over which first questions are spread.
_SOON = 1.0
#: By how much a question may be put sooner, together with others, because to wake up costs more than to ask: a share of its
#: interval, and seconds at most.
_EARLY, _EARLY_AT_MOST = 0.05, 0.5


class State(enum.StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one child is asked; `check` is opaque here. Times in seconds."""

    check: Any
    interval: float
    timeout: float
    failures: int
    successes: int
    grace: float
    action: Literal["report", "restart"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a question; `passed` None: it could not be put. `why` is for people, empty when it passed."""

    passed: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """Put the question `number`, and answer with `answered` by the plan's timeout."""

    name: str
    generation: int
    number: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Drop:
    """Nobody waits for the answer to `number` any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The health of an incarnation has changed."""

    name: str
    generation: int
    state: State
    why: str


@dataclass(frozen=True, slots=True)
class Replace:
    """This incarnation must make room for another; said again while it fails on."""

    name: str
    generation: int
    why: str


Effect: TypeAlias = Ask | Drop | Mark | Replace


@dataclass(slots=True)
class Row:
    """One incarnation. `passed` and `failed` count in a row; `asking` is the question that is out, 0 for none."""

    name: str
    generation: int
    plan: Plan
    grace_until: float
    state: State = State.UNKNOWN
    why: str = ""
    since: float = 0.0
    passed: int = 0
    failed: int = 0
    checks: int = 0
    last: Verdict = field(default_factory=lambda: Verdict(None))
    asking: int = 0
    began: float = 0.0
    slot: float = 0.0  # when it was due, if it was put sooner
    due: float = 0.0


class Probes:
    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._due: list[tuple[float, str, int]] = []  # a heap; what is not its row's `due` any more is passed over
        self._number = 0

    def row(self, name: str) -> Row | None:
        return self._rows.get(name)

    @property
    def names(self) -> list[str]:
        return list(self._rows)

    # --- who is asked ---

    def watch(self, name: str, generation: int, plan: Plan, ready_at: float, now: float) -> list[Effect]:
        """From now on. Of an incarnation that is watched already only the plan changes; asked in another way, its health is
        unknown again."""
        row = self._rows.get(name)
        if row is not None and row.generation == generation and row.plan.check == plan.check:
            row.plan, row.grace_until = plan, ready_at + plan.grace
            if not row.asking:
                self._arm(row, min(row.due, now + plan.interval))
            return []
        effects = self._remove(name)
        row = self._rows[name] = Row(name, generation, plan, ready_at + plan.grace, since=now)
        self._arm(row, now + _share(name) * min(_SOON, plan.interval))
        return effects

    def forget(self, name: str, generation: int) -> list[Effect]:
        """The incarnation has ended, or is not to be asked any more. Harmless when it was not watched."""
        row = self._rows.get(name)
        return self._remove(name) if row is not None and row.generation == generation else []

    def clear(self) -> list[Effect]:
        """Nobody is known any more."""
        return [effect for name in self.names for effect in self._remove(name)]

    def _remove(self, name: str) -> list[Effect]:
        row = self._rows.pop(name, None)
        return [Drop(row.asking)] if row is not None and row.asking else []

    # --- questions ---

    @property
    def next(self) -> float | None:
        """When the next question is due."""
        while self._due and not self._is_due(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> list[Effect]:
        """Those whose time has come, and with them those whose time comes soon."""
        effects: list[Effect] = []
        while (at := self.next) is not None:
            row = self._rows[self._due[0][1]]
            early = min(_EARLY * row.plan.interval, _EARLY_AT_MOST) if effects and row.checks else 0.0
            if at > now + early:
                break
            heapq.heappop(self._due)
            effects.append(self._ask(row, now, slot=max(now, at)))
        return effects

    def ask_now(self, name: str, now: float) -> list[Effect]:
        """Without waiting for its turn; a question that is out will do."""
        row = self._rows.get(name)
        return [] if row is None or row.asking else [self._ask(row, now, slot=now)]

    def _ask(self, row: Row, now: float, slot: float) -> Ask:
        self._number += 1
        row.asking, row.began, row.slot = self._number, now, slot
        return Ask(row.name, row.generation, row.asking, row.plan)

    def _is_due(self, at: float, name: str, generation: int) -> bool:
        row = self._rows.get(name)
        return row is not None and row.generation == generation and not row.asking and row.due == at

    def _arm(self, row: Row, at: float) -> None:
        row.due = at
        heapq.heappush(self._due, (at, row.name, row.generation))

    # --- answers ---

    def answered(self, name: str, generation: int, number: int, verdict: Verdict, now: float) -> list[Effect]:
        """To the question `number`; to one that was dropped nothing."""
        row = self._rows.get(name)
        if row is None or row.generation != generation or row.asking != number:
            return []
        row.asking, row.last, row.checks = 0, verdict, row.checks + 1
        share = 1.0 if row.checks > 1 else 0.5 + _share(name) / 2
        self._arm(row, max(now, row.slot + row.plan.interval * share))
        match verdict.passed:
            case True:
                return self._passed(row, now)
            case False:
                return self._failed(row, now)
        return []

    def _passed(self, row: Row, now: float) -> list[Effect]:
        row.failed, row.passed, row.grace_until = 0, row.passed + 1, 0.0
        enough = 1 if row.state is State.UNKNOWN else row.plan.successes
        if row.state is State.HEALTHY or row.passed < enough:
            return []
        return [self._mark(row, State.HEALTHY, "", now)]

    def _failed(self, row: Row, now: float) -> list[Effect]:
        if row.state is State.UNKNOWN and now < row.grace_until:
            return []
        row.passed, row.failed = 0, row.failed + 1
        if row.failed < row.plan.failures and row.state is not State.UNHEALTHY:
            return []
        count = "1 check" if row.failed == 1 else f"{row.failed} checks in a row"
        why = f"{count} failed: {row.last.why}"
        effects: list[Effect] = [] if row.state is State.UNHEALTHY else [self._mark(row, State.UNHEALTHY, why, now)]
        return [*effects, Replace(row.name, row.generation, why)] if row.plan.action == "restart" else effects

    def _mark(self, row: Row, state: State, why: str, now: float) -> Mark:
        row.state, row.why, row.since = state, why, now
        return Mark(row.name, row.generation, state, why)


def _share(name: str) -> float:
    """From 0 to 1, always the same for a name."""
    return zlib.crc32(name.encode()) / 2**32
