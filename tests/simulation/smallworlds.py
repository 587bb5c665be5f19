"""Worlds of one part, each drawn from its seed: how their seeds are lived through."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from tests.simulation.clock import Clock


class Small(Protocol):
    """`run` raises an AssertionError when an invariant is broken."""

    def run(self) -> object: ...


class Looking(Protocol):
    """`look` raises an AssertionError when an invariant is broken."""

    def look(self) -> object: ...


W = TypeVar("W", bound=Small)


def live(clock: Clock, watch: Looking, until: int) -> None:
    """All that is due, with a look after each of it."""
    while (following := clock.next) is not None and following <= until:
        clock.step()
        watch.look()
    clock.now = max(clock.now, until)


def is_found(world: Callable[[int], Small], seeds: int, *signs: type[Exception]) -> bool:
    """Whether one of so many seeds breaks: a bug that was planted must show."""
    for seed in range(seeds):
        try:
            world(seed).run()
        except (AssertionError, *signs):
            return True
    return False


def lived(world: Callable[[int], W], seeds: int, also: Iterable[int] = ()) -> Iterator[W]:
    """Each world after its life: those of `also`, then `seeds` many from OTPD_SEED (0) on. What is broken says its seed."""
    first = int(os.environ.get("OTPD_SEED", "0"))
    for seed in (*also, *range(first, first + seeds)):
        made = world(seed)
        try:
            made.run()
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}; again: scripts/simulate --world NAME --seed {seed}") from broken
        yield made
