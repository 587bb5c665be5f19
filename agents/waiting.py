"""What a verb waits for, and what it says when it is not what was hoped for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from otpd.agents.data import UNDECODABLE, decode
from otpd.agents.errors import BadArguments, NoMethod, OtpdError, Reject, RemoteError
from otpd.ipc.wire import Status


class Done:
    """What a verb returns that has taken effect: may be awaited, need not be."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]  # nothing to wait for, and nothing to make


class Waiting:
    """A future for one answer, and what to call the question in an error."""

    __slots__ = ("future", "method", "target", "verb")

    def __init__(self, future: asyncio.Future[Any], verb: str, target: str, method: str = "") -> None:
        self.future, self.verb, self.target, self.method = future, verb, target, method

    def __str__(self) -> str:
        return what(self.verb, self.target, self.method)

    def answer(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: OtpdError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def take(self, status: Status, body: bytes) -> None:
        """A reply: the value, or what the callee raised or rejected."""
        try:
            value = decode(body)
        except UNDECODABLE as error:
            self.fail(RemoteError(f"{self}: expected a reply in msgpack, got {len(body)} bytes: {error}"))
        else:
            if status is Status.OK:
                self.answer(value)
            else:
                self.fail(_error(self, status, value))


def what(verb: str, target: str, method: str = "") -> str:
    """
    >>> what("call of", "inventory", "reserve"), what("whereis", "inventory")
    ('call of inventory.reserve', 'whereis inventory')
    """
    return f"{verb} {target}.{method}" if method else f"{verb} {target}"


def _error(waiting: Waiting, status: Status, value: Any) -> OtpdError:
    """What docs/protocol.md, 3, says of status 1 and 2: [type, text, traceback or data]."""
    kind, text, more = value if isinstance(value, list) and len(value) == 3 else ("?", str(value), None)
    if status is Status.RAISED:
        shown = f"{waiting} raised {kind}: {text}; it has crashed, and is started again if its supervisor says so"
        return RemoteError(shown, type=str(kind), text=str(text), traceback=str(more or ""))
    if kind in ("BadArguments", "NoMethod"):
        return (BadArguments if kind == "BadArguments" else NoMethod)(str(text))
    return Reject(str(text), data=more)
