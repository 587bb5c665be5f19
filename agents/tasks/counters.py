"""What a pool counts: how its tasks ended, and how long they waited and ran.

>>> spread = Histogram()
>>> for seconds in (0.0002, 0.0004, 3.0):
...     spread.add(seconds)
>>> spread.count, spread.quantile(0.5), spread.quantile(1.0)
(3, 0.0005, 5.0)
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

#: Upper edges in seconds, 1-2-5 from 100 us to 500 s; what is longer falls into one more.
EDGES: Final = tuple(step * 10.0**power for power in range(-4, 3) for step in (1, 2, 5))


@dataclass(slots=True)
class Histogram:
    """Of seconds. `counts` has one more entry than EDGES."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(EDGES, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The upper edge of the class in which it lies; None when nothing has been counted, inf beyond the last edge."""
        wanted, seen = share * self.count, 0
        for edge, count in zip((*EDGES, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return edge
        return None

    def picture(self) -> dict[str, Any]:
        """For --json and metrics; an infinite quantile is the last edge."""
        last = EDGES[-1]
        return {
            "count": self.count,
            "sum_s": round(self.sum, 6),
            **{f"p{int(share * 100)}_s": _most(self.quantile(share), last) for share in (0.5, 0.99)},
            "buckets": [[round(edge, 6), count] for edge, count in zip(EDGES, self.counts, strict=False) if count],
            "over": self.counts[-1],
        }


def _most(value: float | None, last: float) -> float | None:
    return None if value is None else round(min(value, last), 6)


@dataclass(slots=True)
class Counters:
    """Each task that was accepted is counted once, when it has ended; `submitted` has those too that wait or run."""

    submitted: int = 0
    done: int = 0
    failed: int = 0  # the function raised
    timed_out: int = 0
    killed: int = 0  # its worker died under it, or never came
    cancelled: int = 0  # its owner took it back, or is gone
    refused: int = 0  # not accepted: the queue was full
    workers: int = 0  # started so far
    wait: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)

    def outcomes(self) -> dict[str, int]:
        """How those that are over came to their end, and those that were not accepted."""
        return {
            "done": self.done, "failed": self.failed, "timed_out": self.timed_out, "killed": self.killed,
            "cancelled": self.cancelled, "refused": self.refused,
        }  # fmt: skip

    def spans(self) -> dict[str, Histogram]:
        return {"wait": self.wait, "run": self.run}

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.timed_out + self.killed + self.cancelled
