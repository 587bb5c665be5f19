"""root's link to the sampler: who is watched, and what the sampler found. A third helper beside those in `helpers`.

It is started when the first child that declares `restart_when` is ready and never before. What a sampler must know is kept
here, so that one that was killed has a successor that watches the same children; meanwhile nobody is restarted for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from otpd.ipc.frames import close_all
from otpd.supervisor.helpers import Helper
from otpd.supervisor.loop import Loop
from otpd.supervisor.units import format_size


class MemoryWatch(Helper):
    """`on_over(name, generation, why)`: this incarnation uses more than it may. Said again while it is so."""

    def __init__(
        self,
        loop: Loop,
        env: dict[str, str],
        on_over: Callable[[str, int, str], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        super().__init__(loop, "sampler", _command, env, self._packet, self._up, on_event)
        self._on_over = on_over
        self._watched: dict[str, tuple[int, int, int]] = {}  # name -> generation, pid, limit
        self._started = False

    def watch(self, name: str, generation: int, pid: int, limit: int | None) -> None:
        """From now on; `limit` None: no longer."""
        if limit is None:
            self.forget(name, generation)
            return
        self._watched[name] = (generation, pid, limit)
        if self._started:
            self.send(["watch", name, generation, pid, limit])
        else:
            self._started = True
            self.start()

    def forget(self, name: str, generation: int) -> None:
        """The incarnation has ended, or has no limit any more. Harmless when it was not watched."""
        if name in self._watched and self._watched[name][0] == generation:
            del self._watched[name]
            self.send(["forget", name, generation])

    def _up(self) -> None:
        for name, watched in self._watched.items():
            self.send(["watch", name, *watched])

    def _packet(self, value: Any, fds: list[int]) -> None:
        close_all(fds)
        match value:
            case ["over", str(name), int(generation), int(used)] if name in self._watched:
                known, _pid, limit = self._watched[name]
                if known == generation and used > limit:
                    self._on_over(name, generation, _why(used, limit))


def _command(fd: int) -> list[str]:
    return [sys.executable, "-P", "-m", "otpd.supervisor.sampler", "--channel", str(fd)]


def _why(used: int, limit: int) -> str:
    """In whole MiB, as nobody reads bytes; the limit as it was written.

    >>> _why(431_000_000, 400 * 2**20)
    'memory: its processes use 411MiB, restart_when.memory is 400MiB'
    """
    return f"memory: its processes use {used >> 20}MiB, restart_when.memory is {format_size(limit)}"
