"""Agents that do and say what a test wants, and a client to tell them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otpd.agents import Client, connect
from tests.e2e.node import Node, node
from tests.helpers import eventually

ACTOR = '''
import asyncio, os, time
from otpd.agents import *

class Actor(Agent):
    """Does what it is told."""

    async def init(self, gate: str = "", trap: bool = False):
        self.heard, self.trap_exits = [], trap
        while gate and self._is_there(gate):
            await asyncio.sleep(0.005)

    def _is_there(self, gate):
        return os.path.exists(os.path.join(os.path.dirname(__file__), gate))

    @call
    async def who(self) -> list:
        return [self.name, self.generation, os.getpid()]

    @call
    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    @call
    async def nap(self, seconds: float) -> float:
        self.heard.append(["nap", seconds])
        await asyncio.sleep(seconds)
        return seconds

    @call
    async def hold(self, gate: str) -> str:
        """Until that file is gone."""
        while self._is_there(gate):
            await asyncio.sleep(0.005)
        return "held"

    @call
    def block(self, gate: str) -> str:
        while self._is_there(gate):
            time.sleep(0.005)
        return "blocked"

    @call
    async def crash(self, text: str) -> None:
        raise RuntimeError(text)

    @call
    async def reject(self, text: str) -> None:
        raise Reject(text, data={"text": text})

    @call
    async def what_was_heard(self) -> list:
        return self.heard

    @call
    async def ask(self, to: str, method: str, within: float | None = 5, args: dict = {}):
        """Call another; its answer, or [class, executed, reason] of the error."""
        try:
            return await self.call(to, method, within, **args)
        except OtpdError as error:
            return [type(error).__name__, error.executed, getattr(error, "reason", "")]

    @call
    async def tell(self, to: str, count: int, confirm: bool = False) -> None:
        for n in range(count):
            await self.cast(to, "note", confirm=confirm and n == count - 1, what=n)

    @call
    async def tell_on(self, to: str, gate: str) -> None:
        """Numbers, ten thousand a second at most, until that file is gone."""
        n = 0
        while self._is_there(gate):
            for n in range(n, n + 100):
                await self.cast(to, "note", what=n)
            n += 1
            await asyncio.sleep(0.01)

    @call
    async def do(self, verb: str, args: list):
        """A verb with positional arguments."""
        found = getattr(self, verb)(*args)
        return None if verb in ("monitor", "demonitor", "link", "unlink", "join", "leave") else await found

    @call
    async def trapping(self, on: bool) -> None:
        self.trap_exits = on

    @call
    async def end(self, reason: str = "normal") -> None:
        self.stop(reason)

    @cast
    async def note(self, what) -> None:
        self.heard.append(what)

    @cast
    async def fail(self, text: str) -> None:
        raise RuntimeError(text)

    @on("news.**")
    async def news(self, event) -> None:
        self.heard.append([event.topic, dict(event.data), event.missed])

    async def handle_down(self, name, generation, reason):
        self.heard.append(["down", name, generation, reason])

    async def handle_up(self, name, generation):
        self.heard.append(["up", name, generation])

    async def handle_exit(self, name, generation, reason):
        self.heard.append(["exit", name, generation, reason])

    async def handle_rejected(self, name, method, reason):
        self.heard.append(["rejected", name, method, reason])

    async def terminate(self, reason):
        print("terminate", reason, flush=True)

if __name__ == "__main__":
    run(Actor)
'''


def actors(*names: str, **more: str) -> str:
    """Their tables; `more` are further lines of one of them."""
    return "".join(f'[agents.{name}]\nscript = "actor.py"\n{more.get(name, "")}\n' for name in names)


class Fleet:
    """A node of actors, and a client of it."""

    def __init__(self, n: Node, client: Client) -> None:
        self.node, self.client = n, client

    def call(self, to: str, method: str, /, timeout: float | None = 60, **args: Any) -> Any:
        return self.client.call(to, method, timeout, **args)

    def heard(self, name: str) -> list[Any]:
        found: list[Any] = self.call(name, "what_was_heard")
        return found

    def generation(self, name: str) -> int:
        return int(self.call(name, "who")[1])

    def pid(self, name: str) -> int:
        return int(self.call(name, "who")[2])

    def kill(self, name: str, number: int = 9) -> None:
        self.node.kill(self.pid(name), number)

    @contextmanager
    def gate(self, name: str) -> Iterator[Path]:
        """A file for which `hold` and `block` wait; it is gone afterwards, whatever has happened, and they go on."""
        made = self.node.home / name
        made.touch()
        try:
            yield made
        finally:
            made.unlink(missing_ok=True)

    @property
    def broker(self) -> dict[str, Any]:
        return self.node.services()["broker"]

    def new_broker(self, after: int, deadline: float = 60.0) -> None:
        """Until one of a later generation than `after` runs."""
        eventually(lambda: self.broker["state"] == "running" and self.broker["generation"] > after, deadline)


@contextmanager
def fleet(config: str, files: dict[str, str] | None = None) -> Iterator[Fleet]:
    with node(config, {"actor.py": ACTOR, **(files or {})}) as n:
        with connect(n.home) as client:
            yield Fleet(n, client)
