"""The scheduler of a node in memory: the real one, on the clock that jumps, without a disk.

It is begun when the agent declares schedules, or first asks for a timer. The wall clock begins at the real time and passes
with the clock that jumps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from otpd.agents.conversation import Conversation
from otpd.agents.host import Host, Parent
from otpd.agents.services.scheduler.effects import Instant
from otpd.agents.services.scheduler.service import Scheduler as Service
from otpd.agents.services.scheduler.timetable import Memory
from otpd.agents.timed import SCHEDULER


class SchedulerNode(Protocol):
    """The node that it is part of."""

    def join_service(self, name: str) -> tuple[Conversation, int]: ...

    def service_ready(self, name: str) -> None: ...


class LoopAlarm:
    """Of the wall clock, by the loop's own: nobody sets it in a test."""

    def __init__(self, ring: Callable[[], None], now: Callable[[], Instant]) -> None:
        self._ring, self._now = ring, now
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: int | None) -> None:
        self.close()
        if at is not None:
            left = max(0, at - self._now().wall) / 1e9
            self._timer = asyncio.get_running_loop().call_later(left, self._ring)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class MemoryScheduler(Service):
    """`clock`: ns, given by who makes it."""

    clock: Callable[[], int]
    ahead: int

    def _keeper(self, state_dir: str) -> Memory:
        return Memory()

    def _now(self) -> Instant:
        mono = self.clock()
        return Instant(mono, mono + self.ahead)

    def _alarm(self, ring: Callable[[], None]) -> LoopAlarm:
        return LoopAlarm(ring, self._now)


class Scheduler:
    """`begin` when it is needed; harmless when it has begun."""

    def __init__(self, node: SchedulerNode, parent: Parent, clock: Callable[[], int]) -> None:
        self._node, self._parent, self._clock = node, parent, clock
        self._host: Host | None = None
        self._life: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._host is not None:
            return
        conversation, generation = self._node.join_service(SCHEDULER)
        log = logging.getLogger("otpd.agent.scheduler")
        self._host = Host(MemoryScheduler, generation, conversation, self._parent, log)
        agent: Any = self._host.agent
        agent.clock, agent.ahead = self._clock, time.time_ns() - self._clock()
        self._life = asyncio.ensure_future(self._live(self._host))

    async def _live(self, host: Host) -> None:
        if await host.init({}):
            self._node.service_ready(SCHEDULER)
            await host.live()

    async def end(self) -> None:
        if self._host is None or self._life is None:
            return
        self._host.stop("shutdown")
        await asyncio.wait((self._life,))
        with contextlib.suppress(asyncio.CancelledError):
            self._life.result()


__all__ = ["SCHEDULER", "Scheduler"]
