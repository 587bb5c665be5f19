"""The world of timers: a seed is one history of schedules, deaths, jumps of the clock and operators.

>>> World(1).run()

Raises Broken when something is not as it must be (invariant 43 of messaging.md, and what scheduling.md promises). In the
last fifth of a run nobody dies any more and no clock jumps, so that what is still to come has to come.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from otpd.agents.schedules import Plan, cron_plan, every_plan
from otpd.agents.services.scheduler.effects import Instant, Record
from tests.simulation.clock import MS, SECOND, Clock
from tests.simulation.timers.people import Agent, Call, Service
from tests.simulation.timers.watch import Broken, Watch

HOUR: Final = 3600 * SECOND
#: Nights on which clocks are changed, in either direction and in two zones; and an ordinary one.
NIGHTS: Final = ("2026-03-29T00:30", "2026-10-25T00:10", "2026-03-08T06:40", "2026-11-01T05:20", "2026-06-15T12:00")
NAMES: Final = ("a", "b", "c")
SPAN: Final = 400 * SECOND
CALM: Final = 320 * SECOND
FAULTS: Final = (
    "scheduler", "scheduler", "agent", "agent", "both", "broker", "root", "jump", "jump", "stop", "gone", "operator",
    "pause",
)  # fmt: skip


class World:
    def __init__(self, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.chance = Random(seed)
        self.clock = Clock()
        self.clock.now = 1000 * SECOND
        begin = datetime.datetime.fromisoformat(self.chance.choice(NIGHTS)).replace(tzinfo=datetime.UTC)
        self.ahead = int(begin.timestamp()) * SECOND - self.clock.now
        self.disk: dict[str, tuple[Record, int]] = {}
        self.life, self.epoch = 1, 1
        self.broken = False  # there is no broker
        self.sometimes: Counter[str] = Counter()
        self.lived: set[str] = set()  # what has happened before all was ended
        self.watch = Watch(self)
        self._links: dict[str, int] = {}
        self._services = 1
        self.service: Service | None = Service(self, 1)
        self.agents = {name: Agent(self, name, self._plans()) for name in NAMES}
        for agent in self.agents.values():
            agent.begin()
        for _ in range(self.chance.randrange(2, 14) if faults else 0):
            self.clock.at(self.clock.now + self.chance.randrange(CALM), self._strike, self.chance.choice(faults))
        for _ in range(30):
            self.clock.at(self.clock.now + self.chance.randrange(CALM), self._ask)

    def _plans(self) -> dict[str, Plan]:
        """A few for each agent, of all kinds."""
        chance, found = self.chance, {}
        for key in ("one", "two", "three"):
            rules: dict[str, Any] = {
                "misfire": chance.choice(("skip", "run_once", "run_all(3)")),
                "overlap": chance.choice(("skip", "queue(2)", "allow", "kill_previous")),
                "max_runtime": chance.choice((None, 3)),
                "jitter": chance.choice((0, 0, 1)),
            }
            if chance.random() < 0.6:
                found[key] = every_plan(chance.choice((1, 5, 20, 61)), fixed=chance.choice(("rate", "delay")), **rules)
            else:
                line = chance.choice(("* * * * *", "*/2 * * * *", "30 2 * * *", "30 1,2,3 * * *", "*/20 * * * * *"))
                found[key] = cron_plan(line, timezone=chance.choice(("Europe/Berlin", "America/New_York", "UTC")), **rules)
        return found

    # --- time ---

    @property
    def instant(self) -> Instant:
        return Instant(self.clock.now, self.clock.now + self.ahead)

    def run(self) -> None:
        begin = self.clock.now
        while (following := self.clock.next) is not None and following < begin + SPAN:
            self.clock.step()
        self.clock.now = begin + SPAN
        self.watch.finished()
        self.lived = set(self.sometimes)
        for agent in self.agents.values():
            agent.end("gone")
        while (following := self.clock.next) is not None and following < begin + SPAN + 30 * SECOND:
            self.clock.step()
        self.watch.emptied()

    def later(self, action: Callable[..., None], *args: Any) -> None:
        """A message on its way, in order with those that were said before."""
        when = max(self.clock.now + self.chance.randrange(MS // 10, 5 * MS), self._links.get("all", 0))
        self._links["all"] = when
        self.clock.at(when, action, *args)

    # --- the broker ---

    def carry(self, call: Call) -> None:
        self.later(self._carried, call)

    def _carried(self, call: Call) -> None:
        if call.epoch == self.epoch or self.chance.random() < 0.5:
            self.agents[call.fire.name].receive(call)

    def reply(self, call: Call, outcome: str, why: str = "") -> None:
        if call.epoch == self.epoch:
            self.later(self._replied, call, outcome, why, self.epoch)

    def _replied(self, call: Call, outcome: str, why: str, epoch: int) -> None:
        if self.service is not None and epoch == self.epoch and call.life == self.service.number:
            self.service.answered(call, outcome, why)

    def cancel(self, call: Call) -> None:
        self.agents[call.fire.name].cancel(call)

    def tell(self, name: str, state: str, generation: int) -> None:
        """The event on a topic: who is away, or has another broker meanwhile, asks by himself."""
        if self.service is not None:
            self.later(self.service.presence, name, state, generation)

    def whereis(self, name: str) -> tuple[str | None, int]:
        agent = self.agents[name]
        return (None, 0) if agent.state == "gone" else (agent.state, agent.generation)

    # --- what strikes ---

    def _strike(self, fault: str) -> None:
        self.sometimes[fault] += 1
        name = self.chance.choice(NAMES)
        match fault:
            case "scheduler":
                self._kill_scheduler()
            case "agent":
                self._kill_agent(self.agents[name], self.chance.choice((50 * MS, SECOND, 30 * SECOND)))
            case "both":
                self._kill_scheduler()
                self._kill_agent(self.agents[name], SECOND)
            case "broker":
                self._new_broker()
            case "root":
                self._kill_root()
            case "jump":
                self.ahead += self.chance.choice((-HOUR, HOUR, -90 * SECOND, 90 * SECOND))
                if self.service is not None:
                    self.service.ring()
            case "stop" | "gone":
                self._stop(self.agents[name], fault)
            case _:
                self._operate(fault)

    def _kill_scheduler(self) -> None:
        if self.service is not None:
            self.service.alive = False
            self.service = None
            self.clock.after(self.chance.choice((20 * MS, 200 * MS, 20 * SECOND)), self._start_scheduler)

    def _start_scheduler(self) -> None:
        if self.service is None:
            self._services += 1
            self.service = Service(self, self._services)
            self.service.connected(not self.broken)
            for agent in self.agents.values():
                agent.declare()

    def _kill_agent(self, agent: Agent, back: int) -> None:
        if agent.state == "ready":
            agent.end("restarting")
            self.clock.after(back, self._back, agent, agent.generation)

    def _back(self, agent: Agent, generation: int) -> None:
        if agent.state == "restarting" and agent.generation == generation:
            agent.begin()

    def _new_broker(self) -> None:
        """All that waits for an answer is told so."""
        self.epoch += 1
        self.broken = True
        service = self.service
        self.clock.after(self.chance.choice((MS, 50 * MS, 7 * SECOND)), self._broker_back, self.epoch)
        if service is not None:
            service.connected(False)
            for call in list(service.calls.values()):
                if call.epoch < self.epoch:
                    self.later(service.answered, call, "unknown")

    def _broker_back(self, epoch: int) -> None:
        """Names are asked for, and agents say anew what they declare."""
        if epoch != self.epoch:
            return
        self.broken = False
        service = self.service
        if service is not None:
            service.connected(True)
        for agent in self.agents.values():
            agent.waiting.clear()
            agent.declare()
        if service is not None:
            for name in list(service.machine.owners):
                service.look(name)

    def _kill_root(self) -> None:
        """And everybody with it; generations begin anew in another life."""
        self._kill_scheduler()
        self.life += 1
        self.epoch += 1
        self.broken = False
        for agent in self.agents.values():
            agent.waiting.clear()
            if agent.state in ("ready", "restarting"):
                agent.end("restarting")
                agent.generation = 0
                self.clock.after(self.chance.choice((50 * MS, SECOND)), self._back, agent, 0)

    def _stop(self, agent: Agent, state: str) -> None:
        """For good; and some time later somebody starts it again."""
        if agent.state in ("ready", "restarting"):
            if state == "stop" and agent.generation == 0:
                return
            agent.end("stopped" if state == "stop" else "gone")
            self.watch.stopped(agent.name)
            self.clock.after(60 * SECOND, self._start_again, agent)

    def _start_again(self, agent: Agent) -> None:
        if agent.state in ("stopped", "gone"):
            agent.plans = self._plans()
            self.watch.begins_anew(agent.name)
            agent.begin()

    def _operate(self, what: str) -> None:
        service = self.service
        if service is None or not service.machine.jobs:
            return
        id_ = self.chance.choice(sorted(service.machine.jobs))
        if what == "operator":
            service.machine.run_now(id_, service.now)
        else:
            service.machine.pause(id_, service.now)
            self.clock.after(5 * SECOND, self._resume, id_)
        service.turn()

    def _resume(self, id_: str) -> None:
        service = self.service
        if service is None:
            self.clock.after(SECOND, self._resume, id_)
        elif id_ in service.machine.jobs:
            service.machine.resume(id_, service.now)
            service.turn()
        elif id_ in self.disk or any(id_ in owner.memory for owner in service.machine.owners.values()):
            self.clock.after(SECOND, self._resume, id_)

    def _ask(self) -> None:
        """An agent sets a timer, or takes one back."""
        agent = self.agents[self.chance.choice(NAMES)]
        pending = [id_ for id_ in self.watch.pending if id_.startswith(f"{agent.name}/")]
        if pending and self.chance.random() < 0.3:
            agent.unschedule(self.chance.choice(pending))
        else:
            agent.schedule(self.chance.choice((10 * MS, SECOND, 15 * SECOND, 90 * SECOND)), self.chance.random() < 0.3)


__all__ = ["Broken", "World"]
