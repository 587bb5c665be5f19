"""The process of a task pool: a service agent below `tasks`, started by root with the first task that somebody gives it.

`dispatch` says what happens; here are the lines to owners, who come by root's `reach`, and what operators may ask. Its
workers are its own children, so that they are gone before the next incarnation of it begins.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from typing import Any, Final

from otpd.agents import Agent, Reject, call, run
from otpd.agents.services.notes import note
from otpd.agents.tasks.crew import Equipment, Workers
from otpd.agents.tasks.dispatch import Dispatch, Owner, Row
from otpd.agents.tasks.lines import Hub, Line
from otpd.agents.tasks.machine import NEVER, Options

#: Seconds between two words to telemetry, while something happens.
_EMIT: Final = 1.0
#: For each core; a pool for waiting has more.
_PER_CORE: Final = {"io": 4}
MAX_SIZE: Final = 1000


def options_of(pool: str, given: dict[str, Any]) -> Options:
    """Of the table [pools.NAME], with the defaults of this machine."""
    cores = len(os.sched_getaffinity(0))
    known = ("queue", "queue_bytes", "max_tasks_per_worker", "memory", "timeout", "idle", "start_timeout")
    size = given.get("size") or max(2, cores * _PER_CORE.get(pool, 1))
    return Options(size=size, **{key: given[key] for key in known if key in given})


def _raise_limit() -> None:
    """Each task with large arguments that waits holds a descriptor. Workers are root's children and have their own limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class TaskPool(Agent):
    """Runs functions in worker processes: size, queue and limits are those of [pools.NAME]."""

    async def init(self, pool: str, options: dict[str, Any]) -> None:
        _raise_limit()
        self.pool_name = pool
        self._loop = asyncio.get_running_loop()
        self._lines: dict[int, Line] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._emitting = False
        machine = options_of(pool, options)
        spawn = options.get("spawn", "warn")
        equipment = Equipment(
            preload=options.get("preload", ()),
            grace=options.get("grace", 0.5),
            measures=machine.memory is not None,
            spawn=spawn,
        )
        self._hub = Hub(self._after)
        self.workers = Workers(self.name, self, equipment, self._after, self._hub)
        self.dispatch = Dispatch(
            machine, self.workers, self._loop.time, self._note, pickle=options.get("pickle", False), spawn=spawn
        )
        self.workers.listener = self.dispatch
        self._host.serve(self._come, self.workers.ended)

    async def terminate(self, reason: str) -> None:
        self.workers.close()
        for line in [*self._lines.values()]:
            line.close()
        self._hub.close()

    # --- owners ---

    def _come(self, caller: dict[str, Any], sock: int, pidfd: int) -> None:
        """Root has joined an owner with this pool."""

        def put(message: list[Any], fds: Any) -> None:
            line.put(message, fds)

        def hear(message: list[Any], fds: list[int]) -> None:
            self.dispatch.hear(key, message, fds)

        def gone() -> None:
            del self._lines[key]
            self.dispatch.gone(key)

        line = Line(socket.socket(fileno=sock), hear, gone, _nothing, pidfd, self._hub)
        key = self.dispatch.come(Owner(caller["name"], caller["generation"], put, caller["user"] is None))
        self._lines[key] = line
        self._after()

    def _after(self) -> None:
        """Something has happened: send what there is to send, and look at the clock."""
        self._hub.flush()
        due = self.dispatch.pool.due()
        if due != NEVER and (self._timer is None or self._timer.when() > due):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._tick)
        if not self._emitting:
            self._emitting = True
            self._loop.call_later(_EMIT, self._emit)

    def _tick(self) -> None:
        self._timer = None
        self.dispatch.tick()
        self._after()

    # --- what is told ---

    def _note(self, what: str, row: Row | None, why: str) -> None:
        """An end that was not its own; a failure that nobody else hears of; a process that it has made."""
        name, (owner, generation) = (row.name, row.who) if row is not None else ("(none)", ("", 0))
        self.log.warning("task %s of %s (generation %d): %s%s", name, owner, generation, what, f" ({why})" if why else "")
        note(self, what, self.name, task=name, owner=owner, generation=generation, why=why)

    def _emit(self) -> None:
        self._emitting = False
        pool = self.dispatch.pool
        counters, now = pool.counters, {"queued": pool.queued, "running": pool.running}
        told = {**now, "submitted": counters.submitted, **counters.outcomes()}
        self.emit(f"tasks.{self.pool_name}", **told)
        self._host.counts(told)
        spans = {name: {"counts": each.counts, "sum": each.sum} for name, each in counters.spans().items()}
        counted = {"pool": self.pool_name, **now, "ended": counters.outcomes(), **spans}
        self._otpd.emit("otpd.tasks.counted", {"at": time.time(), **counted})

    # --- what operators ask ---

    @call
    async def facts(self) -> dict[str, Any]:
        """Counters, workers and tasks, now."""
        pool, counters = self.dispatch.pool, self.dispatch.pool.counters
        now = self._loop.time()
        queued_bytes, unread_bytes = pool.waiting_bytes
        return {
            "pool": self.pool_name,
            "size": pool.options.size,
            "queue": pool.options.queue,
            "queue_bytes": pool.options.queue_bytes,
            "draining": pool.draining,
            "workers": {state.name.lower(): [*pool.workers.values()].count(state) for state in {*pool.workers.values()}},
            "queued": pool.queued,
            "running": pool.running,
            "parked": pool.parked,
            "queued_bytes": queued_bytes,
            "unread_bytes": unread_bytes,
            "spawn": self.dispatch.spawn.picture(),
            "submitted": counters.submitted,
            **counters.outcomes(),
            **{name: each.picture() for name, each in counters.spans().items()},
            "tasks": [self._shown(task, row, now) for task, row in self.dispatch.rows.items()][:_MOST],
            "at": time.time(),
        }

    def _shown(self, task: int, row: Row, now: float) -> dict[str, Any]:
        worker = self.dispatch.pool.worker_of(task)
        state = "running" if worker is not None else "queued" if row.given is not None else "waiting"
        return {
            "function": row.name,
            "owner": row.who[0],
            "generation": row.who[1],
            "state": state,
            "worker": None if worker is None else f"{self.name}-{worker}",
            "seconds": round(now - row.since, 3),
        }

    @call
    async def resize(self, size: int) -> int:
        """So many workers at most, until the pool is started anew; the size that it had."""
        if not 1 <= size <= MAX_SIZE:
            raise Reject(f"expected a size from 1 to {MAX_SIZE}, got {size}")
        before = self.dispatch.pool.options.size
        self.dispatch.resize(size)
        self._after()
        return before

    @call
    async def drain(self) -> dict[str, int]:
        """Take no new tasks until all that were accepted are over and their workers gone; how many those are now."""
        pool = self.dispatch.pool
        left = {"queued": pool.queued, "running": pool.running}
        self.dispatch.drain()
        self._after()
        return left




def _nothing() -> None:
    """The hub says when it is time to send."""


#: Tasks that `facts` shows one by one.
_MOST: Final = 200

if __name__ == "__main__":
    run(TaskPool)
