"""Invariants 33, 34, 38, 39 and 41: who owns which process, who may kill whom, and that nobody is there twice."""

from __future__ import annotations

from typing import Any

from otpd.supervisor.events import Effect, Event, Spawn
from otpd.supervisor.ladder import KILL_PATIENCE, SWEEP_PATIENCE
from tests.simulation.clock import SECOND
from tests.simulation.kernel import Cookie, Process
from tests.simulation.messages import short
from tests.simulation.observe import Observer
from tests.simulation.root import SimulatedRoot
from tests.simulation.workers import Live

_NODE = ("heart", "root")
#: Nanoseconds between what must be over and what the shell has made of it.
_SLACK = SECOND


class Processes(Observer):
    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._last: dict[str, int] = {}  # name -> its last incarnation, for ever

    def process_started(self, process: Process) -> None:
        cookie = process.cookie
        if not _is_worker(process):
            return
        last = self._last.get(cookie.name, 0)
        self.check(cookie.inc > last, 41, f"{cookie.name} is {short(cookie.inc)}, after it was {short(last)} already")
        self._last[cookie.name] = cookie.inc
        if last >> 32 and last >> 32 != cookie.inc >> 32:
            self.sometimes["a name lives on in another life of root"] += 1
        for other in self.world.kernel.living():
            same = other.cookie.name == cookie.name and other is not process
            self.check(not same or _is_immortal(other), 39, f"{process} is started while {other} is alive")

    def tree_handled(self, root: SimulatedRoot, event: Event, effects: list[Effect]) -> None:
        """39, for all that was below it: no incarnation meets what the last one's children have left."""
        for effect in effects:
            if isinstance(effect, Spawn):
                below = [path for path in root.workers.table if path.startswith(f"{effect.path}/")]
                self.check(not below, 39, f"{effect.path} is started while {below} are there")

    def killed(self, killer: Process | None, victim: Process) -> None:
        """Nobody but those below it (T19): a pid that has been reaped may be anybody's."""
        if killer is None:
            return
        above = victim.parent
        while above is not None and above is not killer:
            above = above.parent
        self.check(above is killer, 34, f"{killer} kills {victim}, which is none of its own")
        if victim.cookie.name not in _NODE and killer.cookie.name == "root":
            self._check_reason(victim)

    def _check_reason(self, victim: Process) -> None:
        root = self.world.root
        live = root.workers.of(victim.cookie.name) if root is not None else None
        ended = live is not None and live.inc == victim.cookie.inc and live.ladder is not None
        self.check(ended, 34, f"root kills {victim}, which it is not ending")

    def incarnation_ended(self, root: SimulatedRoot, live: Live, reason: str) -> None:
        """When the tree hears of an end, nothing of it is left but what can't be killed."""
        for process in self.world.kernel.of(Cookie(live.name, live.inc)):
            self.check(_is_immortal(process), 33, f"{live.name} {short(live.inc)} has ended ({reason}), but {process} lives")
            self.sometimes["a process outlives its incarnation"] += 1

    def finished(self) -> None:
        """Everybody has an owner: the living root's table, or root itself below heart."""
        root = self.world.root
        for process in self.world.kernel.living():
            if process.cookie.name in (*_NODE, "stranger"):
                continue
            owned = root is not None and any(_owns(live, process) for live in root.workers.table.values())
            self.check(owned or root is None or _is_immortal(process), 33, f"nobody owns {process}")

    def stopped(self) -> None:
        for process in self.world.kernel.living():
            own = process.cookie.name in (*_NODE, "stranger")
            self.check(own or _is_immortal(process), 33, f"the node has stopped, but {process} lives")


def _owns(live: Live, process: Process) -> bool:
    return live.name == process.cookie.name and live.inc == process.cookie.inc


def _is_worker(process: Process) -> bool:
    """Root's own child from birth: not a helper, nor root, nor a ghost."""
    return process.parent is not None and process.parent.cookie.name == "root"


def _is_immortal(process: Process) -> bool:
    """Or was, until a moment ago, so that whoever waited for its end has given up."""
    patience = round((KILL_PATIENCE + SWEEP_PATIENCE) * SECOND)
    return process.immortal_until > 0 and process.kernel.clock.now - process.immortal_until < patience + _SLACK
