"""Questions to agents through the broker: whose silence it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otpd.agents.errors import BrokerLost, CallTimeout
from otpd.agents.services.health.calling import CALL, Calls
from otpd.agents.services.health.probes import Ask, Plan, Verdict

ASK = Ask("a", 1, 1, Plan(check=CALL, interval=5.0, timeout=1.0, failures=2, successes=1, grace=0.0, action="restart"))
LATE = Verdict(False, "no answer within 1s")


class Talk:
    """A broker that lets the call run out, and then says where the agent is, as the one of `answered_by`."""

    def __init__(self, epoch: str | None, answered_by: str, whereabouts: Any) -> None:
        self.epoch, self._answered_by, self._whereabouts = epoch, answered_by, whereabouts

    async def call(self, *_: Any) -> None:
        raise CallTimeout("late", "no")

    async def ask(self, *_: Any, timeout: float) -> Any:
        self.epoch = self._answered_by
        if isinstance(self._whereabouts, Exception):
            raise self._whereabouts
        return self._whereabouts


@pytest.mark.parametrize(
    ("epoch", "answered_by", "whereabouts", "is_to_blame"),
    [
        ("b1", "b1", {"generation": 1}, True),
        ("b1", "b1", {"generation": 2}, False),
        ("b1", "b1", None, False),
        ("b1", "b1", BrokerLost("gone", "no"), False),
        (None, "b1", {"generation": 1}, False),
        ("b1", "b2", {"generation": 1}, False),  # b1 stood still and was killed: what it was to be asked was sent to b2
    ],
)
def test_an_agent_is_to_blame_for_its_silence_if_the_broker_that_it_was_asked_through_says_that_it_is_there(
    epoch: str | None, answered_by: str, whereabouts: Any, is_to_blame: bool
) -> None:
    talk: Any = Talk(epoch, answered_by, whereabouts)
    verdict = asyncio.run(Calls(talk, lambda _: LATE).put(ASK))
    assert verdict == (LATE if is_to_blame else Verdict(None, "could not ask: late"))
