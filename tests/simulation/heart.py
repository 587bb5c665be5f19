"""heart in the simulated world: kills everything that a dead root has left, waits until it is gone, starts the next root.

The real heart is no machine but sixty lines around the kernel; this keeps to its rules (back-off included), so that what
outlives a root does so here as there.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from tests.simulation.clock import MS, SECOND
from tests.simulation.kernel import Cookie, Process
from tests.simulation.root import SimulatedRoot

if TYPE_CHECKING:
    from tests.simulation.world import World

_STABLE: Final = 60 * SECOND
_FIRST_DELAY, _LONGEST_DELAY = 100 * MS, 10 * SECOND
_PATIENCE: Final = 5 * SECOND


class SimulatedHeart:
    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.root: SimulatedRoot | None = None
        self.life = 0  # on disk
        self._began = 0
        self._failures = 0

    def begin(self) -> None:
        self._start_root()

    def signalled(self, _number: int) -> None:
        """The world stops the node through root."""

    def _start_root(self) -> None:
        """The life is on disk before root does anything (A1)."""
        self.life += 1
        self._began = self.world.clock.now
        process = self.world.kernel.spawn(Cookie("root", self.life << 32), self.process)
        self.root = SimulatedRoot(self.world, process, self.life)
        process.program = self.root
        process.watchers.append(self._root_died)
        self.root.begin()

    def _root_died(self) -> None:
        self.root = None
        self._kill_everything(self.world.clock.now + _PATIENCE)

    def _kill_everything(self, deadline: int) -> None:
        """Only direct children: what is below them comes here as they die."""
        for child in list(self.process.children):
            self.world.kernel.signal(child, signal.SIGKILL, self.process)
            self.world.kernel.reap(child)
        if self.process.children and self.world.clock.now < deadline:
            self.process.after(50 * MS, self._kill_everything, deadline)
        elif not self.world.over:
            self._start_again()

    def _start_again(self) -> None:
        stable = self.world.clock.now - self._began > _STABLE
        self._failures = 0 if stable else self._failures + 1
        delay = 0 if self._failures <= 1 else min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (self._failures - 2))
        self.process.after(delay, self._start_root)
