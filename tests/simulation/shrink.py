"""ddmin: the fewest faults with which a seed still fails in the same way (Zeller and Hildebrandt, 2002)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def ddmin(things: tuple[T, ...], fails: Callable[[tuple[T, ...]], bool], budget: int = 200) -> tuple[T, ...]:
    """A part of `things` that `fails`, of which no single thing can be left out; the best so far after `budget` trials.

    >>> ddmin(tuple(range(20)), lambda part: 3 in part and 17 in part)
    (3, 17)
    """
    parts = 2
    while len(things) >= 2 and budget > 0:
        size = -(-len(things) // parts)
        chunks = [things[start : start + size] for start in range(0, len(things), size)]
        for index in range(len(chunks)):
            rest = tuple(thing for number, chunk in enumerate(chunks) if number != index for thing in chunk)
            budget -= 1
            if fails(rest):
                things, parts = rest, max(2, parts - 1)
                break
        else:
            if parts >= len(things):
                break
            parts = min(len(things), 2 * parts)
    return () if things and budget > 0 and fails(()) else things
