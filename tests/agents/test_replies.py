"""Calls that are answered later: by another handler, once, and to those who still wait."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest

from otpd.agents import Agent, BrokerLost, CallTimeout, NotData, Reject, RemoteError, Reply, call, cast, testing
from tests.agents.scenes import scene


class Exchange(Agent):
    """Brings who takes together with what is put."""

    async def init(self) -> None:
        self.takers: list[Reply] = []

    @call
    async def take(self) -> Any:
        self.takers.append(self.defer())
        return "what a handler returns that has deferred says nothing"

    @cast
    async def put(self, job: Any) -> None:
        self.takers.pop(0).answer(job)

    @cast
    async def refuse(self) -> None:
        self.takers.pop(0).fail(Reject("closed", data=[1]))

    @cast
    async def break_it(self) -> None:
        self.takers.pop(0).fail(OSError("disk"))

    @call
    async def defer_and(self, what: str) -> Any:
        self.takers.append(self.defer())
        match what:
            case "reject":
                raise Reject("no")
            case "raise":
                raise ValueError("no")
        return self.defer()

    @call
    async def waiting(self) -> list[bool]:
        return [each.waiting for each in self.takers]


@scene
async def test_the_mailbox_goes_on_until_somebody_answers() -> None:
    async with testing.run(Exchange) as exchange:
        first, second = (asyncio.ensure_future(exchange.call("take")) for _ in range(2))
        await exchange.settle()
        assert await exchange.call("waiting") == [True, True]
        await exchange.cast("put", job={"n": 1})
        assert await first == {"n": 1}
        await exchange.cast("refuse")
        with pytest.raises(Reject) as refused:
            await second
        assert (refused.value.message, refused.value.data) == ("closed", [1])


@scene
async def test_an_error_that_is_the_answer_is_no_crash() -> None:
    async with testing.run(Exchange) as exchange:
        taking = asyncio.ensure_future(exchange.call("take"))
        await exchange.settle()
        await exchange.cast("break_it")
        with pytest.raises(RemoteError) as error:
            await taking
        assert (error.value.type, error.value.message) == ("OSError", "disk")
        assert await exchange.call("waiting") == []


@scene
async def test_who_has_waited_too_long_is_forgotten_and_an_answer_to_it_is_counted() -> None:
    async with testing.run(Exchange) as exchange:
        with pytest.raises(CallTimeout):
            await exchange.call("take", timeout=1)
        assert await exchange.call("waiting") == [False]
        await exchange.cast("put", job=1)
        assert (await exchange.call("otpd.describe"))["counts"] == {"calls that nobody waited for any more": 1}


@scene
async def test_who_gives_up_or_dies_or_loses_the_broker_is_forgotten() -> None:
    async with testing.run(Exchange) as exchange:
        peer = exchange.peer("peer")
        given_up = asyncio.ensure_future(peer.call("exchange", "take", timeout=None))
        await exchange.settle()
        told: list[str] = []
        exchange.instance.takers[0].when_gone(lambda: told.append("gone"))
        given_up.cancel()
        await exchange.settle()
        assert told == ["gone"]
        assert await exchange.call("waiting") == [False]
        dead = asyncio.ensure_future(peer.call("exchange", "take", timeout=None))
        await exchange.settle()
        await exchange.down("peer")
        assert await exchange.call("waiting") == [False, False]
        lost = asyncio.ensure_future(exchange.call("take", timeout=None))
        await exchange.settle()
        await exchange.new_broker()
        with pytest.raises(BrokerLost):
            await lost
        assert await exchange.call("waiting") == [False, False, False]
        dead.cancel()


@scene
async def test_what_was_to_be_done_for_a_caller_is_let_go_with_its_answer() -> None:
    """It often leads back to the reply: such a circle would stay, with all that it holds, until garbage is collected."""
    async with testing.run(Exchange) as exchange:
        taking = asyncio.ensure_future(exchange.call("take"))
        await exchange.settle()
        (reply,) = exchange.instance.takers
        much = {1}
        left = weakref.ref(much)
        reply.when_gone(much.clear)
        del much
        reply.answer()
        await taking
        assert left() is None


@scene
async def test_an_answer_that_is_no_data_leaves_the_call_to_be_answered() -> None:
    async with testing.run(Exchange) as exchange:
        taking = asyncio.ensure_future(exchange.call("take"))
        await exchange.settle()
        (reply,) = exchange.instance.takers
        with pytest.raises(NotData, match=r"the result of exchange\.take, its value: expected data, got set"):
            reply.answer({1})
        reply.answer(2)
        assert await taking == 2
        with pytest.raises(RuntimeError, match="a call of @test was answered twice"):
            reply.answer(3)


@scene
async def test_a_handler_that_rejects_after_all_has_answered() -> None:
    async with testing.run(Exchange) as exchange:
        with pytest.raises(Reject):
            await exchange.call("defer_and", what="reject")
        assert await exchange.call("waiting") == [False]


@scene
async def test_a_handler_that_defers_and_crashes_has_answered() -> None:
    async with testing.run(Exchange) as exchange:
        with pytest.raises(RemoteError) as error:
            await exchange.call("defer_and", what="raise")
        assert error.value.type == "ValueError"


@scene
async def test_to_defer_twice_or_outside_of_a_call_is_an_error_that_says_so() -> None:
    async with testing.run(Exchange) as exchange:
        with pytest.raises(RemoteError, match="but it is deferred already; say it once in a @call handler"):
            await exchange.call("defer_and", what="twice")
    async with testing.run(Exchange) as exchange:
        with pytest.raises(RuntimeError, match="expected a call that is being handled, but there is none here"):
            exchange.instance.defer()
