"""Durable casts and events: what `cast(..., durable=True)` and `publish(..., durable=True)` do.

They go to the store and are done when they are on disk there; the store delivers them (docs/delivery.md). Inside a
transaction they are put into it instead, and are done with it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

from otpd.agents.conversation import Conversation
from otpd.agents.errors import Refused, TooLarge
from otpd.agents.names import checked
from otpd.agents.submissions import CAST, EVENT, Submission
from otpd.agents.transactions import TRANSACTION
from otpd.agents.waiting import Waiting, what
from otpd.ipc.endpoint import Address

#: Bytes of the arguments of one durable message: it is written to disk, and read again at each attempt.
MAX_BODY: Final = 4 * 2**20
#: Seconds within which it is on disk, or CallTimeout says that it may be.
_TIMEOUT: Final = 5.0


def cast(
    conversation: Conversation, to: Address, method: str, args: dict[str, Any], timeout: float = _TIMEOUT
) -> Awaitable[None]:
    """`args` without `id` and `key`, which are the message's own. `timeout`: seconds to wait for the disk at most."""
    conversation.here()
    if to.kind != "name":
        text = f"durable cast to {to.kind} {to.name}: expected the name of an agent, for which it waits whatever happens"
        raise Refused(f"{text}; choose one, or publish(..., durable=True) to all who have subscribed")
    key, id = _options(args)
    body = conversation.encoder.encode(args, what("durable cast to", to.name, method))
    request = [CAST, to.name, method, _fitting(body, "durable cast to", to.name, method), key, id]
    transaction = TRANSACTION.get()
    if transaction is not None:
        return transaction.add(request)
    waiting = Waiting(conversation.loop.create_future(), "durable cast to", to.name, method)
    return _kept(conversation, request, waiting, timeout)


def publish(conversation: Conversation, topic: str, data: dict[str, Any]) -> Awaitable[None]:
    conversation.here()
    conversation.names.own_topic(topic)
    key, id = _options(data)
    body = conversation.encoder.encode(data, what("durable publish", topic))
    request = [EVENT, topic, "", _fitting(body, "durable publish", topic), key, id]
    transaction = TRANSACTION.get()
    if transaction is not None:
        return transaction.publish(request, topic, data)
    return _published(conversation, topic, data, request)


async def _published(conversation: Conversation, topic: str, data: dict[str, Any], request: list[Any]) -> None:
    """First on disk for those who have subscribed durably, then to the others, as any event."""
    await _kept(conversation, request, Waiting(conversation.loop.create_future(), "durable publish", topic))
    await conversation.publish(topic, data)


def _kept(
    conversation: Conversation, request: list[Any], waiting: Waiting, timeout: float = _TIMEOUT
) -> Awaitable[None]:
    """Said when this returns, in the order in which it was said; done when it is awaited."""
    conversation.submissions.put(Submission(waiting, [request]))
    return _on_disk(conversation, waiting, timeout)


async def _on_disk(conversation: Conversation, waiting: Waiting, timeout: float) -> None:
    deadline = conversation.deadline(timeout, waiting.verb, waiting.target, waiting.method)
    missing = "the store did not say whether it is on disk; to send it again without doubling it, give it an id"
    await conversation.within(deadline, waiting, missing, "maybe")


def _options(args: dict[str, Any]) -> tuple[str, str]:
    """The key, and the id."""
    found = []
    for name in ("key", "id"):
        value = args.pop(name, None)
        found.append("" if value is None else checked(f"{name} of a durable message", value))
    return found[0], found[1]


def _fitting(body: bytes, verb: str, target: str, method: str = "") -> bytes:
    if len(body) > MAX_BODY:
        size = f"{what(verb, target, method)}: expected at most {MAX_BODY >> 20} MiB of arguments, got {len(body)} bytes"
        raise TooLarge(f"{size}; write it to a file, and send its path")
    return body
