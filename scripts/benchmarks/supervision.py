"""What supervision costs: restarts, detection, scale, views, stops; with the bare kernel as baseline in the same run."""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from otpd.ipc.control import Control
from scripts.benchmarks.table import Row, percentile, spread
from tests.e2e.node import Node, node
from tests.e2e.shapes import SHAPES
from tests.e2e.test_orphans import FLEET, alive, all_run, fleet
from tests.helpers import eventually

#: Says on a datagram socket that user code runs: its pid and the monotonic clock. Imports what agents import.
SAY = """
import asyncio, msgpack, os, socket, sys, time, zmq
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
said.sendto(b"%d %d" % (os.getpid(), time.monotonic_ns()), os.environ["BENCH_SOCKET"])
said.close()
"""
AGENT = (
    SAY
    + """
from otpd.agents import Agent, run

class Said(Agent):
    async def init(self):
        pass

if __name__ == "__main__":
    run(Said)
"""
)
BARE = SAY + "time.sleep(1000)\n"
PROGRAM = 'echo $$ > "$BENCH_FIFO"; exec sleep 1000\n'
UNLIMITED = 'strategy = "one_for_one"\nmax_restarts = 1000000\nmax_seconds = 1\n'

KILLS_AGENT, KILLS_BARE, KILLS_PROGRAM, KILLS_DETECTION, KILLS_ROOT = 300, 40, 200, 200, 5
Chosen = Callable[[str], bool]


def run(chosen: Chosen) -> Iterator[Row]:
    parts = {
        "agent restart": agent_restart,
        "program restart": program_restart,
        "death seen": death_seen,
        "status of 100": status_of_100,
        "root killed": root_killed,
        "1,000 agents": thousand_agents,
        "crash loop": crash_loop,
    }
    for name, measure in parts.items():
        if chosen(name):
            yield from measure()


def agent_restart() -> Iterator[Row]:
    """kill -9 of an agent until its next incarnation runs user code, against fork + exec of the same imports."""
    config = f'[supervisors.s]\n{UNLIMITED}[agents.a]\nscript = "a.py"\nsupervisor = "s"\nenv = {{ BENCH_SOCKET = "%s" }}\n'
    with Ears() as ears, node(config % ears.path, {"a.py": AGENT}):
        pid, _ = ears.hear()
        ours = []
        for _ in range(KILLS_AGENT):
            time.sleep(0.03)
            killed = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            pid, at = ears.hear()
            ours.append((at - killed) / 1e6)
        bare = list(_bare_restarts(ears))
    ratio = statistics.median(bare) / statistics.median(ours)
    found, base = spread(ours), spread(bare)
    yield Row(
        "agent restart: kill -9 to user code, p50 / p99",
        f"{found['p50']} / {found['p99']} ms",
        "10 / 30 ms",
        found["p50"] <= 10 and found["p99"] <= 30,
        {"otpd": found, "fork_exec": base},
    )
    yield Row("agent restart: times faster than fork+exec", f"{ratio:.1f}x of {base['p50']} ms", "10x", ratio >= 10)


def _bare_restarts(ears: Ears) -> Iterator[float]:
    script = Path(ears.path).with_name("bare.py")
    script.write_text(BARE)
    env = {**os.environ, "BENCH_SOCKET": ears.path}
    child = subprocess.Popen([sys.executable, str(script)], env=env)
    ears.hear()
    for _ in range(KILLS_BARE):
        killed = time.monotonic_ns()
        child.kill()
        child.wait()
        child = subprocess.Popen([sys.executable, str(script)], env=env)
        yield (ears.hear()[1] - killed) / 1e6
    child.kill()
    child.wait()


class Ears:
    """A datagram socket that hears workers."""

    def __enter__(self) -> Ears:
        self._home = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        self.path = str(self._home / "s")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)
        return self

    def hear(self) -> tuple[int, int]:
        pid, at = self._socket.recv(100).split()
        return int(pid), int(at)

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        subprocess.run(["rm", "-rf", str(self._home)], check=True)


def program_restart() -> Iterator[Row]:
    """kill -9 of a program until it is exec'd again, against a loop of posix_spawn and waitpid; rounds interleaved."""
    home = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    fifo, script = home / "f", home / "p.sh"
    os.mkfifo(fifo)
    script.write_text(PROGRAM)
    reader = os.open(fifo, os.O_RDWR)
    config = f'[supervisors.s]\n{UNLIMITED}[programs.p]\ncommand = ["/bin/sh", "{script}"]\nsupervisor = "s"\n'
    env = {**os.environ, "BENCH_FIFO": str(fifo)}
    with node(config + f'env = {{ BENCH_FIFO = "{fifo}" }}\n'):
        pid = int(os.read(reader, 100))
        bare = os.posix_spawn("/bin/sh", ["sh", str(script)], env)
        os.read(reader, 100)
        ours, base = [], []
        for _ in range(KILLS_PROGRAM):
            time.sleep(0.02)
            began = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            pid = int(os.read(reader, 100))
            ours.append((time.monotonic_ns() - began) / 1e6)
            time.sleep(0.02)
            began = time.monotonic_ns()
            os.kill(bare, signal.SIGKILL)
            os.waitpid(bare, 0)
            bare = os.posix_spawn("/bin/sh", ["sh", str(script)], env)
            os.read(reader, 100)
            base.append((time.monotonic_ns() - began) / 1e6)
        os.kill(bare, signal.SIGKILL)
        os.waitpid(bare, 0)
    os.close(reader)
    subprocess.run(["rm", "-rf", str(home)], check=True)
    ratio = statistics.median(ours) / statistics.median(base)
    found, floor = spread(ours), spread(base)
    yield Row(
        "program restart: kill -9 to exec'd again, p50",
        f"{found['p50']} ms = {ratio:.2f}x",
        "1.5x a bare spawn+wait loop",
        ratio <= 1.5,
        {"otpd": found, "posix_spawn": floor},
    )


