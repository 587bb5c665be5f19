"""Warnings that may come a thousand times a second: all are counted, one every few seconds is logged, with the count."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

_SECONDS: Final = 5.0


class Complaints:
    """`clock`: ns. `counts`: how many there were of each kind."""

    def __init__(self, log: logging.Logger, clock: Callable[[], int]) -> None:
        self._log, self._clock = log, clock
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[int, int]] = {}  # ns and count when the kind was logged last

    def __call__(self, kind: str, text: str, *args: Any) -> None:
        """`text` with `args` is this one; those of its `kind` that were only counted are named in the next line."""
        self.counts[kind] += 1
        now, count = self._clock(), self.counts[kind]
        at, before = self._logged.get(kind, (None, 0))
        if at is None or now - at >= _SECONDS * 1e9:
            self._logged[kind] = (now, count)
            more = f" [{count - before} {kind} since the last such line]" if count - before > 1 else ""
            self._log.warning(text + more, *args)
