"""Writes logs for tests through the real writer, at times that the test chooses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from otpd.supervisor.logwriter import LogWriter
from otpd.supervisor.spec import LogPolicy

SECOND = 1_000_000_000


class Writing:
    """Logs in `logs`; `at` is the wall clock in seconds."""

    def __init__(self, logs: Path, max_bytes: int = 1 << 20, keep: int = 1000) -> None:
        self.logs = logs
        self.at = 1_000.0
        self.policy = LogPolicy(max_bytes=max_bytes, keep=keep)
        self.lost: list[str] = []

    def write(self, name: str, data: bytes, generation: int = 1) -> None:
        """Store `data` as if it had just been printed; the next call is a second later."""
        writer = self._writer(name)
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            for start in range(0, len(data), 65_536):
                left = os.write(write, data[start : start + 65_536])
                while left:
                    left -= writer.move(read, generation, self.policy)
        finally:
            os.close(read)
            os.close(write)
            writer.close()
        self.at += 1

    def gap(self, name: str, dropped: int, generation: int = 1) -> None:
        writer = self._writer(name)
        writer.mark_gap(generation, dropped, self.policy)
        writer.close()
        self.at += 1

    def _writer(self, name: str) -> LogWriter:
        return LogWriter(str(self.logs), name, self.lost.append, lambda: int(self.at * SECOND))


def stored_events(state_dir: Path) -> list[dict[str, Any]]:
    """All that is in the event log and in what was rotated away, oldest first."""
    files = sorted(state_dir.glob("events.jsonl*"), reverse=True)
    return [json.loads(line) for file in files if file.is_file() for line in file.read_text().splitlines()]
