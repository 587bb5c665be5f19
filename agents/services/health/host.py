"""How the host is: the readings that `alerts` judges, through psutil. Each costs less than a millisecond."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import psutil

#: Seconds between two looks.
PERIOD: Final = 5.0


class Host:
    """`state_dir`: whose file system is the disk that counts."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._readings: dict[str, Callable[[], float]] = {
            "cpu": lambda: float(psutil.cpu_percent(interval=None)),
            "memory": lambda: float(psutil.virtual_memory().percent),
            "disk": lambda: float(psutil.disk_usage(self._state_dir).percent),
            "load": lambda: os.getloadavg()[0] / (os.cpu_count() or 1),
        }
        psutil.cpu_percent(interval=None)  # the first call measures nothing

    def read(self) -> dict[str, float]:
        """What can't be read is left out."""
        found = {}
        for condition, read in self._readings.items():
            try:
                found[condition] = read()
            except (OSError, psutil.Error):
                continue
        return found
