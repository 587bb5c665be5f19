"""Durable casts, events and transactions as an agent's author meets them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otpd.agents import Agent, Event, Refused, Reject, StoreFull, TooLarge, call, cast, on, testing
from otpd.agents.services.store import refusals
from otpd.agents.testing_store import MemoryEngine
from tests.agents.scenes import scene


class Books(Agent):
    async def init(self) -> None:
        self.seen: list[Any] = []
        self.failures = 0

    @cast
    async def paid(self, order: str, fail: int = 0) -> None:
        assert self.delivery is not None
        self.seen.append((order, self.delivery.attempt, self.delivery.sender))
        if self.delivery.attempt <= fail:
            raise RuntimeError("no ink")

    @cast
    async def refuse(self) -> None:
        raise Reject("never")

    @cast
    def plain(self, order: str) -> None:
        self.seen.append(order)
        with self.sync.transaction():
            self.sync.cast("shipping", "ship", durable=True, order=order)

    @cast
    async def ship(self, order: str, then: str = "") -> None:
        async with self.transaction():
            await self.cast("shipping", "ship", durable=True, order=order)
            await self.publish("orders.shipped", durable=True, order=order)
            if then == "raise":
                raise RuntimeError("in the block")
        if then == "raise after it":
            raise RuntimeError("after the block")

    @cast
    async def book(self, order: str, fail: bool = False) -> None:
        async with self.transaction():
            books = await self.load(default=[])
            await self.save([*books, order])
            if fail and len(books) < 2:
                raise RuntimeError("not yet")

    @call
    async def books(self) -> list[str]:
        found: list[str] = await self.load(default=[])
        return found

    @on("news.*", durable=True)
    async def news(self, event: Event) -> None:
        self.seen.append((event.topic, event["n"], event.source))

    @on("news.*")
    async def passing(self, event: Event) -> None:
        self.seen.append(("passing", event["n"]))

    @call
    async def send(self, to: str, times: int = 1) -> None:
        for _ in range(times):
            await self.cast(to, "note", durable=True, key="k", id="x" if times > 1 else None, n=1)


@scene
async def test_a_durable_cast_is_handled_with_its_attempt_and_sender() -> None:
    async with testing.run(Books) as books:
        await books.cast("paid", durable=True, order="A")
        assert books.instance.seen == [("A", 1, "@test")]
        assert books.instance.delivery is None


@scene
async def test_a_handler_that_raises_is_tried_again_later_and_is_no_crash() -> None:
    async with testing.run(Books) as books:
        await books.cast("paid", durable=True, order="A", fail=2)
        await asyncio.sleep(1)
        assert [attempt for _, attempt, _ in books.instance.seen] == [1, 2, 3]
        assert await letters(books) == []


@scene
async def test_what_always_fails_what_is_rejected_and_what_does_not_fit_are_dead_letters() -> None:
    async with testing.run(Books) as books:
        await books.cast("paid", durable=True, order="A", fail=9)
        await books.cast("refuse", durable=True)
        await books.cast("paid", durable=True, order=7)
        await books.cast("unknown", durable=True)
        await asyncio.sleep(60)
        found = sorted((each["name"], each["reason"], each["attempts"]) for each in await letters(books))
        assert found == [
            ("paid", "not taken", 1), ("paid", "raised", 5), ("refuse", "rejected", 1), ("unknown", "not taken", 1),
        ]  # fmt: skip
        raised = next(each for each in await letters(books) if each["reason"] == "raised")
        assert raised["error"] == "RuntimeError: no ink" and 'raise RuntimeError("no ink")' in raised["traceback"]
        assert [kind for kind, *_ in books.notes] == ["letter.dead"] * 4


@scene
async def test_durable_events_reach_durable_handlers_once_and_the_others_as_any_event() -> None:
    async with testing.run(Books) as books:
        await books.settle()
        await books.publish("news.today", durable=True, n=1)
        await books.publish("news.today", n=2)
        assert sorted(map(str, books.instance.seen)) == [
            "('news.today', 1, '@test')", "('passing', 1)", "('passing', 2)",
        ]  # fmt: skip


@scene
async def test_what_is_sent_in_a_transaction_is_sent_with_its_end() -> None:
    async with testing.run(Books) as books:
        shipping = books.peer("shipping")
        await books.cast("ship", durable=True, order="A")
        await books.cast("ship", durable=True, order="B", then="raise after it")
        assert [body["name"] for _, body in shipping.casts] == ["ship"], "one of a key at a time"
        assert books.published == [("orders.shipped", {"order": "A"}), ("orders.shipped", {"order": "B"})]
        assert books.casts == [("shipping", "ship", {"order": "A"}), ("shipping", "ship", {"order": "B"})]
        assert await letters(books) == []


@scene
async def test_a_transaction_that_raises_has_not_taken_place() -> None:
    async with testing.run(Books) as books:
        shipping = books.peer("shipping")
        await books.cast("ship", durable=True, order="A", then="raise")
        await asyncio.sleep(60)
        assert (shipping.casts, [each["attempts"] for each in await letters(books)]) == ([], [5])


@scene
async def test_a_state_that_is_saved_in_a_transaction_is_saved_with_it_or_not_at_all() -> None:
    async with testing.run(Books) as books:
        await books.cast("book", durable=True, key="1", order="A", fail=True)
        assert await books.call("books") == []
        await books.cast("book", durable=True, key="2", order="B")
        await books.cast("book", durable=True, key="3", order="C")
        assert await books.call("books") == ["B", "C"]
        await asyncio.sleep(60)
        assert await books.call("books") == ["B", "C", "A"]


@scene
async def test_a_plain_def_handler_has_transactions_too() -> None:
    async with testing.run(Books) as books:
        shipping = books.peer("shipping")
        await books.cast("plain", durable=True, order="A")
        await books.settle()
        assert books.instance.seen == ["A"] and [body["sender"] for _, body in shipping.casts] == ["books"]


@scene
async def test_the_same_id_is_one_message() -> None:
    async with testing.run(Books) as books:
        target = books.peer("target")
        await books.call("send", to="target", times=3)
        await books.settle()
        assert len(target.casts) == 1
        assert [each["messages"] for each in await waiting(books)] == [1]


@scene
async def test_it_waits_for_a_name_that_nobody_has_yet() -> None:
    async with testing.run(Books) as books:
        await books.call("send", to="later")
        later = books.peer("later")
        await asyncio.sleep(0.1)
        await books.settle()
        assert [body["name"] for _, body in later.casts] == ["note"]


@scene
async def test_what_can_not_be_kept_is_refused_where_it_is_said() -> None:
    async with testing.run(Books) as books:
        agent = books.instance
        with pytest.raises(Refused, match="expected the name of an agent"):
            await agent.cast(agent.group("g"), "note", durable=True)
        with pytest.raises(TooLarge, match="at most 4 MiB"):
            await agent.cast("a", "note", durable=True, data=b"x" * 5_000_000)
        with pytest.raises(RuntimeError, match="put both into one block"):
            async with agent.transaction():
                async with agent.transaction():
                    pass


@scene
async def test_a_full_disk_refuses_what_is_new_and_what_the_store_owes_is_written_later() -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = FullDisk()
        patch.setattr(MemoryEngine, "commit", lambda engine, write, **more: disk.commit(engine, write, **more))
        async with testing.run(Books) as books:
            await books.cast("paid", durable=True, order="A")
            disk.is_full = True
            with pytest.raises(StoreFull) as caught:
                await books.cast("paid", durable=True, order="B")
            assert caught.value.executed == "no"
            disk.is_full, disk.refuses = False, 3
            await books.cast("paid", durable=True, order="C")
            await asyncio.sleep(10)
            assert [order for order, *_ in books.instance.seen] == ["A", "C"]
            assert (await waiting(books), disk.refuses) == ([], 0)


class FullDisk:
    """Refuses what grows while it is full, and `refuses` so many of the others."""

    def __init__(self) -> None:
        self.is_full, self.refuses = False, 0
        self._commit = MemoryEngine.commit

    def commit(self, engine: MemoryEngine, write: Any, grows: bool = True, **_: Any) -> asyncio.Future[Any]:
        if grows and self.is_full:
            return self._refused()
        if not grows and self.refuses:
            self.refuses -= 1
            return self._refused()
        return self._commit(engine, write)

    def _refused(self) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(refusals.StoreFull("the disk is full"))
        return answer


@scene
async def test_a_new_broker_loses_no_durable_message() -> None:
    async with testing.run(Books) as books:
        for n in range(20):
            await books.cast("paid", durable=True, order=str(n))
            if n % 5 == 0:
                await books.new_broker()
        await asyncio.sleep(1)
        assert [order for order, _, _ in books.instance.seen] == [str(n) for n in range(20)]


async def letters(books: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await books._tester.call("store", "letters")
    return found


async def waiting(books: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await books._tester.call("store", "waiting")
    return found
