"""The worker script of a chaos run: talks to its peers at random and writes down what it did and what came of it.

One line of JSON per fact, in one file per incarnation, each written with a single write(2): a kill may end the file, never
tear what was written before. The facts are judged by `tests.chaos.verdict`, after the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import Any

from otpd.agents import Agent, OtpdError, call, cast, on, run

TIMEOUT = 1.0


class Actor(Agent):
    async def init(self, peers: list[str], facts: str, seed: int) -> None:
        self.peers = [peer for peer in peers if peer != self.name]
        path = os.path.join(facts, f"{self.name}.{os.getpid()}.jsonl")
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.random = random.Random(f"{seed}.{self.name}.{os.getpid()}")
        self.count, self.hushed = 0, False
        self.note("born", generation=self.generation)
        for peer in self.random.sample(self.peers, 3):
            self.note("monitor", ref=await self.monitor(peer), peer=peer)
        self.chatter = [asyncio.create_task(talk()) for talk in (self.calling, self.casting, self.publishing, self.keeping)]

    def note(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n"
        os.write(self.file, line.encode())

    def number(self) -> str:
        self.count += 1
        return f"{self.name}.{os.getpid()}.{self.count}"

    async def calling(self) -> None:
        while True:
            peer, number = self.random.choice(self.peers), self.number()
            self.note("call", id=number, peer=peer)
            try:
                outcome = "ok" if await self.call(peer, "echo", text=number, timeout=TIMEOUT) == number else "wrong answer"
            except OtpdError as error:
                outcome = type(error).__name__
            self.note("called", id=number, outcome=outcome)
            await asyncio.sleep(self.random.expovariate(100))

    async def casting(self) -> None:
        while True:
            peer, number = self.random.choice(self.peers), self.number()
            self.note("cast", id=number, peer=peer)
            confirm = self.random.random() < 0.2
            try:
                await asyncio.wait_for(self.cast(peer, "take", number=number, confirm=confirm), 5)
                outcome = "accepted" if confirm else "sent"
            except (OtpdError, TimeoutError) as error:
                outcome = type(error).__name__
            self.note("casted", id=number, outcome=outcome)
            await asyncio.sleep(self.random.expovariate(200))

    async def keeping(self) -> None:
        while not self.hushed:
            peer, number = self.random.choice(self.peers), self.number()
            self.note("durable", id=number, peer=peer)
            try:
                await self.cast(peer, "keep", durable=True, id=number, number=number)
                outcome = "accepted"
            except OtpdError as error:
                outcome = type(error).__name__
            self.note("durabled", id=number, outcome=outcome)
            await asyncio.sleep(self.random.expovariate(1.5))

    async def publishing(self) -> None:
        while True:
            await self.publish(f"chaos.{self.name}", number=self.number())
            await asyncio.sleep(self.random.expovariate(20))

    @call
    async def echo(self, text: str) -> str:
        return text

    @cast
    async def take(self, number: str) -> None:
        self.note("took", id=number)

    @cast
    async def keep(self, number: str) -> None:
        """Its effect is in the state, so that it can be counted whoever was killed."""
        async with self.transaction():
            kept = await self.load(default=[])
            await self.save([*kept, number])
            if self.random.random() < 0.02:
                raise RuntimeError("by chance")

    @call
    async def hush(self) -> None:
        """Nothing durable is begun any more; what was begun comes to its end."""
        self.hushed = True

    @call
    async def kept(self) -> list[str]:
        kept: list[str] = await self.load(default=[])
        return kept

    @on("chaos.*")
    async def heard(self, event: Any) -> None:
        self.note("heard", id=event.data["number"])

    async def handle_down(self, name: str, generation: int, reason: str) -> None:
        self.note("down", peer=name, generation=generation, reason=reason)
        await asyncio.sleep(0.01)
        self.note("monitor", ref=await self.monitor(name), peer=name)

    async def handle_rejected(self, name: str, method: str, reason: str) -> None:
        self.note("rejected", peer=name, reason=reason)


if __name__ == "__main__":
    run(Actor)
