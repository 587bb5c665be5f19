"""What a command costs an agent that orders it from its node, and what attacking commands cost its neighbours."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from otpd.agents import Client, OtpdError, connect
from scripts.benchmarks.table import Row, percentile, spread
from tests.e2e.node import Node

Chosen = Callable[[str], bool]
ROUNDS = 200
#: Seconds of attack, and how long one attacker lives before it is started again.
ATTACK, LIFE = 10.0, 2.5
CONFIG = """
[commands]
workers = 4
queue_timeout = "1m"
limits = { wall = "1m" }
[agents.orders]
script = "agent.py"
[agents.other]
script = "agent.py"
"""
AGENT = """
import time
from otpd.agents import Agent, call, run

class Bench(Agent):
    @call
    async def order(self, argv: list[str]) -> float:
        began = time.perf_counter()
        (await self.exec(argv)).check()
        return (time.perf_counter() - began) * 1000

    @call
    async def answer(self) -> int:
        return 42

    @call
    async def ask(self, seconds: float) -> list[float]:
        found, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            await self.call("other", "answer")
            found.append((time.perf_counter() - began) * 1000)
        return found

if __name__ == "__main__":
    run(Bench)
"""
#: What each of four workers is busy with.
ATTACKS = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory bomb": "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
    "output flood": "import os\nblock = b'x' * 65536\nwhile True: os.write(1, block)",
    "disk filler": "import itertools\nfor n in itertools.count():\n    try: open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))\n"
    "    except OSError: pass",
}


def run(chosen: Chosen) -> Iterator[Row]:
    parts = {"self.exec": one_order, "calls beside attacks": beside_attacks}
    if not any(map(chosen, parts)):
        return
    made = Node(CONFIG, {"agent.py": AGENT})
    try:
        made.start()
        with connect(made.control) as client:
            for name, measure in parts.items():
                if chosen(name):
                    yield from measure(client)
    finally:
        made.close()


def one_order(client: Client) -> Iterator[Row]:
    """p50 of /bin/true, ordered by an agent: two messages through the broker and a warm worker."""
    client.call("orders", "order", argv=["/bin/true"], timeout=60)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run(["/bin/true"], check=True)
        bare.append((time.perf_counter() - began) * 1000)
        ours.append(client.call("orders", "order", argv=["/bin/true"], timeout=60))
    ratio = statistics.median(ours) / statistics.median(bare)
    value = f"{statistics.median(ours):.2f} ms = {ratio:.2f}x"
    data = {"bare": spread(bare), "ours": spread(ours)}
    yield Row('self.exec(["/bin/true"]) of an agent: against subprocess.run', value, "5x", ratio <= 5, data)


def beside_attacks(client: Client) -> Iterator[Row]:
    """Four attackers in four workers while one agent calls another, again and again."""
    quiet = client.call("orders", "ask", seconds=2.0, timeout=60)
    over = threading.Event()
    threads = [threading.Thread(target=_attack, args=(client, code, over)) for code in ATTACKS.values()]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    found = client.call("orders", "ask", seconds=ATTACK, timeout=120)
    over.set()
    for thread in threads:
        thread.join()
    p99 = percentile(found, 0.99)
    value = f"p99 {p99:.1f} ms (quiet: {percentile(quiet, 0.99):.1f} ms)"
    data = {"quiet": spread(quiet), "attacked": spread(found)}
    yield Row(f"calls beside a {', a '.join(ATTACKS)}", value, "50 ms", p99 <= 50, data)


def _attack(client: Client, code: str, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OtpdError):
            client.exec(["python3", "-c", code], timeout=LIFE)
