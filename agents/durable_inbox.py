"""The way of a durable message at an agent: from the store's cast to its handler, and the word of what came of it back.

| handler | the store hears |
|---|---|
| ends | acknowledged: it is settled |
| ends after a transaction | nothing more: the transaction has settled it |
| raises | refused: again later, a dead letter after max_attempts; the agent lives, its budget is not spent (E6) |
| raises Reject; there is no such method; wrong arguments | refused for good: a dead letter at once |

Words are casts; one that is lost is said again when the store asks by delivering once more (`deliveries`). Before a handler
begins, the word about the one before is given to the socket, so that a message that kills the process is charged for it and
not its predecessor.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from otpd.agents import raised
from otpd.agents.complaints import Complaints
from otpd.agents.current import CASTER
from otpd.agents.data import UNDECODABLE, decode
from otpd.agents.deliveries import BEGINS, DELIVERY, Deliveries, Delivery
from otpd.agents.errors import Reject
from otpd.agents.methods import Method, Methods
from otpd.agents.submissions import STORE
from otpd.agents.values import Event
from otpd.ipc.happenings import Delivered
from otpd.ipc.topics import TopicError

if TYPE_CHECKING:
    from otpd.agents.conversation import Conversation

ACKNOWLEDGED: Final = "acknowledged"
REFUSED: Final = "refused"
#: Characters of a traceback that are kept: its end says most.
_TRACEBACK: Final = 8000


class DurableInbox:
    """`run(method, arguments)` awaits a handler. `put`: into the mailbox."""

    def __init__(
        self,
        conversation: Conversation,
        methods: Methods,
        complain: Complaints,
        run: Callable[[Method, dict[str, Any] | Event], Awaitable[Any]],
        put: Callable[[Delivery], None],
    ) -> None:
        self._conversation, self._methods, self._complain = conversation, methods, complain
        self._run, self._put = run, put
        self._deliveries = Deliveries(conversation.endpoint.inc)
        self._name = conversation.endpoint.name
        self._subscribing: Any = None

    @staticmethod
    def is_meant(message: Delivered) -> bool:
        return message.source == STORE.name and message.body.startswith(BEGINS)

    def arrived(self, message: Delivered) -> None:
        delivery = self._deliveries.arrived(message.body)
        for word in self._deliveries.again:
            self._say(word)
        self._deliveries.again.clear()
        if delivery is None:
            self._conversation.endpoint.handled(1, len(message.body))
        else:
            self._put(delivery)

    @staticmethod
    def is_word(name: str, method: str) -> bool:
        """Whether a cast that was rejected is one of these words: the store asks again by itself."""
        return name == STORE.name and method in (ACKNOWLEDGED, REFUSED)

    # --- handling ---

    async def handle(self, delivery: Delivery) -> None:
        self._conversation.flush()
        DELIVERY.set(delivery)
        CASTER.set(delivery.sender)
        try:
            failure = await self._failure(delivery)
        finally:
            DELIVERY.set(None)
        word = {"seq": delivery.seq, "attempt": delivery.attempt, "inc": self._conversation.endpoint.inc, **(failure or {})}
        self._deliveries.settled(delivery, word)
        if failure is not None:
            what = f"durable {'event' if delivery.is_event else 'cast'} {delivery.name} of {delivery.sender}"
            text = "%s (message %s, attempt %s) failed: %s\n%s"
            self._complain(
                "durable messages failed", text, what, delivery.seq, delivery.attempt, failure["error"], failure["traceback"]
            )
        if not delivery.settled:
            self._say(word)

    def _say(self, word: dict[str, Any]) -> None:
        method = REFUSED if "reason" in word else ACKNOWLEDGED
        body = self._conversation.encoder.message(method, word, "word to the store")
        self._conversation.put_cast(STORE, method, word, body)

    async def _failure(self, delivery: Delivery) -> dict[str, Any] | None:
        try:
            args = decode(delivery.body)
            handlers, wrong = self._handlers(delivery, args)
        except (*UNDECODABLE, AttributeError, TopicError):
            handlers, wrong = [], "expected arguments by name"
        if wrong:
            return _failed("not taken", f"{self._name}: {wrong}")
        try:
            for handler in handlers:
                await self._run(handler, self._argument(delivery, args))
        except Reject as error:
            return _failed("rejected", f"{handler.name} rejects it: {error}")
        except Exception as error:
            return _failed("raised", raised.one_line(error), _traceback(error), final=False)
        return None

    def _handlers(self, delivery: Delivery, args: Any) -> tuple[list[Method], str]:
        """Those that it is for, or what is wrong with it."""
        if delivery.is_event:
            found = self._methods.of_durable_topic(delivery.name)
            if not found:
                self.subscribe()  # the store still has subscriptions of an earlier version of the script
            return found, "" if found else f"no durable @on method meets the topic {delivery.name}"
        handler = self._methods.casts.get(delivery.name)
        if handler is None:
            return [], self._methods.missing("cast", delivery.name)
        wrong = handler.parameters.wrong(args)
        return [handler], "" if wrong is None else f"{handler.name}, {wrong}; it takes {handler.parameters.doc}"

    def _argument(self, delivery: Delivery, args: Any) -> Any:
        return Event(delivery.name, args, delivery.sender) if delivery.is_event else args

    # --- subscriptions ---

    def subscribe(self) -> None:
        """Tell the store what this class has subscribed to, until it has heard it."""
        patterns = [method.pattern for method in self._methods.durable_events]
        told = self._conversation.submissions.ask("subscribe", {"patterns": patterns})
        self._subscribing = self._conversation.loop.create_task(self._subscribed(told))

    async def _subscribed(self, told: Awaitable[Any]) -> None:
        try:
            await told
        except Exception as error:
            if self._conversation.ended is None:
                self._complain("subscriptions refused", "durable subscriptions: %s", error)


def _failed(reason: str, error: str, traceback: str = "", final: bool = True) -> dict[str, Any]:
    return {"reason": reason, "error": error, "traceback": traceback, "final": final}


def _traceback(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, raised.from_agent(error))
    return "".join(lines)[-_TRACEBACK:]
