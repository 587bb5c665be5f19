"""The events of root as they happen, for a service that must not miss one: the control socket, and the disk for the past.

Root pushes; nobody polls. When the connection comes up, root gives its latest events first; what lies between the cursor and
those is on disk, or about to be. So an event that was written while the service was dead, stopped or slow comes all the
same, once. When root can't be asked, the disk alone is read, once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from otpd.agents.services.journal import Event, Reader, in_batches, is_before, unread
from otpd.ipc.frames import ANSWER_LIMIT, FrameError, FrameReader, pack_frame

#: Events of root's memory that are asked for at first: more than its logger is ever behind in peace.
_LATEST: Final = 100
#: Seconds between looks at the disk for events that root has told already, and how often: the logger is about to write them.
_SOON: Final = 0.02
_LOOKS: Final = 50
#: Seconds until root is asked again that could not be reached.
_AGAIN: Final = 1.0
_CHUNK: Final = 1 << 18
#: Events of the past that are given in one go: a beat must be possible in between.
_BATCH: Final = 500


class Feed:
    """`async for events in feed:` gives lists that are not empty. Who reads slowly is cut off by root and catches up."""

    def __init__(self, state_dir: str, control: str, reader: Reader) -> None:
        self._state_dir, self._control, self._reader = state_dir, control, reader
        self.connected = False

    async def __aiter__(self) -> AsyncGenerator[list[Event]]:
        while True:
            with contextlib.suppress(OSError, FrameError):
                async with contextlib.aclosing(self._live()) as live:
                    async for events in live:
                        if events:
                            yield events
            self.connected = False
            for batch in in_batches(unread(self._state_dir, self._reader.cursor), _BATCH):
                if late := self._reader.new(batch):
                    yield late
            await asyncio.sleep(_AGAIN)

    async def _live(self) -> AsyncGenerator[list[Event]]:
        """Until the connection ends."""
        incoming, outgoing = await asyncio.open_unix_connection(self._control)
        try:
            outgoing.write(pack_frame({"op": "events", "follow": True, "n": _LATEST}))
            frames = FrameReader(ANSWER_LIMIT)
            while chunk := await incoming.read(_CHUNK):
                events = [found for answer in frames.feed(chunk) if (found := _event(answer)) is not None]
                if events and not self.connected:
                    async for past in self._past(events[0]):
                        yield past
                    self.connected = True
                yield self._reader.new(events)
        finally:
            outgoing.close()
            with contextlib.suppress(OSError):
                await outgoing.wait_closed()

    async def _past(self, first: Event) -> AsyncIterator[list[Event]]:
        """What is on disk before the first event that root still had: that one and those after it root gives itself, also if
        the disk has lost some of them."""
        for _ in range(_LOOKS):
            earlier = (each for each in unread(self._state_dir, self._reader.cursor) if is_before(each, first))
            for batch in in_batches(earlier, _BATCH):
                yield self._reader.new(batch)
                await asyncio.sleep(0)
            if self._reader.follows(first):
                break
            await asyncio.sleep(_SOON)


def _event(answer: Any) -> Event | None:
    event = answer.get("event") if isinstance(answer, dict) else None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
