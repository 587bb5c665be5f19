"""What verbs give back: references, entries of the registry, whereabouts of a name, events.

>>> Event("orders.7.cancelled", {"sku": "A"}, "shop", 1).sku
'A'
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


class Ref(int):
    """Names a monitor. May be awaited, need not be."""

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Who has a name now. `state`: starting, ready, restarting or stopped."""

    name: str
    generation: int
    state: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of the registry: its holder, its value, and the revision by which `update` knows that it is still the same."""

    name: str
    generation: int
    value: Any
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Child:
    """A child that an agent has started."""

    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class Event:
    """What was published on a topic. Its data can be read as attributes, too, unless it has one of these names.

    `missed`: how many events of the same pattern were dropped right before this one, because this process was too slow.
    """

    topic: str
    data: Mapping[str, Any]
    source: str = ""
    generation: int = 0
    missed: int = field(default=0, compare=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except (KeyError, TypeError):
            there = ", ".join(map(str, self.data)) if isinstance(self.data, Mapping) else "no mapping"
            raise AttributeError(f"event {self.topic} has no {name!r} in its data: {there}") from None

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


__all__ = ["Child", "Entry", "Event", "Ref", "Whereabouts"]
