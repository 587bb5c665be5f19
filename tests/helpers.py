"""What every test may use: `eventually`, the only way to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
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
