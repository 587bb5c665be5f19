"""A task that its owner can wait for, look at, or end. What `self.task(...)` gives; awaiting it gives the result.

The races of a linked task (Elixir's Task.async), in the order in which they are met:
1. Its failure comes while somebody awaits it: that one gets the error, and crashes or does not, as with any exception.
2. Its failure comes while nobody awaits it: whoever asks within the same turn of the loop still gets it; else the owner
   crashes with it, as linked processes do.
3. The owner ends first: its line closes, and the pool ends the task with its worker.
A task that is not linked keeps its failure for whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Final

from otpd.agents.current import OWNER, inherited_deadline
from otpd.agents.errors import CallTimeout, Exited, OtpdError
from otpd.agents.tasks.desk import Entry
from otpd.agents.tasks.pools import Counter, Pools, refused
from otpd.agents.tasks.values import Exit, Outcome

BRUTAL_KILL: Final = "brutal_kill"
_NS: Final = 1_000_000_000


class Task:
    """Made by the verbs. `name`: of its function. Only who has made it may wait for it."""

    def __init__(self, pools: Pools, counter: Counter, name: str, linked: bool) -> None:
        self.name, self.pool, self.owner = name, counter.desk.pool, pools.owner
        self.outcome: Outcome | None = None
        self._counter, self._linked, self._crash = counter, linked, pools.crash
        self._loop = asyncio.get_running_loop()
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._awaited = False
        self._number: int | None = None
        self._withdrawn = False
        self._told: list[Callable[[], None]] = []
        self._maker = OWNER.get()

    def __repr__(self) -> str:
        state = "running" if self.outcome is None else "ok" if self.outcome.ok else "exited"
        return f"<task {self.name} in pool {self.pool}, {state}>"

    def begin(self, entry: Entry) -> None:
        """Hand it over, now or when there is a line to the pool."""
        if self._counter.connected:
            self._submit(entry)
        else:
            self._loop.create_task(self._begin_later(entry))

    async def _begin_later(self, entry: Entry) -> None:
        try:
            await self._counter.connect()
        except OtpdError as error:
            self.settle(refused(self.name, error))
        else:
            if self._withdrawn:
                self.settle(Exit("cancelled", Exited(f"task {self.name}: it was taken back", reason="shutdown")))
            else:
                self._submit(entry)

    def _submit(self, entry: Entry) -> None:
        try:
            self._number = self._counter.submit(entry)
        except OtpdError as error:
            self.settle(refused(self.name, error))

    def settle(self, outcome: Outcome) -> None:
        """Its end, once."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        if not self._changed.done():
            self._changed.set_result(None)
        for tell in self._told:
            tell()
        if self._linked and not outcome.ok and not self._withdrawn and self._crash is not None:
            self._loop.call_soon(self._loop.call_soon, self._crash_with)

    def _crash_with(self) -> None:
        if not self._awaited and isinstance(self.outcome, Exit) and self._crash is not None:
            self._crash(self.outcome.error)

    # --- what its owner may do ---

    def done(self) -> bool:
        return self.outcome is not None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result(None).__await__()

    async def result(self, timeout: float | None = 5.0) -> Any:
        """Its value, or the error that it ended with. CallTimeout after `timeout` seconds; then it is ended, too.

        So it is when what waits here is cancelled, or has passed the deadline of the call that it serves: nobody is left
        who would take the result.
        """
        self._here()
        self._awaited = True
        try:
            await self._wait(timeout)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._withdraw()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise CallTimeout(f"task {self.name}: it did not end within the deadline, and was ended", "maybe") from None
        assert self.outcome is not None
        return self.outcome.value

    async def poll(self, timeout: float | None = 0.0) -> Outcome | None:
        """Ok or Exit if it ends within `timeout` seconds; else None, and it goes on (Elixir's Task.yield)."""
        self._here()
        self._awaited = True
        try:
            await self._wait(timeout)
        except TimeoutError:
            self._awaited = False
        return self.outcome

    async def shutdown(self, timeout: float | str = 5.0) -> Outcome | None:
        """End it. Its outcome if that came first, else None. Waits until its worker is gone, at most `timeout` seconds;
        "brutal_kill" does not wait."""
        self._here()
        self._awaited = True
        if self.outcome is not None:
            return self.outcome
        self._withdraw()
        if timeout != BRUTAL_KILL:
            try:
                await self._wait(float(timeout))
            except TimeoutError:
                pass
        outcome = self.outcome
        return None if isinstance(outcome, Exit) and outcome.reason == "cancelled" else outcome

    def cancel(self) -> None:
        """End it, and hear nothing of it."""
        if self.outcome is None:
            self._withdrawn = True
            if self._number is not None:
                self._counter.forget(self._number)
            self.settle(Exit("cancelled", Exited(f"task {self.name}: it was taken back", reason="shutdown")))

    def _withdraw(self) -> None:
        self._withdrawn = True
        if self._number is not None and self.outcome is None:
            self._counter.withdraw(self._number)

    def tell(self, told: Callable[[], None]) -> None:
        """Call `told` at its end."""
        self._told.append(told)

    async def _wait(self, timeout: float | None) -> None:
        if self.outcome is not None:
            return
        inherited = inherited_deadline()
        when = None if timeout is None else self._loop.time() + timeout
        if inherited:
            when = min(inherited / _NS, when if when is not None else inherited / _NS)
        async with asyncio.timeout_at(when):
            while self.outcome is None:
                if self._changed.cancelled():
                    self._changed = self._loop.create_future()
                await asyncio.shield(self._changed)

    def _here(self) -> None:
        if asyncio.get_running_loop() is not self._loop or OWNER.get() is not self._maker:
            raise RuntimeError(
                f"task {self.name} belongs to {self.owner}, and only its owner may wait for it; send the result instead"
            )
