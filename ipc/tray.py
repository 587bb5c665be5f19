"""What one peer is sent on one lane at the next flush: messages that may share a frame lie together."""

from __future__ import annotations

from typing import Any

from otpd.ipc.frames import pack
from otpd.ipc.wire import BATCH_BYTES, BATCH_MESSAGES, HEADER, INNER, OUTER, VERSION, Kind

_SYSTEM = int(Kind.SYSTEM)


class _Run:
    """Messages of one frame. `key`: kind, flags and source in one number, compared once."""

    __slots__ = ("count", "key", "parts", "size")

    def __init__(self, key: int, count: int, payload: bytes | memoryview) -> None:
        self.key, self.count, self.size, self.parts = key, count, len(payload), [payload]

    def frame(self) -> bytes:
        key = self.key
        header = OUTER.pack(VERSION, key & 0xFF, self.count, key >> 16, HEADER + self.size, key >> 8 & 0xFF)
        return b"".join((header, *self.parts))


class Tray:
    """In order. A message over 64 KiB gets a frame of its own, because a full run takes nothing more."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, kind: int, source: int, flags: int, count: int, payload: bytes | memoryview) -> None:
        """`payload`: messages as they stand in a frame."""
        key = kind | flags << 8 | source << 16
        runs = self._runs
        if runs:
            run = runs[-1]
            if run.key == key and run.count + count <= BATCH_MESSAGES and run.size + len(payload) <= BATCH_BYTES:
                run.count += count
                run.size += len(payload)
                run.parts.append(payload)
                return
        runs.append(_Run(key, count, payload))

    def command(self, command: list[Any]) -> None:
        body = pack(command)
        self.add(_SYSTEM, 0, 0, 1, INNER.pack(len(body), 0, 0) + body)

    def frames(self) -> list[bytes]:
        """What has gathered; empty afterwards."""
        runs = self._runs
        if not runs:
            return []
        self._runs = []
        return [run.frame() for run in runs]
