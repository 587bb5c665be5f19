"""The handlers of the store for durable messages: what agents and people say to the queue.

`queue` decides; `errands` does what it wants done. Here calls and casts become its events.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from otpd.agents.current import CASTER
from otpd.agents.decorators import call, cast
from otpd.agents.deliveries import DURABLE
from otpd.agents.errors import Reject
from otpd.agents.replies import Reply
from otpd.agents.services.store import journal, wanted
from otpd.agents.services.store.asked import rejected
from otpd.agents.services.store.errands import REFUSED, Errands, Operator, code_of
from otpd.agents.services.store.messages import Answer, Failure, Message, Request
from otpd.agents.services.store.refusals import Refusal
from otpd.ipc.topics import TopicError, words_of_pattern

T = TypeVar("T")
_DAMAGED: Final = "letter {} is damaged on the disk: what was sent can't be told; forget it with: otpd letters purge {}"
_NOBODY: Final = "there is no dead letter {}; see which there are with: otpd letters"


class Couriers(Errands):
    """The half of the store that keeps messages."""

    # --- senders ---

    @call
    async def submit(
        self, number: int, requests: list[Any], settles: list[int] | None = None, state: Any = None, whole: bool = False
    ) -> Any:
        """Durable messages [kind, target, name, body, key, id] of the caller, and with them, in a transaction, the message
        that it settles and its state. `number` grows by one each time; the same one again is answered as before."""
        caller, inc = self._asker()
        wants, pair = wanted.read(number, requests, settles, state)
        if state is not None:
            self._fits(caller, state[0])
        take = functools.partial(self._take, self.defer(), caller, inc, number, wants, pair, whole, state)
        named = [(caller, request.id) for request in wants if request.id]
        if named:
            self.engine.submit(lambda connection: journal.finished(connection, named), take, reads=True, brief=True)
        else:
            take({}, None)

    def _take(
        self, reply: Reply, caller: str, inc: int, number: int, requests: list[Request], settles: tuple[int, int] | None,
        whole: bool, state: Any, finished: dict[tuple[str, str, str], int], error: BaseException | None,
    ) -> None:  # fmt: skip
        """`finished`: of their ids, which belong to messages that have ended."""
        if error is not None:
            self._answer(reply, Answer(reply, code=code_of(error) or REFUSED, text=str(error)))
            return
        self._queue.submit(reply, caller, inc, number, requests, settles, whole, state, finished)
        self._work()

    @call
    async def subscribe(self, patterns: list[str]) -> Any:
        """The durable subscriptions of the caller, in the place of those that it had."""
        caller, _ = self._asker()
        if caller.startswith("@"):
            raise Reject(f"{caller} is a client and will not come again: only agents subscribe durably")
        try:
            for pattern in patterns:
                words_of_pattern(pattern)
        except (TopicError, AttributeError) as error:
            raise Reject(f"durable subscription: {error}") from None
        self._queue.subscribe(self.defer(), caller, patterns)
        self._work()

    # --- receivers ---

    @cast
    async def acknowledged(self, seq: int, attempt: int, inc: int) -> None:
        """The caster has handled it."""
        self._queue.acknowledged(seq, attempt, (CASTER.get(), inc), self._otpd.clock())
        self._work()

    @cast
    async def refused(
        self, seq: int, attempt: int, inc: int, reason: str, error: str = "", traceback: str = "", final: bool = False
    ) -> None:
        """Its handler has failed; `final`: there is no use in trying again."""
        failure = Failure(reason, error, traceback)
        self._queue.refused(seq, attempt, (CASTER.get(), inc), failure, self._otpd.clock(), final)
        self._work()

    async def handle_up(self, name: str, generation: int) -> None:
        self._queue.up(name, self._inc(generation), self._otpd.clock())
        self._work()

    async def handle_down(self, name: str, generation: int, reason: str) -> None:
        self._queue.down(name, self._inc(generation) if generation else 0, reason, self._otpd.clock())
        self._work()

    async def handle_rejected(self, name: str, method: str, reason: str) -> None:
        """Its inbox is full, or it is gone, which its monitor tells as well."""
        if method == DURABLE:
            self._queue.overloaded(name, self._otpd.clock())
            self._work()

    # --- dead letters ---

    @call
    async def letters(self, target: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        """The newest dead letters, the newest last; those of one target, or all."""
        return await self._ask(lambda connection: journal.letters(connection, target, limit))

    @call
    async def letter_numbers(
        self, target: str = "", until: float | None = None, after: int = 0, limit: int = 1000
    ) -> list[int]:
        """The numbers of dead letters, a page of them: those beyond `after`. `until`: that died no later (wall clock)."""
        return await self._ask(lambda connection: journal.letter_numbers(connection, target, until, after, limit))

    @call
    async def letter(self, seq: int) -> dict[str, Any]:
        """One whole, with its body (msgpack)."""
        self._only_operators()
        shown, _, body = await self._letter(seq)
        return {**shown, "body": body}

    @call
    async def replay(self, seq: int) -> Any:
        """A dead letter becomes a message again; its new seq."""
        self._only_operators()
        _, message, body = await self._letter(seq)
        if message is None:
            raise Reject(_DAMAGED.format(seq, seq))
        self._queue.replay(Operator(self.defer()), message, body)
        self._work()

    @call
    async def purge(self, seqs: list[int]) -> Any:
        """They are no more; how many of them there were."""
        self._only_operators()
        self._queue.purge(Operator(self.defer()), seqs)
        self._work()

    @call
    async def waiting(self) -> list[dict[str, Any]]:
        """For each name that messages wait for: how many, how many are with it, since when the oldest waits."""
        return self._queue.waiting()

    async def _letter(self, seq: int) -> tuple[dict[str, Any], Message | None, bytes]:
        found = await self._ask(lambda connection: journal.letter(connection, seq))
        if found is None:
            raise Reject(_NOBODY.format(seq))
        return found

    async def _ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            found: T = await self.engine.read(query)
        except Refusal as refusal:
            raise rejected(refusal) from None
        except OverflowError:
            raise Reject("expected numbers below 2**63") from None
        return found
