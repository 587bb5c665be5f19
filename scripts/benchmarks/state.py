"""What `await self.save(state)` costs an agent, beside a bare SQLite commit of the same row, in turn with ours.

Both write to the same file system with synchronous FULL; the ratio is what the target is about.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otpd.agents import connect
from otpd.agents.services.store.state import MIGRATION
from scripts.benchmarks.table import Row, spread
from tests.e2e.node import node

ROUNDS, SAVES, SIZE = 6, 100, 2048
#: Agents that save at the same time, and how often each does.
SHARERS, EACH = 32, 60
SAVER = f"""
import os, time
from otpd.agents import Agent, call, run

class Saver(Agent):
    async def init(self):
        await self.load()

    @call
    async def save_often(self, count: int) -> list:
        took = []
        for _ in range(count):
            state = os.urandom({SIZE})
            began = time.perf_counter()
            await self.save(state)
            took.append(1000 * (time.perf_counter() - began))
        return took

if __name__ == "__main__":
    run(Saver)
"""


def rows() -> Iterator[Row]:
    config = f'[agents.saver]\nscript = "saver.py"\n[agents.many]\nscript = "saver.py"\ninstances = {SHARERS}\n'
    with node(config, {"saver.py": SAVER}, services=("store",)) as n, connect(n.control) as client:
        ours: list[float] = []
        bare: list[float] = []
        for _ in range(ROUNDS):
            bare += bare_commits(n.home / "bare.db")
            ours += client.call("saver", "save_often", timeout=None, count=SAVES)
        yield from _alone(ours, bare)
        began = time.perf_counter()
        each = client.call(client.group("many", "all"), "save_often", timeout=120, count=EACH)
        yield _together(each, time.perf_counter() - began, statistics.median(bare))


def _alone(ours: list[float], bare: list[float]) -> Iterator[Row]:
    floor, found = statistics.median(bare), statistics.median(ours)
    yield Row(f"baseline: bare SQLite commit of {SIZE} B, FULL, p50", f"{floor:.2f} ms", "-", True, spread(bare))
    value = f"{found:.2f} ms = {found / floor:.1f}x"
    yield Row(f"state save of {SIZE} B by an agent, p50", value, "3x the bare commit", found <= 3 * floor, spread(ours))


def _together(each: dict[str, Any], seconds: float, floor: float) -> Row:
    """One after the other they could make 1/floor in a millisecond."""
    took = [time for some in each.values() if isinstance(some, list) for time in some]
    rate = len(took) / seconds
    alone = 1000 / floor
    value = f"{rate:,.0f}/s = {rate / alone:.1f}x bare, p50 {statistics.median(took):.1f} ms"
    return Row(f"{SHARERS} agents that save {SIZE} B at the same time", value, "-", True, {"rate": rate, **spread(took)})


def bare_commits(path: Path) -> list[float]:
    """Milliseconds of each."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'state'").fetchone():
        connection.executescript(MIGRATION)
    took = []
    for number in range(SAVES):
        body = number.to_bytes(2, "big") * (SIZE // 2)
        began = time.perf_counter()
        connection.execute("INSERT OR REPLACE INTO state VALUES ('a', ?, 1, 1.0, ?, 1)", (number, body))
        took.append(1000 * (time.perf_counter() - began))
    connection.close()
    return took
