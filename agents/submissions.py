"""What one incarnation gives the store to keep: durable messages and transactions, one submission at a time, in order.

All that is said while a submission is on its way goes with the next one: so many at once cost one commit, and one alone
waits for nobody. Each submission has a number. When its answer is lost (the store or broker dies) it is said again with the
same number, and the store answers as it did the first time: nothing is kept twice, and the order is kept.

Guarantees: a future ends with the store's word that it is on disk, or with an error that says whether it may be; the
deadline is that of who waits, and a submission that nobody waits for any more is not said again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.errors import (
    BrokerLost,
    CallTimeout,
    CircuitOpen,
    Exited,
    NoProcess,
    OtpdError,
    Overloaded,
    Reject,
    RemoteError,
    failure,
)
from otpd.agents.waiting import Waiting
from otpd.ipc.endpoint import Address

if TYPE_CHECKING:
    from otpd.agents.conversation import Conversation

STORE: Final = Address("store")
NO_STORE: Final = (
    "{}: this node has no store just now; if it was stopped: otpd child start store; if [services.store] of otpd.toml says "
    "enabled = false, take that out"
)
CAST, EVENT = 0, 1
#: Messages and bytes of one submission: what one commit of the store takes at a time.
_MESSAGES: Final = 512
_BYTES: Final = 2**20
#: Seconds until a submission without an answer is said again, at first and at most; and what one try may take.
_PAUSE, _PAUSE_MAX, _TRY = 0.02, 0.5, 10.0
#: Of these the store, or the broker, is on its way back.
_AGAIN: Final = (BrokerLost, CallTimeout, CircuitOpen, Exited, Overloaded)


@dataclass(slots=True, eq=False)
class Submission:
    """Requests [kind, target, name, body, key, id]; for a transaction also the message that it settles and its state. A
    transaction is submitted alone."""

    waiting: Waiting
    requests: Sequence[list[Any]]
    settles: tuple[int, int] | None = None
    state: Any = None
    whole: bool = False
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(len(request[3]) for request in self.requests)


class Submissions:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._queue: deque[Submission] = deque()
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    def put(self, submission: Submission) -> None:
        """Its `waiting` is answered with the outcomes, one for each request, and what the store says of its state."""
        self._queue.append(submission)
        if self._task is None or self._task.done():
            self._task = self._conversation.loop.create_task(self._work(), context=contextvars.Context())

    async def ask(self, method: str, args: Mapping[str, Any]) -> Any:
        """Of what may be done twice: said until the store has answered."""
        pause = _PAUSE
        while True:
            try:
                return await self._conversation.call(STORE, method, args, _TRY)
            except _AGAIN:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_MAX)

    async def _work(self) -> None:
        while self._queue:
            batch = self._next()
            self._number += 1
            try:
                self._answer(batch, await self._said(batch))
            except OtpdError as error:
                for each in batch:
                    each.waiting.fail(_failed(each.waiting, error))

    def _next(self) -> list[Submission]:
        batch = [self._queue.popleft()]
        size = batch[0].size
        while self._queue and not batch[0].whole and not self._queue[0].whole and len(batch) < _MESSAGES:
            size += self._queue[0].size
            if size > _BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _said(self, batch: list[Submission]) -> Any:
        """The store's answer to all of it."""
        first = batch[0]
        args: dict[str, Any] = {"number": self._number, "requests": [each for one in batch for each in one.requests]}
        if first.whole:
            args |= {"settles": first.settles, "state": first.state, "whole": True}
        pause = _PAUSE
        while True:
            try:
                return await self._conversation.call(STORE, "submit", args, _TRY)
            except _AGAIN:
                if all(each.waiting.future.done() for each in batch):
                    return None
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_MAX)

    def _answer(self, batch: list[Submission], answer: Any) -> None:
        match answer:
            case {"code": str(code), "text": str(text)}:
                for each in batch:
                    each.waiting.fail(failure(str(each.waiting), code, "no", text))
            case [list(outcomes), more] if len(outcomes) == sum(len(each.requests) for each in batch):
                for each in batch:
                    mine, outcomes = outcomes[: len(each.requests)], outcomes[len(each.requests) :]
                    refusal = next((outcome for outcome in mine if isinstance(outcome, str)), None)
                    if refusal is None:
                        each.waiting.answer((mine, more))
                    else:
                        each.waiting.fail(failure(str(each.waiting), refusal, "no"))
            case _:
                for each in batch:
                    each.waiting.fail(OtpdError(f"{each.waiting}: expected an answer of the store, got {answer!r}", "maybe"))


def _failed(waiting: Waiting, error: OtpdError) -> OtpdError:
    """What the call to the store has raised, for one of those that were in it."""
    match error:
        case Reject(data={"code": str(code)}):
            return failure(str(waiting), code, "no", error.message)
        case NoProcess():
            return NoProcess(NO_STORE.format(waiting))
        case Reject() | RemoteError():
            return OtpdError(f"{waiting}: {error}; see: otpd why store", "maybe")
    return type(error)(str(error), error.executed)
