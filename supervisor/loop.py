"""The event loop of root: epoll, timers on CLOCK_MONOTONIC, signals as a readable descriptor. One thread, no asyncio.

A handler is called with the epoll mask and must not block. A descriptor that was registered while a batch of events is
being handled gets none of that batch: its number may have belonged to another file a moment ago (T31). An exception in a
handler ends root, and heart starts it again in a known state: nothing is supervised by a table that may be wrong.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import select
import signal
import time
from collections.abc import Callable

from otpd.supervisor import linux

READ, WRITE, ONCE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLONESHOT
#: Seconds by which work that can wait is put off.
LATER = 0.003
Handler = Callable[[int], None]
_BATCH = 256
#: Seconds after which a timer is late because the loop was, and batches that are handled before it then.
LATE = 0.2
_CATCH_UP = 64
#: Cancelled timers that may wait for their deadline; more, and more than half of all, are cleared away: a start that went
#: well has cancelled one that was due in an hour.
_FEW = 100


class Timer:
    """A deadline that can be cancelled; compares by deadline, then by order of creation."""

    __slots__ = ("_loop", "action", "deadline", "order")

    def __init__(self, loop: Loop, deadline: float, order: int, action: Callable[[], None]) -> None:
        self._loop, self.deadline, self.order = loop, deadline, order
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)

    def cancel(self) -> None:
        """Harmless when it has fired or was cancelled before."""
        if self.action is not None:
            self.action = None
            self._loop.cancelled += 1


class Loop:
    """`now` is the monotonic time at which the current batch began, refreshed per batch and per timer."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[int, Handler]] = {}
        self._timers: list[Timer] = []
        self.cancelled = 0  # of these
        self._order = itertools.count()
        self._batch = 0
        self._running = False
        self.lag = 0.0  # seconds by which the timer that fires is late
        self._deferred: list[Callable[[], object]] = []
        self.now = time.monotonic()

    def add(self, fd: int, mask: int, handler: Handler) -> None:
        self._epoll.register(fd, mask)
        self._handlers[fd] = (self._batch, handler)

    def modify(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget `fd`, before it is closed. Unknown descriptors are no error."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, delay: float, action: Callable[[], None]) -> Timer:
        if not math.isfinite(delay):
            raise ValueError(f"expected a delay in seconds, got {delay}")
        if self.cancelled > _FEW and self.cancelled > len(self._timers) // 2:
            self._timers = [timer for timer in self._timers if timer.action is not None]
            heapq.heapify(self._timers)
            self.cancelled = 0
        timer = Timer(self, self.now + delay, next(self._order), action)
        heapq.heappush(self._timers, timer)
        return timer

    def defer(self, action: Callable[[], object]) -> None:
        """Call `action`, which can wait, a moment later: the processes that have just been started need the cores more."""
        if not self._deferred:
            self.after(LATER, self._work_off)
        self._deferred.append(action)

    def close_later(self, fd: int) -> None:
        """Forget `fd` and close it. For one that was added with ONCE and has been handled, so that it can't wake us."""
        if self._handlers.pop(fd, None) is not None:
            self.defer(lambda: self._close(fd))

    def _close(self, fd: int) -> None:
        self._epoll.unregister(fd)
        os.close(fd)

    def on_signals(self, numbers: tuple[signal.Signals, ...], action: Callable[[int], None]) -> None:
        """Call `action(number)` in the loop for each of these signals. They are blocked and read, no handlers: one that
        comes together with a death does not interrupt the wait for it, which would cost a tenth of a millisecond. A new
        process inherits the mask and has to clear it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._signals = linux.signal_fd(numbers)

        def readable(_mask: int) -> None:
            for number in linux.read_signals(self._signals):
                action(number)

        self.add(self._signals, READ, readable)

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._running:
            self.step()

    def stop(self) -> None:
        self._running = False

    def step(self) -> None:
        """Wait for the next event or timer and handle what is there."""
        self._handle(self._epoll.poll(self._until_next(), _BATCH))
        for _ in range(_CATCH_UP):
            if not self._late() or not self._handle(self._epoll.poll(0, _BATCH)):
                break
        self._fire()

    def _handle(self, events: list[tuple[int, int]]) -> bool:
        self._batch += 1
        self.now = time.monotonic()
        for fd, mask in events:
            found = self._handlers.get(fd)
            if found is not None and found[0] != self._batch:
                found[1](mask)
        return bool(events)

    def _late(self) -> bool:
        """This process was held up (stopped, swapped out). What others have said meanwhile is heard before a deadline of
        theirs is called passed; an interrupted poll gives no events, whatever there is."""
        return bool(self._timers) and self.now - self._timers[0].deadline > LATE

    def _work_off(self) -> None:
        actions, self._deferred = self._deferred, []
        for action in actions:
            action()

    def _until_next(self) -> float:
        while self._timers and self._timers[0].action is None:
            heapq.heappop(self._timers)
            self.cancelled -= 1
        if not self._timers:
            return -1
        return max(0.0, self._timers[0].deadline - time.monotonic())

    def _fire(self) -> None:
        """Timers that are armed meanwhile wait for the next turn: those without delay must not shut out all else."""
        self.now = time.monotonic()
        end = (self.now, next(self._order))
        while self._timers and (self._timers[0].deadline, self._timers[0].order) < end:
            timer = heapq.heappop(self._timers)
            action, timer.action = timer.action, None
            if action is None:
                self.cancelled -= 1
            else:
                self.lag = self.now - timer.deadline
                action()
