"""What it costs to watch 500 children: their limits, their checks. Baseline: one bare look at the same processes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from scripts.benchmarks.table import Row
from tests.e2e.node import Node, node

CHILDREN, SECONDS, WARM = 500, 60.0, 20.0
#: Percent of a core that 500 children may cost.
MOST = 1.0
LIMITS = 'restart_when = { memory = "1GiB", cpu = "90%", files = 900, threads = 900, age = "24h" }'
CHECK = 'health = { tcp = %d, interval = "10s" }'
AGENT = """
from otpd.agents import Agent, health, run

class Well(Agent):
    @health
    async def well(self):
        return None

run(Well)
"""


def rows() -> Iterator[Row]:
    """Percent of a core over a minute."""
    with listener() as port:
        for title, keys in (("limits", LIMITS), ("limits, tcp each 10 s", f"{LIMITS}\n{CHECK % port}")):
            config = f'[programs.p]\ncommand = ["sleep", "100000"]\ninstances = {CHILDREN}\n{keys}\n'
            with node(config, services=["health"]) as n:
                percent, bare = used(n), bare_look(n)
            yield Row(
                f"health service, {CHILDREN} children: {title}",
                f"{percent:.2f} % of a core",
                f"{MOST:g} %",
                percent <= MOST,
                {"bare_look_ms": round(bare * 1000, 1)},
            )
    yield from agents()


def agents() -> Iterator[Row]:
    """What one question to an agent costs the service, from very many."""
    config = '[agents.a]\nscript = "well.py"\ninstances = 20\n'
    config += 'health = { call = true, interval = "100ms", timeout = "100ms" }\n'
    with node(config, {"well.py": AGENT}, services=["health"]) as n:
        before = checks(n)
        percent = used(n, seconds=20.0)
        asked = (checks(n) - before) / (WARM + 20.0)
    each = percent / 100 / asked
    yield Row(
        "health service: processor time of one question to an agent",
        f"{each * 1e6:.0f} us at {asked:.0f}/s",
        f"{MOST / 100 / (CHILDREN / 10.0) * 1e6:.0f} us (500 agents, each 10 s, in 1 %)",
        each <= MOST / 100 / (CHILDREN / 10.0),
    )


def checks(n: Node) -> int:
    return sum(row["checks"] for row in n.json("health")["children"])


def used(n: Node, seconds: float = SECONDS) -> float:
    """Percent of a core that the service uses when it has settled."""
    process = psutil.Process(n.pid("health"))
    time.sleep(WARM)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


def bare_look(n: Node) -> float:
    """Seconds of processor time in which psutil reads of each child what the limits need."""
    pids = [row["pid"] for row in n.workers().values()]
    before = time.thread_time()
    for pid in pids:
        process = psutil.Process(pid)
        process.memory_info(), process.cpu_times(), process.num_fds(), process.num_threads()
    return time.thread_time() - before


@contextmanager
def listener() -> Iterator[int]:
    """A port that takes connections and drops them."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()
