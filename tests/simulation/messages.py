"""Every message that a simulated agent has ever sent: what it is, what its receiver shall do, and what became of it.

The broker never reads a body, so here a body is a number and padding. The number leads to the Message, whoever holds the
bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

from otpd.ipc.wire import Kind

_NUMBER: Final = Struct("<Q")
SMALLEST: Final = _NUMBER.size


class Answer(enum.Enum):
    """What a handler does in the end."""

    VALUE = "value"
    REJECT = "reject"
    RAISE = "raise"  # and the agent crashes


@dataclass(frozen=True, slots=True)
class Recipe:
    """`takes`: nanoseconds. `onward`: the handler itself calls this name first, within what is left of its deadline."""

    takes: int
    answer: Answer = Answer.VALUE
    onward: str | None = None


@dataclass(eq=False, slots=True)
class Message:
    number: int
    kind: Kind
    sender: str
    inc: int
    to: str  # name, group, key or topic
    stream: str  # within one stream of a sender, a receiver sees no message before an earlier one
    policy: str
    at: int
    deadline: int  # 0: none
    recipe: Recipe
    size: int
    confirm: bool = False
    request: int = 0  # by which the sender's endpoint names it
    key: str | None = None
    read_by: list[str] = field(default_factory=list)  # epochs of brokers that have read it
    passed: list[tuple[str, int]] = field(default_factory=list)  # incarnations that a broker gave it to
    delivered: list[tuple[str, int]] = field(default_factory=list)
    handled: list[tuple[str, int]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)  # what the sender heard
    payload: Any = None  # what is said to or by the store, instead of a recipe
    answer: Any = None  # what the store has answered

    def body(self) -> bytes:
        return _NUMBER.pack(self.number) + bytes(self.size - SMALLEST)

    def __str__(self) -> str:
        to = f"{self.to} ({self.policy})" if self.policy else self.to
        return f"{self.kind.name.lower()} {self.number} of {self.sender}#{short(self.inc)} to {to}"


def short(inc: int) -> str:
    """life.generation"""
    return f"{inc >> 32}.{inc & 0xFFFFFFFF}"


class Mail:
    """All messages by number."""

    def __init__(self) -> None:
        self.all: list[Message] = []

    def add(self, message: Message) -> None:
        assert message.number == len(self.all)
        self.all.append(message)

    @property
    def next_number(self) -> int:
        return len(self.all)

    def of(self, body: bytes | memoryview) -> Message | None:
        """None for what no agent has ever said."""
        if len(body) < SMALLEST:
            return None
        (number,) = _NUMBER.unpack_from(body)
        return self.all[number] if number < len(self.all) else None
