"""Who is told of events inside telemetry, so that one that fails hurts nobody and comes back. Pure.

| state | event comes | it raises | its time has come |
|---|---|---|---|
| ATTACHED | told | WAITING, for 1 s, doubled each time up to 60 s | - |
| WAITING | missed, counted | - | PROBED |
| PROBED | told | WAITING, longer | ATTACHED, when it has not raised |

Erlang's telemetry detaches a handler that fails, for ever and nearly in silence; here nobody but who failed misses anything,
and it is said how many.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


class State(enum.Enum):
    ATTACHED = "attached"
    WAITING = "waiting"
    PROBED = "probed"


@dataclass(slots=True)
class Subscription:
    """`failures`, `missed`: since it began; `wait`: seconds of the present or next wait."""

    state: State = State.ATTACHED
    failures: int = 0
    missed: int = 0
    missed_now: int = 0  # since it failed
    wait: float = FIRST_WAIT
    until: float = 0.0
    why: str = ""


class Subscribers:
    """By name. `now` in seconds, never going back."""

    def __init__(self) -> None:
        self.table: dict[str, Subscription] = {}

    def attach(self, name: str) -> None:
        self.table[name] = Subscription()

    def offer(self, count: int, now: float) -> list[str]:
        """Who is to be told of `count` events; for the others they are missed."""
        return [name for name, each in self.table.items() if self._told(each, count, now)]

    def succeeded(self, name: str) -> int | None:
        """It took them. What it had missed, if it is back with that; else None."""
        each = self.table[name]
        if each.state is not State.PROBED:
            return None
        each.state, each.wait = State.ATTACHED, FIRST_WAIT
        missed, each.missed_now = each.missed_now, 0
        return missed

    def failed(self, name: str, why: str, count: int, now: float) -> bool:
        """It raised; `count` events are missed. True: for the first time since it was attached."""
        each = self.table[name]
        first = each.state is State.ATTACHED
        each.failures, each.why = each.failures + 1, why
        self._miss(each, count)
        each.state, each.until = State.WAITING, now + each.wait
        each.wait = min(LONGEST_WAIT, each.wait * 2)
        return first

    def _told(self, each: Subscription, count: int, now: float) -> bool:
        if each.state is State.WAITING and now >= each.until:
            each.state = State.PROBED
        if each.state is State.WAITING:
            self._miss(each, count)
        return each.state is not State.WAITING

    @staticmethod
    def _miss(each: Subscription, count: int) -> None:
        each.missed += count
        each.missed_now += count
