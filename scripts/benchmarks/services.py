"""What the services cost, each with its baseline in the same run: a module for each, by the word that --only looks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from scripts.benchmarks import durable, health, observers, state, timers
from scripts.benchmarks.table import Row

Chosen = Callable[[str], bool]
PARTS: Final[dict[str, Callable[[], Iterator[Row]]]] = {
    "state": state.rows,
    "durable": durable.rows,
    "scheduler, late": timers.punctual,
    "scheduler, armed": timers.many,
    "scheduler, many runs": timers.steady,
    "death to record in otpd errors": observers.death_to_record,
    "observers at rest": observers.at_rest,
    "health": health.rows,
}


def run(chosen: Chosen) -> Iterator[Row]:
    for name, measure in PARTS.items():
        if chosen(name):
            yield from measure()
