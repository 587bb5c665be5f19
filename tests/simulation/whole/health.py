"""The health service of the whole node: its real ward, and its real questions through the simulated broker.

It is an agent like the real one, with two connections to root, which has the real `HealthLink`. Agents answer by a part of
their SDK; a program is asked in a way of its own, that needs no broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.mailbox import HEALTH as METHOD
from otpd.agents.services.health.alerts import Threshold
from otpd.agents.services.health.calling import CALL, Calls
from otpd.agents.services.health.limits import Usage
from otpd.agents.services.health.probes import Ask, Drop, Verdict
from otpd.agents.services.health.ward import Effect, Report, Ward
from otpd.ipc import happenings
from otpd.ipc.wire import Status
from otpd.supervisor.control import OperationError
from otpd.supervisor.services import HEALTH
from tests.simulation.agent import SimulatedAgent
from tests.simulation.clock import MS, SECOND, Entry
from tests.simulation.kernel import State
from tests.simulation.links import Pipe
from tests.simulation.parts import Part
from tests.simulation.whole.loop import Talk, Task

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.messages import Message
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.whole.world import WholeWorld
    from tests.simulation.workers import Job

_THRESHOLDS: Final = {"disk": Threshold(90.0, 80.0, 5.0)}
#: Descriptors of one that is not greedy, and nanoseconds between two looks.
_MODEST: Final = 10
_LOOK: Final = 2 * SECOND


class Well(Part):
    """How an agent answers: at once, beside its mailbox."""

    words = frozenset({METHOD})

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent

    def arrived(self, message: Message, happening: Any) -> bool:
        message.answer = "ill" if self._agent.world.trait(self._agent.process, "ill") else None
        self._agent.endpoint.reply(happening.call, Status.OK, message.body())
        return False


class Line:
    """One of the service's connections to root, as root sees it."""

    def __init__(self, service: SimulatedHealth, root: SimulatedRoot) -> None:
        self.pid = service.process.pid
        self.on_close: Callable[[], None] = lambda: None
        self._root, self._watch = root, service.world.watch
        clock, latency = service.world.clock, service.world.root_latency
        self._to_service = Pipe(clock, latency, lambda packet: service.process.do(service.heard, packet))
        self._to_root = Pipe(clock, latency, lambda request: root.process.do(self._ask, request))
        service.process.at_exit.append(self._lost)

    def ask(self, request: dict[str, Any]) -> None:
        """Of the service."""
        self._to_root.send(request)

    def _ask(self, request: dict[str, Any]) -> None:
        try:
            if request["op"] == "watch_health":
                self._watch.health("connected")
                self._root.health.watch(self, request)  # type: ignore[arg-type]
            else:
                self._root.health.report(self, request)  # type: ignore[arg-type]
                self._watch.health("reported", *request["items"])
        except OperationError:
            self._root.world.sometimes["a dead health service is not believed"] += 1

    def _lost(self) -> None:
        self._to_service.cut()
        self._to_root.end(lambda: self._root.process.do(self.on_close))

    def part(self, value: dict[str, Any]) -> None:
        self._to_service.send(value["said"])

    def answer(self, _result: Any) -> None:
        """Nobody waits for it here."""

    def close(self) -> None:
        """A later one has taken its place."""
        self._to_service.cut()
        self.on_close()


class SimulatedHealth(SimulatedAgent):
    """One incarnation."""

    world: WholeWorld

    def __init__(self, world: WholeWorld, process: Process, job: Job) -> None:
        super().__init__(world, process, job)
        self.ward = Ward(_THRESHOLDS)
        self.talk = Talk(self)
        self._calls = Calls(self.talk, lambda ask: self.ward.late(ask, self._now))  # type: ignore[arg-type]
        self._asking: dict[int, Task | Entry] = {}
        self._due_at: Entry | None = None

    def _parts(self) -> tuple[Part, ...]:
        return ()

    @property
    def _now(self) -> float:
        return self.world.clock.now / SECOND

    def begin(self) -> None:
        root = self.world.root
        assert root is not None
        self._watching, self._reporting = Line(self, root), Line(self, root)
        self._watching.ask({"op": "watch_health"})
        self.process.after(_LOOK, self._look)
        super().begin()

    def _initialised(self) -> None:
        if self.phase == "init":
            self.phase = "ready"
            self.job.say(["ready"])

    # --- what it hears ---

    def heard(self, packet: list[Any]) -> None:
        self._carry_out(self.ward.heard(packet, self._now))

    def _hear(self, happening: happenings.Happening) -> None:
        super()._hear(happening)
        if self.process.alive:
            self.talk.hear(happening)

    # --- its work ---

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    self._put(effect)
                case Drop(number):
                    self._drop(self._asking.pop(number, None))
                case Report(item):
                    self.world.watch.health("said", item)
                    self._reporting.ask({"op": "report_health", "items": [item]})
        self.world.clock.cancel(self._due_at)
        if self.ward.next is not None:
            at = round(self.ward.next * SECOND) + 1
            self._due_at = self.world.clock.at(at, self.process.do, self._due)

    def _due(self) -> None:
        if not self.world.hushed:
            self._carry_out(self.ward.due(self._now))

    def _drop(self, question: Task | Entry | None) -> None:
        if isinstance(question, Task):
            question.cancel()
        else:
            self.world.clock.cancel(question)

    def _put(self, ask: Ask) -> None:
        self.world.watch.health("asked", self, ask)
        if ask.plan.check == CALL:
            self._asking[ask.number] = self.talk.loop.create_task(self._call(ask))
            self.process.after(0, self.work)
        else:
            self._asking[ask.number] = self.process.after(self.random.randrange(MS // 10, 50 * MS), self._look_at, ask)

    async def _call(self, ask: Ask) -> None:
        self._judged(ask, await self._calls.put(ask))

    def _look_at(self, ask: Ask) -> None:
        """A port of a program: one that stands still is waited for."""
        process = self._process(ask.name, ask.generation)
        if process is not None and process.state is not State.RUNNING:
            rest = round(ask.plan.timeout * SECOND)
            self._asking[ask.number] = self.process.after(rest, lambda: self._judged(ask, self.ward.late(ask, self._now)))
        else:
            self._judged(ask, Verdict(process is not None, "" if process is not None else "nobody takes a connection"))

    def _judged(self, ask: Ask, verdict: Verdict) -> None:
        if self._asking.pop(ask.number, None) is not None:
            self.world.watch.health("answered", self, ask, verdict)
            self._carry_out(self.ward.answered(ask, verdict, self._now))

    def _process(self, name: str, generation: int) -> Process | None:
        inc = self.job.life << 32 | generation
        living = self.world.kernel.living()
        return next((each for each in living if each.cookie.name == name and each.cookie.inc == inc), None)

    def _look(self) -> None:
        """At what each uses, and the host."""
        self.process.after(_LOOK, self._look)
        for target in self.ward.targets():
            process = self.world.kernel.table.get(target.pid)
            if process is not None and process is self._process(target.name, target.generation):
                files = self.world.trait(process, "files") or _MODEST
                self.world.watch.health("looked_at", target.name, target.generation, files)
                self._carry_out(self.ward.sampled(target.name, target.generation, Usage(files=files), self._now))
        self._carry_out(self.ward.host({"disk": 99.0 if self.world.disk.full else 50.0}, self._now))


__all__ = ["HEALTH", "SimulatedHealth", "Well"]
