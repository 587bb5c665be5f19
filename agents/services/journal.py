"""Root's journal, as a service reads it: every event once and in order, also those of times in which the service was down.

On disk it is events.jsonl with its older parts, one JSON object per line; as it happens it comes through the control socket.
A `Cursor` is the place of an event: the number of root's life and the event's in it. `feed` joins the two.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
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


def unread(state_dir: str, after: Cursor) -> Iterator[Event]:
    """All that is on disk after `after`, in order, made one by one: there may be as much as all parts hold.

    >>> list(unread("/nonexistent", Cursor()))
    []
    """
    parts: list[tuple[bytes, int]] = []
    for part in _newest_first(state_dir):
        begin = _end_of_read(part, after)
        parts.append((part, begin))
        if begin > 0:
            break
    while parts:
        yield from _events(*parts.pop())


def in_batches(events: Iterable[Event], size: int) -> Iterator[list[Event]]:
    """
    >>> [len(batch) for batch in in_batches(({"event": "x"} for _ in range(5)), 2)]
    [2, 2, 1]
    """
    remaining = iter(events)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _newest_first(state_dir: str) -> Iterator[bytes]:
    """The bytes of each part. One that is moved on meanwhile is read once more under its new name; `unread` gives each event
    of it twice then, and a `Reader` takes it once."""
    path = os.path.join(state_dir, _NAME)
    for name in (path, *(f"{path}.{number}" for number in range(1, _PARTS))):
        try:
            with open(name, "rb") as file:
                yield file.read()
        except FileNotFoundError:
            if name != path:
                return


def _end_of_read(part: bytes, after: Cursor) -> int:
    """Where the last event up to `after` ends in a part; 0: there is none. Looked for from the end, where it mostly is."""
    first = next((at for event in _events(part, 0) if (at := place(event)) is not None), None)
    end = len(part) if first is not None and first <= after else 0
    while end > 0:
        start = part.rfind(b"\n", 0, end - 1) + 1
        event = _event(part[start:end])
        at = place(event) if event is not None else None
        if at is not None and at <= after:
            break
        end = start
    return end


def _events(part: bytes, begin: int) -> Iterator[Event]:
    while begin < len(part):
        end = part.find(b"\n", begin) + 1 or len(part)
        event = _event(part[begin:end])
        if event is not None:
            yield event
        begin = end


def _event(line: bytes) -> Event | None:
    """None for what is none: a line that is being written, or one that a disk has spoilt."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            return event
    return None


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
