"""The answer to a call, given later: OTP's {noreply, State} and gen_server:reply.

A handler that says `reply = self.defer()` need not know the answer yet. The mailbox goes on with the next message, and
whoever holds the reply gives it, once, when there is one: another handler, a task, the end of a commit.

>>> # @call
>>> # async def take(self) -> Any:             # waits for what `put` brings, and blocks nobody
>>> #     self.takers.append(self.defer())
>>> # @cast
>>> # async def put(self, job: str) -> None:
>>> #     self.takers.popleft().answer(job)

Guarantees: a caller whose deadline passes, who dies or gives up, or whose broker dies, is forgotten here at once, and an
answer to it is dropped and counted. Whoever is still waiting when this agent ends gets Exited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from otpd.agents import raised
from otpd.agents.current import Current
from otpd.agents.errors import Reject
from otpd.ipc.wire import Status


class Reply:
    """To one call. `send` gives status and value to the broker; `forget` ends what is kept of the call here."""

    __slots__ = ("_answered", "_current", "_forget", "_send", "_timer")

    def __init__(
        self,
        current: Current,
        send: Callable[[Status, Any], None],
        forget: Callable[[Current], None],
        timer: asyncio.TimerHandle | None,
    ) -> None:
        self._current, self._send, self._forget, self._timer = current, send, forget, timer
        self._answered = False

    @property
    def waiting(self) -> bool:
        """Whether somebody still waits for it."""
        return not (self._answered or self._current.finished)

    def when_gone(self, do: Callable[[], None]) -> None:
        """`do` is called, once, as soon as nobody waits any more: what is done for the caller can end."""
        self._current.gone = do

    def answer(self, value: Any = None) -> None:
        """What the call returns. NotData when it can't be sent; then it is still to be answered."""
        self._give(Status.OK, value)

    def fail(self, error: BaseException) -> None:
        """A Reject is raised again in the caller, any other error as RemoteError. It is no crash of this agent."""
        if isinstance(error, Reject):
            self._give(Status.REJECTED, ["Reject", error.message, error.data])
        else:
            self._give(Status.RAISED, raised.as_values(error))

    def _give(self, status: Status, value: Any) -> None:
        if self._answered:
            raise RuntimeError(f"a call of {self._current.caller} was answered twice; answer each deferred call once")
        self._send(status, value)
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        self._forget(self._current)


__all__ = ["Reply"]
