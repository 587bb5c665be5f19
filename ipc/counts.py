"""What became of messages, by name: every cast ends in exactly one counter (messaging.md, C2)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Counts:
    """Casts: `casts` were offered; each is queued, on its way, or in one of processed (its handler ended), rejected (by
    code), dropped (by the buffer's policy), expired (time to live), lost (its receiver died first)."""

    casts: int = 0
    processed: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    expired: int = 0
    lost: int = 0
    calls: int = 0  # offered
    replied: int = 0
    failed: int = 0
    events: int = 0  # sent to it
    missed: int = 0  # events that it did not take in time

    def reject(self, code: str, count: int = 1) -> None:
        self.rejected[code] = self.rejected.get(code, 0) + count

    def add(self, other: Counts) -> None:
        for each in fields(self):
            if each.name != "rejected":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        for code, count in other.rejected.items():
            self.reject(code, count)
