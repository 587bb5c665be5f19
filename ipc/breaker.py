"""The breaker of one target, as a pure machine (DESIGN 9.8; messaging.md J1-J3).

| state | call | 5th failure in a row | 30 s passed | probe failed | probe answered | new incarnation ready |
|---|---|---|---|---|---|---|
| CLOSED | passes | OPEN | - | - | - | - |
| OPEN | fails | - | HALF_OPEN | - | - | HALF_OPEN |
| HALF_OPEN | one passes: the probe | - | - | OPEN | CLOSED | the probe is another one |

A probe is *leased*: if nothing is heard of it until its call's deadline, another call may be it. An operator may force it
open or closed; `auto` gives it back. Answers of any kind are successes, also exceptions: somebody was there to raise them.
A death is one failure, however many calls it ended, or one crash of a busy agent would open its breaker.
"""

from __future__ import annotations

import enum

from otpd.ipc import limits


class Circuit(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(enum.Enum):
    AUTO = "auto"
    OPEN = "open"
    CLOSE = "close"


class Breaker:
    """`circuit` is what is in force. Who reports says whether its call was the probe."""

    __slots__ = ("_lease", "circuit", "failures", "mode", "reopens")

    def __init__(self) -> None:
        self.circuit, self.mode, self.failures = Circuit.CLOSED, Mode.AUTO, 0
        self._lease = 0
        self.reopens = 0  # when OPEN ends, ns

    def admit(self, now: int, deadline: int) -> bool:
        """Whether a call may pass. In HALF_OPEN the one that does is the probe, until `deadline` (0: none)."""
        if self.circuit is not Circuit.HALF_OPEN:
            return self.circuit is Circuit.CLOSED
        if now < self._lease:
            return False
        self._lease = deadline or now + limits.BREAKER_OPEN
        return True

    @property
    def passes(self) -> bool:
        return self.circuit is not Circuit.OPEN

    @property
    def at_rest(self) -> bool:
        """Closed after no failure: a success changes nothing."""
        return not self.failures and self.circuit is Circuit.CLOSED

    def failed(self, now: int, probe: bool) -> None:
        if self.mode is not Mode.AUTO:
            return
        self.failures += 1
        if (self.circuit is Circuit.CLOSED and self.failures >= limits.BREAKER_FAILURES) or (
            self.circuit is Circuit.HALF_OPEN and probe
        ):
            self.circuit = Circuit.OPEN
            self.reopens = now + limits.BREAKER_OPEN

    def succeeded(self, probe: bool) -> None:
        if self.mode is Mode.AUTO and (probe or self.circuit is Circuit.CLOSED):
            self.circuit, self.failures = Circuit.CLOSED, 0

    def abandoned(self) -> None:
        """The caller of the probe has given up: nothing was learnt."""
        self._lease = 0

    def half_open(self) -> None:
        """OPEN has lasted long enough, or there is a new incarnation."""
        if self.mode is Mode.AUTO and self.circuit is not Circuit.CLOSED:
            self.circuit, self._lease = Circuit.HALF_OPEN, 0

    def force(self, mode: Mode) -> None:
        """What was forced open is probed before it is trusted again. `auto` for what is in nobody's hand changes nothing: a
        probe that is on its way stays the only one."""
        before, self.mode = self.mode, mode
        if mode is before is Mode.AUTO:
            return
        self.failures = self._lease = 0
        if mode is Mode.OPEN:
            self.circuit = Circuit.OPEN
        elif mode is Mode.AUTO and before is Mode.OPEN:
            self.circuit = Circuit.HALF_OPEN
        elif mode is Mode.CLOSE:
            self.circuit = Circuit.CLOSED
