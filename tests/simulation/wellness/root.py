"""As much of root as its end of the health service needs: a table of children that it can end, and a journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from otpd.supervisor.healthlink import HealthLink
from otpd.supervisor.services import HEALTH
from otpd.supervisor.spec import Health, Launch, RestartWhen
from tests.simulation.clock import SECOND

if TYPE_CHECKING:
    from tests.simulation.wellness.world import World


@dataclass(eq=False, slots=True)
class Child:
    """One name. `ills`: "" for well, "ill" for a check that says no, "hangs" for one that says nothing."""

    name: str
    path: str
    health: Health | None
    limits: RestartWhen | None
    generation: int = 0
    pid: int = 0
    ready_at: float = 0.0
    alive: bool = False
    ills: str = ""
    files: int = 0
    launch: Launch = field(default_factory=lambda: Launch(kind="agent", script="agent"))
    tells_health: bool = False
    asked_by: str | None = None


class SimulatedRoot:
    """`workers`, `tree` and `journal` as `healthlink` sees them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.children: dict[str, Child] = {}
        self.service = Child(HEALTH, f"top/services/{HEALTH}", None, None)
        self.workers, self.tree, self.journal = self, self, self
        self.node = SimpleNamespace(services={})
        self.link = HealthLink(self)  # type: ignore[arg-type]
        self.events: list[tuple[str, str, int]] = []

    # --- workers ---

    def running(self) -> list[Any]:
        return [child for child in self.children.values() if child.alive]

    def named(self, name: str) -> Any:
        child = self.service if name == HEALTH else self.children.get(name)
        return child if child is not None and child.alive else None

    def end(self, live: Child, why: str) -> None:
        self.world.watch.ended(live, why)
        self.died(live)

    # --- tree ---

    def view(self, path: str) -> Any:
        child = self.children[path.rpartition("/")[2]]
        start = Launch(kind="agent", health=child.health, restart_when=child.limits)
        return SimpleNamespace(spec=SimpleNamespace(start=start))

    def shown_of(self, child: Child) -> Any:
        """As `otpd status` does."""
        return self.link.state_of(child, self.view(child.path).spec.start)  # type: ignore[arg-type]

    @staticmethod
    def shown(path: str) -> str:
        return path.partition("/")[2]

    # --- journal ---

    def clock(self) -> float:
        return self.world.clock.now / SECOND

    def event(self, kind: str, name: str, _path: str = "", generation: int = 0, **_: Any) -> None:
        self.events.append((kind, name, generation))
        self.world.watch.told(kind, name, generation)

    # --- what happens to children ---

    def born(self, child: Child) -> None:
        child.generation, child.alive, child.ready_at = child.generation + 1, True, self.clock()
        child.pid, child.ills, child.files = self.world.next_pid(), "", 10
        self.link.tell(child)  # type: ignore[arg-type]

    def died(self, child: Child) -> None:
        """Its next incarnation comes a moment later, if it has one."""
        if not child.alive:
            return
        child.alive = False
        self.world.watch.died(child)
        self.link.died(child)  # type: ignore[arg-type]
        self.world.soon(self._again, child)

    def _again(self, child: Child) -> None:
        if self.children.get(child.name) is child and not child.alive:
            self.born(child)

    def deleted(self, child: Child) -> None:
        self.died(child)
        del self.children[child.name]
