"""What agents have started by themselves, past the tree: counted per name, noted in the event log at a bounded rate.

An agent's guard (`agents/guard`) says on its channel what it saw: ["guard", layers, problem] once, ["spawn", what, seen,
refused] for each new place, ["spawns", seen, refused] now and then: how many there were in this incarnation. None of it
need be true or decent. The counts of a name go on over its incarnations and are forgotten with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor.flood import Flood
from otpd.supervisor.spec import SPEAKING, Launch

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Events of one agent: one place each, and as a crash loop meets its places anew each time, not more than this.
PER_SECOND: Final = 0.1
BURST: Final = 10
_FIELDS: Final = ("call", "program", "place", "instead")
_TEXT_LIMIT: Final = 300
_LAYERS: Final = ("audit", "seccomp")
_MOST: Final = 2**53


@dataclass(slots=True)
class Count:
    """Of one name. `before`: seen and refused in earlier incarnations."""

    generation: int = 0
    before: tuple[int, int] = (0, 0)
    now: tuple[int, int] = (0, 0)
    layers: list[str] = field(default_factory=list)  # in force in this incarnation
    last: dict[str, str] | None = None
    flood: Flood = field(default_factory=lambda: Flood(PER_SECOND, BURST))

    @property
    def seen(self) -> int:
        return self.before[0] + self.now[0]

    @property
    def refused(self) -> int:
        return self.before[1] + self.now[1]

    def begin(self, generation: int) -> None:
        """Counts begin anew with each incarnation; these don't."""
        if generation != self.generation:
            self.generation, self.before, self.now, self.layers = generation, (self.seen, self.refused), (0, 0), []


class Spawns:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._counts: dict[str, Count] = {}

    def heard(self, live: Live, packet: Any) -> None:
        """A packet of a worker; what is no report is ignored."""
        if live.launch.kind not in SPEAKING:
            return
        match packet:
            case ["guard", list(layers), str(problem)]:
                self._stands(live, layers, problem)
            case ["spawn", dict(told), int(seen), int(refused)] if 0 <= refused <= seen < _MOST:
                self._count(live).now = (seen, refused)
                self._spawned(live, told)
            case ["spawns", int(seen), int(refused)] if 0 <= refused <= seen < _MOST:
                self._count(live).now = (seen, refused)

    def _count(self, live: Live) -> Count:
        count = self._counts.setdefault(live.name, Count())
        count.begin(live.generation)
        return count

    def _stands(self, live: Live, layers: list[Any], problem: str) -> None:
        count = self._count(live)
        count.layers = [layer for layer in _LAYERS if layer in layers]
        if problem:
            self._tell(live, count, "child.unguarded", {"detail": problem[:_TEXT_LIMIT]})

    def _spawned(self, live: Live, told: dict[Any, Any]) -> None:
        count = self._count(live)
        count.last = {key: _text(told.get(key)) for key in _FIELDS}
        self._tell(live, count, "child.spawn_refused" if count.now[1] else "child.spawned", count.last)

    def _tell(self, live: Live, count: Count, kind: str, fields: dict[str, Any]) -> None:
        if count.flood.admits(self._root.loop.now):
            missed = count.flood.take_suppressed()
            more = {"suppressed": missed} if missed else {}
            self._root.journal.event(kind, live.name, self._root.shown(live.path), live.generation, **fields, **more)

    def counts(self, name: str, launch: Launch) -> dict[str, Any]:
        """For a row of the status table."""
        count = self._counts.get(name) or Count()
        return {"policy": launch.spawn, "seen": count.seen, "refused": count.refused}

    def details(self, name: str, launch: Launch) -> dict[str, Any]:
        """For `otpd why`: also by which layers, and what the last one at a new place was."""
        count = self._counts.get(name) or Count()
        return {**self.counts(name, launch), "layers": list(count.layers), "last": count.last}

    def forget(self, name: str) -> None:
        self._counts.pop(name, None)


def _text(value: Any) -> str:
    """No list or table is made one: those that are nested deeply enough Python can't write down."""
    return str(value)[:_TEXT_LIMIT] if isinstance(value, str | int | float) else ""
