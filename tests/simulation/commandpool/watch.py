"""Invariant 44 for commands, held against what really ran: one outcome for each, carried out at most once, slots that are
true, a queue with its bound, and nothing left of what was told to be over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otpd.agents.sandbox.dispatch import State
from tests.simulation.kernel import Process
from tests.simulation.observe import Violation

if TYPE_CHECKING:
    from tests.simulation.commandpool.world import Service, World


@dataclass(slots=True, eq=False)
class Story:
    """What has become of one command."""

    owner: Process
    service: Service
    command: Process | None = None  # once it is carried out
    has_ended: bool = False  # by itself
    outcomes: list[str] = field(default_factory=list)


class Watch:
    def __init__(self, world: World) -> None:
        self._world = world
        self._stories: dict[int, Story] = {}

    def ordered(self, number: int, owner: Process, service: Service) -> None:
        self._stories[number] = Story(owner, service)

    def begins(self, number: int, command: Process) -> None:
        story = self._stories[number]
        _check(story.command is None, f"command {number} is carried out twice")
        _check(not story.outcomes, f"command {number} begins after it was said to be over: {story.outcomes}")
        beside = [each for each in self._living() if each is not command and each.parent is command.parent]
        _check(not beside, "a worker carries out two commands at once")
        story.command = command

    def ends(self, number: int) -> None:
        self._stories[number].has_ended = True

    def over(self, number: int, how: str) -> None:
        """The service has decided."""
        story = self._stories[number]
        if how in ("busy", "refused"):
            _check(story.command is None, f"command {number} was carried out, and is said to be {how}")
        elif how == "done":
            _check(story.has_ended, f"command {number} is done, and has never ended")
        runs_on = story.command is not None and story.command.alive
        _check(not runs_on, f"command {number} is said to be over ({how}), and runs on")

    def told(self, number: int, how: str) -> None:
        story = self._stories[number]
        story.outcomes.append(how)
        self._world.sometimes[f"told {how}"] += 1
        _check(len(story.outcomes) == 1, f"command {number} has two outcomes: {story.outcomes}")

    def _living(self) -> list[Process]:
        return [each for each in self._world.kernel.living() if each.cookie.name == "command"]

    def look(self) -> None:
        """After every event."""
        world = self._world
        workers = [each for each in world.kernel.living() if each.cookie.name == "worker"]
        _check(len(workers) <= world.size, f"{len(workers)} workers in a pool of {world.size}")
        for command in self._living():
            _check(command.parent is not None and command.parent.alive, f"{command} has outlived its worker")
        if world.service is not None and world.service.process.alive:
            self._slots(world.service)

    def _slots(self, service: Service) -> None:
        world = self._world
        bound = world.queue + world.size  # those for which workers are coming are no queue
        _check(service.dispatch.waiting() <= bound, f"{service.dispatch.waiting()} commands wait where {bound} may")
        for number, worker in service.crew.items():
            busy = service.dispatch.state(number) is State.BUSY
            _check(busy == (worker.run is not None), f"the slot of worker {number} is {busy}, its run {worker.run}")
        for name in {run.owner.name for run in service.runs.values()}:
            mine = sum(run.owner.name == name for run in service.runs.values())
            _check(mine <= world.share, f"{name} has {mine} commands where {world.share} are its share")

    def finished(self) -> None:
        """Everybody was given the time to come to an end."""
        _check(not self._living(), f"left: {list(map(str, self._living()))}")
        for number, story in self._stories.items():
            _check(bool(story.outcomes) or not story.owner.alive, f"command {number} has had no outcome")
        service = self._world.service
        if service is not None:
            _check(not service.runs and not list(service.book), "the service still keeps commands that are over")


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise Violation(44, why)
