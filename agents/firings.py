"""What one incarnation knows of the runs that it was given: each is handled once, however often it is asked for. Pure.

The scheduler, or the broker between, may die at any moment; who comes after asks for the same run again. The agent itself
is the one that knows whether it has it: in this incarnation, in memory, and in no other (an incarnation that died took with
it what it was given).

| asked for a run that is | and `only` names | answer |
|---|---|---|
| running or waiting | - | attach: the answer comes with its end |
| ended | - | its outcome |
| unknown, of a fixed delay that has not passed since the last end | - | early: the word of a scheduler that is no more |
| unknown | nobody, or this generation | run it |
| unknown | another generation | lost |

>>> firings = Firings(7)
>>> firings.take("a/report", 10, None), firings.take("a/report", 10, 7)
('run', 'attach')
>>> firings.end("a/report", 10, "done", 12); firings.take("a/report", 10, 7), firings.take("a/report", 9, 6)
('done', 'lost')
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.agents.schedules import Every, Plan, to_data

#: Ended runs that are remembered: whoever asks again does so within seconds.
REMEMBERED: Final = 4096

#: ns by which the scheduler may have counted from an earlier end: that of a run that it cancelled, and that ended later.
_SLACK: Final = 1_000_000_000


@dataclass(slots=True)
class Declaration:
    """One decorated method; what `machine.Declared` says of it. Runs that an operator asks for have numbers below 0 and move
    nothing."""

    id: str
    method: str
    plan: Plan
    since: int
    last: int | None = None
    ended: int | None = None
    running: set[int] = field(default_factory=set)

    def too_early(self, run: int) -> bool:
        """Two schedulers, one after the other, count a fixed delay from slightly different ends, and both may have sent."""
        if not (isinstance(self.plan, Every) and self.plan.delay) or run < 0:
            return False
        goes_on = any(each > 0 for each in self.running)
        interval = self.plan.interval
        return goes_on or (self.ended is not None and run < self.ended + interval - min(interval // 2, _SLACK))

    def to_data(self) -> dict[str, Any]:
        return {
            "id": self.id, "method": self.method, "plan": to_data(self.plan), "since": self.since, "last": self.last,
            "ended": self.ended, "running": sorted(self.running),
        }  # fmt: skip


class Firings:
    def __init__(self, generation: int, declared: Iterable[Declaration] = ()) -> None:
        self._generation = generation
        self.declared = {each.id: each for each in declared}
        self._runs: dict[tuple[str, int], str | None] = {}  # None: it goes on

    def take(self, id_: str, run: int, only: int | None) -> str:
        key = (id_, run)
        if key in self._runs:
            return self._runs[key] or "attach"
        if only is not None and only != self._generation:
            return "lost"
        declared = self.declared.get(id_)
        if declared is not None and declared.too_early(run):
            return "early"
        self._runs[key] = None
        if declared is not None:
            declared.running.add(run)
            declared.last = max(declared.last or 0, run) or None
        return "run"

    def end(self, id_: str, run: int, outcome: str, now: int) -> None:
        """`now`: ns of CLOCK_MONOTONIC."""
        self._runs.pop((id_, run), None)
        self._runs[id_, run] = outcome
        if len(self._runs) > REMEMBERED:
            self._forget()
        declared = self.declared.get(id_)
        if declared is not None:
            declared.running.discard(run)
            declared.ended = now if run > 0 else declared.ended

    def _forget(self) -> None:
        """The one that ended first."""
        oldest = next((key for key, outcome in self._runs.items() if outcome is not None), None)
        if oldest is not None:
            del self._runs[oldest]

    def declarations(self) -> list[dict[str, Any]]:
        return [each.to_data() for each in self.declared.values()]
