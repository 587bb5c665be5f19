"""`@health`: how an agent says whether it is well, whatever else it is doing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otpd.agents import Agent, call, cast, health, testing
from otpd.agents.methods import Methods
from tests.agents.scenes import scene

HEALTH = "otpd.health"


class Patient(Agent):
    def init(self, answers: str = "None") -> None:
        self.answers, self.asked, self.busy = answers, 0, False

    @health
    async def well(self) -> Any:
        self.asked += 1
        return eval(self.answers)

    @cast
    async def work(self, seconds: float) -> None:
        self.busy = True
        await asyncio.sleep(seconds)
        self.busy = False

    @call
    async def is_busy(self) -> bool:
        return self.busy


class Mute(Agent):
    """Says nothing of its health."""


@scene
async def test_an_agent_without_a_health_method_is_well_if_it_answers() -> None:
    async with testing.run(Mute) as mute:
        assert await mute.call(HEALTH) is None


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ("None", None),
        ("True", None),
        ("'the disk is full'", "the disk is full"),
        ("False", "well says no"),
        ("1 / 0", "well raised ZeroDivisionError: division by zero"),
        ("'\\ud800' * 1000", "\\ud800" * 83 + "\\u"),
        ("{1}", "{1}"),
    ],
)
def test_what_a_health_method_gives_is_yes_or_what_is_wrong_and_never_a_crash(answers: str, told: str | None) -> None:
    @scene
    async def ask() -> None:
        async with testing.run(Patient, answers=answers) as patient:
            assert await patient.call(HEALTH) == told
            assert await patient.call("is_busy") is False

    ask()


@scene
async def test_it_is_answered_while_a_handler_waits() -> None:
    """And by the state of that moment: it runs between two awaits of the handler."""
    async with testing.run(Patient, answers="f'busy: {self.busy}'") as patient:
        await patient.peer("other").cast("patient", "work", seconds=3600)
        await asyncio.sleep(1)  # of the clock that jumps: the handler has begun
        assert await patient.call(HEALTH, timeout=1) == "busy: True"


@scene
async def test_those_who_ask_while_it_is_asked_hear_the_same_answer() -> None:
    class Slow(Patient):
        async def well(self) -> Any:
            self.asked += 1
            await asyncio.sleep(1)
            return f"asked {self.asked}"

    async with testing.run(Slow) as patient:
        answers = await asyncio.gather(*(patient.call(HEALTH) for _ in range(3)))
        assert answers == ["asked 1"] * 3
        assert await patient.call(HEALTH) == "asked 2"


@scene
async def test_a_question_that_nobody_waits_for_any_more_is_forgotten() -> None:
    class Hung(Patient):
        async def well(self) -> Any:
            await asyncio.Event().wait()

    async with testing.run(Hung) as patient:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await patient.call(HEALTH)
        assert await patient.call("is_busy") is False


@scene
async def test_a_plain_method_is_asked_on_the_loop() -> None:
    class Plain(Agent):
        @health
        def fine(self) -> str:
            return type(asyncio.get_running_loop()).__name__ and "on the loop"

    async with testing.run(Plain) as plain:
        assert await plain.call(HEALTH) == "on the loop"


def test_a_health_method_that_could_not_work_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wants.well: expected no parameters; write: async def well\(self\)"):

        class Wants(Agent):
            @health
            async def well(self, what: str) -> None: ...

    with pytest.raises(TypeError, match="Two: expected one @health method, got first and second; join them in one"):

        class Two(Agent):
            @health
            async def first(self) -> None: ...

            @health
            async def second(self) -> None: ...


def test_whether_there_is_one_is_known_to_the_class() -> None:
    assert (Methods(Patient).health is not None, Methods(Mute).health) == (True, None)
