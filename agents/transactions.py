"""`async with self.transaction():` what is saved and sent in it, and the acknowledgement of the durable message that is
being handled, are one commit: all of it has taken place, or nothing has (messaging.md, E7).

>>> # @cast
>>> # async def paid(self, order: str, amount: int) -> None:     # cast with durable=True
>>> #     async with self.transaction():
>>> #         books = await self.load({})
>>> #         books[order] = books.get(order, 0) + amount
>>> #         await self.save(books)
>>> #         await self.cast("shipping", "ship", durable=True, order=order)

The races, and what is done about them:
1. The agent dies before the commit: nothing has taken place, the message comes again.
2. It dies after it: everything has, and the message does not come again.
3. The store, or the broker, dies during the commit: it is said again with the same number, and the store knows whether it
   has taken place. The block ends when that is known, at the latest with the deadline of the call that is being handled.
4. The message was given to another incarnation meanwhile: Stale, nothing has taken place here.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from otpd.agents.conversation import Conversation
from otpd.agents.deliveries import DELIVERY
from otpd.agents.errors import CallTimeout
from otpd.agents.submissions import Submission
from otpd.agents.waiting import Done, Waiting

TRANSACTION: contextvars.ContextVar[Transaction | None] = contextvars.ContextVar("otpd_transaction", default=None)
_DONE: Final = Done()


class Transaction:
    """Made by `self.transaction()`. What is put into it is kept until the end of the block."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._requests: list[list[Any]] = []
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._state: Any = None
        self._saved: Callable[[Any], None] = _nothing
        self._leave_open: Callable[[], None] = lambda: None
        self._token: contextvars.Token[Transaction | None] | None = None

    async def __aenter__(self) -> Self:
        self._conversation.here()
        self.enter()
        return self

    def enter(self) -> None:
        """In the context, a task's or a thread's, in which it is said."""
        if TRANSACTION.get() is not None:
            raise RuntimeError("transaction: expected none, but one is open here; put both into one block")
        self._token = TRANSACTION.set(self)

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.leave()
        if error is None:
            await self.commit()

    def leave(self) -> None:
        """What is said from now on is not part of it."""
        if self._token is not None:
            TRANSACTION.reset(self._token)
            self._token = None

    # --- what is put into it ---

    def add(self, request: list[Any]) -> Awaitable[None]:
        if self._token is None:
            raise RuntimeError("transaction: it is over; a task that outlives its block says what it has to say by itself")
        self._requests.append(request)
        return _DONE

    def publish(self, request: list[Any], topic: str, data: Mapping[str, Any]) -> Awaitable[None]:
        done = self.add(request)
        self._events.append((topic, data))
        return done

    def save(self, state: Any, saved: Callable[[Any], None], leave_open: Callable[[], None]) -> None:
        """`state`: what the store gets; `saved` hears its answer when it is on disk, `leave_open` that nobody will hear one.
        The last one counts."""
        self._state, self._saved, self._leave_open = state, saved, leave_open

    async def commit(self) -> None:
        delivery = DELIVERY.get()
        settles = None if delivery is None or delivery.settled else (delivery.seq, delivery.attempt)
        if not (settles or self._requests or self._state is not None):
            return
        conversation = self._conversation
        deadline = conversation.deadline(None, "transaction of", conversation.endpoint.name)
        waiting = Waiting(conversation.loop.create_future(), "transaction of", conversation.endpoint.name)
        conversation.submissions.put(Submission(waiting, self._requests, settles, self._state, whole=True))
        missing = "the store did not say whether it has taken place"
        try:
            _, more = await conversation.within(deadline, waiting, missing, "maybe")
        except (asyncio.CancelledError, CallTimeout):
            self._leave_open()
            raise
        if delivery is not None and settles:
            delivery.settled = True
        self._saved(more)
        for topic, data in self._events:
            await conversation.publish(topic, data)


def _nothing(_: Any) -> None:
    pass
