"""The event log of the node: one JSON object per line in <state_dir>/events.jsonl, bounded by rotation.

Unlike the children's logs it is written by the logger from values, not from a pipe. A line is there completely or not
at all. Files: events.jsonl (being written), events.jsonl.1 (older), ... up to KEEP. Root numbers the events of its life and
keeps those that it does not know to be stored; so the logger that follows one that was killed is told some again, and knows
by the last line which these are: no event is missing, and none is there twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections import deque
from typing import Any

from otpd.supervisor.logwriter import open_regular

EVENTS = "events.jsonl"
MAX_BYTES = 4 * 1024 * 1024
KEEP = 3
_PENDING = 1000
_TAIL = 1 << 16  # longer than a line


class EventLog:
    """Appends the events of root's life `life`; what can't be stored now waits, the oldest of more than 1,000 are given up
    and counted. `stored`: the number of the last event that is on disk."""

    def __init__(self, state_dir: str, life: int, max_bytes: int = MAX_BYTES) -> None:
        self._path = os.path.join(state_dir, EVENTS)
        self._life = life
        self._max_bytes = max_bytes
        self._pending: deque[tuple[int, bytes]] = deque()
        self._lost = 0
        self.stored = self._stored_by_others()

    def append(self, number: int, event: dict[str, Any]) -> None:
        """Store `event` after those that still wait. OSError: it waits too."""
        if number <= (self._pending[-1][0] if self._pending else self.stored):
            return
        self._pending.append((number, _line(event | {"life": self._life, "seq": number})))
        if len(self._pending) > _PENDING:
            self._pending.popleft()
            self._lost += 1
        self.retry()

    def retry(self) -> None:
        """Store what waits. OSError: not yet."""
        if self._lost and self._pending:
            self._write(_line({"at": time.time(), "event": "otpd.log.events_lost", "count": self._lost}))
            self._lost = 0
        while self._pending:
            number, line = self._pending[0]
            self._write(line)
            self.stored = number
            self._pending.popleft()

    def _stored_by_others(self) -> int:
        """By the loggers of this life before this one; 0 when there was none."""
        for path in (self._path, f"{self._path}.1"):
            for line in reversed(_last_lines(path)):
                with contextlib.suppress(ValueError):
                    match json.loads(line):
                        case {"life": self._life, "seq": int(number)}:
                            return number
                        case {"life": _}:
                            return 0
        return 0

    def _write(self, line: bytes) -> None:
        fd = open_regular(self._path, os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        finally:
            os.close(fd)
        if size + len(line) >= self._max_bytes:
            self._rotate()

    def _rotate(self) -> None:
        for number in range(KEEP, 0, -1):
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, f"{self._path}.{number}")


def _last_lines(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().splitlines()
    except OSError:
        return []


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, default=repr).encode() + b"\n"
