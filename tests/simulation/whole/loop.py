"""As much of an event loop and of the SDK's conversation as a service's real shell needs, on the virtual clock.

A task goes on as soon as what it awaits is there; only its first step waits for a turn of the loop, as asyncio's does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from otpd.agents.errors import BrokerLost, CallTimeout, OtpdError, RemoteError, failure
from otpd.ipc import happenings
from otpd.ipc.endpoint import Address
from otpd.ipc.wire import Kind, Status
from tests.simulation.clock import SECOND, Entry

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.kernel import Process
    from tests.simulation.messages import Message


class Handle:
    def __init__(self, when: float, entry: Entry) -> None:
        self._when, self._entry = when, entry

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._entry[2] = None


class Loop:
    def __init__(self, process: Process) -> None:
        self._process, self._clock = process, process.kernel.clock
        self._tasks: dict[Task, None] = {}
        process.at_exit.append(self._end)

    def time(self) -> float:
        return self._clock.now / SECOND

    def call_soon_threadsafe(self, action: Callable[..., None], *args: Any) -> None:
        self._process.after(0, action, *args)

    def call_at(self, when: float, action: Callable[[], None]) -> Handle:
        """Never before: the machines count in whole nanoseconds."""
        return Handle(when, self._clock.at(math.ceil(when * SECOND) + 1, self._process.do, action))

    def create_task(self, work: Coroutine[Any, Any, None]) -> Task:
        task = Task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        self._process.after(0, task.begin)
        return task

    def _end(self) -> None:
        """A process that dies leaves nothing to be collected at some other time."""
        for task in list(self._tasks):
            task.drop()


class Waiting:
    """What a task awaits: one value or one error."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Waiting, None, Any]:
        yield self
        if self._error is not None:
            raise self._error
        return self._value

    def result(self, value: Any, error: BaseException | None = None) -> None:
        self._value, self._error = value, error
        if self.task is not None:
            self.task.step()


class Task:
    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._over: list[Callable[[Task], None]] = []
        self._state = "new"  # begun, over

    def add_done_callback(self, then: Callable[[Task], None]) -> None:
        self._over.append(then)

    def begin(self) -> None:
        if self._state == "new":
            self._state = "begun"
            self.step()

    def step(self) -> None:
        if self._state != "begun":
            return
        try:
            self._work.send(None).task = self
        except StopIteration:
            self._end()

    def cancel(self) -> None:
        if self._state == "begun":
            try:
                self._work.throw(asyncio.CancelledError())
            except asyncio.CancelledError:
                pass
        self.drop()

    def drop(self) -> None:
        self._work.close()
        self._end()

    def _end(self) -> None:
        if self._state != "over":
            self._state = "over"
            for then in self._over:
                then(self)


class Talk:
    """The conversation of a simulated service: its calls, with the errors that the SDK raises."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent
        self.calls: dict[int, tuple[Waiting, Message]] = {}  # by request
        self._questions: dict[int, Waiting] = {}  # by ref
        agent.process.at_exit += [self.calls.clear, self._questions.clear]
        self.loop = Loop(agent.process)

    @property
    def epoch(self) -> str | None:
        return self._agent.epoch

    async def call(self, to: Address, method: str, args: dict[str, Any], timeout: float | None) -> Any:
        """What the answer is, its receiver has written on the message."""
        waiting = Waiting()
        deadline = 0 if timeout is None else self._agent.world.clock.now + round(timeout * SECOND)
        message = self._agent.say(Kind.CALL, to.name, (method, args), deadline)
        self.calls[message.request] = waiting, message
        self._agent.process.after(0, self._agent.work)
        try:
            return await waiting
        finally:
            if self.calls.pop(message.request, None) is not None:
                self._agent.give_up(message)

    async def ask(self, question: str, *arguments: Any, timeout: float) -> Any:
        waiting = Waiting()
        ref = self._agent.endpoint.ask(question, *arguments)
        self._questions[ref] = waiting
        self._agent.world.watch.verb(self._agent, "ask", ref, question, *arguments)
        late = CallTimeout(f"{question}: the broker has not answered", "maybe")
        alarm = self.loop.call_at(self.loop.time() + timeout, lambda: self._answer(ref, None, late))
        self._agent.process.after(0, self._agent.work)
        try:
            return await waiting
        finally:
            alarm.cancel()
            self._questions.pop(ref, None)

    def _answer(self, ref: int, value: Any, error: OtpdError | None) -> None:
        if ref in self._questions:
            self._questions.pop(ref).result(value, error)

    def hear(self, happening: happenings.Happening) -> None:
        match happening:
            case happenings.Answered(ref, ok, value):
                self._answer(ref, value, None if ok else BrokerLost(f"no answer: {value}"))
            case happenings.Replied(request=request, status=status) if request in self.calls:
                waiting, message = self.calls.pop(request)
                waiting.result(message.answer, None if status is Status.OK else RemoteError("it raised"))
            case happenings.CallFailed(request, code, executed, detail) if request in self.calls:
                error: OtpdError = failure("call", code, executed, detail)
                self.calls.pop(request)[0].result(None, error)
