"""What one incarnation knows of the runs that it was given: each is handled once, however often it is asked for. Pure.

The scheduler, or the broker between, may die at any moment; who comes after asks for the same run again. The agent itself
is the one that knows whether it has it: in this incarnation, in memory, and in no other (an incarnation that died took with
it what it was given).

| asked for a run that is | and `only` names | answer |
|---|---|---|
| running or waiting | - | attach: the answer comes with its end |
| ended | - | its outcome |
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

from otpd.agents.schedules import Plan, to_data

#: Ended runs that are remembered: whoever asks again does so within seconds.
REMEMBERED: Final = 4096


@dataclass(slots=True)
class Declaration:
    """One decorated method; what `machine.Declared` says of it."""

    id: str
    method: str
    plan: Plan
    since: int
    last: int | None = None
    ended: int | None = None
    running: set[int] = field(default_factory=set)

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
        self._runs[key] = None
        declared = self.declared.get(id_)
        if declared is not None:
            declared.running.add(run)
            declared.last = max(declared.last or 0, run) or None  # what an operator asks for is below 0
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
            declared.ended = now

    def _forget(self) -> None:
        """The one that ended first."""
        oldest = next((key for key, outcome in self._runs.items() if outcome is not None), None)
        if oldest is not None:
            del self._runs[oldest]

    def declarations(self) -> list[dict[str, Any]]:
        return [each.to_data() for each in self.declared.values()]
