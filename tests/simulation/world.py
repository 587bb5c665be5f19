"""The simulated world: one node under one virtual clock, with everything that may go wrong in it.

>>> outcome = World(draw(1, "safety")).run()
>>> outcome.violation is None and outcome.events > 100
True

Everything is decided by the seed: the scenario, latencies, what agents say, what faults hit. Machines and invariants are the
only things here that are not random; a later service comes in as one more `Program` (see `PROGRAMS`) and its invariants.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from otpd.supervisor.spec import Launch
from tests.simulation import faults
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import MS, SECOND, Clock
from tests.simulation.heart import SimulatedHeart
from tests.simulation.invariants import INVARIANTS
from tests.simulation.kernel import Cookie, Kernel, Process
from tests.simulation.links import Latency
from tests.simulation.messages import Mail
from tests.simulation.observe import Observer, Violation, fan_out
from tests.simulation.parts import Part
from tests.simulation.program import SimulatedProgram
from tests.simulation.root import SimulatedRoot
from tests.simulation.scenario import CALM, Mode, Scenario, draw
from tests.simulation.workers import Job, Worker
from tests.simulation.workload import Workload

__all__ = ["Outcome", "World", "draw"]

#: The doors: what a Launch with this script (services: this name) runs.
PROGRAMS: Final[dict[str, Callable[[World, Process, Job], Worker]]] = {
    "agent": SimulatedAgent,
    "program": SimulatedProgram,
    "broker": SimulatedBroker,
}
#: Nanoseconds that a node gets to be well again when the faults are over: the longest back-off, twice, and some starts.
RECOVERY: Final = 120 * SECOND
#: And to stop in order, beyond what its children may take.
STOP_SLACK: Final = 30 * SECOND


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    mode: Mode
    events: int
    seconds: float  # simulated
    digest: int
    violation: str | None
    number: int | None  # of the invariant
    sometimes: Counter[str] = field(default_factory=Counter)


class World:
    #: Those of the node's services that there are.
    services: tuple[str, ...] = ("broker",)

    def __init__(self, scenario: Scenario, observers: tuple[type[Observer], ...] = ()) -> None:
        """`observers`: beside the invariants, and before them."""
        self.scenario = scenario
        seed = f"{scenario.seed}/{scenario.mode}"
        self.clock = Clock()
        self.chance = Random(f"{seed}/chance")
        self.identities = Random(f"{seed}/identities")
        speed = Random(f"{seed}/latency")
        self.latency = Latency(speed, scenario.latency, 200 * scenario.latency, scenario.tail)
        self.root_latency = Latency(speed, 20_000, 2_000_000, scenario.tail)
        self.turn = Latency(speed, 10_000, 500_000, scenario.tail / 10)
        self.kernel = Kernel(self.clock, self.chance)
        self.mail = Mail()
        self.sometimes: Counter[str] = Counter()
        self.identities_of: dict[bytes, tuple[str, int]] = {}  # routing id -> whose it is, for ever
        self.brokers: dict[str, SimulatedBroker] = {}
        self.ends: set[Any] = set()  # incarnations that have ended, and epochs
        self.resting = False  # the workload is over
        self.over = False  # the node is stopping for good
        self.ended = False
        self._ailments: Counter[tuple[str, str]] = Counter()
        self._traits: dict[int, dict[str, int]] = {}  # of living processes, by number
        self.watch = fan_out(self, [observer(self) for observer in (*observers, *INVARIANTS)])
        self.kernel.on_start, self.kernel.on_end = self.watch.process_started, self.watch.process_ended
        self.kernel.on_kill = self.watch.killed
        process = self.kernel.spawn(Cookie("heart", 0), None)
        self.heart = SimulatedHeart(self, process)
        process.program = self.heart

    # --- the run ---

    def run(self) -> Outcome:
        """Also an exception of a machine is a violation: of what can never happen (0)."""
        violation, number = None, None
        try:
            self._live()
        except Violation as found:
            violation, number = str(found), found.number
        except Exception:
            violation, number = traceback.format_exc(), 0
        return Outcome(
            self.scenario.seed,
            self.scenario.mode,
            self.clock.events,
            self.clock.now / SECOND,
            self.clock.digest,
            violation,
            number,
            self.sometimes,
        )

    def _live(self) -> None:
        scenario = self.scenario
        for fault in scenario.faults:
            self.clock.at(fault.at, faults.strike, self, fault)
        self.heart.begin()
        if scenario.mode == "liveness":
            self._until(int(scenario.span * CALM))
            faults.heal(self)
            self.watch.calmed()
            self._until(scenario.span)
            self.resting = True
            self._until(scenario.span + RECOVERY)
            self._settle()
        else:
            self._until(scenario.span)
        self.watch.finished()
        self._stop()

    def _settle(self) -> None:
        """What goes on by itself comes to rest, so that it can be seen whether all is well."""

    def _until(self, when: int) -> None:
        clock = self.clock
        while (following := clock.next) is not None and following <= when:
            clock.step()
        clock.now = max(clock.now, when)

    def _stop(self) -> None:
        """In order, as `otpd stop` does."""
        self.resting = self.over = True
        faults.heal(self)
        if self.root is None:
            return
        self.root.stop()
        deadline = self.clock.now + STOP_SLACK + faults.stop_time(self.scenario.top)
        while not self.ended and (following := self.clock.next) is not None and following <= deadline:
            self.clock.step()
        if not self.ended:
            raise Violation(38, f"the tree has not ended {STOP_SLACK / SECOND:g} s after its children had to")
        self._until(self.clock.now + SECOND)
        self.watch.stopped()

    @property
    def root(self) -> SimulatedRoot | None:
        """The living one."""
        root = self.heart.root
        return root if root is not None and root.process.alive else None

    def node_ended(self, root: SimulatedRoot, _reason: Any, gave_up: bool) -> None:
        if gave_up and not root.stopping:
            raise Violation(36, "the top gave up, although it isolates")
        self.ended = True
        root.process.exit(0)

    def agents(self) -> list[SimulatedAgent]:
        """Of living processes."""
        programs = (process.program for process in self.kernel.living())
        return [program for program in programs if isinstance(program, SimulatedAgent)]

    # --- the doors ---

    def program(self, launch: Launch, process: Process, job: Job) -> Worker:
        return PROGRAMS[job.name if launch.kind == "service" else str(launch.script)](self, process, job)

    def workload(self, agent: SimulatedAgent) -> Workload:
        return Workload(agent)

    def parts(self, agent: SimulatedAgent) -> tuple[Part, ...]:
        return ()

    # --- what faults have left ---

    def ail(self, name: str, ailment: str, times: int) -> None:
        self._ailments[name, ailment] += times

    def ailing(self, name: str, ailment: str) -> bool:
        """Whether this start attempt suffers from it; uses it up."""
        if self._ailments[name, ailment] <= 0:
            return False
        self._ailments[name, ailment] -= 1
        self.sometimes[f"a start suffers: {ailment}"] += 1
        return True

    def heal_all(self) -> None:
        self._ailments.clear()
        self._traits.clear()

    def mark(self, process: Process, trait: str, value: int) -> None:
        self._traits.setdefault(process.number, {})[trait] = value

    def trait(self, process: Process, name: str) -> int:
        return self._traits.get(process.number, {}).get(name, 0)

    def is_deaf(self, program: Any) -> bool:
        """Ignores SIGTERM."""
        deaf = bool(self.trait(program.process, "deaf"))
        self.sometimes["a worker ignores SIGTERM"] += deaf
        return deaf

    def slowness(self, agent: SimulatedAgent, takes: int) -> int:
        """How long a handler really takes. When the world rests nobody is slow, so that what waits can be worked off."""
        if self.resting:
            return min(takes, MS)
        busy = self._traits.get(agent.process.number, {}).pop("busy", 0)
        return busy or takes * (self.trait(agent.process, "slow") or 1)
