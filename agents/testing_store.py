"""The store of a node in memory: the real one, with a database that ends with the test.

It is begun when somebody first needs it. What it promises is what the real one does, but for the disk: commits are at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final, Protocol

from otpd.agents.conversation import Conversation
from otpd.agents.data import decode
from otpd.agents.host import Host, Parent
from otpd.agents.services.store.errands import Then, Write
from otpd.agents.services.store.messages import Bounds
from otpd.agents.services.store.service import SCHEMA
from otpd.agents.services.store.service import Store as StoreAgent
from otpd.agents.submissions import CAST, STORE, Submission, Submissions

#: Turns of the loop after which what it waits for is time.
_TURNS: Final = 20


class MemoryEngine:
    """What `engine` is to the real one."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for script in SCHEMA.scripts():
            self._connection.executescript(script)

    def submit(self, write: Write, then: Then, **_: Any) -> None:
        asyncio.get_running_loop().call_soon(then, *self._outcome(write))

    def commit(self, write: Write, **_: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer, error = self._outcome(write)
        future.set_result(answer) if error is None else future.set_exception(error)
        return future

    def _outcome(self, write: Write) -> tuple[Any, BaseException | None]:
        self._connection.execute("BEGIN")
        try:
            answer = write(self._connection)
        except Exception as error:
            self._connection.execute("ROLLBACK")
            return None, error
        self._connection.execute("COMMIT")
        return answer, None

    def read(self, question: Write) -> asyncio.Future[Any]:
        return self.commit(question)

    async def close(self) -> None:
        self._connection.close()


class MemoryStore(StoreAgent):
    async def init(self) -> None:  # type: ignore[override]
        await self.begin(MemoryEngine(), Bounds(), 2**20)

    async def terminate(self, reason: str) -> None:
        self.end_errands()
        await super().terminate(reason)


class StoreNode(Protocol):
    """The node that it is part of. `peers`: agents that the test plays, perhaps this one."""

    peers: Any

    def join_store(self) -> tuple[Conversation, int]: ...

    def store_ready(self) -> None: ...


class Store:
    """`begin` when it is needed; harmless when it has begun."""

    def __init__(self, node: StoreNode, parent: Parent) -> None:
        self._node, self._parent = node, parent
        self._host: Host | None = None
        self._life: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._host is not None or STORE.name in self._node.peers:
            return
        conversation, generation = self._node.join_store()
        self._host = Host(MemoryStore, generation, conversation, self._parent, logging.getLogger("otpd.agent.store"))
        self._life = asyncio.ensure_future(self._live(self._host))

    async def _live(self, host: Host) -> None:
        if await host.init({}):
            self._node.store_ready()
            await host.live()

    async def settle(self) -> None:
        """Until it has handled what has come, and all is committed."""
        if self._host is None or self._life is None:
            return
        agent: Any = self._host.agent
        turns = 0
        while not self._life.done():
            idle = asyncio.ensure_future(self._host.mailbox.until_idle())
            await asyncio.wait((idle, self._life), return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            if agent.is_idle:
                return
            turns += 1
            await asyncio.sleep(0 if turns < _TURNS else 0.1)
        self._life.result()

    async def end(self) -> None:
        if self._host is None or self._life is None:
            return
        self._host.stop("shutdown")
        await asyncio.wait((self._life,))
        with contextlib.suppress(asyncio.CancelledError):
            self._life.result()


class RecordingSubmissions(Submissions):
    """Begins the store when something is said to it; `record` notes the casts (to, method, arguments)."""

    def __init__(self, conversation: Conversation, store: Store, record: Callable[[str, str, Any], None]) -> None:
        super().__init__(conversation)
        self._store, self._record = store, record

    def put(self, submission: Submission) -> None:
        self._store.begin()
        for kind, target, name, body, *_ in submission.requests:
            if kind == CAST:
                self._record(target, name, decode(body))
        super().put(submission)

    async def ask(self, method: str, args: Any) -> Any:
        self._store.begin()
        return await super().ask(method, args)


__all__ = ["STORE", "RecordingSubmissions", "Store"]
