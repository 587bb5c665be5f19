"""A world with a store: agents load their state and save it again and again, while everybody dies and the disk fails.

What must hold of it (messaging.md 5.3), as each agent and the disk have seen it:
25 what was acknowledged is never lost; 31 a full disk acknowledges nothing falsely; 32 the mark is never ahead of the
database; 45 versions have no gaps, incarnations never go back, each save takes place once; 46 when the faults are over,
everybody is served.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from otpd.ipc import happenings
from otpd.ipc.endpoint import Address
from otpd.supervisor.spec import Launch
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import MS, SECOND
from tests.simulation.kernel import Process
from tests.simulation.messages import Recipe
from tests.simulation.observe import Violation
from tests.simulation.scenario import CALM, Scenario
from tests.simulation.store import Ask, Disk, SimulatedStore
from tests.simulation.workers import Job, Worker
from tests.simulation.world import World

#: Nanoseconds that load and save wait for the store, and between two attempts: the first time, and at most.
PATIENCE, PAUSE, LONGEST = 30 * SECOND, 20 * MS, 500 * MS
#: After the faults are over everybody must be served within this time; agents save on until the last part of a run.
WELL, SAVES_ON = 60 * SECOND, 90 * SECOND
#: Of one attempt: a call is said again when it has no answer.
ATTEMPT: Final = 5 * SECOND
#: kind -> least and most milliseconds.
FAULTS: Final = {
    "store_kill": (0, 0), "store_stop": (1, 9000), "disk_full": (10, 8000), "disk_slow": (1, 3000), "power_cut": (0, 0),
}  # fmt: skip


class StoredWorld(World):
    services = ("broker", "store")

    def __init__(self, scenario: Scenario) -> None:
        random = Random(f"{scenario.seed}/{scenario.mode}/store")
        self.disk, self.states = Disk(random), States()
        self.asks: dict[int, Ask] = {}  # by the number of their message
        self.saves = 0
        super().__init__(scenario)
        end = scenario.span if scenario.mode == "safety" else int(scenario.span * CALM)
        for kind in random.sample(list(FAULTS), random.choice((1, 2, 3, 5))):
            for _ in range(random.choice((1, 2, 4, 8)) if kind != "power_cut" else 1):
                self.clock.at(random.randrange(end), self._strike, kind, random.randint(*FAULTS[kind]))

    def program(self, launch: Launch, process: Process, job: Job) -> Worker:
        if job.name == "store":
            return SimulatedStore(self, process, job)
        return Saver(self, process, job) if launch.script == "agent" else super().program(launch, process, job)

    def workload(self, agent: SimulatedAgent) -> Any:
        return agent if isinstance(agent, Saver) else Silent()

    def run_checked(self) -> str | None:
        """What was violated."""
        outcome = self.run()
        if outcome.violation is None and self.scenario.mode == "liveness":
            late = [each for each in self.states.given_up if each > int(self.scenario.span * CALM) + WELL]
            return f"46: the patience of {len(late)} ends long after the faults" if late else None
        return None if outcome.violation is None else f"{outcome.number}: {outcome.violation}"

    # --- faults ---

    def _strike(self, kind: str, amount: int) -> None:
        root = self.root
        live = None if root is None or self.over else root.workers.of("store")
        self.sometimes[f"fault: {kind}"] += 1
        if kind == "disk_full":
            self.disk.full = True
            self.clock.after(amount * MS, setattr, self.disk, "full", False)
        elif kind == "disk_slow":
            self.disk.slow = amount * MS
            self.clock.after(2 * SECOND, setattr, self.disk, "slow", 0)
        elif live is not None and live.process is not None and live.process.alive:
            self._hit(kind, amount, live.process)

    def _hit(self, kind: str, amount: int, store: Process) -> None:
        if kind == "store_stop":
            self.kernel.signal(store, signal.SIGSTOP)
            self.clock.after(amount * MS, self.kernel.signal, store, signal.SIGCONT)
            return
        self.kernel.signal(store, signal.SIGKILL)
        if kind == "power_cut":
            self.disk.cut()
            assert self.root is not None
            self.kernel.signal(self.root.process, signal.SIGKILL)


class Silent:
    def begin(self) -> None:
        """Says nothing."""


@dataclass(frozen=True, slots=True)
class Version:
    inc: int
    body: bytes | None
    number: int


class States:
    """Everything that has been committed and acknowledged, by name."""

    def __init__(self) -> None:
        self.acked: dict[str, int] = defaultdict(int)
        self.history: dict[tuple[str, int], Version] = {}
        self.done: dict[int, int] = {}  # save -> the version that it made
        self.newest: dict[str, int] = defaultdict(int)
        self.loaded: dict[str, int] = defaultdict(int)  # inc of who was told its state
        self.given_up: list[int] = []  # when somebody's patience ended

    def check(self, holds: object, number: int, text: str) -> None:
        if not holds:
            raise Violation(number, text)

    def began(self, disk: Disk) -> None:
        self.check(disk.mark <= disk.cache.seq, 32, f"mark {disk.mark} is ahead of the database, {disk.cache.seq}")
        for name, version in self.acked.items():
            row = disk.cache.rows.get(name)
            kept = row is not None and row.version >= version
            self.check(kept, 25, f"{name}: version {version} was acknowledged, {row}")
        for (name, version), _ in list(self.history.items()):
            if version > getattr(disk.cache.rows.get(name), "version", 0):  # never acknowledged, and lost with the power
                lost = self.history.pop((name, version))
                self.done.pop(lost.number, None)

    def committed(self, before: dict[str, Any], after: dict[str, Any], asks: list[Ask]) -> None:
        numbers = {b"%d" % ask.number: ask.number for ask in asks if ask.kind == "save"}
        for name, row in after.items():
            was = before.get(name)
            if row == was:
                continue
            saves = sum(ask.kind == "save" and ask.name == name for ask in asks)
            old, old_inc = (was.version, was.inc) if was else (0, 0)
            self.check(old < row.version <= old + saves, 45, f"{name}: from version {old} to {row.version} by {saves} saves")
            self.check(row.inc >= old_inc, 45, f"{name}: saved by {row.inc} after {old_inc}")
            self.check(row.inc >= self.loaded[name], 45, f"{name}: {row.inc} saves, and {self.loaded[name]} has loaded")
            number = numbers[row.body]
            self.check(number not in self.done, 45, f"{name}: save {number} takes place twice")
            self.done[number] = row.version
            self.history[name, row.version] = Version(row.inc, row.body, number)

    def answered(self, ask: Ask, current: bool) -> None:
        match ask.answer:
            case ("saved", int(version)):
                made = self.history.get((ask.name, version))
                right = made is not None and made.number == ask.number
                self.check(right, 31, f"{ask.name}: {version} is not what was saved")
                self.acked[ask.name] = max(self.acked[ask.name], version)
            case ("loaded", int(version), body):
                self.check(version >= ask.known, 25, f"{ask.name}: loaded {version}, {ask.known} had been acknowledged")
                made = self.history.get((ask.name, version))
                self.check(version == 0 or (made and made.body == body), 25, f"{ask.name}: loaded what nobody saved")
                self.loaded[ask.name] = max(self.loaded[ask.name], ask.inc)
            case ("stale",):
                self.check(not current, 45, f"{ask.name}: the current incarnation is refused")


class Saver(SimulatedAgent):
    """Loads, then saves at random times, as `otpd.agents.stored` does: one at a time, said again until its patience ends."""

    world: StoredWorld

    def __init__(self, world: StoredWorld, process: Process, job: Job) -> None:
        super().__init__(world, process, job)
        self.ask: Ask | None = None
        self._request: int | None = None
        self._version, self._pause = 0, PAUSE
        world.states.newest[self.name] = max(self.inc, world.states.newest[self.name])

    def begin(self) -> None:
        """Of the process first, of the workload later."""
        if self.phase == "init":
            super().begin()
        else:
            self._put(Ask("load", self.name, self.inc, known=self.world.states.acked.get(self.name, 0)))

    def _put(self, ask: Ask) -> None:
        ask.asked_at = self.world.clock.now
        self.ask, self._pause = ask, PAUSE
        self._say()

    def _say_again(self) -> None:
        self.process.after(self._pause, self._say)
        self._pause = min(2 * self._pause, LONGEST)

    def _say(self) -> None:
        if self.phase != "ready" or self.ask is None:
            return None
        now = self.world.clock.now
        if now > self.ask.asked_at + PATIENCE:
            self.world.states.given_up.append(now)
            return self.end("error(timeout)", 1)
        if not self.endpoint.room:
            return self._say_again()
        self._request = self.call(Address("store"), Recipe(MS), min(now + ATTEMPT, self.ask.asked_at + PATIENCE + MS))
        self.world.asks[self.calls[self._request].number] = self.ask = _again(self.ask)
        self.work()
        return None

    def _hear(self, happening: happenings.Happening) -> None:
        super()._hear(happening)
        match happening:
            case happenings.Replied(request=request) if request == self._request and self.process.alive:
                self._told()
            case happenings.CallFailed(request=request) if request == self._request and self.process.alive:
                self._request = None
                self.world.sometimes["a save is said again"] += 1
                self._say_again()

    def _told(self) -> None:
        ask, self._request = self.ask, None
        assert ask is not None
        self.world.states.answered(ask, self.world.states.newest[self.name] == self.inc)
        match ask.answer:
            case ("saved" | "loaded", int(version), *_):
                self._version, self.ask = version, None
                pause = int(self.random.expovariate(self.world.scenario.rate) * SECOND)
                self.process.after(max(pause, 2 * SECOND) if self.world.resting else pause, self._save)
            case ("stale",):
                self.world.sometimes["a stale save is refused"] += 1
                self.end("error(Stale)", 1)
            case _:
                self._say_again()

    def _save(self) -> None:
        if self.phase == "ready" and self.world.clock.now < self.world.scenario.span + SAVES_ON:
            self.world.saves += 1
            self._put(Ask("save", self.name, self.inc, self.world.saves, self._version))


def _again(ask: Ask) -> Ask:
    """An attempt of its own: an answer to an earlier one must not be taken for its answer."""
    return Ask(ask.kind, ask.name, ask.inc, ask.number, ask.expected, (), ask.asked_at, ask.known)
