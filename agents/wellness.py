"""How an agent answers `otpd.health`: beside its mailbox, so that a handler that awaits for long holds no answer up.

A question is a task on the loop, at most one at a time; those that come meanwhile get the same answer. So an answer proves
that the loop turns, and says what the `@health` method thinks of the rest. An agent without one is well if it answers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

from otpd.agents import raised
from otpd.agents.current import CURRENT
from otpd.agents.methods import Method

#: Characters of what is wrong.
_LIMIT: Final = 500


class Wellness:
    """`tell(call, wrong)` answers the question `call`: None for well, else what is wrong."""

    def __init__(self, agent: Any, method: Method | None, tell: Callable[[int, str | None], None]) -> None:
        self._agent, self._method, self._tell = agent, method, tell
        self._asked: list[int] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, call: int) -> None:
        if self._method is None:
            self._tell(call, None)
            return
        self._asked.append(call)
        if self._task is None:
            self._task = asyncio.ensure_future(self._answer(self._method))

    def drop(self, call: int) -> None:
        """Nobody waits for this answer any more."""
        if call in self._asked:
            self._asked.remove(call)

    async def _answer(self, method: Method) -> None:
        CURRENT.set(None)  # it may have come in the turn of a handler, and is no part of what that serves
        try:
            wrong = await self._look(method)
        finally:
            asked, self._asked, self._task = self._asked, [], None
        for call in asked:
            self._tell(call, wrong)

    async def _look(self, method: Method) -> str | None:
        """A check that raises has found something; it crashes nobody."""
        try:
            found = method.function(self._agent)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:
            return f"{method.name} raised {raised.one_line(error)}"
        if found is None or found is True:
            return None
        return _sendable(found) if found is not False else f"{method.name} says no"


def _sendable(found: Any) -> str:
    """Whatever it is, as a text that travels.

    >>> _sendable("disk\\ud800 full")
    'disk\\\\ud800 full'
    """
    return str(found).encode(errors="backslashreplace").decode()[:_LIMIT]
