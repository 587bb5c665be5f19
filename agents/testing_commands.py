"""The node's service `commands`, played in a test: nothing is run, the test says what comes of each command.

>>> import asyncio
>>> from otpd.agents import Agent, call, testing
>>> class Historian(Agent):
...     @call
...     async def last(self) -> str:
...         return (await self.exec(["git", "log", "-1"], profile="build")).check().text
>>> async def test():
...     async with testing.run(Historian) as historian:
...         git = historian.commands(lambda argv, options: "a1b2 first")
...         print(await historian.call("last"), git.ordered)
>>> asyncio.run(test())
a1b2 first [(['git', 'log', '-1'], {'profile': 'build'})]
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final, TypeAlias

from otpd.agents.errors import Reject
from otpd.agents.sandbox.result import Result

#: What comes of a command: gets its arguments and options (as `Agent.exec`, `timeout` is `wall`, and `code` of exec_python).
#: A text or bytes: it prints that and exits with 0; a number: it exits with that; a Result; a Reject: refused. May be async.
Outcome: TypeAlias = Callable[[list[Any], dict[str, Any]], Any]
_FIELDS: Final = tuple(each.name for each in fields(Result))


class Commands:
    """`ordered`: arguments and options of each; `written`: standard input by id; `cancelled`: ids."""

    def __init__(self, outcome: Outcome) -> None:
        self.ordered: list[tuple[list[Any], dict[str, Any]]] = []
        self.written: dict[str, bytes] = {}
        self.cancelled: list[str] = []
        self._outcome = outcome
        self._numbers = itertools.count(1)
        self._streams: dict[str, Result] = {}

    async def answer(self, method: str, args: dict[str, Any]) -> Any:
        """What the service would answer."""
        match method:
            case "order":
                return await self._order(args.pop("argv"), args.pop("stream", False), args)
            case "read":
                return self._read(args["id"])
            case "write":
                self.written[args["id"]] = self.written.get(args["id"], b"") + args.get("data", b"")
                return None
            case "end":
                self._cancel(args["id"])
                return None
        raise NotImplementedError(f"commands.{method} is not played in tests; look at a node for it")

    async def _order(self, argv: list[Any], stream: bool, options: dict[str, Any]) -> dict[str, Any]:
        self.ordered.append((argv, options))
        came = self._outcome(argv, options)
        result = replace(_result(await came if inspect.isawaitable(came) else came), id=f"c1-{next(self._numbers)}")
        if not stream:
            return _record(result)
        self._streams[result.id] = result
        return {"id": result.id, "record": None}

    def _read(self, id: str) -> list[Any]:
        """All that it says in one piece of each stream, with its end."""
        result = self._streams.pop(id, None)
        if result is None:
            raise Reject(f"there is no command {id} (any more)", data={"code": "unknown"})
        said = [[stream, content] for stream, content in (("stdout", result.stdout), ("stderr", result.stderr)) if content]
        return [said, _record(replace(result, stdout=b"", stderr=b""))]

    def _cancel(self, id: str) -> None:
        self.cancelled.append(id)
        if id in self._streams:
            self._streams[id] = Result(id, "killed", killed_by="cancelled", signal=15)


def _result(value: Any) -> Result:
    match value:
        case Result():
            return value
        case int():
            return Result("", "exited", exit_code=value)
        case str() | bytes():
            content = value.encode() if isinstance(value, str) else value
            return Result("", "exited", exit_code=0, stdout=content, stdout_bytes=len(content))
    raise TypeError(f"expected a text, bytes, an exit status or a Result of a command, got {value!r}")


def _record(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _FIELDS}
