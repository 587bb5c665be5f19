"""A world with durable messages: a store, a disk, agents that send durably, and what befalls them besides.

>>> outcome = DurableWorld(draw_durable(1, "safety")).run()
>>> outcome.violation is None
True
"""

from __future__ import annotations

from itertools import count

from otpd.supervisor.spec import Launch
from tests.simulation.agent import SimulatedAgent
from tests.simulation.disk import Disk
from tests.simulation.durables import Durables
from tests.simulation.durablestore import DurableStore
from tests.simulation.kernel import Process
from tests.simulation.observe import Observer
from tests.simulation.parts import Part
from tests.simulation.scenario import Scenario, draw_durable
from tests.simulation.workers import Job, Worker
from tests.simulation.world import Outcome, World

__all__ = ["DurableWorld", "draw_durable"]


class DurableWorld(World):
    services = ("broker", "store")

    def __init__(self, scenario: Scenario, observers: tuple[type[Observer], ...] = ()) -> None:
        self.disk = Disk()
        self.labels = count(1)  # of durable messages
        super().__init__(scenario, observers)

    def program(self, launch: Launch, process: Process, job: Job) -> Worker:
        return DurableStore(self, process, job) if job.name == "store" else super().program(launch, process, job)

    def parts(self, agent: SimulatedAgent) -> tuple[Part, ...]:
        return (Durables(agent),)

    def run(self) -> Outcome:
        try:
            return super().run()
        finally:
            self.disk.close()

    def power_cut(self) -> None:
        self.disk.power_cut()

    def heal_all(self) -> None:
        super().heal_all()
        self.disk.full = False
