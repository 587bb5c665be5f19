"""Which of the slots that have come are run, and which are missed. Pure.

A slot is on time while it is at most ON_TIME late, whatever the policy: nobody is punctual to the millisecond. The others
are missed: the service or its agent was away, or a clock has leapt over them. What becomes of missed slots:

| misfire | run |
|---|---|
| `skip` | none |
| `run_once` | one for all of them, and none beside a slot that is on time |
| `run_all(limit)` | the last `limit`, one after the other |

With `grace`, slots that are later than that are missed for good.

>>> from otpd.agents.schedules import Rules
>>> second = 1_000_000_000
>>> slots = [second * n for n in (10, 20, 30)]
>>> choose(slots, 3, 31 * second, Rules(misfire="run_once"))
Choice(run=[30000000000], missed=2, on_time=True)
>>> choose(slots, 3, 99 * second, Rules(misfire="run_all", limit=2))
Choice(run=[20000000000, 30000000000], missed=1, on_time=False)
>>> choose(slots, 3, 99 * second, Rules(misfire="run_once", grace=60 * second))
Choice(run=[], missed=3, on_time=False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otpd.agents.schedules import Rules

#: A busy machine, a restart of the service or of the agent: they make a run late, not missed.
ON_TIME: Final = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """`on_time`: the run is one, and it is the newest slot."""

    run: list[int]
    missed: int
    on_time: bool


def wanted(rules: Rules) -> int:
    """How many of the newest slots `choose` must see."""
    return max(1, rules.limit)


def choose(newest: Sequence[int], count: int, now: int, rules: Rules) -> Choice:
    """`newest`: the last of the `count` slots that have come, oldest first. `now` on their clock."""
    late = [slot for slot in newest if rules.grace is None or now - slot <= max(rules.grace, 0)]
    on_time = bool(newest) and now - newest[-1] <= ON_TIME
    match rules.misfire:
        case "skip":
            run = list(newest[-1:]) if on_time else []
        case "run_once":
            run = list(newest[-1:]) if on_time else late[-1:]
        case _:
            run = list(newest[-1:]) if on_time and not late else late[-rules.limit :]
    return Choice(run, count - len(run), on_time and len(run) == 1)
