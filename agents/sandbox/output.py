"""Keeps what a stream says within a cap: its beginning and its end, because the end holds the traceback.

>>> kept = Capped(8)
>>> for chunk in (b"abcdef", b"ghijkl", b"mnop"): kept.feed(chunk)
>>> kept.content(), kept.total, kept.truncated
(b'abcdef\\n[... 8 bytes left out ...]\\nop', 16, True)
"""

from __future__ import annotations

from typing import Final

#: Of the cap, for the beginning; the rest is for the end.
_HEAD: Final = 0.75


class Capped:
    """Holds at most twice the cap."""

    def __init__(self, cap: int) -> None:
        self._head_cap = int(cap * _HEAD)
        self._tail_cap = cap - self._head_cap
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self._head_cap - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:] if room > 0 else chunk
        if len(self._tail) > 2 * self._tail_cap + 65536:
            del self._tail[: -self._tail_cap]

    @property
    def truncated(self) -> bool:
        return self.total > self._head_cap + self._tail_cap

    def content(self) -> bytes:
        """All of it, or both ends with a line between them that says how much is missing."""
        if not self.truncated:
            return bytes(self._head + self._tail)
        missing = self.total - self._head_cap - self._tail_cap
        mark = f"\n[... {missing} bytes left out ...]\n".encode()
        return bytes(self._head) + mark + bytes(self._tail[-self._tail_cap :])
