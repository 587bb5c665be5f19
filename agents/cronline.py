"""The slots of a cron line in a time zone, as nanoseconds since 1970. Pure, but for the tables of the time zones.

The line is read by `cronsim`, which does what Debian's cron does when clocks are changed: a job at a fixed time that the
change leaps over comes right after it, and one whose time comes twice comes once; lines whose hour or minute begins with
`*` go by the time that really passes. A sixth field, before the others, is seconds.

>>> line = Cronline("30 2 * * *", "Europe/Berlin")
>>> from datetime import datetime, timezone
>>> def at(*when): return int(datetime(*when, tzinfo=timezone.utc).timestamp()) * NS
>>> def shown(slot): return datetime.fromtimestamp(slot / NS, timezone.utc).isoformat()
>>> shown(line.after(at(2026, 3, 28, 12)))      # there is no 02:30 that night: 03:00 summer time
'2026-03-29T01:00:00+00:00'
"""

from __future__ import annotations

import zoneinfo
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from cronsim import CronSim, CronSimError

NS: Final = 1_000_000_000
#: Missed slots that are counted one by one.
COUNTED: Final = 1000
_HOUR: Final = 3600 * NS


class Cronline:
    """ValueError for what is no cron line, for one that never comes, and for an unknown time zone."""

    __slots__ = ("_expression", "_zone")

    def __init__(self, expression: Any, timezone: str = "UTC") -> None:
        self._zone = _zone(timezone)
        self._expression = expression
        sample = 'five fields (minute hour day month weekday) such as "0 3 * * *", or six that begin with the second'
        try:
            comes = self.after(0) is not None
        except (CronSimError, AttributeError) as error:
            raise ValueError(f"cron: expected {sample}, got {expression!r}: {error}") from None
        if not comes:
            raise ValueError(f"cron: expected a time that comes, {expression!r} never does")

    def after(self, moment: int) -> int | None:
        """The first slot after `moment`; None when there is none for 50 years."""
        return next(self._from(moment), None)

    def newest(self, after: int, until: int, limit: int) -> list[int]:
        """The last `limit` slots in (after, until], oldest first. Looks back only as far as it must."""
        span = _HOUR
        while True:
            begin = max(after, until - span)
            found = deque(self._between(begin, until), limit)
            if len(found) == limit or begin == after:
                return list(found)
            span *= 4

    def count(self, after: int, until: int) -> int:
        """How many slots are in (after, until]; at most COUNTED."""
        return sum(1 for _, _ in zip(range(COUNTED), self._between(after, until), strict=False))

    def _between(self, after: int, until: int) -> Iterator[int]:
        for slot in self._from(after):
            if slot > until:
                return
            yield slot

    def _from(self, moment: int) -> Iterator[int]:
        """In a repeated hour cronsim begins with its first passage: what has been is left out."""
        last = moment
        for found in CronSim(self._expression, datetime.fromtimestamp(moment // NS, self._zone)):
            slot = int(found.timestamp()) * NS
            if slot > last:
                last = slot
                yield slot


def _zone(name: Any) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        advice = 'write one of the tz database, such as "Europe/Berlin" or "UTC"'
        raise ValueError(f"cron: no time zone named {name!r}; {advice}") from None
