"""Dead letters: the last thousand casts that reached nobody, with the beginning of their bodies; their count for root."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from otpd.ipc import limits

if TYPE_CHECKING:
    from otpd.ipc.peers import Peer
    from otpd.ipc.post import Post
    from otpd.ipc.timers import Timers


class Letters:
    """Root hears of them as sums, at most once per second: one storm must not fill the event log."""

    def __init__(self, timers: Timers, post: Post) -> None:
        self._timers, self._post = timers, post
        self._ring: deque[dict[str, Any]] = deque(maxlen=limits.LETTERS)
        self._unreported: dict[str, dict[str, int]] = {}
        self.total = 0

    def add(self, source: Peer, number: int, target: str, code: str, body: bytes | memoryview, now: int) -> None:
        self.total += 1
        self._ring.append(
            {
                "at": now,
                "source": source.name,
                "generation": source.generation,
                "number": number,
                "target": target,
                "code": code,
                "size": len(body),
                "head": bytes(body[: limits.LETTER_HEAD]),
            }
        )
        self._count(target, code)
        if "letters" not in self._timers:
            self._timers.set("letters", now + limits.LETTERS_REPORT)

    def rows(self) -> list[dict[str, Any]]:
        return list(self._ring)

    def report(self) -> None:
        for target, codes in self._unreported.items():
            self._post.tell("event", "dead_letters", target, codes)
        self._unreported = {}

    def _count(self, target: str, code: str) -> None:
        if target not in self._unreported and len(self._unreported) >= limits.LETTERS:
            target = "*"
        codes = self._unreported.setdefault(target, {})
        codes[code] = codes.get(code, 0) + 1
