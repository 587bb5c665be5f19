"""What the SDK of a simulated agent does about durable messages: submissions, deliveries, transactions.

A label is one durable message, whoever says it how often; what its handler does is written in it. The deliveries are the
real ones. Submissions go one at a time and are said again with their number until they are answered, as in `submissions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.deliveries import Deliveries, Delivery
from otpd.agents.services.store.messages import Kind as Durable
from otpd.agents.services.store.messages import Request
from otpd.ipc.wire import Kind
from tests.simulation.clock import MS, SECOND
from tests.simulation.disk import body_of, label_of
from tests.simulation.messages import Message
from tests.simulation.parts import Part

if TYPE_CHECKING:
    from tests.simulation.agent import Handling, SimulatedAgent
    from tests.simulation.durable import DurableWorld

STORE: Final = "store"
_AGAIN, _PATIENCE = 20 * MS, 10 * SECOND
_KEYS: Final = ("", "", "k")
#: It waits for its commit: no call has this number.
_COMMITTING: Final = -1


@dataclass(eq=False, slots=True)
class Submission:
    requests: list[Request]
    labels: list[int]
    handling: Handling | None = None  # of a transaction
    settles: tuple[int, int] | None = None
    state: tuple[bytes, int] | None = None  # and the version that it replaces


class Durables(Part):
    words = frozenset({"submit", "word", "durable"})

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent
        self._world: DurableWorld = agent.world  # type: ignore[assignment]
        self.deliveries = Deliveries(agent.inc)
        self._given: dict[int, Delivery] = {}  # by the number of the message that brought it
        self._queue: deque[Submission] = deque()
        self._open: Submission | None = None
        self._number = 0
        self.state_with_effect: Callable[[], tuple[bytes, int] | None] = lambda: None
        self.committed_state: Callable[[bytes, int], None] = lambda body, version: None

    # --- submissions ---

    def begin(self) -> None:
        """Now and then a durable message, beside everything else."""
        pause = self._agent.random.expovariate(self._world.scenario.durable)
        self._agent.process.after(int(pause * SECOND), self._send_to_somebody)

    def _send_to_somebody(self) -> None:
        if self._agent.phase == "ready" and not self._world.resting:
            self.send(self._agent.random.choice(self._world.scenario.agents))
            self._agent.work()
            self.begin()

    def send(self, to: str) -> None:
        """One message to somebody; sometimes it is said a second time, with its id."""
        label = next(self._world.labels)
        random = Random(f"{label}/key")
        request = Request(Durable.CAST, to, "note", body_of(label), random.choice(_KEYS), f"id{label}")
        for _ in range(2 if random.random() < 0.1 else 1):
            self._put(Submission([request], [label]))

    @property
    def is_submitting(self) -> bool:
        return self._open is not None

    def _put(self, submission: Submission) -> None:
        self._queue.append(submission)
        if self._open is None:
            self._next()

    def _next(self) -> None:
        self._open = self._queue.popleft() if self._queue else None
        if self._open is not None:
            self._number += 1
            self._say()

    def _say(self) -> None:
        it = self._open
        assert it is not None
        payload = ("submit", self._number, it.requests, it.settles, it.state)
        self._agent.say(Kind.CALL, STORE, payload, self._world.clock.now + _PATIENCE)

    def outcome(self, message: Message, answered: bool) -> None:
        """The word of the store, or none: then it is said again."""
        submission = self._open
        if submission is None or message.payload[1] != self._number:
            return
        if not answered or message.answer is None:
            self._world.sometimes["a submission is said again"] += 1
            self._agent.process.after(_AGAIN, self._again, submission)
            return
        value, code, version = message.answer
        for label, outcome in zip(submission.labels, value or [], strict=False):
            if isinstance(outcome, int):
                self._world.watch.durable("accepted", label)
        self._world.sometimes["the store refuses: " + code] += bool(code)
        if submission.state is not None and not code:
            self.committed_state(submission.state[0], version)
        if submission.handling is not None:
            self._settled(submission.handling, failed=bool(code))
        self._next()

    def _again(self, submission: Submission) -> None:
        if self._open is submission and self._agent.phase == "ready":
            self._say()
            self._agent.work()

    # --- deliveries ---

    def arrived(self, message: Message, happening: Any) -> bool:
        delivery = self.deliveries.arrived(message.payload[1])
        for word in self.deliveries.again:
            self._agent.say(Kind.CAST, STORE, ("word", word))
        self.deliveries.again.clear()
        if delivery is None:
            return False
        self._given[message.number] = delivery
        message.recipe = _recipe(message, label_of(delivery.body), self._world.scenario.handler)
        return True

    def handle(self, handling: Handling) -> None:
        """The time of the handler is over: what came of it."""
        delivery = self._given[handling.message.number]
        label = label_of(delivery.body)
        if handling.onward is not None:
            return
        nature = Random(f"{label}/nature").random()
        self._world.watch.durable("handled", self._agent, handling.message.payload[2], delivery)
        if nature < 0.03:
            self._world.watch.durable("crashed", label)
            self._agent.end("error(poison)", 1)
        elif nature < 0.08 or (nature < 0.2 and delivery.attempt == 1):
            self._word(handling, delivery, "raised")
        elif nature < 0.6:
            self._commit(handling, delivery, label)
        else:
            self._world.watch.durable("ended", label)
            self._word(handling, delivery, "")

    def _commit(self, handling: Handling, delivery: Delivery, label: int) -> None:
        """A transaction: the message is settled, and another one is sent; it waits for the outcome."""
        handling.onward = _COMMITTING
        child = next(self._world.labels)
        to = Random(f"{label}/child").choice(self._world.scenario.agents)
        settles = (delivery.seq, delivery.attempt)
        request = Request(Durable.CAST, to, "note", body_of(child))
        requests = [request] if Random(f"{label}/child").random() < 0.3 else []
        self._put(Submission(requests, [child] if requests else [], handling, settles, self.state_with_effect()))

    def _settled(self, handling: Handling, failed: bool) -> None:
        delivery = self._given[handling.message.number]
        if failed:
            self._word(handling, delivery, "not committed")
        else:
            delivery.settled = True
            self._word(handling, delivery, "")

    def _word(self, handling: Handling, delivery: Delivery, reason: str) -> None:
        word: dict[str, Any] = {"seq": delivery.seq, "attempt": delivery.attempt, "inc": self._agent.inc}
        if reason:
            word["reason"] = reason
        self.deliveries.settled(delivery, word)
        if not delivery.settled:
            self._agent.say(Kind.CAST, STORE, ("word", word))
        self._agent.settle(handling)


def _recipe(message: Message, label: int, handler: int) -> Any:
    return type(message.recipe)(int(Random(f"{label}/takes").expovariate(1.0) * min(handler, 50 * MS)))
