"""A small world for the queue of durable messages: its journal on disk, senders that repeat themselves, receivers that die.

The disk is the real journal in memory. What the queue has taken and not committed is lost with the store.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any

from otpd.agents.services.store import journal
from otpd.agents.services.store.messages import SECOND, Answer, Bounds, Deliver, Failure, Kind, Request, State, Tell, Watch
from otpd.agents.services.store.queue import MEMORY, Queue

BOUNDS = Bounds(messages=30, per_target=20, letters=1000, max_attempts=3, window=4, reminder=30.0)


@dataclass
class Receiver:
    """One name, as the SDK is one: handles in order, and answers what it is told again as it did the first time."""

    name: str
    inc: int = 0
    mailbox: deque[Deliver] = field(default_factory=deque)
    done: dict[tuple[int, int], str] = field(default_factory=dict)

    def take(self, deliver: Deliver) -> str | None:
        """What to answer at once, for one that was settled before."""
        key = (deliver.message.seq, deliver.attempt)
        if deliver.inc != self.inc:
            return None
        if key in self.done:
            return self.done[key]
        if all((each.message.seq, each.attempt) != key for each in self.mailbox):
            self.mailbox.append(deliver)
        return None


@dataclass
class Submission:
    sender: str
    inc: int
    number: int
    requests: list[Request]
    settles: tuple[int, int] | None = None


class World:
    """`bounds` of the queue. What has happened is in `accepted`, `handled`, `effects`, `crashes` and `letters_seen`."""

    def __init__(self, bounds: Bounds = BOUNDS, names: tuple[str, ...] = ("a", "b")) -> None:
        self.bounds, self.now, self.wall = bounds, 0, 0.0
        self.jumped = 0.0  # seconds by which somebody has set the wall clock
        # Closed by whichever thread collects this world.
        self.disk = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self.disk.close)
        self.disk.executescript("".join(journal.MIGRATIONS))
        self.receivers = {name: Receiver(name) for name in names}
        self.incs = 0
        self.store_deaths = 0
        self.units: deque[tuple[Any, journal.Rows]] = deque()
        self.waiting: dict[int, Submission] = {}
        self.answers: dict[int, Answer] = {}
        self.refs = 0
        self.accepted: set[int] = set()
        self.handled: Counter[int] = Counter()
        self.order: dict[tuple[str, str], list[int]] = {}
        self.effects: Counter[int] = Counter()
        self.crashes: Counter[int] = Counter()
        self.told: list[Tell] = []
        self.purged: set[int] = set()
        self.full = False
        self.begin()

    # --- the store ---

    def begin(self) -> None:
        """A store begins with what is on disk; it hears of those that are there."""
        self.units.clear()
        self.queue = Queue(journal.recover(self.disk), self.bounds, self.now, self.wall)
        self.work()

    def kill_store(self) -> None:
        self.store_deaths += 1
        self.begin()

    def work(self) -> None:
        """What the shell does at the end of its turn."""
        while self.queue.effects:
            self._effect(self.queue.effects.popleft())
        self.units.extend((unit, journal.rows(unit, self.wall, self.queue.minute)) for unit in self.queue.take())
        if self.queue.effects:
            self.work()

    def _effect(self, effect: Any) -> None:
        match effect:
            case Watch(target=name, on=True) if name in self.receivers:
                receiver = self.receivers[name]
                if receiver.inc:
                    self.queue.up(name, receiver.inc, self.now)
                else:
                    self.queue.down(name, 0, "noproc", self.now)
            case Deliver(message=message):
                said = self.receivers[message.target].take(effect)
                if said is not None:
                    self.say(said, message.seq, effect.attempt, (message.target, effect.inc))
            case Answer(ref=int(ref)):
                self.answered(ref, effect)
            case Tell():
                self.told.append(effect)

    def answered(self, ref: int, answer: Answer) -> None:
        self.answers[ref] = answer
        if self.waiting.pop(ref, None) and not answer.code:
            self.accepted |= {each for each in answer.value[0] if isinstance(each, int)}

    def commit(self) -> None:
        """The next unit is on disk; with a full disk one that would grow is not."""
        if not self.units:
            return
        unit, rows = self.units.popleft()
        if self.full and rows.grows:
            self.queue.failed(unit, "store_full", "the disk is full", self.now)
        else:
            self.disk.execute("BEGIN")
            journal.write(self.disk, rows, MEMORY)
            self.disk.execute("COMMIT")
            for message in unit.settled if unit.receipt is not None else ():
                self.effects[message.seq] += 1
            self.queue.committed(unit, self.now)
        self.work()

    def commit_all(self) -> None:
        while self.units:
            self.commit()

    def pass_time(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while (due := self.queue.tick(self.now, self.wall)) <= end:
            self.now = max(self.now, due)
            self.wall = self.now / SECOND + self.jumped
            self.queue.tick(self.now, self.wall)
            self.work()
            self.commit_all()
        self.now, self.wall = end, end / SECOND + self.jumped
        self.work()

    # --- senders ---

    def submit(self, submission: Submission) -> int:
        self.refs += 1
        self.waiting[self.refs] = submission
        it = submission
        finished = journal.finished(self.disk, [(it.sender, each.id) for each in it.requests if each.id])
        whole = it.settles is not None
        self.queue.submit(self.refs, it.sender, it.inc, it.number, it.requests, it.settles, whole, None, finished)
        self.work()
        return self.refs

    # --- receivers ---

    def up(self, name: str) -> None:
        self.incs += 1
        self.receivers[name] = Receiver(name, self.incs)
        self.queue.up(name, self.incs, self.now)
        self.work()

    def down(self, name: str, reason: str = "killed") -> None:
        receiver = self.receivers[name]
        inc, receiver.inc = receiver.inc, 0
        receiver.mailbox.clear()
        self.queue.down(name, inc, reason, self.now)
        self.work()

    def say(self, what: str, seq: int, attempt: int, who: tuple[str, int]) -> None:
        if what == "ok":
            self.queue.acknowledged(seq, attempt, who, self.now)
        else:
            self.queue.refused(seq, attempt, who, Failure("raised", what), self.now, final=what == "never")
        self.work()

    def handle(self, name: str, outcome: str) -> Deliver:
        """The first of its mailbox. `outcome`: ok, a text that is raised, or crash."""
        receiver = self.receivers[name]
        deliver = receiver.mailbox.popleft()
        message, key = deliver.message, (deliver.message.seq, deliver.attempt)
        self.handled[message.seq] += 1
        self.order.setdefault((message.target, message.key), []).append(message.seq)
        if outcome == "crash":
            self.crashes[message.seq] += 1
            self.down(name, "killed")
        else:
            receiver.done[key] = outcome
            self.say(outcome, *key, (name, deliver.inc))
        return deliver

    def lose_what_is_on_its_way(self) -> None:
        """The broker dies; what was delivered and is not begun may be lost with it."""
        for receiver in self.receivers.values():
            receiver.mailbox.clear()
        self.queue.remind_all(self.now)
        self.work()

    # --- what is where ---

    def letters(self) -> dict[int, dict[str, Any]]:
        return {each["seq"]: each for each in journal.letters(self.disk)}

    def with_somebody(self) -> list[tuple[str, str]]:
        return [(m.target, m.key) for m in self.queue.messages.values() if m.state is State.IN_FLIGHT]


def cast(target: str, name: str = "note", body: bytes = b"x", **more: Any) -> Request:
    return replace(Request(Kind.CAST, target, name, body), **more)


def event(topic: str, body: bytes = b"x", **more: Any) -> Request:
    return replace(Request(Kind.EVENT, topic, "", body), **more)
