"""The event log of the node: one JSON object per line in <state_dir>/events.jsonl, bounded by rotation.

Unlike the children's logs it is written by the logger from values, not from a pipe. A line is there completely or not
at all. Files: events.jsonl (being written), events.jsonl.1 (older), ... up to KEEP.
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


class EventLog:
    """Appends events; what can't be stored now waits, the oldest of more than 1,000 are given up and counted."""

    def __init__(self, state_dir: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = os.path.join(state_dir, EVENTS)
        self._max_bytes = max_bytes
        self._pending: deque[bytes] = deque()
        self._lost = 0

    def append(self, event: dict[str, Any]) -> None:
        """Store `event` after those that still wait. OSError: it waits too."""
        self._pending.append(_line(event))
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
            self._write(self._pending[0])
            self._pending.popleft()

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


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, default=repr).encode() + b"\n"
