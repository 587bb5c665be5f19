"""Works for a while, then meets something that it did not expect."""

import asyncio
import random

from otpd.agents import Agent, run


class Flaky(Agent):
    """Raises after `every` seconds, more or less."""

    async def init(self, every: float = 6.0) -> None:
        self.task = asyncio.create_task(self.work(random.uniform(0.5, 1.5) * every))

    async def work(self, seconds: float) -> None:
        print(f"fine, for another {seconds:.1f} s")
        await asyncio.sleep(seconds)
        raise RuntimeError("the feed sent a row that nobody had foreseen")


if __name__ == "__main__":
    run(Flaky)
