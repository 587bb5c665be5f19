"""The one thread in which plain `def` handlers run, so that the loop beats on.

A daemon, made when it is first needed: a handler that hangs can't keep the process from ending, as the threads of an
executor would. It ends with the agent where the process goes on, in a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

from otpd.agents.forked import Came, leave

_Job: TypeAlias = tuple[Callable[[], Any], "asyncio.Future[Any]"] | None


class Worker:
    """To be used from the loop that it is made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.running = 0  # jobs that have not come back

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """The result of `job`, or what it raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="otpd handlers", daemon=True)
            self._thread.start()
        future: asyncio.Future[Any] = self._loop.create_future()
        self.running += 1
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """The thread ends after the jobs that it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        pid = os.getpid()
        while (given := self._jobs.get()) is not None:
            job, future = given
            outcome: Callable[[asyncio.Future[Any], Any], None] = _fail
            try:
                outcome, value = _answer, job()
            except StopIteration as error:  # a future refuses it
                value = RuntimeError(f"the handler raised {error!r}")
            except BaseException as error:
                value = error
            if os.getpid() != pid:
                leave(value if outcome is _fail else Came())
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
                self._loop.call_soon_threadsafe(self._back, outcome, future, value)

    def _back(self, outcome: Callable[[Any, Any], None], future: asyncio.Future[Any], value: Any) -> None:
        self.running -= 1
        outcome(future, value)


def _answer(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
