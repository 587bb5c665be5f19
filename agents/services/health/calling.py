"""How an agent is asked whether it is well: by a call through the broker, whose silence is not always the agent's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otpd.agents.errors import BrokerLost, CallTimeout, Exited, NoMethod, NoProcess, OtpdError, Reject
from otpd.agents.mailbox import HEALTH
from otpd.agents.services.health.probes import Ask, Verdict
from otpd.ipc.endpoint import Address

if TYPE_CHECKING:
    from otpd.agents.conversation import Conversation

#: The check of a plan that is put here.
CALL: Final = ["call"]
#: Seconds in which the broker must answer, or it is not the agent's fault that it did not.
_BROKER_HAS: Final = 1.0


class Calls:
    """`late` says what it means that there was no answer in time, if it is not the broker's fault."""

    def __init__(self, conversation: Conversation, late: Callable[[Ask], Verdict]) -> None:
        self._conversation, self._late = conversation, late

    async def put(self, ask: Ask) -> Verdict:
        """Only what the agent is to blame for counts: while the broker is away nobody has failed."""
        epoch = self._conversation.epoch
        try:
            wrong = await self._conversation.call(Address(ask.name), HEALTH, {}, ask.plan.timeout)
        except CallTimeout as error:
            late = self._late(ask)
            return late if await self._is_asked(ask, epoch) else Verdict(None, f"could not ask: {error}")
        except (NoProcess, BrokerLost, Exited) as error:
            return Verdict(None, f"could not ask: {error}")
        except NoMethod:
            return Verdict(True)
        except (OtpdError, Reject) as error:
            return Verdict(False, str(error))
        return Verdict(True) if wrong is None else Verdict(False, str(wrong))

    async def _is_asked(self, ask: Ask, epoch: str | None) -> bool:
        """Whether the broker that was there then still is, and so is the one who was asked. Another broker may answer: what
        could not be sent to one that stood still is sent to the next."""
        if epoch is None or self._conversation.epoch != epoch:
            return False
        try:
            found = await self._conversation.ask("whereis", ask.name, timeout=_BROKER_HAS)
        except OtpdError:
            return False
        return self._conversation.epoch == epoch and found is not None and found["generation"] == ask.generation