def death_seen() -> Iterator[Row]:
    """From kill -9 to root's own record of the death, with 500 children."""
    config = f'[supervisors.s]\n{UNLIMITED}[agents.a]\nscript = "idle.py"\nsupervisor = "s"\ninstances = 500\n'
    with node(config) as made:
        pids = {row["name"]: row["pid"] for row in made.workers().values()}
        exits: dict[str, float] = {}
        heard = threading.Event()

        def listen() -> None:
            with Control.open(made.control) as control:
                for answer in control.stream("events", follow=True, n=0):
                    event = answer.get("event", {})
                    if event.get("event") == "otpd.child.exited":
                        exits[event["name"]] = event["at"]
                        heard.set()

        threading.Thread(target=lambda: _quietly(listen), daemon=True).start()
        time.sleep(0.5)
        late = []
        for name in random.Random(1).sample(sorted(pids), KILLS_DETECTION):
            heard.clear()
            killed = time.time()
            os.kill(pids[name], signal.SIGKILL)
            heard.wait(5)
            late.append((exits[name] - killed) * 1000)
            time.sleep(0.02)
    found = spread(late)
    yield Row("death seen by root, 500 children, p99", f"{found['p99']} ms", "20 ms", found["p99"] <= 20, {"seen": found})


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:  # the node is stopped under it
        return


def root_killed() -> Iterator[Row]:
    """kill -9 of root with 50 children, of which 10 have a grandchild in a session of its own (T2)."""
    gone, up = [], []
    with node(FLEET, {"shapes.py": SHAPES}) as made:
        for _ in range(KILLS_ROOT):
            old = fleet(made)
            began = time.monotonic()
            os.kill(made.facts()["pid"], signal.SIGKILL)
            eventually(lambda old=old: not alive(old))  # type: ignore[misc]
            gone.append(time.monotonic() - began)
            eventually(lambda: made.answers() and all_run(made))
            up.append(time.monotonic() - began)
    worst = max(gone), max(up)
    yield Row(
        f"kill -9 of root, 50 children, 10 grandchildren: none lives; all are up again; worst of {KILLS_ROOT}",
        f"{worst[0]:.2f} s; {worst[1]:.2f} s", "1 s; 3 s", worst[0] <= 1 and worst[1] <= 3, {"gone": gone, "up": up},
    )  # fmt: skip


def status_of_100() -> Iterator[Row]:
    with node('[agents.a]\nscript = "idle.py"\ninstances = 100\n') as made:
        walls = _walls(made, "status")
    yield Row("otpd status, 100 children, median wall", f"{walls:.0f} ms", "200 ms", walls <= 200)


def _walls(made: Node, *arguments: str) -> float:
    """Median of nine, milliseconds."""
    found = []
    for _ in range(9):
        began = time.monotonic()
        made.otpd(*arguments)
        found.append((time.monotonic() - began) * 1000)
    return percentile(found, 0.5)


def thousand_agents() -> Iterator[Row]:
    made = Node('[agents.a]\nscript = "idle.py"\ninstances = 1000\n')
    try:
        began = time.monotonic()
        made.start(0, "--timeout", "120s")
        up = time.monotonic() - began
        yield Row("1,000 agents: all ready", f"{up:.1f} s", "20 s", up <= 20)
        root = psutil.Process(made.facts()["pid"])
        rss = root.memory_info().rss / 2**20
        yield Row("1,000 agents: RSS of root", f"{rss:.1f} MiB", "64 MiB", rss <= 64)
        pss = _pss([row["pid"] for row in made.workers().values()]) / 2**20
        yield Row("1,000 agents: PSS of each", f"{pss:.2f} MiB", "6 MiB", pss <= 6)
        idle = _cpu(root, 20.0)
        yield Row("1,000 agents: root when idle", f"{idle:.3f} % of a core", "1 %", idle <= 1)
        wall = _walls(made, "tree")
        yield Row("otpd tree, 1,000 children, median wall", f"{wall:.0f} ms", "400 ms", wall <= 400)
        began = time.monotonic()
        made.stop()
        down = time.monotonic() - began
        yield Row("stop of 1,000 agents", f"{down:.1f} s", "5 s", down <= 5)
    finally:
        made.close()


def _pss(pids: list[int]) -> float:
    def one(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024

    return statistics.mean(map(one, pids))


def _cpu(process: psutil.Process, seconds: float) -> float:
    """Percent of a core over some seconds."""
    before: Any = process.cpu_times()
    time.sleep(seconds)
    after: Any = process.cpu_times()
    return 100.0 * ((after.user + after.system) - (before.user + before.system)) / seconds


def crash_loop() -> Iterator[Row]:
    """20 children that exit at once, for a minute, at the top: each backs off."""
    config = '[programs.p]\ncommand = ["false"]\ninstances = 20\n'
    made = Node(config)
    try:
        made.start(None, "--timeout", "1s")
        cpu = _cpu(psutil.Process(made.facts()["pid"]), 60.0)
        yield Row("crash loop of 20 for 60 s: CPU of root", f"{cpu:.2f} % of a core", "5 %", cpu <= 5)
    finally:
        made.close()
