"""What an endpoint has to say on the system lane: hellos, commands, replies. Pure.

Differs from `outbox` in that credit does not hold it up and no destination has to be kept in order against another.
Replies over 64 KiB leave at once, too, but on the data lane, so that they delay nothing urgent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from otpd.ipc.frames import pack
from otpd.ipc.wire import BATCH_BYTES, BATCH_MESSAGES, Kind, Lane, Status, message, outer, system

_SYSTEM: Final = int(Kind.SYSTEM)
_REPLY: Final = int(Kind.REPLY)


class Urgent:
    def __init__(self) -> None:
        self._hellos: list[tuple[Lane, bytes]] = []
        self._commands: list[tuple[int, bytes]] = []  # with the ref of a question, else 0
        self._replies: list[bytes] = []
        self._large: list[tuple[Lane, bytes]] = []

    def hello(self, lane: Lane, who: dict[str, object]) -> None:
        self._hellos.append((lane, system(["hello", {**who, "lane": lane.value}])))

    def first(self, command: list[object]) -> None:
        """Before all that waits."""
        self._commands.insert(0, (0, pack(command)))

    def say(self, command: bytes, ref: int = 0) -> None:
        """`ref`: of a question, which outlives the broker while it has not been sent."""
        self._commands.append((ref, command))

    def reply(self, call: int, status: Status, body: bytes) -> None:
        part = message(call, status, body)
        if len(body) > BATCH_BYTES:
            self._large.append((Lane.DATA, outer(_REPLY, 1, 0, len(part)) + part))
        else:
            self._replies.append(part)

    def reset(self) -> set[int]:
        """Void is what would mean nothing to another broker; the refs of the questions that stay."""
        self._hellos, self._replies, self._large = [], [], []
        self._commands = [each for each in self._commands if each[0]]
        return {ref for ref, _ in self._commands}

    @property
    def full(self) -> bool:
        """Whether there is a full batch of replies."""
        return len(self._replies) >= BATCH_MESSAGES or bool(self._large)

    def hellos(self) -> list[tuple[Lane, bytes]]:
        """All that may be sent before the welcome."""
        found, self._hellos = self._hellos, []
        return found

    def take(self) -> list[tuple[Lane, bytes]]:
        frames: list[tuple[Lane, bytes]] = []
        if self._commands:
            frames += _frames(_SYSTEM, (message(0, 0, body) for _, body in self._commands))
            self._commands = []
        if self._replies:
            frames += _frames(_REPLY, self._replies)
            self._replies = []
        if self._large:
            frames += self._large
            self._large = []
        return frames


def _frames(kind: int, parts: Iterable[bytes]) -> Iterator[tuple[Lane, bytes]]:
    """Full batches, and what is left."""
    batch: list[bytes] = []
    size = 0
    for part in parts:
        if batch and (size + len(part) > BATCH_BYTES or len(batch) == BATCH_MESSAGES):
            yield Lane.SYSTEM, b"".join((outer(kind, len(batch), 0, size), *batch))
            batch, size = [], 0
        batch.append(part)
        size += len(part)
    if batch:
        yield Lane.SYSTEM, b"".join((outer(kind, len(batch), 0, size), *batch))
