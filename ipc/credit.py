"""Credit: how much one side may have sent, as totals that only grow; both sides of the broker.

A message may be sent while both sums of what was sent *before* it are below the totals: the last one may pass the bytes, so
that a message larger than the window needs no rule of its own. A batch that keeps within both is sent without a look inside.
"""

from __future__ import annotations

from typing import Final

from otpd.ipc import limits

_QUARTER_MESSAGES: Final = limits.SEND_MESSAGES // 4
_QUARTER_BYTES: Final = limits.SEND_BYTES // 4


class Intake:
    """What a peer may give to the broker. It returns when a message has left the broker's memory."""

    __slots__ = (
        "_due_bytes",
        "_due_messages",
        "_returned_bytes",
        "_returned_messages",
        "got_bytes",
        "got_messages",
        "granted_bytes",
        "granted_messages",
    )

    def __init__(self) -> None:
        self.granted_messages, self.granted_bytes = limits.SEND_MESSAGES, limits.SEND_BYTES
        self.got_messages = self.got_bytes = 0
        self._returned_messages = self._returned_bytes = 0
        self._due_messages, self._due_bytes = _QUARTER_MESSAGES, _QUARTER_BYTES  # what has returned when `renew` is due

    def take(self, messages: int, size: int) -> bool:
        """Count a frame that has come; False when there was no credit for it, and nothing is counted."""
        if self.got_messages + messages > self.granted_messages or self.got_bytes >= self.granted_bytes:
            return False
        self.got_messages += messages
        self.got_bytes += size
        return True

    def give_back(self, messages: int, size: int) -> bool:
        """Whether it is time to say `renew`: a quarter of the window has returned since the last time."""
        self._returned_messages += messages
        self._returned_bytes += size
        return self._returned_messages >= self._due_messages or self._returned_bytes >= self._due_bytes

    @property
    def due(self) -> bool:
        return self._returned_messages >= self._due_messages or self._returned_bytes >= self._due_bytes

    @property
    def held(self) -> int:
        """Messages of this peer that the broker has not given back."""
        return self.got_messages - self._returned_messages

    def renew(self) -> tuple[int, int]:
        """The new totals."""
        self.granted_messages = self._returned_messages + limits.SEND_MESSAGES
        self.granted_bytes = self._returned_bytes + limits.SEND_BYTES
        self._due_messages = self._returned_messages + _QUARTER_MESSAGES
        self._due_bytes = self._returned_bytes + _QUARTER_BYTES
        return self.granted_messages, self.granted_bytes


class Allowance:
    """What the broker may send to a peer, and how much of it that has handled.

    The window is the most that a grant was ahead of what had been sent; that is what was granted first, unless the peer
    still had messages of the broker before in hand. What a total says beyond the window was handled.
    """

    __slots__ = ("_window_bytes", "may_bytes", "may_messages", "sent_bytes", "sent_messages", "window")

    def __init__(self) -> None:
        self.may_messages = self.may_bytes = self.sent_messages = self.sent_bytes = 0
        self.window = self._window_bytes = 0

    def grant(self, messages: int, size: int) -> bool:
        """New totals; smaller ones are old and change nothing. False: more ahead than any window may be."""
        ahead, ahead_bytes = messages - self.sent_messages, size - self.sent_bytes
        if ahead > limits.WINDOW_MESSAGES or ahead_bytes > limits.WINDOW_BYTES:
            return False
        self.window, self._window_bytes = max(self.window, ahead), max(self._window_bytes, ahead_bytes)
        self.may_messages = max(self.may_messages, messages)
        self.may_bytes = max(self.may_bytes, size)
        return True

    @property
    def handled(self) -> int:
        return self.may_messages - self.window

    @property
    def outstanding(self) -> int:
        """Sent, and not known to be handled."""
        return self.sent_messages - self.handled

    def fits(self, messages: int, size: int) -> bool:
        """Whether a batch may be sent whole."""
        return self.sent_messages + messages <= self.may_messages and (
            self.sent_bytes + size <= self.may_bytes or (messages == 1 and self.sent_bytes < self.may_bytes)
        )

    @property
    def roomy(self) -> bool:
        """Whether a batch that does not fit is to be split. With less than half the window it is not: a receiver renews
        sooner than that, and to split costs more than to wait for it. A window of no bytes has nothing to be split for: one
        who has a whole window of the last broker in hand grants that."""
        room, bytes_left = self.may_messages - self.sent_messages, self.may_bytes - self.sent_bytes
        return 2 * room >= self.window > 0 and 2 * bytes_left >= max(1, self._window_bytes)

    def spend(self, messages: int, size: int) -> None:
        self.sent_messages += messages
        self.sent_bytes += size
