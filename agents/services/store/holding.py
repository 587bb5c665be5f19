"""What the store holds: the messages that live, for whom they are, who has subscribed, which dead letters there are.

`intake` says what comes in, `queue` what becomes of it; here it is counted, found again, and bounded.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from otpd.agents.services.store.lines import Target
from otpd.agents.services.store.messages import (
    Bounds,
    Effect,
    Finished,
    Kind,
    Message,
    Recovered,
    Request,
    State,
    Unit,
    Watch,
)
from otpd.ipc.topics import Trie

#: Names that are followed although nothing waits for them, so that the next message to one finds it.
_IDLE: Final = 1000


class Holding:
    """`effects` is what the shell has to do; `_units` and `_house` what is to be written."""

    def __init__(self, recovered: Recovered, bounds: Bounds, wall: float) -> None:
        self.bounds, self._wall = bounds, wall
        self.effects: deque[Effect] = deque()
        self.messages: dict[int, Message] = {}
        self.bytes = 0
        self.letters = dict(recovered.letters)
        self.letter_bytes = sum(self.letters.values())
        self.minute = recovered.minute
        self._targets: dict[str, Target] = {}
        self._ids: dict[tuple[str, str, str], Message] = {}
        self._patterns: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, int] = {}  # the minute in which a durable subscriber was up last
        self._topics: Trie[str] = Trie()
        self._seq = recovered.next_seq - 1
        self._units: list[Unit] = []
        self._house = Unit()
        for name, patterns in recovered.subscriptions.items():
            self._subscribe(name, patterns)

    # --- messages ---

    def _known(self, sender: str, id: str, target: str, finished: Finished) -> Message | int:
        """The same id of the same sender: the message that there is, or was (E3)."""
        if not id:
            return 0
        return self._ids.get((sender, id, target)) or finished.get((sender, id, target), 0)

    def _full(self, size: int, count: int = 1) -> bool:
        return len(self.messages) + count > self.bounds.messages or self.bytes + size > self.bounds.bytes

    def _message(self, sender: str, request: Request, target: str) -> Message:
        self._seq += 1
        return Message(
            seq=self._seq, target=target, key=request.key or sender, sender=sender, id=request.id, kind=request.kind,
            name=request.name if request.kind is Kind.CAST else request.target, size=len(request.body), at=self._wall,
            max_attempts=request.max_attempts or self.bounds.max_attempts, since=self.minute,
        )  # fmt: skip

    def _admit(self, message: Message) -> None:
        self.messages[message.seq] = message
        self.bytes += message.size
        self._target(message.target).count += 1
        if message.id:
            self._ids[message.sender, message.id, message.target] = message

    def _remove(self, message: Message) -> None:
        """It is no more, or never was."""
        message.state = State.GONE
        del self.messages[message.seq]
        self.bytes -= message.size
        self._targets[message.target].count -= 1
        if message.id:
            self._ids.pop((message.sender, message.id, message.target), None)

    def _with(self, seq: int, attempt: int, who: tuple[str, int]) -> Message | None:
        message = self.messages.get(seq)
        if message is None or message.state is not State.IN_FLIGHT:
            return None
        return message if (message.attempts, message.target, message.lease) == (attempt, *who) else None

    def _keep_letter(self, seq: int, size: int) -> None:
        self.letters[seq] = size
        self.letter_bytes += size

    def _drop_letter(self, seq: int) -> int:
        """Its bytes."""
        size = self.letters.pop(seq)
        self.letter_bytes -= size
        return size

    # --- subscriptions ---

    def _subscribe(self, name: str, patterns: tuple[str, ...]) -> None:
        for pattern in self._patterns.pop(name, ()):
            self._topics.remove(pattern, name)
        self._seen.pop(name, None)
        if patterns:
            self._target(name)
            self._patterns[name], self._seen[name] = patterns, self.minute
            for pattern in patterns:
                self._topics.add(pattern, name)

    # --- names ---

    def _target(self, name: str) -> Target:
        found = self._targets.get(name)
        if found is None:
            found = self._targets[name] = Target(name)
            self.effects.append(Watch(name))
        return found

    def _idle(self, target: Target) -> None:
        if target.count or len(self._targets) <= _IDLE:
            return
        idle = next((each for each in self._targets.values() if not each.count and each.name not in self._patterns), None)
        if idle is not None:
            del self._targets[idle.name]
            self.effects.append(Watch(idle.name, on=False))

    def waiting(self) -> list[dict[str, Any]]:
        """For each name with messages: how many, how many of them are with it, since when the oldest waits (wall clock)."""
        oldest: dict[str, float] = {}
        for message in self.messages.values():
            oldest.setdefault(message.target, message.at)
        return [
            {"target": each.name, "messages": each.count, "in_flight": len(each.flight), "oldest": oldest[each.name]}
            for each in self._targets.values()
            if each.name in oldest
        ]
