"""A lock of the node: one holder per key, in the order in which they asked; it ends with its holder.

The races, and what is done about them:
1. Who waits gives up (deadline, cancellation) while the lock is on its way to him: it is given back when it comes.
2. The call that is being handled passes its deadline inside the block: the lock goes back all the same.
3. The broker dies: the next one knows of no lock, so that another may get it. `held` is False from then on, and the end of
   the block raises BrokerLost, because what was done in it may have been done beside another.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from otpd.agents.conversation import Conversation
from otpd.agents.errors import BrokerLost
from otpd.agents.names import checked
from otpd.agents.waiting import Waiting


class Lock:
    """`async with self.lock(key) as lock:`. CallTimeout when it is not given within `timeout` seconds."""

    def __init__(self, conversation: Conversation, key: str, timeout: float | None) -> None:
        self._conversation, self.key, self._timeout = conversation, checked("lock", key), timeout
        self._epoch: str | None = None

    @property
    def held(self) -> bool:
        """Whether it is still certain that nobody else holds it."""
        return self._epoch is not None and self._epoch == self._conversation.epoch

    async def __aenter__(self) -> Self:
        self._conversation.here()
        deadline = self._conversation.deadline(self._timeout, "lock", self.key)
        while not self.held:
            try:
                await self._ask(deadline)
                self._epoch = self._conversation.epoch
            except BrokerLost:
                continue  # nobody holds a lock of a broker that is gone: ask the next one
        return self

    async def _ask(self, deadline: int) -> None:
        conversation = self._conversation
        waiting = Waiting(conversation.loop.create_future(), "lock", self.key)
        conversation.put_question(waiting, "lock", self.key)
        # Shielded, so that the answer still finds somebody when this gives up.
        guarded = Waiting(asyncio.shield(waiting.future), "lock", self.key)
        try:
            await conversation.within(deadline, guarded, "it was not given", "no")
        except BaseException:
            waiting.future.add_done_callback(self._give_back)
            raise

    def _give_back(self, answer: asyncio.Future[Any]) -> None:
        if not answer.cancelled() and answer.exception() is None and self._conversation.ended is None:
            self._conversation.endpoint.ask("unlock", self.key)

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self.held:
            if error is None:
                raise BrokerLost(f"lock {self.key}: the broker died while it was held; others may have held it, too")
            return
        self._epoch = None
        self._conversation.endpoint.ask("unlock", self.key)  # without a deadline: whatever has become of the call
