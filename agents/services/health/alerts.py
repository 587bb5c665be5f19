"""What is wrong with the host: one alert per condition, raised above one threshold and cleared below a lower one. Pure.

| condition | reading |
|---|---|
| cpu | percent of all cores that was busy since the reading before |
| memory | percent of memory that is not available |
| disk | percent of the file system of the state directory that is used |
| load | runnable processes on average over a minute, per core |

A reading must stand for `hold` seconds before it counts, either way; one that can't be had changes nothing.

>>> alerts = Alerts({"disk": Threshold(90.0, 85.0, 0.0)})
>>> alerts.read({"disk": 95.0}, now=0.0)
[Alert(condition='disk', raised=True, value=95.0, threshold=90.0)]
>>> alerts.read({"disk": 87.0}, now=5.0), alerts.read({"disk": 85.0}, now=10.0)
([], [Alert(condition='disk', raised=False, value=85.0, threshold=85.0)])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Threshold:
    """`raise_at` is reached from below, `clear_at` from above; `hold` in seconds."""

    raise_at: float
    clear_at: float
    hold: float


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition has changed; `threshold` is the one that was passed."""

    condition: str
    raised: bool
    value: float
    threshold: float


#: A disk fills slowly and for good, a processor is busy for a moment now and then.
DEFAULTS: Final[Mapping[str, Threshold]] = {
    "cpu": Threshold(95.0, 80.0, 60.0),
    "memory": Threshold(95.0, 90.0, 30.0),
    "disk": Threshold(90.0, 85.0, 0.0),
    "load": Threshold(4.0, 2.0, 60.0),
}


class Alerts:
    """`raised`: what was known before, by somebody who did the same work."""

    def __init__(self, thresholds: Mapping[str, Threshold], raised: Iterable[str] = ()) -> None:
        self._thresholds = dict(thresholds)
        self.raised: set[str] = set(raised) & self._thresholds.keys()
        self._since: dict[str, float] = {}  # how long a reading has stood that would change its condition

    def read(self, readings: Mapping[str, float], now: float) -> list[Alert]:
        return [alert for name, value in readings.items() if (alert := self._read(name, value, now)) is not None]

    def _read(self, name: str, value: float, now: float) -> Alert | None:
        threshold = self._thresholds.get(name)
        if threshold is None:
            return None
        raised = name in self.raised
        if not (value <= threshold.clear_at if raised else value >= threshold.raise_at):
            self._since.pop(name, None)
            return None
        if now - self._since.setdefault(name, now) < threshold.hold:
            return None
        del self._since[name]
        self.raised ^= {name}
        return Alert(name, not raised, value, threshold.clear_at if raised else threshold.raise_at)
