"""The worker script of a chaos run: talks to its peers at random and writes down what it did and what came of it.

One line of JSON per fact, in one file per incarnation, each written with a single write(2): a kill may end the file, also
within its last line, never tear what was written before. The facts are judged by `tests.chaos.verdict`, after the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from otpd.agents import Agent, OtpdError, call, cast, cron, every, on, run

TIMEOUT = 1.0


class Actor(Agent):
    async def init(self, peers: list[str], facts: str, seed: int) -> None:
        self.peers = [peer for peer in peers if peer != self.name]
        self.incarnation = f"{self.name}.{time.monotonic_ns()}"  # no pid: an hour of kills brings the same ones again
        path = os.path.join(facts, f"{self.incarnation}.jsonl")
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.random = random.Random(f"{seed}.{self.incarnation}")
        self.count, self.hushed = 0, False
        self.note("born", generation=self.generation)
        for peer in self.random.sample(self.peers, min(3, len(self.peers))):
            self.note("monitor", ref=await self.monitor(peer), peer=peer)
        chatter = (self.calling, self.casting, self.publishing, self.keeping, self.setting)
        self.chatter = [asyncio.create_task(talk()) for talk in chatter]

    def note(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n"
        os.write(self.file, line.encode())

    def number(self) -> str:
        self.count += 1
        return f"{self.incarnation}.{self.count}"

    async def calling(self) -> None:
        while True:
            peer, number = self.random.choice(self.peers), self.number()
            self.note("call", id=number, peer=peer)
            why = ""
            try:
                outcome = "ok" if await self.call(peer, "echo", text=number, timeout=TIMEOUT) == number else "wrong answer"
            except OtpdError as error:
                outcome, why = type(error).__name__, str(error)
            self.note("called", id=number, outcome=outcome, why=why)
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

    async def setting(self) -> None:
        """Timers of both clocks; some are taken back, in time or when they are about to come."""
        while not self.hushed:
            number, after = self.number(), self.random.uniform(0.05, 2.0)
            wall = self.random.random() < 0.3
            due, moment = time.monotonic_ns() + int(after * 1e9), datetime.now(UTC) + timedelta(seconds=after)
            when: dict[str, Any] = {"at": moment} if wall else {"after": after}
            self.note("set", id=number, due=due, wall=int(moment.timestamp() * 1e6) * 1000 if wall else None)
            try:
                timer = await self.schedule(method="ring", number=number, **when)
            except OtpdError as error:
                self.note("was set", id=number, outcome=type(error).__name__)
            else:
                self.note("was set", id=number, outcome="accepted", schedule=timer)
                if self.random.random() < 0.3:
                    await self.taking_back(timer, number, after * self.random.choice((0.2, 1.0)))
            await asyncio.sleep(self.random.expovariate(1.5))

    async def taking_back(self, timer: str, number: str, pause: float) -> None:
        await asyncio.sleep(pause)
        self.note("cancel", id=number)
        try:
            self.note("cancelled", id=number, outcome=await self.cancel(timer))
        except OtpdError as error:
            self.note("cancelled", id=number, outcome=type(error).__name__)

    async def ring(self, number: str) -> None:
        self.note("rang", id=number, mono=time.monotonic_ns(), wall=time.time_ns())

    @every("300ms")
    async def tick(self) -> None:
        self.ran("tick", time.monotonic_ns())

    @every("300ms", fixed="delay")
    async def poll(self) -> None:
        self.ran("poll", time.monotonic_ns())
        await asyncio.sleep(0.01)

    @cron("* * * * * *", misfire="run_once")
    def second(self) -> None:
        self.ran("second", time.time_ns())

    def ran(self, which: str, now: int) -> None:
        """`slot`: which of its times this run is for; none of them overlaps the one before."""
        declared = self._host.timed.firings.declared[f"{self.name}/{which}"]
        self.note("ran", schedule=declared.id, slot=min(declared.running), now=now)

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
        """Nothing durable is begun any more, and no timer is set; what was begun comes to its end."""
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
