"""What an incarnation has arranged with the broker and a new broker must be told again. Pure.

Monitors, links, the trap, subscriptions, groups and keys: `restore` is their part of the hello. Monitors and links know
which incarnation they hold, so that a death while there was no broker is still told, once, and not mistaken for the
life of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_GENERATION: Final = 0xFFFFFFFF


def inc_of(own: int, generation: int) -> int | None:
    """The incarnation of another name in the life of root that `own` belongs to; None for no incarnation at all."""
    return own & ~_GENERATION | generation if generation else None


class Word(NamedTuple):
    """Of a monitor: that a life has ended for a reason, or, without one, that it has begun. Generation 0: of nobody."""

    generation: int
    reason: str | None


@dataclass(slots=True)
class Monitor:
    """`inc`: the incarnation that is watched, or was last heard of; None while the broker has not said which. `early`: words
    that came by the data lane before an older one by the system lane."""

    name: str
    follow: bool
    inc: int | None = None
    down: bool = False
    early: list[Word] = field(default_factory=list)

    def is_early(self, word: Word) -> bool:
        """Whether an older word is still on its way: each life ends before the next begins, and generations only grow."""
        if self.early:
            first = self.early[0]
            if word.generation > first.generation or (word.generation == first.generation and word.reason is not None):
                return True
        return self._is_ahead(word)

    def _is_ahead(self, word: Word) -> bool:
        known = (self.inc or 0) & _GENERATION
        is_told = self.down or self.inc is not None
        return self.follow and is_told and word.generation > known and (word.reason is not None or not self.down)

    def next_early(self) -> Word | None:
        """The first of those that waited, if it waits for nothing any more."""
        return self.early.pop(0) if self.early and not self._is_ahead(self.early[0]) else None


class Standing:
    """What stands for one incarnation `inc`, from the verb that asks for it to the word or verb that ends it."""

    def __init__(self, inc: int) -> None:
        self._inc = inc
        self._monitors: dict[int, Monitor] = {}
        self._links: dict[str, int | None] = {}
        self._topics: dict[int, str] = {}
        self._groups: dict[str, None] = {}
        self._keys: dict[str, Any] = {}
        self._trap = False

    # --- verbs ---

    def monitor(self, ref: int, name: str, follow: bool) -> None:
        self._monitors[ref] = Monitor(name, follow)

    def demonitor(self, ref: int) -> bool:
        """Whether there was one: after this no word of it is heard."""
        return self._monitors.pop(ref, None) is not None

    def link(self, name: str) -> None:
        self._links.setdefault(name, None)

    def unlink(self, name: str) -> bool:
        """Whether there was one: after this no exit by it is heard."""
        known = name in self._links
        self._links.pop(name, None)
        return known

    def trap(self, on: bool) -> None:
        self._trap = on

    def subscribe(self, ref: int, pattern: str) -> None:
        """From its answer on."""
        self._topics[ref] = pattern

    def unsubscribe(self, ref: int) -> None:
        self._topics.pop(ref, None)

    def join(self, group: str) -> None:
        self._groups[group] = None

    def leave(self, group: str) -> None:
        self._groups.pop(group, None)

    def hold(self, key: str, value: Any) -> None:
        self._keys[key] = value

    def release(self, key: str) -> None:
        self._keys.pop(key, None)

    # --- words of the broker ---

    def watched(self, ref: int, word: Word) -> list[Word]:
        """What the runtime is to be told, in order. The two lanes may bring a monitor's words out of it."""
        monitor = self._monitors.get(ref)
        if monitor is None:
            return []
        if monitor.is_early(word):
            monitor.early.append(word)
            return []
        news = []
        due: Word | None = word
        while due is not None:
            news += [due] if self._hear(ref, monitor, due) else []
            due = monitor.next_early()
        return news

    def _hear(self, ref: int, monitor: Monitor, word: Word) -> bool:
        """Whether it is news: each life and death once for a monitor that follows, else one death."""
        inc = inc_of(self._inc, word.generation)
        if word.reason is None:
            news = monitor.follow and (monitor.down or monitor.inc != inc)
            monitor.inc, monitor.down = inc, False
            return news
        if monitor.down:
            return False
        monitor.inc, monitor.down = inc or monitor.inc, True
        if not monitor.follow:
            del self._monitors[ref]
        return True

    def linked(self, name: str, generation: int) -> None:
        self._links[name] = inc_of(self._inc, generation)

    # --- a new broker ---

    def restore(self) -> dict[str, Any]:
        """What the hello on the system lane says besides who this is. What an earlier broker still had to say is not waited
        for."""
        for monitor in self._monitors.values():
            monitor.early.clear()
        return {
            "monitors": [[ref, each.name, each.inc, each.follow] for ref, each in self._monitors.items()],
            "links": [[name, inc] for name, inc in self._links.items()],
            "trap": self._trap,
            "topics": [[ref, pattern] for ref, pattern in self._topics.items()],
            "groups": list(self._groups),
            "keys": [[key, value] for key, value in self._keys.items()],
        }
