"""What an agent's commands are to it: results, errors, streams; in a test, where nothing is run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from otpd.agents import Agent, CallTimeout, NoProcess, Overloaded, Refused, Reject, Result, call, testing


class Runner(Agent):
    @call
    async def run(self, argv: list[str]) -> list[Any]:
        result = await self.exec(argv)
        return [result.summary(), result.text]

    @call
    async def full(self) -> str:
        options: dict[str, Any] = {"env": {"A": "1"}, "files": {"x": b"y"}, "stdin": "in", "timeout": 2}
        return (await self.exec(["a", Path("/b"), b"c"], profile="p", cwd=Path("/w"), **options)).text

    @call
    async def python(self) -> str:
        return (await self.exec_python("print(1)", ["x"])).text

    @call
    async def stream_it(self) -> list[Any]:
        pieces = []
        async with await self.exec(["make"], stdin=True, stream=True) as making:
            await making.write("yes\n")
            await making.close_stdin()
            async for piece in making:
                pieces.append(list(piece))
        return [pieces, (await making.result()).summary(), await making.read()]

    @call
    async def leave_early(self) -> str:
        async with await self.exec(["make"], stream=True) as making:
            pass
        return (await making.result()).summary()

    @call
    async def error(self) -> list[str]:
        try:
            await self.exec(["x"], stream=True)
            await self.exec(["x"])
        except (Overloaded, Refused, NoProcess, CallTimeout) as error:
            return [type(error).__name__, str(error)]
        return []

    @call
    def blocking(self) -> list[Any]:
        with self.sync.exec(["make"], stream=True) as making:
            return [[list(piece) for piece in making], self.sync.exec(["x"]).text, self.sync.exec_python("y").text]


def play(scene: Any, outcome: Any = None) -> Any:
    async def played() -> Any:
        async with testing.run(Runner) as runner:
            commands = runner.commands(outcome) if outcome is not None else None
            return await scene(runner, commands)

    return asyncio.run(played())


def test_the_result_says_what_came_of_it() -> None:
    outcomes = {"ok": "said", "bad": 3, "slow": Result("", "killed", killed_by="timeout", stdout=b"part")}

    async def scene(runner: Any, commands: Any) -> Any:
        return [await runner.call("run", argv=[each]) for each in outcomes]

    found = play(scene, lambda argv, options: outcomes[argv[0]])
    assert found == [["exited 0", "said"], ["exited 3", ""], ["killed (timeout)", "part"]]


def test_options_and_paths_go_along_as_data() -> None:
    async def scene(runner: Any, commands: Any) -> Any:
        return [await runner.call("full"), await runner.call("python"), commands.ordered]

    options = {"profile": "p", "env": {"A": "1"}, "cwd": "/w", "files": {"x": b"y"}, "stdin": b"in", "wall": 2}
    assert play(scene, lambda argv, options: "done") == [
        "done",
        "done",
        [(["a", "/b", b"c"], options), (["-c", "x"], {"code": "print(1)"})],
    ]


def test_a_stream_is_read_piece_by_piece_and_may_be_spoken_to() -> None:
    async def scene(runner: Any, commands: Any) -> Any:
        return [await runner.call("stream_it"), commands.written]

    both = Result("", "exited", exit_code=2, stdout=b"out", stderr=b"err")
    assert play(scene, lambda argv, options: both) == [
        [[["stdout", b"out"], ["stderr", b"err"]], "exited 2", None],
        {"c1-1": b"yes\n"},
    ]


def test_who_leaves_a_stream_early_cancels_its_command() -> None:
    async def scene(runner: Any, commands: Any) -> Any:
        return [await runner.call("leave_early"), commands.cancelled]

    assert play(scene, lambda argv, options: "much") == ["killed (cancelled)", ["c1-1"]]


def test_a_plain_handler_says_the_same_verbs_through_sync() -> None:
    async def scene(runner: Any, commands: Any) -> Any:
        return await runner.call("blocking")

    assert play(scene, lambda argv, options: "x") == [[["stdout", b"x"]], "x", "x"]


def test_what_could_not_be_ordered_raises() -> None:
    async def scene(runner: Any, commands: Any) -> Any:
        return await runner.call("error", timeout=60)

    busy = Result("", "busy", error={"code": "busy", "layer": "", "text": "the pool's queue is full.", "fix": "wait"})

    def no_profile(argv: Any, options: Any) -> Any:
        raise Reject("there is no profile 'x'", data={"code": "profile"})

    async def never(argv: Any, options: Any) -> Any:
        await asyncio.sleep(3600)

    assert play(scene, lambda argv, options: busy) == ["Overloaded", "exec: the pool's queue is full. wait"]
    assert play(scene, no_profile) == ["Refused", "there is no profile 'x'"]
    assert play(scene) == [
        "NoProcess",
        "nobody has the name commands here, and no node could start it; in a test: agent.commands(...)",
    ]
    with pytest.raises(CallTimeout):
        play(scene, never)


def test_a_reject_is_refused_with_its_code() -> None:
    class Asker(Agent):
        @call
        async def code(self) -> str:
            try:
                await self.exec(["x"])
            except Refused as error:
                return error.code
            return ""

    def reject(argv: Any, options: Any) -> Any:
        raise Reject("no", data={"code": "profile"})

    async def played() -> str:
        async with testing.run(Asker) as asker:
            asker.commands(reject)
            return str(await asker.call("code"))

    assert asyncio.run(played()) == "profile"
