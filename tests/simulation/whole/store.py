"""The store of the whole node: durable messages and states in one database, in the same commits."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otpd.agents.services.store.commits import Job
from otpd.agents.services.store.state import Fence, get_state, put_state
from otpd.ipc.wire import Status
from tests.simulation.durablestore import DurableStore
from tests.simulation.messages import Message

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.whole.world import WholeWorld
    from tests.simulation.workers import Job as Start


@dataclass(frozen=True, slots=True)
class Load:
    name: str

    def apply(self, connection: sqlite3.Connection) -> Any:
        found = get_state(connection, self.name)
        return [found.version, found.body]


@dataclass(frozen=True, slots=True)
class Save:
    name: str
    inc: int
    body: bytes
    expected: int

    def apply(self, connection: sqlite3.Connection) -> Any:
        return put_state(connection, self.name, self.inc, self.expected, self.body, 0.0)


class WholeStore(DurableStore):
    world: WholeWorld

    def __init__(self, world: WholeWorld, process: Process, job: Start) -> None:
        super().__init__(world, process, job)
        self._fence = Fence()

    def _hear_payload(self, happening: Any, message: Message) -> None:
        match message.payload:
            case ("load_state",):
                self._state(happening, message, lambda name, inc: Load(name), grows=False)
            case ("save_state", body, expected):
                self._state(happening, message, lambda name, inc: Save(name, inc, body, expected), grows=True)
            case _:
                super()._hear_payload(happening, message)

    def _state(self, happening: Any, message: Message, write: Callable[[str, int], Any], grows: bool) -> None:
        self.endpoint.handled(1, len(happening.body))
        self.world.watch.handled(self, message)
        inc = self.inc >> 32 << 32 | happening.generation
        if not self._fence.admits(happening.source, inc):
            self._reply(happening.call, message, None, "stale")
            return
        answer = functools.partial(self._told, happening.call, message)
        self._put(Job(write(happening.source, inc), answer, grows=grows, reads=not grows))

    def _told(self, call: int, message: Message, value: Any, error: BaseException | None) -> None:
        self._reply(call, message, value, "" if error is None else str(error))

    def _reply(self, call: int, message: Message, value: Any, code: str) -> None:
        message.answer = value, code
        self.endpoint.reply(call, Status.OK, message.body())
        self.process.after(0, self.work)
