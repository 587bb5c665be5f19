"""The handlers of the store for the state of agents: each speaks for its own name, people for all.

`state` decides; the engine commits. Incarnations are told apart by the broker, which takes nothing from one that is not
current; what one that has died has still sent is refused after its successor has loaded or saved (A8).
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from otpd.agents.decorators import call
from otpd.agents.services.store import state
from otpd.agents.services.store.asked import Asked, rejected
from otpd.agents.services.store.errands import Write
from otpd.agents.services.store.refusals import Refusal


class Keeper(Asked):
    """The half of the store that keeps states."""

    engine: Any  # an Engine, or what a test has in its place

    def commit(
        self,
        write: Write,
        *,
        grows: bool = True,
        size: int = 0,
        brief: bool = False,
        after: Callable[[], None] | None = None,
    ) -> None:
        """The call that is being handled is answered with what `write` returns, after its commit; before that, `after`."""
        reply = self.defer()

        def then(answer: Any, error: BaseException | None) -> None:
            if error is not None:
                return reply.fail(rejected(error) if isinstance(error, Refusal) else error)
            if after is not None:
                after()
            return reply.answer(answer)

        self.engine.submit(write, then, grows=grows, size=size, brief=brief)

    # --- agents ---

    @call
    async def load_state(self) -> Any:
        """[version, body] of who calls; [0, None] when there is none."""
        name, _ = self._asker()
        self.commit(functools.partial(_load, name), grows=False, brief=True)

    @call
    async def save_state(self, body: bytes, expected: int | None = None) -> Any:
        """The new version. `expected`: the version that it replaces, None for whatever is there."""
        name, inc = self._asker()
        self._fits(name, body)
        now = time.time()
        self.commit(lambda it: state.put_state(it, name, inc, expected, body, now), size=len(body), brief=True)

    # --- people ---

    @call
    async def states(self) -> Any:
        """Who has a state: name, version, bytes, at, intact."""
        self._only_operators()
        self.commit(state.list_states, grows=False)

    @call
    async def state_of(self, name: str) -> Any:
        """[version, body] of a name."""
        self._only_operators()
        self.commit(functools.partial(_load, name), grows=False)

    @call
    async def import_state(self, name: str, body: bytes) -> Any:
        """Put a state in the place of what there is. Its new version."""
        self._only_operators()
        self._fits(name, body)
        self.commit(lambda it: state.replace_state(it, name, body, time.time()), size=len(body))

    @call
    async def drop_state(self, name: str) -> Any:
        """Forget the state of a name, damaged or not. Its new version."""
        self._only_operators()
        self.commit(lambda it: state.replace_state(it, name, None, time.time()), grows=False)


def _load(name: str, connection: sqlite3.Connection) -> list[Any]:
    found = state.get_state(connection, name)
    return [found.version, found.body]
