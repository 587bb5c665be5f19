"""Runs seeds and reports: one at a time, many on several cores, each hundredth twice, and a failure with all that is needed.

>>> report = many(range(3), ("safety",))
>>> report.passed, report.failures
(3, [])
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tests.simulation.durable import DurableWorld
from tests.simulation.scenario import Fault, Mode, Scenario, draw, draw_durable, draw_whole
from tests.simulation.shrink import ddmin
from tests.simulation.trace import Trace
from tests.simulation.whole.world import WholeWorld
from tests.simulation.world import Outcome, World

#: One of so many seeds runs twice, and must do the same twice.
TWICE = 100
Draw: TypeAlias = Callable[[int, Mode], Scenario]


@dataclass(frozen=True, slots=True)
class Failure:
    outcome: Outcome
    faults: tuple[Fault, ...]  # shrunk
    chosen: tuple[int, ...]  # their places among all faults of the seed
    drawn: int  # how many there were
    world: str = ""  # the option of scripts/simulate that draws it

    @property
    def command(self) -> str:
        """Replays it."""
        chosen = ",".join(map(str, self.chosen)) or "none"
        which = f"--seed {self.outcome.seed} --mode {self.outcome.mode}{self.world}"
        return f"scripts/simulate {which} --faults {chosen} --trace"

    def lines(self) -> list[str]:
        outcome = self.outcome
        head = f"seed {outcome.seed} {outcome.mode}: {outcome.violation} (after {outcome.seconds:.3f} s)"
        kept = [f"    {fault}" for fault in self.faults]
        return [head, f"  replay: {self.command}", f"  faults: {len(self.faults)} of {self.drawn}", *kept]


@dataclass(slots=True)
class Report:
    passed: int = 0
    events: int = 0
    simulated: float = 0.0
    took: float = 0.0  # seconds of the clock on the wall
    sometimes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.events += outcome.events
        self.simulated += outcome.seconds
        self.sometimes.update(outcome.sometimes)
        self.passed += outcome.violation is None


def one(scenario: Scenario, trace: bool = False) -> Outcome:
    kind = WholeWorld if scenario.timers else DurableWorld if scenario.durable else World
    return kind(scenario, observers=(Trace,) if trace else ()).run()


def checked(seed: int, mode: Mode, draw: Draw = draw) -> Outcome:
    """`one`, twice where that is due."""
    outcome = one(draw(seed, mode))
    if seed % TWICE == 0 and outcome.violation is None and one(draw(seed, mode)).digest != outcome.digest:
        return replace(outcome, violation="two runs of this seed are not the same", number=0)
    return outcome


def shrunk(outcome: Outcome, budget: int = 100, draw: Draw = draw) -> Failure:
    """The failure, with the fewest faults that still lead to it."""
    scenario = draw(outcome.seed, outcome.mode)

    def fails(places: tuple[int, ...]) -> bool:
        return one(scenario.only(places)).number == outcome.number

    places = ddmin(tuple(range(len(scenario.faults))), fails, budget)
    chosen = scenario.only(places)
    world = " --whole" if draw is draw_whole else " --durable" if draw is draw_durable else ""
    return Failure(one(chosen), chosen.faults, places, len(scenario.faults), world)


def many(seeds: Iterable[int], modes: tuple[Mode, ...], jobs: int = 1, draw: Draw = draw) -> Report:
    """All of them; failures are shrunk."""
    began, report = time.perf_counter(), Report()
    work = [(seed, mode, draw) for seed in seeds for mode in modes]
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(checked, *zip(*work, strict=True), chunksize=8))
    else:
        outcomes = [checked(*each) for each in work]
    for outcome in outcomes:
        report.add(outcome)
    report.took = time.perf_counter() - began
    report.failures = [shrunk(outcome, draw=draw) for outcome in outcomes if outcome.violation is not None]
    return report
