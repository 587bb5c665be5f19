"""The verbs `exec` and `exec_python`: an agent's commands, run by the node in a sandbox and never by the agent itself.

>>> # result = await self.exec(["git", "log", "-3"], profile="build", timeout=10)
>>> # result.check().text
>>> # async with await self.exec(["make"], profile="build", stream=True) as making:
>>> #     async for stream, chunk in making: ...
>>> #     result = await making.result()

Whatever becomes of a command is in its result; what raises is that it could not be ordered: Overloaded (the queue is full),
Refused (no such profile), CallTimeout (the call that it serves has passed its deadline: the command is ended), Exited and
BrokerLost (who would have answered died: the command is ended, too). A caller that is cancelled, or dies, ends its commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, TypedDict, Unpack, overload

from otpd.agents.current import inherited_deadline
from otpd.agents.errors import CallTimeout, NoProcess, OtpdError, Overloaded, Refused, Reject
from otpd.agents.sandbox.result import Result
from otpd.ipc.endpoint import Address

if TYPE_CHECKING:
    from otpd.agents.conversation import Conversation

#: The name of the service.
COMMANDS: Final = "commands"
#: Seconds until a service that root has started for us is known to the broker, too; and between looks.
_KNOWN: Final = 5.0
_LOOK: Final = 0.01
Word: TypeAlias = str | bytes | os.PathLike[str]


class Options(TypedDict, total=False):
    """What may be said about a command; see `Commands.exec`."""

    profile: str
    timeout: float | None
    stdin: bytes | str | bool | None
    env: Mapping[str, str] | None
    cwd: Word | None
    files: Mapping[str, bytes | str] | None


class Commands:
    """Part of the verbs."""

    _otpd: Conversation

    @overload
    async def exec(
        self, argv: Sequence[Word], *, stream: Literal[False] = ..., **options: Unpack[Options]
    ) -> Result: ...

    @overload
    async def exec(self, argv: Sequence[Word], *, stream: Literal[True], **options: Unpack[Options]) -> Command: ...

    async def exec(
        self, argv: Sequence[Word], *, stream: bool = False, **options: Unpack[Options]
    ) -> Result | Command:
        """Run a command in the node's sandbox; `argv` is a list, there is no shell.

        `profile`: of [commands.profiles.NAME]. `timeout`: seconds instead of the profile's `limits.wall`; waiting in the
        queue does not count. `stdin`: what it reads; True with `stream`: what `Command.write` says. `env`: besides that of
        the profile. `cwd`: where, in its view. `files`: written beneath that before it starts. `stream`: returns when it has
        been accepted, with a Command to read from.
        """
        order = {"argv": _words(argv), **_given(options)}
        if stream:
            begun = await ask(self._otpd, "order", {**order, "stream": True})
            return Command(self._otpd, begun["id"], begun["record"] and _accepted(begun["record"]))
        return await _whole(self._otpd, order)

    async def exec_python(self, code: str, args: Sequence[Word] = (), **options: Unpack[Options]) -> Result:
        """Run Python source in a warm interpreter that has run nothing before and is thrown away after. Else as `exec`."""
        return await _whole(self._otpd, {"argv": ["-c", *_words(args)], "code": code, **_given(options)})


class Command:
    """A command that was begun with `stream=True`: iterate over ("stdout" or "stderr", bytes), then await `result()`.

    Its output is read when it is asked for: a command that says more waits, and its clock runs on. As a context manager it
    is cancelled when the block is left before its end.
    """

    def __init__(self, conversation: Conversation, id: str, result: Result | None = None) -> None:
        self.id = id
        self._conversation = conversation
        self._pieces: list[tuple[str, bytes]] = []
        self._result = result  # of one that never began

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        piece = await self.read()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def read(self) -> tuple[str, bytes] | None:
        """The next piece; None at the end."""
        while not self._pieces:
            if self._result is not None:
                return None
            pieces, record = await self._ask("read")
            self._pieces = [(stream, content) for stream, content in reversed(pieces)]
            self._result = None if record is None else to_result(record)
        return self._pieces.pop()

    async def result(self) -> Result:
        """Wait for the end. What was not read until then is left out: the result says how much there was, not what."""
        while self._result is None:
            self._pieces = []
            await self.read()
        return self._result

    async def write(self, data: bytes | str) -> None:
        """More standard input, if it was begun with `stdin=True`; done when the command has room for it."""
        await self._ask("write", data=data.encode() if isinstance(data, str) else data)

    async def close_stdin(self) -> None:
        """Its standard input ends."""
        await self._ask("write", last=True)

    async def cancel(self) -> None:
        """End it; its result says so. Nothing happens to one that is over, or lost with who ran it.

        Done although the deadline of the call that this serves has passed.
        """
        if self._result is None:
            with contextlib.suppress(Reject, NoProcess):
                await self._conversation.call(Address(COMMANDS), "end", {"id": self.id}, None, inherit=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        with contextlib.suppress(OtpdError):  # who ran it has died, and it with him; what is raised in the block says more
            await self.cancel()

    async def _ask(self, method: str, **arguments: Any) -> Any:
        return await ask(self._conversation, method, {"id": self.id, **arguments})


async def _whole(conversation: Conversation, order: Mapping[str, Any]) -> Result:
    """A command that is answered when it is over."""
    record = await ask(conversation, "order", order)
    if record.pop("more", False):
        await _fetch(conversation, record)
    return _accepted(record)


def _accepted(record: Mapping[str, Any]) -> Result:
    """Overloaded when it found no place in the queue."""
    if record["status"] == "busy":
        raise Overloaded(f"exec: {record['error']['text']} {record['error']['fix']}", "no")
    return to_result(record)


async def _fetch(conversation: Conversation, record: dict[str, Any]) -> None:
    """Output that was too large for the answer."""
    kept: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    end = None
    while end is None:
        pieces, end = await ask(conversation, "read", {"id": record["id"]})
        for stream, content in pieces:
            kept[stream].append(content)
    record |= {stream: b"".join(contents) for stream, contents in kept.items()}


def to_result(record: Mapping[str, Any]) -> Result:
    """What the service answers, as a value."""
    known = {name: value for name, value in record.items() if name in Result.__slots__}
    return Result(**{**known, "limit_hits": tuple(known["limit_hits"])})


async def ask(conversation: Conversation, method: str, arguments: Mapping[str, Any]) -> Any:
    """A call of the service, which root starts where it is not there yet. What it rejects is Refused.

    The deadline is kept here and not by the broker: that a command takes longer than its caller has time for is no failure
    of the service, by which its breaker would go.
    """
    address = Address(COMMANDS)
    deadline = inherited_deadline()
    try:
        async with asyncio.timeout_at(deadline / 1e9 if deadline else None):
            try:
                return await conversation.call(address, method, arguments, None, inherit=False)
            except NoProcess:
                await conversation.summon(COMMANDS)
                return await _once_known(conversation, address, method, arguments)
    except TimeoutError:
        text = f"{method} of a command: the call that it serves has passed its deadline, and the command is ended; return"
        raise CallTimeout(text, "maybe") from None
    except Reject as error:
        code = error.data.get("code", "refused") if isinstance(error.data, dict) else "refused"
        raise Refused(str(error), "no", code=code) from None


async def _once_known(conversation: Conversation, to: Address, method: str, arguments: Mapping[str, Any]) -> Any:
    """Root has started it; the broker hears of it a moment later."""
    end = conversation.clock() + _KNOWN * 1e9
    while True:
        try:
            return await conversation.call(to, method, arguments, None, inherit=False)
        except NoProcess:
            if conversation.clock() > end:
                raise
        await asyncio.sleep(_LOOK)


async def nobody_to_summon(name: str) -> None:
    """Where there is no root to ask."""
    raise NoProcess(f"nobody has the name {name} here, and no node could start it; in a test: agent.{name}(...)")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """As data."""
    order = {"wall" if name == "timeout" else name: value for name, value in options.items() if value is not None}
    for name in ("env", "files"):
        if isinstance(order.get(name), Mapping):
            order[name] = dict(order[name])
    if isinstance(order.get("stdin"), str):
        order["stdin"] = order["stdin"].encode()
    if "cwd" in order:
        order["cwd"] = _word(order["cwd"])
    return order


def _words(argv: Sequence[Word]) -> Any:
    """As it is, when it is no list: whoever checks it says what is wrong."""
    return argv if isinstance(argv, str | bytes) else [_word(each) for each in argv]


def _word(word: Word) -> str | bytes:
    return os.fspath(word) if isinstance(word, os.PathLike) else word


__all__ = ["COMMANDS", "Command", "Commands", "Options", "Word", "ask", "nobody_to_summon", "to_result"]
