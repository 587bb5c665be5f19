"""What the SDK of a simulated agent does about its durable state: `load`, `save`, and the save within a transaction.

As `agents.stored`: one question at a time, said again while it passes by itself, until its patience ends. The state counts
how many messages have had their effect in it, and how many saves there were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.wire import Kind
from tests.simulation.clock import MS, SECOND
from tests.simulation.durables import STORE
from tests.simulation.messages import Message
from tests.simulation.parts import Part

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.whole.world import WholeWorld

#: Nanoseconds that load and save wait for the store, that one attempt does, and between two: the first time, and at most.
_PATIENCE, _ATTEMPT, _PAUSE, _LONGEST = 30 * SECOND, 5 * SECOND, 20 * MS, 500 * MS
_COUNTS: Final = Struct(">QQ")

Then = Callable[[Any, str], None]


def effects_of(body: bytes | None) -> int:
    """How many messages have had their effect in this state."""
    return _COUNTS.unpack(body)[0] if body else 0


@dataclass(eq=False, slots=True)
class Question:
    payload: tuple[Any, ...]
    then: Then
    until: int
    pause: int = _PAUSE
    message: Message | None = None


class Saved(Part):
    words = frozenset({"load_state", "save_state"})

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent
        self._world: WholeWorld = agent.world  # type: ignore[assignment]
        self._version = 0
        self._body: bytes | None = None
        self.loaded = False
        self._unanswered: bytes | None = None  # a save that may have taken place
        self.open: Question | None = None
        self._acked = 0  # the version that was acknowledged to anybody when the load was said

    # --- questions ---

    def begin(self) -> None:
        self._acked = self._world.acknowledged(self._agent.name)
        self._ask(("load_state",), self._has_loaded)

    def _ask(self, payload: tuple[Any, ...], then: Then) -> None:
        self.open = Question(payload, then, self._world.clock.now + _PATIENCE)
        self._say(self.open)

    def _say(self, question: Question) -> None:
        if self._agent.phase != "ready":
            return
        now = self._world.clock.now
        question.message = self._agent.say(Kind.CALL, STORE, question.payload, min(now + _ATTEMPT, question.until))
        self._agent.process.after(0, self._agent.work)

    def outcome(self, message: Message, answered: bool) -> None:
        question = self.open
        if question is None or message is not question.message:
            return
        if answered and message.answer is not None and message.answer[1] != "overloaded":
            self.open = None
            question.then(*message.answer)
        elif self._world.clock.now + question.pause >= question.until:
            self._world.sometimes["an agent has waited in vain for the store"] += 1
            self._agent.end("error(timeout)", 1)
        else:
            self._world.sometimes["a save is said again"] += 1
            self._agent.process.after(question.pause, self._say, question)
            question.pause = min(2 * question.pause, _LONGEST)

    def _has_loaded(self, value: Any, code: str) -> None:
        if code:
            self._refused(code)
            return
        self._version, self._body = value
        self.loaded = True
        self._world.watch.stated("loaded", self._agent, self._version, self._acked)

    def _refused(self, code: str) -> None:
        self._world.sometimes[f"a save is refused: {code}"] += 1
        if code == "stale":
            self._world.watch.stated("stale", self._agent)
            self._agent.end("error(Stale)", 1)

    # --- saves ---

    def save(self, then: Callable[[], None]) -> None:
        """Of a handler, which goes on when it is answered."""

        def saved(version: Any, code: str) -> None:
            if code:
                self._refused(code)
            else:
                self.saved(body, version)
            if self._agent.process.alive:
                then()

        body = b""

        def put() -> None:
            nonlocal body
            body = self._next(effect=0)
            self._ask(("save_state", body, self._version), saved)

        self._make_sure(put)

    def cancel(self) -> None:
        """The handler that saves is cancelled: whether the save takes place, nobody is told."""
        question, self.open = self.open, None
        if question is not None and question.payload[0] == "save_state":
            self._unanswered = question.payload[1]
        if question is not None and question.message is not None:
            self._agent.give_up(question.message)

    def _make_sure(self, then: Callable[[], None]) -> None:
        if self._unanswered is None:
            then()
            return

        def found(value: Any, code: str) -> None:
            if code:
                self._refused(code)
            elif tuple(value) == (self._version + 1, self._unanswered):
                self._world.sometimes["a save that was given up has taken place"] += 1
                self._version, self._body = value
            if not code:
                self._unanswered = None
                then()

        self._ask(("load_state",), found)

    def with_effect(self) -> tuple[bytes, int] | None:
        """What a transaction commits: None before the state is known."""
        return (self._next(effect=1), self._version) if self.loaded and self._unanswered is None else None

    def _next(self, effect: int) -> bytes:
        effects, saves = _COUNTS.unpack(self._body) if self._body else (0, 0)
        return _COUNTS.pack(effects + effect, saves + 1)

    def saved(self, body: bytes, version: int) -> None:
        self._version, self._body = version, body
        self._world.watch.stated("saved", self._agent, version)
