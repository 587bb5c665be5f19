"""Invariants 25, 30, 31 and 45 for the states of agents, as they, and the disk, have seen them.

The words of `stated`: "loaded" agent, version, and which one had been acknowledged before; "saved" agent, version; "stale"
agent: it was refused as replaced. What is on the disk is looked at after each write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.messages import short
from tests.simulation.observe import Observer
from tests.simulation.whole.saved import effects_of

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent


class States(Observer):
    world: Any

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._seen: dict[str, tuple[int, int]] = {}  # version and incarnation that were written last, by name
        self._loaded: dict[str, int] = {}  # the newest incarnation that was told its state
        self._newest: dict[str, int] = {}
        self._words: dict[str, Callable[..., None]] = {
            "loaded": self._has_loaded, "saved": self._was_saved, "stale": self._is_stale,
        }  # fmt: skip

    def stated(self, what: str, *arguments: Any) -> None:
        self._words[what](*arguments)

    def agent_began(self, agent: SimulatedAgent) -> None:
        self._newest[agent.name] = max(agent.inc, self._newest.get(agent.name, 0))

    # --- what agents are told ---

    def _has_loaded(self, agent: SimulatedAgent, version: int, acked: int) -> None:
        self.check(version >= acked, 25, f"{agent.name} loads version {version}, {acked} had been acknowledged")
        self._loaded[agent.name] = max(agent.inc, self._loaded.get(agent.name, 0))
        self.sometimes["a state is found again"] += version > 0

    def _was_saved(self, agent: SimulatedAgent, version: int) -> None:
        there, _, _ = self.world.disk.state(agent.name)
        self.check(there >= version, 31, f"{agent.name}: version {version} is acknowledged, on the disk is {there}")
        self.world.acked[agent.name] = max(version, self.world.acknowledged(agent.name))
        self.sometimes["a state is saved"] += 1

    def _is_stale(self, agent: SimulatedAgent) -> None:
        self.check(agent.inc < self._newest[agent.name], 45, f"{agent.name} {short(agent.inc)} is current, and refused")

    # --- what is on the disk ---

    def durable(self, what: str, *arguments: Any) -> None:
        if not self.world.scenario.timers:
            return
        if what == "written":
            self._written()
        elif what == "recovered":
            self._recovered()

    def _written(self) -> None:
        rows = self.world.disk.content.execute("SELECT name, version, inc, body FROM state").fetchall()
        for name, version, inc, body in rows:
            was, by = self._seen.get(name, (0, 0))
            if version == was:
                continue
            self.check(inc >= by, 45, f"{name}: {short(inc)} saves after {short(by)}")
            self.check(version > was, 45, f"{name}: version {version} comes after {was}")
            self.check(inc >= self._loaded.get(name, 0), 45, f"{name}: {short(inc)} saves, a newer one has loaded")
            effects, stated = effects_of(body), self.world.disk.stated(name)
            self.check(effects == stated, 30, f"{name}: {stated} messages are settled, its state counts {effects}")
            self._seen[name] = version, inc
            self.sometimes["a message takes effect in a state"] += effects > 0

    def _recovered(self) -> None:
        """What was acknowledged is there; what never was may be gone with the power."""
        rows = self.world.disk.content.execute("SELECT name, version, inc FROM state").fetchall()
        self._seen = {name: (version, inc) for name, version, inc in rows}
        for name, version in self.world.acked.items():
            there, _ = self._seen.get(name, (0, 0))
            self.check(there >= version, 25, f"{name}: version {version} was acknowledged, the disk has {there}")

    def finished(self) -> None:
        """Nobody waits for the store."""
        if self.world.scenario.mode == "liveness" and self.world.scenario.timers:
            waiting = Counter(agent.name for agent in self.world.agents() if self.world.waits_for_store(agent))
            self.check(not waiting, 46, f"{sorted(waiting)} wait for the store")
