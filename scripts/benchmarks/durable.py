"""What a durable cast costs until it is accepted: a bare SQLite commit of the same row as the baseline, in turn with ours.

Both write to the same file system, rounds of both are interleaved, and the ratio is what the target is about. The sender is
a real agent on a real node; nobody takes the messages, so that only acceptance is measured.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otpd.agents import Client, connect
from scripts.benchmarks.table import Row, percentile
from tests.e2e.node import Node, node

ROUNDS, ALONE, MANY, WIDTH = 5, 200, 12_000, 512
BODY = b"x" * 256
SENDER = '''
import asyncio, time
from otpd.agents import Agent, call, run

BODY = b"x" * 256

class Sender(Agent):
    @call
    async def alone(self, count: int) -> list:
        """Seconds of each, one after the other."""
        took = []
        for number in range(count):
            began = time.perf_counter()
            await self.cast("nobody", "note", durable=True, data=BODY)
            took.append(time.perf_counter() - began)
        return took

    @call
    async def many(self, count: int, width: int) -> float:
        """Seconds of all, so many in flight."""
        self.left = count
        began = time.perf_counter()
        await asyncio.gather(*(self.send() for _ in range(width)))
        return time.perf_counter() - began

    async def send(self) -> None:
        while self.left > 0:
            self.left -= 1
            await self.cast("nobody", "note", durable=True, data=BODY)

if __name__ == "__main__":
    run(Sender)
'''
CONFIG = '[agents.sender]\nscript = "sender.py"\n[services.store]\nmax_messages = 1000000\nmax_message_bytes = "1GiB"\n'


def rows() -> Iterator[Row]:
    with node(CONFIG, {"sender.py": SENDER}, services=("store",)) as made, connect(made.control) as client:
        _call(client, "alone", count=20)
        bare: list[float] = []
        ours: list[float] = []
        rates: list[float] = []
        for _ in range(ROUNDS):
            bare += bare_commits(made)
            ours += _call(client, "alone", count=ALONE)
            rates.append(MANY / _call(client, "many", count=MANY, width=WIDTH))
    floor, alone, rate = statistics.median(bare), statistics.median(ours), statistics.median(rates)
    yield Row("baseline: bare SQLite FULL commit of the same row, p50", f"{floor * 1000:.2f} ms", "-", True)
    yield Row(
        "durable cast accepted (fsync), alone, p50 / p99",
        f"{alone * 1000:.2f} / {percentile(ours, 0.99) * 1000:.2f} ms = {alone / floor:.1f}x bare",
        "3x bare",
        alone <= 3 * floor,
        {"p50_ms": alone * 1000, "p99_ms": percentile(ours, 0.99) * 1000, "bare_p50_ms": floor * 1000},
    )
    yield Row(
        f"durable casts accepted (fsync), {WIDTH} in flight",
        f"{rate:,.0f}/s",
        "15,000/s",
        rate >= 15_000,
        {"rounds": rates},
    )


def _call(client: Client, method: str, **args: int) -> Any:
    return client.call("sender", method, timeout=300, **args)


def bare_commits(made: Node) -> list[float]:
    """Seconds of each commit of one row, with what the store has set: WAL, synchronous FULL."""
    with tempfile.TemporaryDirectory(dir=made.home) as home:
        connection = sqlite3.connect(Path(home) / "bare.db", isolation_level=None)
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("CREATE TABLE messages (seq INTEGER PRIMARY KEY, target, sender, method, at, body)")
        took = []
        for seq in range(ALONE):
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            row = (seq, "nobody", "sender", "note", time.time(), BODY)
            connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.execute("COMMIT")
            took.append(time.perf_counter() - began)
        connection.close()
        return took
