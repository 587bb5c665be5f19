"""Invariants 25-31: what becomes of each durable message, seen at its sender, its receiver and on the disk.

The words of `durable`: "accepted" label; "handled" agent, key, delivery: its handler has come to its end, whatever that is;
"ended" label: well, without a transaction; "crashed" label: with the process; "written": to the disk; "recovered" store: it
is about to read the disk; "turned" store; "store died".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from otpd.agents.deliveries import Delivery
from otpd.agents.services.store.messages import State
from tests.simulation.agent import SimulatedAgent
from tests.simulation.durablestore import BOUNDS, DurableStore
from tests.simulation.observe import Observer


class Durable(Observer):
    world: Any

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._accepted: set[int] = set()
        self._ended: set[int] = set()
        self._crashes: Counter[int] = Counter()
        self._deaths = 0
        self._order: dict[tuple[str, str], list[int]] = {}
        self._words: dict[str, Callable[..., None]] = {
            "accepted": self._accepted.add, "handled": self._handled, "ended": self._ended.add, "crashed": self._crashed,
            "written": self._written, "recovered": self._recovered, "turned": self._turned, "store died": self._died,
        }  # fmt: skip

    def durable(self, what: str, *arguments: Any) -> None:
        self._words[what](*arguments)

    # --- nothing is lost ---

    def _recovered(self, store: DurableStore) -> None:
        self.sometimes["a store begins anew"] += 1
        self._lost(25, "the store begins")

    def _lost(self, number: int, when: str) -> None:
        disk = self.world.disk
        there = {*disk.labels("messages"), *disk.labels("letters"), *disk.effects()}
        lost = self._accepted - there - self._ended
        self.check(not lost, number, f"{when}, and {sorted(lost)[:5]} were accepted and are nowhere")

    def finished(self) -> None:
        """Whoever can take messages has got all of his."""
        if self.world.scenario.mode != "liveness" or not self.world.scenario.durable:
            return
        self._lost(26, "the run is over")
        store = next((each for each in self.world.agents() if isinstance(each, DurableStore)), None)
        self.check(store is not None and store.queue is not None, 26, "there is no store, though all is well")
        assert store is not None and store.queue is not None
        ready = {agent.name for agent in self.world.agents() if agent.phase == "ready" and agent.welcome}
        on_disk = self.world.disk.content.execute("SELECT seq, target, attempts FROM messages").fetchall()
        left = [row for row in on_disk if row[1] in ready]
        self.check(not left, 26, f"{left[:5]} (seq, target, attempts) still wait")
        self.sometimes["a durable message is a dead letter"] += len(store.queue.letters)

    # --- nothing happens too often ---

    def _written(self) -> None:
        for number, book in ((28, "inserted"), (30, "effects")):
            twice = self.world.disk.doubled(book)
            self.check(not twice, number, f"{twice[:5]} are twice in the book of the {book}")
        self.sometimes["a transaction takes place"] += bool(self.world.disk.effects())

    def _crashed(self, label: int) -> None:
        """One more may have been charged to the message before it, whose word was lost with the store or the process."""
        self._crashes[label] += 1
        most = BOUNDS.max_attempts + 1 + self._deaths
        self.check(self._crashes[label] <= most, 27, f"{label} has killed {self._crashes[label]} incarnations")

    def _died(self) -> None:
        self._deaths += 1

    # --- order ---

    def _turned(self, store: DurableStore) -> None:
        assert store.queue is not None
        messages = store.queue.messages.values()
        tried = [m.attempts for m in messages]
        self.check(max(tried, default=0) <= BOUNDS.max_attempts, 27, f"{max(tried, default=0)} attempts")
        with_somebody = Counter((m.target, m.key) for m in messages if m.state is State.IN_FLIGHT)
        twice = [key for key, count in with_somebody.items() if count > 1]
        self.check(not twice, 29, f"two of {twice} are with somebody at a time")

    def _handled(self, agent: SimulatedAgent, key: str, delivery: Delivery) -> None:
        self.sometimes["a durable message is handled"] += 1
        self.sometimes["a durable message is handled again"] += delivery.attempt > 1
        order = self._order.setdefault((agent.name, key), [])
        again = delivery.seq in order
        late = bool(order) and delivery.seq < max(order) and not again
        self.check(not late, 29, f"{agent.name} handles {delivery.seq} of {key!r} after {max(order, default=0)}")
        if not again:
            order.append(delivery.seq)
