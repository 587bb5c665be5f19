"""A program that does not speak: up as soon as it runs, and a helper that a worker may leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.clock import MS
from tests.simulation.kernel import Process
from tests.simulation.workers import Job

if TYPE_CHECKING:
    from tests.simulation.world import World


class SimulatedProgram:
    def __init__(self, world: World, process: Process, job: Job) -> None:
        self.world, self.process, self.job = world, process, job
        self.name = job.name

    def begin(self) -> None:
        self.process.after(self.world.chance.randrange(MS, 5 * MS), self.job.say, ["spawned"])

    def signalled(self, _number: int) -> None:
        if not self.world.is_deaf(self):
            self.process.after(self.world.chance.randrange(5 * MS), self.process.exit, 0)

    def told(self, packet: list[Any]) -> None:
        """It has no channel."""

    def orphaned(self) -> None:
        """It does not notice; heart ends it."""


class Helper:
    """What a worker has started and forgotten: never ends by itself, and ignores SIGTERM."""

    def begin(self) -> None: ...

    def signalled(self, _number: int) -> None: ...
