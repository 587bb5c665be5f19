"""Root's journal, as a service reads it: every event once and in order, also those of times in which the service was down.

On disk it is events.jsonl with its older parts, one JSON object per line; as it happens it comes through the control socket.
A `Cursor` is the place of an event: the number of root's life and the event's in it. `feed` joins the two.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_NAME: Final = "events.jsonl"
#: Older parts that there may be at most: more than root's logger keeps.
_PARTS: Final = 16

#: Who "asks" for an end that is a failure all the same.
_OF_ROOT: Final = frozenset({"health", "a link", "its children"})

Event = dict[str, Any]


class Cursor(NamedTuple):
    """After this event; (0, 0): from the first one that is kept."""

    life: int = 0
    seq: int = 0


def place(event: Event) -> Cursor | None:
    """None for what a logger wrote by itself (events that were lost): it has no number."""
    match event:
        case {"life": int(life), "seq": int(seq)}:
            return Cursor(life, seq)
    return None


def is_before(event: Event, other: Event) -> bool:
    """In the order of their numbers; what has none stands where it is."""
    one, two = place(event), place(other)
    return one is None or two is None or one < two


def unread(state_dir: str, after: Cursor) -> list[Event]:
    """All that is on disk after `after`, in order.

    >>> unread("/nonexistent", Cursor())
    []
    """
    found: list[Event] = []
    for part in _newest_first(state_dir):
        for event in _backwards(part):
            at = place(event)
            if at is not None and at <= after:
                return found[::-1]
            found.append(event)
    return found[::-1]


def _newest_first(state_dir: str) -> Iterator[bytes]:
    """The bytes of each part. One that is moved on meanwhile is read once more under its new name; `unread` gives each event
    of it twice then, and whoever goes by the cursor takes it once."""
    path = os.path.join(state_dir, _NAME)
    for name in (path, *(f"{path}.{number}" for number in range(1, _PARTS))):
        try:
            with open(name, "rb") as file:
                yield file.read()
        except FileNotFoundError:
            if name != path:
                return


def _backwards(part: bytes) -> Iterator[Event]:
    """A line that is no event is passed over: one that is being written, or one that a disk has spoilt."""
    end = len(part)
    while end > 0:
        start = part.rfind(b"\n", 0, end - 1) + 1
        with contextlib.suppress(ValueError):
            event = json.loads(part[start:end])
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
        end = start


def crashed(event: Event) -> bool:
    """Whether a death was abnormal and no one's wish: what root ends by itself (a link, a limit, a probe) is no wish."""
    reason, asked = str(event.get("reason")), event.get("asked_by")
    return not is_clean(reason) and (asked is None or asked in _OF_ROOT)


def is_clean(reason: str) -> bool:
    """
    >>> is_clean("normal"), is_clean("shutdown(done)"), is_clean("killed")
    (True, True, False)
    """
    return reason == "normal" or reason.startswith("shutdown")


class Reader:
    """What is new among events that may come twice, or late. `cursor` is how far it is; `missed` counts numbers of a life
    that never came."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.missed = 0

    def new(self, events: list[Event]) -> list[Event]:
        """Those that have not been given before, in order."""
        return [event for event in events if self._take(event)]

    def follows(self, event: Event) -> bool:
        """Whether nothing is missing between what was given and `event`."""
        at = place(event)
        if at is None or at <= self.cursor:
            return True
        return at.seq == 1 if at.life > self.cursor.life else at.seq == self.cursor.seq + 1

    def _take(self, event: Event) -> bool:
        at = place(event)
        if at is None:
            return True
        if at <= self.cursor:
            return False
        before = self.cursor.seq if at.life == self.cursor.life else 0
        if self.cursor != (0, 0):
            self.missed += at.seq - before - 1
        self.cursor = at
        return True
