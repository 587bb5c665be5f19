"""Which paths may make a reader wait for ever: those on the file systems of networks, of other processes, of automounters.

Root asks before it lets a path block it. To ask never waits itself: a path is followed link by link, and nothing at or
beyond such a mount is touched. The root file system is never suspected: root itself lives on it.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterable
from typing import Final

#: `fuse` covers fuse.sshfs, fuse.glusterfs and the like.
_SUSPECTS: Final = frozenset(
    {
        "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "lustre", "ncpfs", "nfs",
        "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip
#: Components looked at; the kernel's own bound is 40 links.
_PATIENCE: Final = 400
_REMEMBERED: Final = 10_000


class Mounts:
    """Follows the mount table, which the kernel says when to read again."""

    def __init__(self, table: str = "/proc/self/mountinfo") -> None:
        self._fd = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._fd, select.POLLPRI)
        self._suspects = self._read()
        self._answers: dict[str, bool] = {}

    def may_hang(self, paths: Iterable[str]) -> bool:
        """Whether to use one of these absolute paths may take as long as another machine or process likes.

        A link that changes its target is seen with the next change of the mount table.
        """
        if self._changes.poll(0) or len(self._answers) > _REMEMBERED:
            self._suspects = self._read()
            self._answers.clear()
        return bool(self._suspects) and any(map(self._ask, paths))

    def _ask(self, path: str) -> bool:
        if path not in self._answers:
            self._answers[path] = self._leads_to_suspect(path)
        return self._answers[path]

    def close(self) -> None:
        os.close(self._fd)

    def _read(self) -> frozenset[str]:
        os.lseek(self._fd, 0, os.SEEK_SET)
        chunks = iter(lambda: os.read(self._fd, 1 << 16), b"")
        return suspects(os.fsdecode(b"".join(chunks)))

    def _leads_to_suspect(self, path: str) -> bool:
        here, ahead = "/", deque(path.split("/"))
        for _ in range(_PATIENCE):
            if not ahead:
                return False
            name = ahead.popleft()
            if name == "..":
                here = os.path.dirname(here)
            if name in ("", ".", ".."):
                continue
            step = os.path.join(here, name)
            if step in self._suspects:
                return True
            try:
                link = os.readlink(step)
            except OSError:
                here = step
                continue
            ahead.extendleft(reversed(link.split("/")))
            here = "/" if link.startswith("/") else here
        return True


def suspects(table: str) -> frozenset[str]:
    """The mount points in the text of a mountinfo file behind which a file may be out of reach.

    >>> suspects("36 1 0:30 / /home rw - nfs4 nas:/home rw\\n37 1 8:1 / / rw - ext4 /dev/sda1 rw\\n")
    frozenset({'/home'})
    """
    last: dict[str, str] = {}
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        last[_unescape(before.split(" ")[4])] = after.split(" ")[0].partition(".")[0]
    return frozenset(point for point, kind in last.items() if kind in _SUSPECTS and point != "/")


def _unescape(text: str) -> str:
    for escaped, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escaped, character)
    return text
