"""A simulated agent: what the SDK's runtime is to a real one, around a real endpoint.

One handler at a time; what its loop hears meanwhile (replies, deaths, the broker's end) it hears at once. Requests whose
deadline has passed are shed unhandled. It flushes whenever it has nothing left to do, never after a delay.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from otpd.ipc import happenings
from otpd.ipc.endpoint import Address, Endpoint
from otpd.ipc.wire import Kind, Lane, Status
from tests.simulation.broker import Connection
from tests.simulation.clock import MS, SECOND, Entry
from tests.simulation.kernel import Process
from tests.simulation.messages import Answer, Message, Recipe
from tests.simulation.own import OwnChildren
from tests.simulation.parts import Part
from tests.simulation.workers import Job

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What a nested call has at most, like any call (DESIGN 8).
DEFAULT_TIMEOUT = 5 * SECOND
_STATUS = {Answer.VALUE: Status.OK, Answer.REJECT: Status.REJECTED, Answer.RAISE: Status.RAISED}


@dataclass(eq=False, slots=True)
class Handling:
    """The message whose handler runs."""

    delivered: happenings.Delivered
    message: Message
    cancelled: bool = False
    onward: int | None = None  # the call that it waits for


class SimulatedAgent:
    """One incarnation. `phase` is one of init, ready, stopping."""

    def __init__(self, world: World, process: Process, job: Job) -> None:
        self.world, self.process, self.job = world, process, job
        self.name, self.inc = job.name, job.inc
        self.endpoint = Endpoint(job.name, job.inc, job.token)
        self.phase = "init"
        self.epoch: str | None = None
        self.welcome = False
        self.last_word = "shutdown"
        self.calls: dict[int, Message] = {}  # that have no outcome yet, by request
        self.casts: dict[int, Message] = {}  # confirmed ones and all others, by number
        self.mailbox: deque[happenings.Delivered | happenings.EventReceived] = deque()
        self.handling: Handling | None = None
        self.own = OwnChildren(self)
        self.random = Random(f"{world.scenario.seed}/{job.name}/{job.inc}")
        self.connection: Connection | None = None
        self._alarm: Entry | None = None
        self.parts: tuple[Part, ...] = self._parts()
        world.identities_of[job.identity] = (self.name, self.inc)
        process.at_exit.append(lambda: world.ends.add((self.name, self.inc)))
        world.watch.agent_began(self)

    def _parts(self) -> tuple[Part, ...]:
        """What its SDK does beside messages; services have none of it."""
        return self.world.parts(self)

    def part(self, message: Message) -> Part | None:
        return next((part for part in self.parts if message.payload[0] in part.words), None)

    # --- its life ---

    def begin(self) -> None:
        """Set up, say hello, run init, be ready."""
        self.job.say(["spawned"])
        if self.job.broker is not None:
            self._connect(self.job.broker)
        takes = self.random.randrange(MS, 10 * MS)
        if self.world.ailing(self.name, "init_slow"):
            takes = self.random.randrange(100 * MS, int(1.1 * self.job.launch.start_timeout * SECOND))
        if not self.world.ailing(self.name, "init_never"):
            self.process.after(takes, self._initialised)

    def _initialised(self) -> None:
        if self.phase != "init":
            return
        if self.world.ailing(self.name, "ignores"):
            self.job.say(["ignore"])
        elif self.world.ailing(self.name, "init_fails"):
            self.end("error(init)", 1)
        else:
            self.phase = "ready"
            self.job.say(["ready"])
            self.world.workload(self).begin()

    def signalled(self, number: int) -> None:
        """SIGTERM: terminate(), then the end; the handler that runs is given up."""
        if self.phase == "stopping" or self.world.is_deaf(self):
            return
        self.phase = "stopping"
        takes = self.random.randrange(MS) if self.random.random() < 0.8 else self.random.randrange(SECOND)
        self.process.after(takes, self.end, self.last_word, 0)

    def told(self, packet: list[Any]) -> None:
        match packet:
            case ["broker", None, _]:
                self._disconnect()
            case ["broker", str(epoch), _]:
                self._connect(epoch)
            case ["stopping", str(reason)]:
                self.last_word = reason

    def orphaned(self) -> None:
        self.process.exit(1)

    def end(self, reason: str, code: int) -> None:
        """Its last words on both ways, then it is gone."""
        self._flush()
        self.job.say(["exit", reason])
        self.process.exit(code)

    # --- the connection ---

    def _connect(self, epoch: str) -> None:
        if epoch == self.epoch:
            return
        self._disconnect()
        broker = self.world.brokers.get(epoch)
        if broker is None:
            return
        self.epoch = epoch
        assert self.job.identity is not None
        self.connection = broker.connect(self.process, self.job.identity, self._received)
        self.endpoint.connected(epoch, self.world.clock.now)
        self.work()

    def _disconnect(self) -> None:
        if self.connection is None:
            return
        self.connection.close()
        self.connection, self.epoch, self.welcome = None, None, False
        self.endpoint.lost(self.world.clock.now)
        self.work()

    def _received(self, lane: Lane, frame: bytes) -> None:
        if self.connection is not None:
            self.endpoint.received(lane, frame, self.world.clock.now)
            self.work()

    # --- its loop ---

    def work(self) -> None:
        """Hear everything, handle what is next, send everything, and set the alarm for the next deadline."""
        while self.endpoint.happened and self.process.alive:
            self._hear(self.endpoint.happened.popleft())
        if not self.process.alive:
            return
        self._next()
        self._flush()
        due = self.endpoint.expire(self.world.clock.now)
        if self.endpoint.happened:
            self.work()
            return
        self._set_alarm(due)

    def _set_alarm(self, due: int | None) -> None:
        if self._alarm is not None and due == self._alarm[0]:
            return
        self.world.clock.cancel(self._alarm)
        self._alarm = None if due is None else self.world.clock.at(due, self.process.do, self._rung)

    def _rung(self) -> None:
        self._alarm = None
        self.work()

    def _flush(self) -> None:
        for lane, frame in self.endpoint.outgoing():
            if self.connection is not None:
                self.world.watch.gave(self, lane, frame)
                self.connection.send(lane, frame)

    def _hear(self, happening: happenings.Happening) -> None:
        watch = self.world.watch
        match happening:
            case happenings.EventReceived(topic=topic) if topic.startswith("otpd."):
                watch.happened(self, happening, None)
                self.endpoint.handled(1, len(happening.body))
            case happenings.Delivered(body=body) | happenings.EventReceived(body=body):
                message = self.world.mail.of(body)
                watch.happened(self, happening, message)
                if message is not None and message.payload is not None:
                    self._hear_payload(happening, message)
                else:
                    self.mailbox.append(happening)
            case happenings.Replied(request=request) | happenings.CallFailed(request=request):
                message = self.calls.pop(request, None)
                watch.happened(self, happening, message)
                self._answered(request)
                if message is not None and message.payload is not None and (part := self.part(message)) is not None:
                    part.outcome(message, isinstance(happening, happenings.Replied))
            case happenings.CastRejected(number=number) | happenings.CastAccepted(number=number):
                watch.happened(self, happening, self.casts.get(number))
            case _:
                watch.happened(self, happening, None)
                self._learn(happening)

    def _hear_payload(self, happening: Any, message: Message) -> None:
        part = self.part(message)
        if part is None or not part.arrived(message, happening):
            self.endpoint.handled(1, len(happening.body))
        else:
            self.mailbox.append(happening)

    def _learn(self, happening: happenings.Happening) -> None:
        match happening:
            case happenings.Welcomed():
                self.welcome = True
            case happenings.Fenced():
                self.end("stale", 1)
            case happenings.CallCancelled(call=call, is_dead=is_dead):
                self._cancelled(call, is_dead)
        for part in self.parts:
            part.hear(happening)

    def _cancelled(self, call: int, is_dead: bool) -> None:
        if any(part.cancelled(call, is_dead) for part in self.parts):
            return
        if self.handling is not None and self.handling.delivered.call == call:
            self.handling.cancelled = True

    # --- handlers ---

    def _next(self) -> None:
        while self.mailbox and self.handling is None and self.phase == "ready":
            item = self.mailbox.popleft()
            message = self.world.mail.of(item.body)
            if message.deadline and message.deadline <= self.world.clock.now:
                self.world.watch.shed(self, message)
                self.endpoint.handled(1, len(item.body))
            elif message.payload is not None and (part := self.part(message)) is not None and part.withdrawn(message):
                self.endpoint.handled(1, len(item.body))
            else:
                self._handle(item, message)

    def _handle(self, item: happenings.Delivered | happenings.EventReceived, message: Message) -> None:
        self.world.watch.handled(self, message)
        if isinstance(item, happenings.EventReceived):
            item = happenings.Delivered(item.source, item.generation, None, 0, item.body)
        self.handling = handling = Handling(item, message)
        takes = self.world.slowness(self, message.recipe.takes)
        self.process.after(takes, self._half_done, handling)

    def _half_done(self, handling: Handling) -> None:
        """A handler may call on, within what is left of its deadline."""
        if handling is not self.handling or handling.onward is not None:
            return
        onward = handling.message.recipe.onward
        if onward is None or onward == self.name or handling.cancelled:
            self._done(handling)
            return
        now = self.world.clock.now
        deadline = min(handling.message.deadline or now + DEFAULT_TIMEOUT, now + DEFAULT_TIMEOUT)
        handling.onward = self.call(Address(onward), Recipe(MS), deadline)
        self.work()

    def hurry(self) -> None:
        """The handler that runs has no more to do."""
        if self.handling is not None:
            self.process.after(MS, self._half_done, self.handling)

    def _answered(self, request: int) -> None:
        handling = self.handling
        if handling is not None and handling.onward == request:
            self._done(handling)

    def _done(self, handling: Handling) -> None:
        """The answer, and credit back; one that raised is the agent's end."""
        if self.handling is not handling:
            return
        if handling.message.payload is not None and (part := self.part(handling.message)) is not None:
            part.handle(handling)
            if self.process.alive:
                self.work()
            return
        self.handling = None
        delivered, answer = handling.delivered, handling.message.recipe.answer
        if delivered.call is not None and not handling.cancelled:
            self.endpoint.reply(delivered.call, _STATUS[answer], handling.message.body())
        self.endpoint.handled(1, len(delivered.body))
        if answer is Answer.RAISE:
            self.end("error(ValueError)", 1)
        else:
            self.work()

    def settle(self, handling: Handling) -> None:
        """What a part has handled has come to its end here."""
        if self.handling is handling:
            self.handling = None
            self.endpoint.handled(1, len(handling.delivered.body))
            self.work()

    # --- what the workload lets it say ---

    def say(self, kind: Kind, to: str, payload: Any, deadline: int = 0) -> Message:
        """To the store, or (the store itself) to an agent."""
        message = self._message(kind, Address(to), Recipe(0), 0, deadline=deadline)
        message.payload = payload
        if kind is Kind.CALL:
            message.request = self.endpoint.call(Address(to), message.body(), deadline, self.world.clock.now)
            self.calls[message.request] = message
        else:
            message.request = self.endpoint.cast(Address(to), message.body())
            self.casts[message.request] = message
        return message

    def give_up(self, message: Message) -> None:
        """Nothing more is to be heard of this call."""
        if self.calls.pop(message.request, None) is not None:
            self.endpoint.cancel(message.request)
            self.world.watch.verb(self, "cancel", message)

    def call(self, to: Address, recipe: Recipe, deadline: int, size: int = 0) -> int:
        message = self._message(Kind.CALL, to, recipe, size, deadline=deadline)
        request = self.endpoint.call(to, message.body(), deadline, self.world.clock.now)
        message.request = request
        self.calls[request] = message
        return request

    def cast(self, to: Address, recipe: Recipe, size: int = 0, confirm: bool = False) -> None:
        message = self._message(Kind.CAST, to, recipe, size, confirm=confirm)
        message.request = self.endpoint.cast(to, message.body(), confirm)
        self.casts[message.request] = message

    def publish(self, topic: str, recipe: Recipe, size: int = 0) -> None:
        message = self._message(Kind.EVENT, Address(topic, "topic"), recipe, size)
        self.endpoint.publish(topic, message.body())

    def _message(
        self, kind: Kind, to: Address, recipe: Recipe, size: int, deadline: int = 0, confirm: bool = False
    ) -> Message:
        mail = self.world.mail
        message = Message(
            mail.next_number, kind, self.name, self.inc, to.name, f"{to.kind}:{to.name}:{to.policy}:{to.key}", to.policy,
            self.world.clock.now, deadline, recipe, max(size, 8), confirm, key=to.key,
        )  # fmt: skip
        mail.add(message)
        self.world.watch.said(self, message)
        return message
