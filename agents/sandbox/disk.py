"""Measures what a run has written into granted directories: the blocks of every file that has changed since it began.

A file that was there before counts with its whole size once it has changed, which is bounded by `file_size`; one without
blocks counts as one, because a disk can be full of empty files. Files that were deleted while open are not seen, nor those
whose path is longer than the kernel takes (4096 bytes). The walk does a part at a time, and follows no symbolic link,
wherever in a path one is put while it goes on.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

from otpd.agents.sandbox import kernel

_BLOCK: Final = 512
_LEAST: Final = 4096
#: Entries in one go, a few milliseconds.
SLICE: Final = 5000
#: Seconds between two walks, and between two parts of one.
PAUSE, REST = 0.2, 0.02
_STRICT: Final = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS


class DiskWatch:
    """Call `look` every now and then; it returns the bytes of the last walk that was completed."""

    def __init__(self, paths: tuple[str, ...], at_once: int = SLICE) -> None:
        self._paths = paths
        self._at_once = at_once
        self._since = time.time() - 0.01  # the kernel stamps files with a coarse clock, up to a tick behind
        self._walk: Iterator[int] | None = None
        self._sum = 0
        self._count = 0
        self.bytes = 0
        self.files = 0  # all that are there, changed or not

    def look(self) -> int:
        """At most `at_once` entries. What has been found of an unfinished walk counts as soon as it is more."""
        if self._walk is None:
            self._walk, self._sum, self._count = self._files(), 0, 0
        for _ in range(self._at_once):
            found = next(self._walk, None)
            if found is None:
                self._walk, self.bytes, self.files = None, self._sum, self._count
                return self.bytes
            self._sum += found
            self._count += 1
        self.bytes, self.files = max(self.bytes, self._sum), max(self.files, self._count)
        return self.bytes

    def pause(self) -> float:
        """Seconds until the next `look`."""
        return PAUSE if self._walk is None else REST

    def _files(self) -> Iterator[int]:
        for path in self._paths:
            yield from self._beneath(path)

    def _beneath(self, top: str) -> Iterator[int]:
        """One directory is open at a time, however deep they lie: a command may make thousands in each other."""
        pending = [("", top)]
        while pending:
            here = os.path.join(*pending.pop())
            try:
                place = kernel.openat2(kernel.AT_FDCWD, here, os.O_RDONLY | os.O_DIRECTORY, _STRICT)
            except OSError:
                continue
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            about = entry.stat(follow_symlinks=False)
                            if stat.S_ISDIR(about.st_mode):
                                pending.append((here, entry.name))
                            yield self._size(about)
            finally:
                os.close(place)

    def _size(self, about: os.stat_result) -> int:
        if about.st_ctime < self._since:
            return 0
        return max(about.st_blocks * _BLOCK, _LEAST) // max(1, about.st_nlink)
