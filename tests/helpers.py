"""What every test may use: `eventually`, the only way to wait, and `open_below`, to see what was not closed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


_PATIENCE = 30.0


def eventually(condition: Callable[[], T], deadline: float = 30.0, what: str = "") -> T:
    """The first truthy value of `condition`, polled; AssertionError with the last value after `deadline` seconds, but never
    before 30: how fast things are is measured by `scripts/bench`, and a test must pass on a machine that is busy."""
    deadline = max(deadline, _PATIENCE)
    end = time.monotonic() + deadline
    value: T
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what or condition}; last value: {value!r}")
        time.sleep(0.005)


def open_below(path: Path) -> list[str]:
    """What this process has open there: files, without those that nobody can find any more."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor by which the list was read
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(each for each in found if Path(each).is_relative_to(path))
