"""Processes by descent, where no pid namespace tells them apart: whom a process has brought forth, and the end of them all.

The top must be a subreaper: then nobody leaves the family by outliving a parent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator


def descendants(top: int) -> Iterator[int]:
    """pids of what descends from `top`, itself not included."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent(name), []).append(int(name))
    waiting = [top]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return -1


def end(top: int) -> None:
    """SIGKILL to every descendant. They are stopped first, so that nothing is born while the next is looked for."""
    seen: set[int] = set()
    while fresh := set(descendants(top)) - seen:
        for pid in fresh:
            _signal(pid, signal.SIGSTOP)
        seen |= fresh
    for pid in seen:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
