"""Who asks the store, and what it may: the beginning of every request."""

from __future__ import annotations

from typing import Final

from otpd.agents.agent import Agent
from otpd.agents.errors import Reject
from otpd.agents.services.store.refusals import Refusal, Stale, TooLarge
from otpd.agents.services.store.state import Fence

#: Bits of an incarnation's number that count generations; above them is the life of root.
_GENERATION: Final = 32


class Asked(Agent):
    """`fence`: an older incarnation than one that has been here does nothing any more."""

    max_state: int
    fence: Fence

    def _asker(self) -> tuple[str, int]:
        """Name and inc of who calls. Reject when a newer incarnation has been here: it speaks for nobody any more (A8)."""
        current = self.current
        assert current is not None
        inc = self._inc(current.generation)
        if not self.fence.admits(current.caller, inc):
            raise rejected(Stale(f"{current.caller}: a newer incarnation has taken over"))
        return current.caller, inc

    def _inc(self, generation: int) -> int:
        """All processes of a node have the life of their root."""
        return self._otpd.endpoint.inc >> _GENERATION << _GENERATION | generation

    def _only_operators(self) -> None:
        current = self.current
        assert current is not None
        if not current.caller.startswith("@"):
            raise Reject(f"{current.caller} has only its own state; that of others is for people: otpd state")

    def _fits(self, name: str, body: bytes) -> None:
        if len(body) > self.max_state:
            text = (
                f"the state of {name} has {len(body)} bytes, at most {self.max_state} are stored; keep large things in a "
                "file and its path in the state, or raise max_state of [services.store]"
            )
            raise rejected(TooLarge(text))


def rejected(refusal: Refusal) -> Reject:
    """The answer; the SDK of who asks makes its own error of the code."""
    return Reject(str(refusal), data={"code": refusal.code})
