"""The high-water mark: a file of 24 bytes beside the database that says which commit was the last to be acknowledged.

SQLite believes its log as far as the checksums in it hold: one flipped byte, and all later commits are gone without a word,
and every check says that the rest is well. So the number of each commit is noted here, too, after it is on disk. At start
the database must hold at least that number, or it has lost something.

It is written without an fsync: after a kill it is exact, after a power cut it may be some commits behind, never ahead.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final

_MARK: Final = struct.Struct(">8sQI")
_MAGIC: Final = b"otpd.hwm"


class HighWater:
    """`seq` is what the file said when it was opened, 0 for a new one; `problem` why it could not be read."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        data = os.pread(self._fd, _MARK.size + 1, 0)
        self.problem: str | None = None
        self.seq = 0
        if data:
            self.seq = self._read(path, data)

    def _read(self, path: Path, data: bytes) -> int:
        if len(data) == _MARK.size:
            magic, seq, crc = _MARK.unpack(data)
            if magic == _MAGIC and crc == zlib.crc32(data[:16]):
                return int(seq)
        self.problem = f"{path.name} is damaged: whether the database has lost commits can't be told this time"
        return 0

    def write(self, seq: int) -> None:
        head = _MAGIC + seq.to_bytes(8, "big")
        os.pwrite(self._fd, head + zlib.crc32(head).to_bytes(4, "big"), 0)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
