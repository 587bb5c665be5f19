"""How values read: durations, sizes, times, exits, counts. Pure.

>>> duration(0.25), duration(12.3), duration(200), duration(7500), duration(400000)
('0.25s', '12s', '3m20s', '2h05m', '4d15h')
>>> size(400 * 1024 * 1024), count(1, "child", "children"), count(3, "restart")
('400.0MiB', '1 child', '3 restarts')
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    """The two largest units; tenths and hundredths only when it is short."""
    if seconds < 10:
        return f"{max(0.0, seconds):.2f}".rstrip("0").rstrip(".") + "s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
        number /= 1024
    return f"{number:.1f}GiB"


def count(number: int, word: str, many: str = "") -> str:
    return f"{number} {word if number == 1 else many or word + 's'}"


def when(at: float) -> str:
    """Local time of the wall clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def ago(at: float, now: float) -> str:
    return f"{duration(max(0.0, now - at))} ago"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """
    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def ending(reason: str, number: int | None) -> str:
    """An exit reason with the signal's name where there is one.

    >>> ending("signal(11)", 11), ending("killed", 9), ending("error(1)", None)
    ('signal(11) SIGSEGV', 'killed', 'error(1)')
    """
    return f"{reason} {signal_name(number)}" if number is not None and reason.startswith("signal(") else reason


def last_exit(row: dict[str, Any], now: float) -> str:
    """The `last_exit` of a worker: reason, word for its cause and age; nothing when it never ended."""
    found = row.get("last_exit")
    if not found:
        return ""
    oom = " (oom)" if (found.get("cause") or "").startswith("oom") else ""
    return f"{ending(found['reason'], found.get('signal'))}{oom} {ago(found['at'], now)}"
