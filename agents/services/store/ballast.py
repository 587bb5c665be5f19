"""The ballast: a file that takes room on the disk, to be given up when the disk is full.

Then the database can still be written by those that make room: acknowledgements, deletions, checkpoints.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: So many times its size must be free before it is made again: or it would fill the disk itself.
_MARGIN: Final = 4


class Ballast:
    """`size` bytes at `path`; 0 for none."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    @property
    def there(self) -> bool:
        with contextlib.suppress(OSError):
            return self._path.stat().st_size == self._size
        return self._size == 0

    def free(self) -> None:
        """Give it up."""
        self._path.unlink(missing_ok=True)

    def make(self) -> bool:
        """Make it, if there is far more room than it takes; whether it is there."""
        if not self.there and self.has_room():
            try:
                self._allocate()
            except OSError:
                self.free()
        return self.there

    def has_room(self) -> bool:
        """Whether so much is free that it can be made again."""
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize > _MARGIN * self._size

    def _allocate(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
        finally:
            os.close(fd)
