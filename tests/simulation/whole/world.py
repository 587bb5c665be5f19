"""The whole node in one world: every service that has a machine of its own, under the same clock, router, tree and faults.

>>> outcome = WholeWorld(draw_whole(1, "safety")).run()
>>> outcome.violation is None
True
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from random import Random
from typing import Any, Final

from otpd.agents.schedules import Plan, cron_plan, every_plan
from otpd.agents.services.scheduler.effects import Instant
from otpd.supervisor.spec import Launch
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import SECOND
from tests.simulation.durable import DurableWorld
from tests.simulation.durables import STORE, Durables
from tests.simulation.durablestore import DurableStore
from tests.simulation.kernel import Process
from tests.simulation.observe import Observer
from tests.simulation.parts import Part
from tests.simulation.scenario import Scenario, draw_whole
from tests.simulation.whole.health import HEALTH, SimulatedHealth, Well
from tests.simulation.whole.records import Records
from tests.simulation.whole.saved import Saved
from tests.simulation.whole.scheduler import SCHEDULER, SimulatedScheduler
from tests.simulation.whole.store import WholeStore
from tests.simulation.whole.timed import Timed
from tests.simulation.workers import Job, Worker

__all__ = ["WholeWorld", "draw_whole"]

#: Nights on which clocks are changed, in either direction and in two zones; and an ordinary one.
NIGHTS: Final = ("2026-03-29T00:59", "2026-10-25T00:59", "2026-03-08T06:59", "2026-11-01T05:59", "2026-06-15T12:00")
ZONES: Final = ("Europe/Berlin", "America/New_York", "UTC")
LINES: Final = ("* * * * *", "*/20 * * * * *", "0 1,2,3 * * *", "0 */2 * * *")
#: Nanoseconds for what is on its way when nobody begins anything any more.
_HUSH: Final = 10 * SECOND
#: So far the wall clock may be behind where it was: further back, cron lines start over, and may run twice.
_BACK: Final = 2 * 3600 * SECOND


class WholeWorld(DurableWorld):
    services = ("broker", "store", "scheduler", "health")

    def __init__(self, scenario: Scenario, observers: tuple[type[Observer], ...] = ()) -> None:
        self.records = Records()
        self.acked: dict[str, int] = {}  # versions of states
        begin = Random(f"{scenario.seed}/night").choice(NIGHTS)
        self.ahead = int(datetime.datetime.fromisoformat(begin).replace(tzinfo=datetime.UTC).timestamp()) * SECOND
        self._least = self.ahead - _BACK
        self.hushed = False  # no timer rings any more, and nobody is asked for his health
        super().__init__(scenario, observers)

    @property
    def instant(self) -> Instant:
        return Instant(self.clock.now, self.clock.now + self.ahead)

    # --- the doors ---

    def program(self, launch: Launch, process: Process, job: Job) -> Worker:
        kind = _SERVICES.get(job.name)
        return super().program(launch, process, job) if kind is None else kind(self, process, job)

    def parts(self, agent: SimulatedAgent) -> tuple[Part, ...]:
        """Scripts have neither timers nor states."""
        durables = Durables(agent)
        if agent.name.startswith("@"):
            return (durables,)
        saved = Saved(agent)
        durables.state_with_effect, durables.committed_state = saved.with_effect, saved.saved
        return durables, saved, Timed(agent, saved), Well(agent)

    def send_durably(self, agent: SimulatedAgent) -> None:
        self.sometimes["a timer sends what is durable, and there is no store"] += self.store is None
        _durables(agent).send(agent.random.choice(self.scenario.agents))

    def acknowledged(self, name: str) -> int:
        """The newest version of its state that anybody was told of."""
        return self.acked.get(name, 0)

    def waits_for_store(self, agent: SimulatedAgent) -> bool:
        return any(isinstance(part, Saved) and part.open is not None for part in agent.parts)

    def submits(self, agent: SimulatedAgent) -> bool:
        """Something durable of its has not been accepted yet."""
        return _durables(agent).is_submitting

    def plans(self, name: str) -> dict[str, Plan]:
        """What the class of an agent declares: the same in every incarnation."""
        chance = Random(f"{self.scenario.seed}/{name}/plans")
        return {key: _plan(chance) for key in ("one", "two")[: chance.choice((0, 0, 1, 2))]}

    @property
    def store(self) -> DurableStore | None:
        return next((agent for agent in self.agents() if isinstance(agent, DurableStore)), None)

    @property
    def scheduler(self) -> SimulatedScheduler | None:
        return next((agent for agent in self.agents() if isinstance(agent, SimulatedScheduler)), None)

    # --- faults ---

    def power_cut(self) -> None:
        super().power_cut()
        self.sometimes["power fails while a timer's record is not synced"] += not self.records.is_synced
        self.records.power_cut()
        self.watch.timed("power failed")

    def jump(self, amount: int) -> None:
        self.ahead = max(self._least, self.ahead + amount)
        self.watch.timed("jumped")
        scheduler = self.scheduler
        if scheduler is not None and scheduler.alarm is not None:
            scheduler.process.do(scheduler.alarm.ring)

    def _settle(self) -> None:
        self.watch.timed("rested")
        self.hushed = True
        self._until(self.clock.now + _HUSH)


_SERVICES: Final[dict[str, Callable[[WholeWorld, Process, Job], Worker]]] = {
    SCHEDULER: SimulatedScheduler,
    STORE: WholeStore,
    HEALTH: SimulatedHealth,
}


def _durables(agent: SimulatedAgent) -> Durables:
    return next(part for part in agent.parts if isinstance(part, Durables))


def _plan(chance: Random) -> Plan:
    rules: dict[str, Any] = {
        "misfire": chance.choice(("skip", "run_once", "run_all(3)")),
        "overlap": chance.choice(("skip", "queue(2)", "allow", "kill_previous")),
        "max_runtime": chance.choice((None, 3)),
        "jitter": chance.choice((0, 0, 1)),
    }
    if chance.random() < 0.6:
        return every_plan(chance.choice((2, 10, 30, 61)), fixed=chance.choice(("rate", "delay")), **rules)
    return cron_plan(chance.choice(LINES), timezone=chance.choice(ZONES), **rules)
