"""The health service's two connections to root's control socket: what it must know, and what it has found.

`watch_health` is one connection that says something whenever there is something to say; `report_health` is another one, with
one report at a time, in which all goes that has gathered meanwhile. When either ends, both are made again, and root says the
whole table anew: so nothing has to be remembered of what got lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final, Protocol

from otpd.ipc.frames import ANSWER_LIMIT, FrameError, FrameReader, pack_frame

#: Seconds until root is asked again: root itself restarts only with all of its children, so this is rare.
_AGAIN: Final = 0.2
_CHUNK: Final = 1 << 16
#: Items of one report.
_AT_ONCE: Final = 1000


class Ears(Protocol):
    """Who is told what root says."""

    def heard(self, packet: list[Any]) -> None: ...

    def deaf(self, why: str) -> None:
        """Nothing is known any more until root has said it again."""


class RootLine:
    def __init__(self, ears: Ears, control: str | None = None) -> None:
        self._ears = ears
        self._control = control if control is not None else os.environ["OTPD_CONTROL"]
        self._items: list[list[Any]] = []
        self._more = asyncio.Event()

    def report(self, *item: Any) -> None:
        """Soon; lost when root is not there, which then asks anew."""
        self._items.append(list(item))
        self._more.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._watch())
                    both.create_task(self._tell())
            except* (OSError, FrameError, EOFError) as errors:
                self._items.clear()
                self._ears.deaf(str(errors.exceptions[0]))
            await asyncio.sleep(_AGAIN)

    async def _watch(self) -> None:
        async with _connected(self._control) as (ask, answers):
            await ask({"op": "watch_health"})
            async for answer in answers:
                self._ears.heard(_said(answer)["said"])

    async def _tell(self) -> None:
        async with _connected(self._control) as (ask, answers):
            while True:
                await self._more.wait()
                items, self._items = self._items[:_AT_ONCE], self._items[_AT_ONCE:]
                if not self._items:
                    self._more.clear()
                if items:
                    await ask({"op": "report_health", "items": items})
                    _said(await anext(answers))


@contextlib.asynccontextmanager
async def _connected(path: str) -> Any:
    """How to ask, and what is answered. EOFError when root closes."""
    reader, writer = await asyncio.open_unix_connection(path)

    async def ask(request: dict[str, Any]) -> None:
        writer.write(pack_frame(request))
        await writer.drain()

    async def answers() -> Any:
        frames = FrameReader(ANSWER_LIMIT)
        while chunk := await reader.read(_CHUNK):
            for answer in frames.feed(chunk):
                yield answer
        raise EOFError("root has closed the connection")

    try:
        yield ask, answers()
    finally:
        writer.close()


def _said(answer: dict[str, Any]) -> dict[str, Any]:
    """OSError for a refusal: what root has against it."""
    if answer.get("ok") is False:
        raise OSError(f"root refused: {answer.get('error')}")
    return answer
