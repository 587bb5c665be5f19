"""The scheduler: how late runs are, what armed timers cost, and whether runs are lost or doubled when there are many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil

from otpd.agents import Client, connect
from scripts.benchmarks.table import Row, spread
from tests.e2e.node import node

ARMED, DUE, MANY = 10_000, 2_000, 100_000
AGENTS, SECONDS, IDLE = 200, 20.0, 20.0
HOLDER = """
import asyncio, time
from otpd.agents import Agent, call, every, run

class Holder(Agent):
    async def init(self):
        self.late, self.beats = [], []

    @call
    async def arm(self, count: int, after: float, spread: float) -> None:
        for begin in range(0, count, 512):
            some = range(begin, min(count, begin + 512))
            await asyncio.gather(*(self._one(after + spread * n / max(count, 1)) for n in some))

    async def _one(self, after):
        due = time.monotonic_ns() + int(after * 1e9)
        await self.schedule(after=after, method="ring", due=due)

    async def ring(self, due: int):
        self.late.append((time.monotonic_ns() - due) / 1e6)

    @every("20ms")
    async def beat(self):
        self.beats.append(time.monotonic_ns() / 1e6)

    @call
    async def lateness(self) -> list:
        return [self.late, self.beats]

if __name__ == "__main__":
    run(Holder)
"""
TICKER = """
from otpd.agents import Agent, call, every, run

class Ticker(Agent):
    async def init(self):
        self.count = 0

    @every("100ms")
    async def tick(self):
        self.count += 1

    @call
    async def handled(self) -> int:
        return self.count

if __name__ == "__main__":
    run(Ticker)
"""
_HOLDERS = '[agents.holder]\nscript = "holder.py"\n'


def punctual(armed: int = ARMED, due: int = DUE) -> Iterator[Row]:
    """With so many timers armed, `due` of them come within 20 s, in an agent that also beats each 20 ms."""
    with node(_HOLDERS, {"holder.py": HOLDER}, services=("scheduler",)) as n, connect(n.control) as client:
        client.call("holder", "arm", timeout=None, count=armed - due, after=3600.0, spread=100.0)
        client.call("holder", "arm", timeout=None, count=due, after=5.0, spread=20.0)
        deadline = time.monotonic() + 60
        while len(client.call("holder", "lateness")[0]) < due and time.monotonic() < deadline:
            time.sleep(1.0)
        late, beats = client.call("holder", "lateness")
    for name, values in (("one-shot", late), ("interval", _against_the_earliest(beats, 20.0))):
        found = spread(values)
        title = f"scheduler, {armed} timers armed: {name} late by p99, until its handler runs"
        yield Row(title, f"{found['p99']} ms (p50 {found['p50']})", "5 ms", found["p99"] <= 5, found)


def _against_the_earliest(moments: list[float], interval: float) -> list[float]:
    """How late each is, in a phase in which the most punctual one is on time. The first half second is the start."""
    begin = moments[0]
    offsets = [moment - begin - interval * round((moment - begin) / interval) for moment in moments[25:]]
    return [offset - min(offsets) for offset in offsets]


def many(count: int = MANY) -> Iterator[Row]:
    """What timers cost that are only armed."""
    with node(_HOLDERS, {"holder.py": HOLDER.replace('@every("20ms")', '@every("1h")')}, services=("scheduler",)) as n:
        process = psutil.Process(n.pid("scheduler"))
        with connect(n.control) as client:
            began = time.perf_counter()
            client.call("holder", "arm", timeout=None, count=count, after=3600.0, spread=1000.0)
            took = time.perf_counter() - began
        time.sleep(2.0)
        before = sum(process.cpu_times()[:2])
        time.sleep(IDLE)
        share = 100 * (sum(process.cpu_times()[:2]) - before) / IDLE
        memory = process.memory_info().rss / 2**20
    yield Row(f"timers accepted (on disk), 512 in flight, {count}", f"{count / took:.0f}/s", "-", True)
    yield Row(f"scheduler, {count} timers armed: memory", f"{memory:.0f} MiB", "150 MiB", memory <= 150)
    yield Row(f"scheduler, {count} timers armed: share of a core", f"{share:.2f} %", "1 %", share <= 1.0)


def steady(agents: int = AGENTS, seconds: float = SECONDS) -> Iterator[Row]:
    """10 runs a second in each of so many agents: what the handlers have counted against what was due."""
    config = f'[agents.ticker]\nscript = "ticker.py"\ninstances = {agents}\n'
    with node(config, {"ticker.py": TICKER}, services=("scheduler",)) as n, connect(n.control) as client:
        n.otpd("status", "--wait", "ready")
        before = _handled(client)
        began = time.perf_counter()
        time.sleep(seconds)
        rate = (_handled(client) - before) / (time.perf_counter() - began)
        share = psutil.Process(n.pid("scheduler")).cpu_percent(1.0)
        _pause_all(client)
        handled, rows = _handled(client), _rows(client)
    fired, skipped = sum(row["fired"] for row in rows), [row["skipped"] for row in rows]
    lost = sum(count for each in skipped for why, count in each.items() if why != "paused")
    wrong = abs(fired - handled) + lost
    value = f"{wrong} of {fired} at {rate:.0f}/s ({share:.0f} % of a core)"
    yield Row(f"runs in {agents} agents: lost or doubled", value, "0", wrong == 0, {"rate": rate})


def _handled(client: Client) -> int:
    found: dict[str, Any] = client.call(client.group("ticker", "all"), "handled", timeout=30)
    return sum(each for each in found.values() if isinstance(each, int))


def _rows(client: Client) -> list[dict[str, Any]]:
    return client.call("scheduler", "schedules")["rows"]  # type: ignore[no-any-return]


def _pause_all(client: Client) -> None:
    """Until none of them goes on."""
    for row in _rows(client):
        client.call("scheduler", "pause", id=row["id"])
    while any(row["running"] for row in _rows(client)):
        time.sleep(0.1)
