"""The durable state of an agent: `self.load(default)` and `self.save(state)`.

>>> # async def init(self):
>>> #     self.stock = await self.load(default={})
>>> # @call
>>> # async def reserve(self, sku: str) -> int:
>>> #     self.stock[sku] -= 1
>>> #     await self.save(self.stock)               # on disk when it returns
>>> #     return self.stock[sku]

One state for each name; the next incarnation finds it. Guarantees: what `save` has returned for survives the kill of any
process and a power cut; a process that a newer incarnation has replaced saves nothing any more (Stale); a state that can't
be read as it was saved is never given out (DamagedState). A restart of the store, or of the broker, is waited out within the
timeout: a save that is said again because its answer was lost is done once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from otpd.agents.conversation import Conversation
from otpd.agents.data import decode
from otpd.agents.errors import (
    BrokerLost,
    CallTimeout,
    CircuitOpen,
    DamagedState,
    Executed,
    Exited,
    NoProcess,
    OtpdError,
    Overloaded,
    Reject,
    Stale,
    StoreFull,
    TooLarge,
)
from otpd.agents.submissions import NO_STORE
from otpd.agents.transactions import TRANSACTION

STORE: Final = "store"
#: Seconds: a store that is killed is back in less than one, one that is stopped is ended by its watchdog after 10.
TIMEOUT: Final = 30.0
#: Seconds between two attempts, the first and the longest.
_PAUSE, _LONGEST = 0.02, 0.5
_KINDS: Final[dict[str, type[OtpdError]]] = {
    "stale": Stale, "damaged": DamagedState, "too_large": TooLarge, "store_full": StoreFull, "overloaded": Overloaded,
}  # fmt: skip
_NOT_SAID: Final = "{}: the store died when it had it, and did not say in time whether it was done; see: otpd why store"
#: What passes by itself.
_PASSING: Final = (Exited, BrokerLost, CircuitOpen, Overloaded)


class Stored:
    """What the current incarnation of one name knows of its state: the version that its next save replaces."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._turn = asyncio.Lock()
        self.version: int | None = None
        self._unanswered: bytes | None = None  # a save that may have taken place

    async def load(self, default: Any, timeout: float | None) -> Any:
        async with self._turn:
            self.version, body = await ask(self._conversation, self._what("load"), "load_state", timeout)
            self._unanswered = None
        return default if body is None else decode(body)

    async def save(self, state: Any, timeout: float | None) -> None:
        """One at a time, in the order in which they were said."""
        self._conversation.here()
        body = self._conversation.encoder.encode(state, self._what("save"))
        async with self._turn:
            await self._make_sure(timeout)
            if (transaction := TRANSACTION.get()) is not None:
                return transaction.save([body, self.version], self._saved, lambda: self._leave_open(body))
            what, version = self._what("save"), self.version
            try:
                self._saved(await ask(self._conversation, what, "save_state", timeout, body=body, expected=version))
            except (asyncio.CancelledError, CallTimeout):
                self._leave_open(body)
                raise
        return None

    def _leave_open(self, body: bytes) -> None:
        self._unanswered = body

    async def _make_sure(self, timeout: float | None) -> None:
        """Whether the last save, whose handler was cancelled or had no time left, has taken place: what it has made must not
        look like another's."""
        if self._unanswered is None or self.version is None:
            return
        version, body = await ask(self._conversation, self._what("save"), "load_state", timeout)
        if (version, body) == (self.version + 1, self._unanswered):
            self.version = version
        self._unanswered = None

    def _what(self, verb: str) -> str:
        return f"{verb} of {self._conversation.endpoint.name}"

    def _saved(self, version: Any) -> None:
        self.version = int(version)


async def state_of(conversation: Conversation, name: str, default: Any, timeout: float | None) -> Any:
    """Of another; only clients are answered."""
    _version, body = await ask(conversation, f"load of {name}", "state_of", timeout, name=name)
    return default if body is None else decode(body)


async def replace_state_of(conversation: Conversation, name: str, state: Any, timeout: float | None) -> None:
    """Whatever is there."""
    body = conversation.encoder.encode(state, f"save of {name}")
    await ask(conversation, f"save of {name}", "import_state", timeout, name=name, body=body)


async def ask(conversation: Conversation, what: str, method: str, timeout: float | None, /, **args: Any) -> Any:
    """The store's answer; while it, or the broker, is started again it is asked again, until the deadline."""
    deadline = conversation.deadline(timeout, what, STORE)
    pause = _PAUSE
    executed: Executed = "no"  # of the attempts so far
    while True:
        left = (deadline - conversation.clock()) / 1e9 if deadline else None
        try:
            return await conversation.call(conversation.names.address(STORE), method, args, left)
        except CallTimeout as late:
            if (late.executed, executed) == ("no", "maybe"):
                raise CallTimeout(_NOT_SAID.format(what), "maybe") from late
            raise
        except Reject as error:
            refusal = _refusal(error)
            if not isinstance(refusal, Overloaded):
                raise refusal from None
            _in_time(what, left, pause, refusal, executed)
        except NoProcess:
            raise NoProcess(NO_STORE.format(what)) from None
        except _PASSING as error:
            executed = "maybe" if error.executed == "maybe" else executed
            _in_time(what, left, pause, error, executed)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)


def _in_time(what: str, left: float | None, pause: float, why: OtpdError, executed: Executed) -> None:
    """CallTimeout when there is no time for another attempt."""
    if left is not None and left <= pause:
        raise CallTimeout(f"{what}: the store did not take it in time ({why}); see: otpd why store", executed) from why


def _refusal(error: Reject) -> OtpdError:
    """As the store says it; what it says for people stays a Reject."""
    code = error.data.get("code", "") if isinstance(error.data, dict) else ""
    kind = _KINDS.get(code)
    return error if kind is None else kind(error.message, "no")
