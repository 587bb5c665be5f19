"""Rows of measurements, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: what, what came out, what it should be, and the raw figures."""

    name: str
    value: str
    target: str
    met: bool
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "target": self.target, "met": self.met, **self.data}


def show(rows: Sequence[Row]) -> str:
    table = [("what", "measured", "to reach", ""), *((r.name, r.value, r.target, "yes" if r.met else "NO") for r in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, p95, p99 and n of some milliseconds."""
    return {
        "p50": round(statistics.median(values), 2),
        "p95": round(percentile(values, 0.95), 2),
        "p99": round(percentile(values, 0.99), 2),
        "n": len(values),
    }
