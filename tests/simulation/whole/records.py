"""The scheduler's file in the simulated world: what is written survives its process, what is synced the loss of power."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from otpd.agents.services.scheduler.disk import Changes, in_another_boot, of_life
from otpd.agents.services.scheduler.effects import Record
from tests.simulation.clock import MS

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.whole.world import WholeWorld

Then = Callable[[str | None], None]


class Records:
    """Each with the life of root that its generation is of."""

    def __init__(self) -> None:
        self.content: dict[str, tuple[Record, int]] = {}
        self._synced: dict[str, tuple[Record, int]] = {}
        self._is_other_boot = False

    def write(self, changes: Changes, life: int) -> None:
        for id_, record in changes.items():
            if record is None:
                self.content.pop(id_, None)
            else:
                self.content[id_] = record, life if record.generation else 0

    def sync(self) -> None:
        self._synced = dict(self.content)

    @property
    def is_synced(self) -> bool:
        return self.content == self._synced

    def power_cut(self) -> None:
        self.content = dict(self._synced)
        self._is_other_boot = True

    def load(self, life: int, shift: int) -> list[Record]:
        if self._is_other_boot:
            self._is_other_boot = False
            moved = {id_: (r if r.wall else in_another_boot(r, shift), of) for id_, (r, of) in self.content.items()}
            self.content.update(moved)
            self.sync()
        return [of_life(record, of, life) for record, of in self.content.values()]


class Keeper:
    """The thread that writes, of one process: all that has gathered is one commit."""

    def __init__(self, world: WholeWorld, process: Process, life: int, random: Random) -> None:
        self._world, self._process, self._life, self._random = world, process, life, random
        self._orders: list[tuple[Changes, Then]] = []
        self._writing: list[tuple[Changes, Then]] = []

    def write(self, changes: Changes, then: Then) -> None:
        self._orders.append((changes, then))
        self._next()

    def _next(self) -> None:
        if self._orders and not self._writing:
            self._writing, self._orders = self._orders, []
            self._process.after(self._takes(), self._commit)

    def _takes(self) -> int:
        return self._random.randrange(50_000, MS) if self._random.random() < 0.95 else self._random.randrange(200 * MS)

    def _commit(self) -> None:
        changes: dict[str, Any] = {}
        for each, _ in self._writing:
            changes.update(each)
        if self._world.disk.full:
            self._world.sometimes["a record of a timer finds no room"] += 1
            self._world.watch.timed("unkept", changes)
            self._over("the disk is full")
        else:
            self._world.records.write(changes, self._life)
            self._process.after(self._takes(), self._sync)

    def _sync(self) -> None:
        self._world.records.sync()
        self._over(None)

    def _over(self, why: str | None) -> None:
        done, self._writing = self._writing, []
        for _, then in done:
            then(why)
        self._next()

    def close(self) -> None:
        """In the end all is written at once."""
        for changes, _ in (*self._writing, *self._orders):
            self._world.records.write(changes, self._life)
        self._world.records.sync()
