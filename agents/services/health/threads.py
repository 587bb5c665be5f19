"""Calls that may hang and that nobody can end: host names, users. Each key in a thread of its own, never twice at once.

>>> async def main():
...     return await Lookups(str.upper).find("abc")
>>> asyncio.run(main())
'ABC'
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lookups(Generic[T]):
    """To be used from one loop. `look` runs in threads."""

    def __init__(self, look: Callable[[str], T]) -> None:
        self._look = look
        self._under_way: dict[str, asyncio.Future[T]] = {}

    async def find(self, key: str) -> T:
        """What `look` gives, or what it raises. Who gives up leaves the others waiting."""
        future = self._under_way.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._under_way[key] = loop.create_future()
            threading.Thread(target=self._run, args=(loop, key, future), name=f"looks up {key}", daemon=True).start()
        return await asyncio.shield(future)

    def _run(self, loop: asyncio.AbstractEventLoop, key: str, future: asyncio.Future[T]) -> None:
        end: Callable[[], None]
        try:
            end = functools.partial(future.set_result, self._look(key))
        except Exception as error:
            end = functools.partial(future.set_exception, error)

        def told() -> None:
            del self._under_way[key]
            end()
            future.exception()  # nobody may be waiting any more

        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(told)
