"""Spans of time as people write them in a worker script: "250ms", "30s", "2m", "1h", "7d", or seconds as a number.

>>> nanoseconds("every", "1.5s"), nanoseconds("every", 2), shown(90_000_000_000)
(1500000000, 2000000000, '90s')
"""

from __future__ import annotations

import datetime
import re
from typing import Any, Final

_NS: Final = 1_000_000_000
_UNITS: Final = {"d": 86_400 * _NS, "h": 3_600 * _NS, "m": 60 * _NS, "s": _NS, "ms": 1_000_000}
_WRITTEN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
#: Ten years, as everywhere in otpd; what is longer is a mistake.
LONGEST: Final = 3650 * 86_400 * _NS


def nanoseconds(what: str, value: Any, least: int = 0) -> int:
    """ValueError that names `what` for anything that is no span from `least` ns to ten years."""
    found = _read(value)
    if found is None or not least <= found <= LONGEST:
        bound = f" of at least {shown(least)}" if least else ""
        sample = 'such as "250ms", "30s", "2m", "1h", "7d", or seconds as a number'
        raise ValueError(f"{what}: expected a duration{bound} (at most ten years), {sample}, got {value!r}")
    return found


def _read(value: Any) -> int | None:
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * _NS) if value == value and abs(value) < 1e18 else None
    written = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    return None if written is None else int(float(written[1]) * _UNITS[written[2]])


def shown(span: int) -> str:
    """Nanoseconds in the largest unit in which they are whole.

    >>> [shown(each) for each in (0, 1_500_000_000, 7_200_000_000_000)]
    ['0s', '1500ms', '2h']
    """
    for unit, size in _UNITS.items():
        if span and span % size == 0:
            return f"{span // size}{unit}"
    return f"{span / _NS:g}s"
