"""A clock that jumps: the running loop waits for nothing but work, and time passes only when everybody sleeps.

Put on a loop it replaces its clock and stands in front of its selector. Where the loop would block until its next timer,
the clock is set to that moment instead. Not while threads are at work for the loop (plain def handlers, `run_in_executor`,
`asyncio.to_thread`): what they do takes real time, and none on this clock.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable
from typing import Any, Final

_NS: Final = 1_000_000_000


class Clock:
    """`turn` moves what else there is to move, and says whether there may be callbacks now; `due` is when (ns) it wants
    to be called again; `busy` says whether a thread is at work of which the loop does not know."""

    def __init__(self, turn: Callable[[], bool], due: Callable[[], int | None], busy: Callable[[], bool]) -> None:
        self.turn, self._due, self._busy = turn, due, busy
        self._now = time.monotonic_ns()
        self._started = self._now
        self._threads = 0
        self._put_back: list[Callable[[], None]] = []

    def now(self) -> int:
        """ns; stands still while anything runs."""
        return self._now

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return (self._now - self._started) / _NS

    # --- on a loop ---

    def put_on(self, loop: Any) -> None:
        """TypeError for a loop that has no selector of asyncio's (uvloop)."""
        if not hasattr(loop, "_selector"):
            raise TypeError(f"expected one of asyncio's own loops, whose clock can jump, got {type(loop).__name__}")
        self._now = self._started = int(loop.time() * _NS)
        self._replace(loop, "time", lambda: self._now / _NS)
        self._replace(loop, "_selector", _Jumping(loop._selector, self))
        self._replace(loop, "run_in_executor", functools.partial(self._in_executor, loop.run_in_executor))

    def take_off(self, loop: Any) -> None:
        """The loop's own clock goes on from here: a clock must not go back while timers are armed."""
        while self._put_back:
            self._put_back.pop()()
        ahead = self._now / _NS - time.monotonic()
        loop.time = lambda: time.monotonic() + ahead

    def _replace(self, loop: Any, name: str, value: Any) -> None:
        before = loop.__dict__.get(name, self)
        setattr(loop, name, value)
        self._put_back.append(
            functools.partial(delattr, loop, name) if before is self else functools.partial(setattr, loop, name, before)
        )

    def _in_executor(self, run: Callable[..., asyncio.Future[Any]], *args: Any) -> asyncio.Future[Any]:
        future = run(*args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    # --- for the selector ---

    def jump(self, timeout: float | None) -> bool:
        """To the next moment at which anything is due; False when there is none, or a thread is at work."""
        due = self._due()
        moments = [] if due is None else [due]
        if timeout is not None:
            moments.append(self._now + max(1, math.ceil(timeout * _NS)))
        if not moments or self._threads or self._busy():
            return False
        self._now = max(self._now, min(moments))
        return True


class _Jumping:
    """In front of the loop's own selector."""

    def __init__(self, selector: Any, clock: Clock) -> None:
        self._inner, self._clock = selector, clock

    def select(self, timeout: float | None = None) -> Any:
        clock = self._clock
        moved = clock.turn()
        ready = self._inner.select(0)
        if moved or ready or timeout == 0:
            return ready
        if clock.jump(timeout):
            clock.turn()
            return ready
        return self._inner.select(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
