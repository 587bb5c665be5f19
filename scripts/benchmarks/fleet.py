"""What a message costs in a real node, from one agent's verb to another's handler; and what a broker's death costs."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psutil

from otpd.agents import Client, connect
from scripts.benchmarks.messaging import Chosen, queue_rate, raw_rate, raw_trips
from scripts.benchmarks.table import Row, percentile
from tests.e2e.node import Node, node
from tests.helpers import eventually

ROUNDS, CASTS, CALLS = 5, 60_000, 1000
REGISTERED, FLOOD_SECONDS = 100, 5.0

AGENT = """
import asyncio, time
from otpd.agents import Agent, Overloaded, call, cast, run

class Bench(Agent):
    async def init(self):
        self.seen, self.ended = 0, 0
        self.flooding = None

    @cast
    async def take(self, n: int, text: str) -> None:
        self.seen += 1
        self.ended = time.monotonic_ns()

    @call
    async def taken(self) -> list:
        return [self.seen, self.ended]

    @call
    async def echo(self, text: str) -> str:
        return text

    @call
    async def shoot(self, to: str, count: int) -> int:
        began = time.monotonic_ns()
        text = "x" * 40
        for n in range(count):
            await self.cast(to, "take", n=n, text=text)
        return began

    @call
    async def ask(self, to: str, count: int) -> list:
        took = []
        for _ in range(count):
            began = time.monotonic_ns()
            await self.call(to, "echo", text="x" * 40)
            took.append(time.monotonic_ns() - began)
        return took

    @cast
    async def flood(self, to: str, size: int) -> None:
        self.flooding = asyncio.get_running_loop().create_task(self.flooded(to, "x" * size))

    @cast
    async def calm(self) -> None:
        if self.flooding:
            self.flooding.cancel()

    async def flooded(self, to: str, text: str) -> None:
        n = 0
        while True:
            n += 1
            await self.cast(to, "take", n=n, text=text)

    async def handle_rejected(self, name: str, method: str, reason: str) -> None:
        pass

if __name__ == "__main__":
    run(Bench)
"""


def run(chosen: Chosen) -> Iterator[Row]:
    parts = {"agents": between_agents, "broker killed": broker_killed, "memory": memory_of_the_broker}
    for name, measure in parts.items():
        if chosen(name):
            yield from measure()


def _fleet(*names: str) -> str:
    return "\n".join(f'[agents.{name}]\nscript = "bench.py"\n' for name in names)


def between_agents() -> Iterator[Row]:
    """Cast and call of the SDK, in rounds between the baselines; then the same call beside a pair that saturates."""
    raw, queue, rates = [], [], []
    floor: list[float] = []
    ours: list[float] = []
    with node(_fleet("a", "b", "c", "d"), {"bench.py": AGENT}) as made, connect(made.control) as client:
        for _ in range(ROUNDS):
            raw.append(raw_rate())
            queue.append(queue_rate())
            rates.append(_cast_rate(client))
            floor += raw_trips()
            ours += client.call("a", "ask", to="b", count=CALLS, timeout=60)
        client.cast("c", "flood", to="d", size=900)
        beside = client.call("a", "ask", to="b", count=3 * CALLS, timeout=120)
        client.cast("c", "calm")
    rate, other = statistics.median(rates), statistics.median(queue)
    yield Row(
        "self.cast to a @cast handler with checked arguments, one way",
        f"{rate:,.0f}/s = {rate / other:.1f}x multiprocessing.Queue, {rate / statistics.median(raw):.2f}x raw",
        "100,000/s",
        rate >= 100_000,
        {"rounds": rates, "queue": queue, "raw": raw},
    )
    p50, p99, base = statistics.median(ours) / 1e3, percentile(ours, 0.99) / 1e3, statistics.median(floor) / 1e3
    yield Row(
        "self.call round trip, p50 / p99",
        f"{p50:.0f} / {p99:.0f} us = {p50 / base:.2f}x raw ({base:.0f} us)",
        "3x raw / 5 ms",
        p50 <= 3 * base and p99 <= 5000,
        {"p50_us": p50, "p99_us": p99, "raw_p50_us": base},
    )
    late = percentile(beside, 0.99) / 1e6
    middle = statistics.median(beside) / 1e6
    yield Row(
        "a call while another pair saturates the broker, p50 / p99", f"{middle:.2f} / {late:.2f} ms", "p99 10 ms",
        late <= 10,
        {"p50_ms": middle, "p99_ms": late},
    )  # fmt: skip


def _cast_rate(client: Client) -> float:
    before = client.call("b", "taken")[0]
    began = client.call("a", "shoot", to="b", count=CASTS, timeout=60)

    def ended() -> Any:
        seen, at = client.call("b", "taken", timeout=30)
        return at if seen - before == CASTS else None

    took: int = eventually(ended, 30) - began
    return CASTS / (took / 1e9)


def broker_killed() -> Iterator[Row]:
    """kill -9 of the broker until every one of 100 agents has registered with the next one."""
    names = [f"a{number}" for number in range(REGISTERED)]
    with node(_fleet(*names), {"bench.py": AGENT}) as made:
        took = []
        for _ in range(ROUNDS):
            eventually(lambda: _registered(made) == REGISTERED, 30)
            began = time.monotonic()
            os.kill(made.pid("broker"), signal.SIGKILL)
            eventually(lambda: _registered(made) == 0, 10)
            eventually(lambda: _registered(made) == REGISTERED, 30)
            took.append(time.monotonic() - began)
    middle = statistics.median(took)
    name = "broker kill -9 with 100 agents: all registered again"
    yield Row(name, f"{middle:.2f} s", "1 s", middle <= 1, {"rounds": took})


def _registered(made: Node) -> int:
    """As the broker tells; 0 while there is none."""
    try:
        return sum(bool(row.get("connected")) for row in made.ask("stats") if row["name"].startswith("a"))
    except Exception:
        return 0


def memory_of_the_broker() -> Iterator[Row]:
    """One receiver that is stopped, three senders at full speed with large messages and small ones."""
    with node(_fleet("a", "b", "c", "stopped"), {"bench.py": AGENT}) as made, connect(made.control) as client:
        os.kill(made.pid("stopped"), signal.SIGSTOP)
        for name, size in (("a", 40), ("b", 900), ("c", 60_000)):
            client.cast(name, "flood", to="stopped", size=size)
        broker = psutil.Process(made.pid("broker"))
        most, end = 0, time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < end:
            most = max(most, broker.memory_info().rss)
            time.sleep(0.05)
        os.kill(made.pid("stopped"), signal.SIGCONT)
    found = most / 2**20
    yield Row(
        "broker memory with one stopped receiver and three senders at full speed, RSS", f"{found:.0f} MiB", "under 100 MiB",
        found < 100, {"mib": found},
    )  # fmt: skip
