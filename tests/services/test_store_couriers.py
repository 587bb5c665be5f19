"""The handlers of the store over a disk that refuses: nobody waits for what won't come, and nothing that waits is stuck."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest

from otpd.agents.services.store import errands
from otpd.agents.services.store.couriers import Couriers
from otpd.agents.services.store.engine import StoreFull
from otpd.agents.services.store.messages import Answer, Deliver, Receipt, Unit
from tests.agents.scenes import scene
from tests.services.durable_world import World, cast
from tests.services.test_durable_queue import sent


class Disk:
    """In the place of an engine. `refuses`: what the next ones that read, or write, are told."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self.refuses = connection, 0

    def submit(self, write: Any, then: Any, **_: Any) -> None:
        self.refuses -= 1
        found = (None, StoreFull("full")) if self.refuses >= 0 else (write(self._connection), None)
        asyncio.get_running_loop().call_soon(then, *found)

    def commit(self, write: Any, **_: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit(write, lambda answer, error: future.set_exception(error) if error else future.set_result(answer))
        return future


def shell(world: World) -> Any:
    """The couriers alone, with a queue that has recovered from this world."""
    it: Any = Couriers.__new__(Couriers)
    it._otpd = Mock(loop=asyncio.get_running_loop(), clock=lambda: world.now)
    it._queue, it._bodies, it.engine = world.queue, errands.Bodies(), Disk(world.disk)
    it._units, it._leaving, it._written = deque(), deque(), asyncio.Event()
    it._arm = lambda due: None  # time does not pass
    return it


@scene
async def stuck() -> None:
    world = World()
    sent(world, cast("a"))
    it = shell(world)
    it.engine.refuses = 2
    it._effect(Deliver(world.queue.messages[1], 1, 7))
    while it._leaving:
        await asyncio.sleep(0.001)
    assert it._otpd.put_cast.call_count == 1


def test_a_message_whose_body_can_t_be_read_now_is_delivered_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "_AGAIN", 0.001)
    stuck()


@scene
async def behind() -> None:
    world = World()
    it = shell(world)
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[Any] = loop.create_future()
    failed.set_exception(StoreFull("full"))
    house: asyncio.Future[Any] = loop.create_future()
    house.set_exception(StoreFull("full"))
    it._units += [(Unit(minute=1), Mock(), house), (Unit(receipt=Receipt("s", 1, 1, 0, refs=[7])), Mock(), failed)]
    it.engine.refuses = 10**9
    told: list[Any] = []
    it._effect = told.append
    committing = asyncio.ensure_future(it._commit())
    while not told:
        await asyncio.sleep(0.001)
    assert [(each.ref, each.code) for each in told] == [(7, "store_full")]
    committing.cancel()


def test_who_has_submitted_behind_what_must_be_written_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "_AGAIN", 0.001)
    behind()


@scene
async def unwritable() -> None:
    world = World()
    it = shell(world)
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(OverflowError("too large"))
    told: list[Any] = []
    it._effect = told.append
    it._units.append((Unit(receipt=Receipt("s", 1, 1, 0, refs=[7])), Mock(), failed))
    committing = asyncio.ensure_future(it._commit())
    while not told:
        await asyncio.sleep(0.001)
    assert ([(each.ref, each.code) for each in told], committing.done()) == ([(7, "refused")], False)
    committing.cancel()


def test_what_can_t_be_written_is_answered_and_ends_nothing() -> None:
    unwritable()


@scene
async def operator() -> None:
    it, reply = shell(World()), Mock(waiting=True)
    it._effect(Answer(errands.Operator(reply), code="noproc", text="there is no dead letter 7"))
    (error,) = reply.fail.call_args.args
    assert (error.message, error.data, reply.answer.called) == ("there is no dead letter 7", {"code": "noproc"}, False)
    it._effect(Answer(errands.Operator(reply), [8]))
    reply.answer.assert_called_once_with([8])


def test_people_are_told_by_an_error_what_was_not_done() -> None:
    operator()
