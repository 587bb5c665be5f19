"""Makes this checkout, its interpreter and libraries readable to another user, for this process and its children alone.

In a mount namespace of its own: where a directory on the way is closed to others (root's home, often), it is replaced
by one that holds nothing but what is needed.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from otpd.agents.sandbox import kernel


def expose(uid: int) -> None:
    """For root. OSError."""
    needed = {Path(os.path.realpath(path)) for path in (sys.base_prefix, sys.prefix, Path(__file__).parents[2])}
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        door = next((each for each in reversed(path.parents) if not _open_to_others(each)), None)
        if door is not None:
            closed.setdefault(door, []).append(path)
    for door, paths in closed.items():
        trees = [kernel.open_tree(str(path)) for path in paths]
        kernel.mount("tmpfs", str(door), "tmpfs", kernel.MS_NOSUID, "mode=755")
        for path, tree in zip(paths, trees, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            place = os.open(path, os.O_PATH)
            kernel.move_mount(tree, place)
            os.close(place)
            os.close(tree)


def _open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXOTH)
