"""What the SDK of a simulated agent does about timers: the real memory of runs, and a thin `agents.timed` around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.firings import Declaration, Firings
from otpd.agents.timed import FIRE
from otpd.ipc import happenings
from otpd.ipc.wire import Kind, Status
from tests.simulation.clock import MS, SECOND
from tests.simulation.messages import Message, Recipe
from tests.simulation.parts import Part
from tests.simulation.whole.saved import Saved
from tests.simulation.whole.scheduler import SCHEDULER

if TYPE_CHECKING:
    from tests.simulation.agent import Handling, SimulatedAgent
    from tests.simulation.whole.world import WholeWorld

_AGAIN, _AGAIN_MOST, _PATIENCE = 100 * MS, 5 * SECOND, 5 * SECOND
#: It waits for its save: no call has this number.
_SAVING: Final = -2
#: What a handler takes, and how far ahead timers are set.
_TAKES: Final = (MS, MS, 5 * MS, 50 * MS, SECOND)
_AHEAD: Final = (10 * MS, SECOND, 5 * SECOND, 30 * SECOND)


@dataclass(eq=False, slots=True)
class Firing:
    """One run that waits for its turn or is handled, and who waits for its end."""

    id: str
    run: int
    message: Message
    calls: dict[int, Message] = field(default_factory=dict)
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class Ask:
    payload: tuple[Any, ...]
    until: int


class Timed(Part):
    words = frozenset({"declare", "set_timer", "drop_timer", FIRE})

    def __init__(self, agent: SimulatedAgent, saved: Saved) -> None:
        self._agent, self._saved = agent, saved
        self._world: WholeWorld = agent.world  # type: ignore[assignment]
        self._random = Random(f"{self._world.scenario.seed}/{agent.name}/{agent.inc}/timers")
        now, plans = self._world.clock.now, self._world.plans(agent.name)
        declared = [Declaration(f"{agent.name}/{key}", key, plan, now) for key, plan in plans.items()]
        self.firings = Firings(agent.job.generation, declared)
        self._going: dict[int, Firing] = {}  # by the number of the message that brought it
        self._calls: dict[int, Firing] = {}
        self._declaring: Message | None = None
        self._pause = _AGAIN
        self._monitor = 0
        self._count = 0
        self._pending: list[str] = []  # timers that it has set

    # --- declare ---

    def begin(self) -> None:
        self._later()
        if self.firings.declared:
            self._monitor = self._agent.endpoint.monitor(SCHEDULER, True)
            self._world.watch.verb(self._agent, "monitor", self._monitor, SCHEDULER, True)
            self._tell()
            self._agent.work()

    def hear(self, happening: Any) -> None:
        match happening:
            case happenings.Welcomed() if self._monitor:
                self._tell()
            case happenings.Up(ref=ref) if ref == self._monitor and self._monitor:
                self._tell()

    def _tell(self) -> None:
        """From the beginning: what is being told may be meant for one that is no more."""
        if self._declaring is not None:
            self._agent.give_up(self._declaring)
        self._pause = _AGAIN
        self._declare()

    def _declare(self) -> None:
        payload = ("declare", self.firings.declarations())
        self._declaring = self._agent.say(Kind.CALL, SCHEDULER, payload, self._world.clock.now + _PATIENCE)

    def _declare_again(self, of: Message) -> None:
        if self._declaring is of and self._agent.phase == "ready":
            self._declare()
            self._agent.work()

    # --- timers of its own ---

    def _later(self) -> None:
        pause = int(self._random.expovariate(self._world.scenario.timers) * SECOND)
        self._agent.process.after(pause, self._act)

    def _act(self) -> None:
        if self._agent.phase == "ready" and not self._world.resting:
            self._ask_for_something()
            self._agent.work()
            self._later()

    def _ask_for_something(self) -> None:
        self._count += 1
        until = self._world.clock.now + _PATIENCE
        if self._pending and self._random.random() < 0.3:
            id_ = self._random.choice(self._pending)
            self._say(Ask(("drop_timer", id_, f"{self._agent.inc:x}.{self._count}"), until))
        else:
            self.set(self._random.choice(_AHEAD), self._random.random() < 0.3)

    def set(self, after: int, wall: bool) -> None:
        self._count += 1
        now = self._world.instant
        id_ = f"{self._agent.name}/ring/{self._agent.inc:x}.{self._count}"
        self._say(Ask(("set_timer", id_, (now.wall if wall else now.mono) + after, wall), now.mono + _PATIENCE))

    def _say(self, ask: Ask) -> None:
        what, *rest = ask.payload
        self._agent.say(Kind.CALL, SCHEDULER, (what, ask, *rest), ask.until)

    def _say_again(self, ask: Ask) -> None:
        if self._agent.phase == "ready" and ask.until - self._world.clock.now > 2 * _AGAIN:
            self._say(ask)
            self._agent.work()

    def outcome(self, message: Message, answered: bool) -> None:
        match message.payload:
            case ("declare", _):
                if message is self._declaring and not answered:
                    self._agent.process.after(int(self._pause * self._random.uniform(0.5, 1)), self._declare_again, message)
                    self._pause = min(2 * self._pause, _AGAIN_MOST)
                elif message is self._declaring:
                    self._declaring = None
            case (_, ask, *_) if not answered or message.answer is None:
                self._world.sometimes["a question to the scheduler is put again"] += 1
                self._agent.process.after(_AGAIN, self._say_again, ask)
            case ("set_timer", _, id_, due, wall):
                if message.answer == "":
                    self._pending.append(id_)
                    self._world.watch.timed("accepted", self._agent, id_, due, wall)
            case ("drop_timer", _, id_, _) if message.answer == "yes":
                self._world.watch.timed("taken back", id_)

    # --- runs ---

    def arrived(self, message: Message, happening: Any) -> bool:
        fire, call = message.payload[1], happening.call
        verdict = self.firings.take(fire["id"], fire["run"], fire["only"])
        if verdict == "run":
            firing = Firing(fire["id"], fire["run"], message, {call: message})
            self._going[message.number] = self._calls[call] = firing
            message.recipe = Recipe(Random(f"{firing.id}{firing.run}/takes").choice(_TAKES))
            return True
        if verdict == "attach":
            firing = next(f for f in self._going.values() if (f.id, f.run) == (fire["id"], fire["run"]))
            firing.calls[call] = message
            self._calls[call] = firing
            self._world.sometimes["a run is asked for again while it is at hand"] += 1
        else:
            self._world.sometimes[f"a run that is asked for again is {verdict}"] += 1
            self._reply({call: message}, verdict)
        return False

    def withdrawn(self, message: Message) -> bool:
        firing = self._going.get(message.number)
        if firing is not None and firing.cancelled:
            self._over(firing, "cancelled")
        return firing is None or firing.cancelled

    def handle(self, handling: Handling) -> None:
        """What timers mostly do: say something that must not be lost, set the next one, save what they have found."""
        firing = self._going[handling.message.number]
        nature = Random(f"{firing.id}{firing.run}/nature").random()
        if 0.5 < nature < 0.7 and handling.onward is None and self._saved.loaded and not self._world.resting:
            handling.onward = _SAVING
            self._saved.save(lambda: self._done(handling, firing))
        elif handling.onward is None:
            self._end(handling, firing, nature)

    def _done(self, handling: Handling, firing: Firing) -> None:
        if self._agent.handling is handling:  # it was not cancelled meanwhile
            self._end(handling, firing, 1.0)

    def _end(self, handling: Handling, firing: Firing, nature: float) -> None:
        self._world.watch.timed("over", self._agent, firing)
        if nature < 0.03:
            self._reply(firing.calls, None)
            self._agent.end("error(timer)", 1)
            return
        if not self._world.resting:
            if nature < 0.4:
                self._world.send_durably(self._agent)
            elif nature < 0.5:
                self.set(_AHEAD[1], False)
        self._over(firing, "done")
        self._agent.settle(handling)

    def _over(self, firing: Firing, outcome: str) -> None:
        self.firings.end(firing.id, firing.run, outcome, self._world.clock.now)
        del self._going[firing.message.number]
        for call in firing.calls:
            self._calls.pop(call, None)
        self._reply(firing.calls, outcome)

    def _reply(self, calls: dict[int, Message], outcome: str | None) -> None:
        """None: it raised."""
        for call, message in calls.items():
            message.answer = {"outcome": outcome}
            self._agent.endpoint.reply(call, Status.RAISED if outcome is None else Status.OK, message.body())

    def cancelled(self, call: int, is_dead: bool) -> bool:
        firing = self._calls.get(call)
        if firing is None:
            return False
        if is_dead:
            self._world.sometimes["a run goes on while its scheduler dies"] += 1
            del self._calls[call], firing.calls[call]
            return True
        firing.cancelled = True
        handling = self._agent.handling
        if handling is not None and handling.message is firing.message:
            if handling.onward == _SAVING:
                self._saved.cancel()
            self._world.watch.timed("over", self._agent, firing)
            self._over(firing, "cancelled")
            self._agent.settle(handling)
        return True
