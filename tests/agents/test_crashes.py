"""Ends and gaps that must not be silent: a handler that cancels its own task, answers that can't be sent, lost events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otpd.agents import Agent, Event, Reject, RemoteError, call, cast, on, testing
from otpd.ipc.frames import pack
from otpd.ipc.happenings import EventReceived, Gap
from tests.agents.scenes import scene


class Faulty(Agent):
    @call
    async def big(self) -> None:
        raise ValueError("x" * (17 << 20))

    @call
    async def reject(self) -> None:
        raise Reject("no", data=b"x" * (17 << 20))

    @cast
    async def end(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(9)


@scene
async def test_a_handler_that_cancels_the_task_it_runs_in_crashes_the_agent() -> None:
    async with testing.run(Faulty) as faulty:
        await faulty.cast("end")
        text = "a handler has cancelled the task that handles the messages"
        assert await faulty.ended() == f"error(RuntimeError: {text})"


@scene
async def test_a_reject_that_is_too_large_is_told_and_crashes_the_agent() -> None:
    async with testing.run(Faulty) as faulty:
        with pytest.raises(RemoteError) as caught:
            await faulty.call("reject")
        assert caught.value.type == "TooLarge"
        assert (await faulty.ended()).startswith("error(TooLarge: ")


@scene
async def test_of_an_exception_with_a_text_without_end_the_caller_gets_the_begin() -> None:
    async with testing.run(Faulty) as faulty:
        with pytest.raises(RemoteError) as caught:
            await faulty.call("big")
        assert (caught.value.type, caught.value.message) == ("ValueError", "x" * 16_000)


class Reader(Agent):
    def init(self) -> None:
        self.seen: list[Any] = []

    @on("a.*")
    async def one(self, event: Event) -> None:
        self.seen.append(("one", event.topic, event.missed))

    @on("a.*")
    async def two(self, event: Event) -> None:
        self.seen.append(("two", event.topic, event.missed))


@scene
async def test_missed_is_told_with_the_event_behind_the_gap_to_each_handler_of_the_pattern() -> None:
    async with testing.run(Reader) as reader:
        conversation = reader._hosted().conversation
        [ref] = reader._hosted().mailbox._patterns
        first, second, third = (EventReceived(f"a.{n}", "x", 1, pack({})) for n in (1, 2, 3))
        conversation.endpoint.happened.extend([first, Gap(ref, 2), Gap(ref, 3), second, third])
        conversation.work_off()
        await reader.settle()
        missed = {"a.1": 0, "a.2": 5, "a.3": 0}
        assert reader.instance.seen == [(who, topic, count) for topic, count in missed.items() for who in ("one", "two")]


class Elsewhere(Agent):
    @call
    def use(self, verb: str) -> str:
        try:
            found = getattr(self, verb)(*(["x"] if verb == "stop_child" else [{}] if verb == "start_child" else []))
            if asyncio.iscoroutine(found):
                asyncio.run(found)
        except RuntimeError as error:
            return str(error)
        return "done"


@pytest.mark.parametrize("verb", ["stop", "start_child", "stop_child", "children"])
def test_verbs_about_itself_and_its_children_belong_to_the_loop_too(verb: str) -> None:
    @scene
    async def run() -> None:
        async with testing.run(Elsewhere) as agent:
            assert (await agent.call("use", verb=verb)).startswith("the verbs of self belong to the loop of the agent")

    run()
