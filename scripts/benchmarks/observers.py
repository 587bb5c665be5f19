"""How soon a death is in the error store, and what the observers cost a node that is at rest."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import psutil

from scripts.benchmarks.table import Row, spread
from tests.e2e.node import Node, node

DEATHS = 200
#: Seconds for which idle observers are looked at.
IDLE = 20.0
CONFIG = """
[supervisors.s]
max_restarts = 1000000
max_seconds = 1
[agents.a]
script = "idle.py"
supervisor = "s"
"""


def death_to_record() -> Iterator[Row]:
    """kill -9 of an agent until its record is committed in errors.db, as another process sees it."""
    with node(CONFIG, services=("errors",)) as n, closing(sqlite3.connect(n.home / ".otpd" / "errors.db")) as db:
        took = [_one(n, db) for _ in range(DEATHS)]
    found = spread(took)
    yield Row(
        "death to record in otpd errors, p50 / p99",
        f"{found['p50']} / {found['p99']} ms",
        "50 ms",
        found["p99"] <= 50,
        {"otpd": found},
    )


def _one(n: Node, db: sqlite3.Connection) -> float:
    row = n.when("a", state="running")
    time.sleep(0.03)
    killed = time.monotonic_ns()
    os.kill(row["pid"], signal.SIGKILL)
    asked = "SELECT 1 FROM records WHERE name = 'a' AND generation = ?"
    while db.execute(asked, (row["generation"],)).fetchone() is None:
        time.sleep(0.0005)
    took = (time.monotonic_ns() - killed) / 1e6
    n.reborn("a", row["generation"])
    return took


def at_rest() -> Iterator[Row]:
    """The share of a core that error store and telemetry take together while nothing happens."""
    with node(CONFIG, services=("errors", "telemetry")) as n:
        processes = [psutil.Process(n.pid(name)) for name in ("errors", "telemetry")]
        time.sleep(2.0)
        before = [sum(each.cpu_times()[:2]) for each in processes]
        time.sleep(IDLE)
        used = sum(sum(each.cpu_times()[:2]) for each in processes) - sum(before)
        memory = [round(each.memory_info().rss / 2**20, 1) for each in processes]
    share = 100 * used / IDLE
    yield Row("observers at rest: share of a core", f"{share:.2f} %", "1 %", share <= 1.0, {"rss_mib": memory})
