"""`self.load` and `self.save`: versions, refusals that teach, and patience with a store that comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otpd.agents import (
    Agent,
    CallTimeout,
    DamagedState,
    NoProcess,
    NotData,
    OtpdError,
    Reject,
    Stale,
    StoreFull,
    TooLarge,
    call,
    testing,
)
from otpd.agents.stored import TIMEOUT
from tests.agents.scenes import scene


class Keeps(Agent):
    async def init(self, default: Any = None) -> None:
        self.kept = await self.load(default)

    @call
    async def keep(self, state: Any) -> None:
        await self.save(state)

    @call
    def plain(self, state: Any) -> Any:
        self.sync.save(state)
        return self.sync.load()

    async def save_within(self, state: Any) -> None:
        async with self.transaction():
            await self.save(state)

    @call
    async def look(self) -> Any:
        return await self.load("nothing")

    @call
    async def keep_all(self, states: list[Any]) -> Any:
        await asyncio.gather(*(self.save(each) for each in states))
        return await self.load()


@scene
async def test_what_is_saved_is_loaded_and_without_it_the_default_is() -> None:
    async with testing.run(Keeps, default={"n": 0}) as agent:
        assert agent.instance.kept == {"n": 0}
        assert await agent.call("look") == "nothing"
        await agent.call("keep", state={"n": [1, b"x", None]})
        assert await agent.call("look") == {"n": [1, b"x", None]}
        assert await agent.call("plain", state=2) == 2
        await agent.call("keep", state=None)
        assert await agent.call("look") is None, "None is a state like any other"


@scene
async def test_saves_that_are_said_together_follow_each_other_as_they_were_said() -> None:
    async with testing.run(Keeps) as agent:
        assert await agent.call("keep_all", states=[1, 2, 3]) == 3


@scene
async def test_what_is_no_data_is_refused_with_its_place() -> None:
    async with testing.run(Keeps) as agent:
        with pytest.raises(NotData, match=r"save of keeps, its value\['a'\]: expected data, got set"):
            await agent.instance.save({"a": {1}})


# --- a store that the test plays ---


class Store:
    """Answers as it is told, in turn; the last answer goes on."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.heard: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, method: str, args: dict[str, Any]) -> Any:
        self.heard.append((method, args))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return await answer if asyncio.iscoroutine(answer) else answer


def played(*answers: Any) -> tuple[testing.Running[Keeps], Store]:
    agent, store = testing.run(Keeps), Store(*answers)
    agent.peer("store", store)
    return agent, store


@scene
async def test_each_save_says_which_version_it_replaces() -> None:
    agent, store = played([7, None], 8, 9)
    async with agent:
        await agent.call("keep", state="a")
        await agent.call("keep", state="b")
        assert [(method, args.get("expected")) for method, args in store.heard] == [
            ("load_state", None), ("save_state", 7), ("save_state", 8),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("stale", Stale), ("damaged", DamagedState), ("too_large", TooLarge), ("store_full", StoreFull), ("else", Reject),
    ],
)  # fmt: skip
@scene
async def test_a_refusal_of_the_store_is_an_error_of_its_own(code: str, kind: type[OtpdError]) -> None:
    agent, _ = played([0, None], Reject("because", data={"code": code}))
    async with agent:
        with pytest.raises(kind, match="because") as refused:
            await agent.instance.save(1)
        assert refused.value.executed == ("maybe" if kind is Reject else "no")


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize(("found", "expected"), [("its own", 8), ("nothing new", 7), ("another's", 7)])
@scene
async def test_the_save_after_a_cancelled_one_replaces_what_that_has_made_and_no_more(
    found: str, expected: int, in_transaction: bool
) -> None:
    """Else it would be refused as if somebody else had saved meanwhile."""
    forever: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def never() -> Any:
        return await forever

    agent, store = played([7, None], never(), None, 9)
    async with agent:
        saving = asyncio.ensure_future(agent.instance.save_within("a") if in_transaction else agent.instance.save("a"))
        while len(store.heard) < 2:
            await asyncio.sleep(0.01)
        saving.cancel()
        await asyncio.wait((saving,))
        said = store.heard[1][1]
        body = said["state"][0] if in_transaction else said["body"]
        store.answers[0] = {"its own": [8, body], "nothing new": [7, None], "another's": [8, body + b"?"]}[found]
        await agent.instance.save("b")
        assert [(method, args.get("expected")) for method, args in store.heard[2:]] == [
            ("load_state", None), ("save_state", expected),
        ]  # fmt: skip
    forever.cancel()


@scene
async def test_a_store_that_dies_meanwhile_is_waited_for_and_asked_again() -> None:
    forever: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def never() -> Any:
        return await forever

    agent, store = played([0, None], never(), 1)
    async with agent:
        saving = asyncio.ensure_future(agent.call("keep", timeout=None, state="a"))
        await asyncio.sleep(0.01)
        dying = asyncio.ensure_future(agent.down("store"))
        await asyncio.sleep(1)
        assert not saving.done()
        await agent.up("store")
        await saving
        await dying
        assert [args.get("expected") for method, args in store.heard if method == "save_state"] == [0, 0]
    forever.cancel()


@scene
async def test_a_store_that_has_too_much_to_do_is_asked_again_until_the_deadline() -> None:
    busy = Reject("busy", data={"code": "overloaded"})
    agent, store = played([0, None], busy, busy, 1)
    async with agent:
        await agent.call("keep", timeout=None, state="a")
        assert [method for method, _ in store.heard] == ["load_state"] + 3 * ["save_state"]
    agent, _ = played([0, None], busy)
    async with agent:
        with pytest.raises(CallTimeout, match=r"save of keeps: the store did not take it in time \(busy\)"):
            await agent.instance.save("a")


@scene
async def test_a_store_that_does_not_come_back_is_an_error_at_the_deadline() -> None:
    agent, _ = played([0, None])
    async with agent:
        await agent.down("store")
        before = agent.elapsed
        with pytest.raises(CallTimeout):
            await agent.instance.save("a")
        assert agent.elapsed - before == pytest.approx(TIMEOUT, abs=1)


@scene
async def test_a_node_without_a_store_is_an_error_that_says_what_to_do() -> None:
    agent, _ = played([0, None])
    async with agent:
        agent._node.gone("store")
        with pytest.raises(NoProcess, match=r"this node has no store just now; if it was stopped: otpd child start store"):
            await agent.instance.save("a")


@scene
async def test_a_save_that_a_store_had_when_it_died_may_have_been_done_whatever_becomes_of_the_next_attempt() -> None:
    forever: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def never() -> Any:
        return await forever

    agent, store = played([0, None], never())
    async with agent:
        saving = asyncio.ensure_future(agent.instance.save("a"))
        while len(store.heard) < 2:
            await asyncio.sleep(0.01)
        dying = asyncio.ensure_future(agent.down("store"))
        with pytest.raises(CallTimeout) as late:
            await saving
        assert late.value.executed == "maybe"
        await dying
    forever.cancel()
