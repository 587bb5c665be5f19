"""The six faults that otpd exists to end: each is found by `otpd check`, and can't happen, or is refused, in a running node.

Agents named -strict have spawn = "deny"; the others go on, so that what becomes of it can be seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from otpd.agents import Client, Exited, RemoteError, connect
from otpd.ipc.wire import commands, system
from tests.e2e.node import Node, gone, node
from tests.helpers import eventually
from tests.sandbox.conftest import why_not_native

CONFIG = """
[commands]
workers = 1

[agents.watcher]
script = "watcher.py"
[agents.watcher-strict]
script = "watcher.py"
spawn = "deny"
[agents.talker]
script = "talker.py"
[agents.clock]
script = "clock.py"
[agents.mapper]
script = "mapper.py"
spawn = "deny"
[agents.keeper]
script = "keeper.py"
[agents.runner]
script = "runner.py"
[agents.runner-strict]
script = "runner.py"
spawn = "deny"
"""
FILES = {
    "watcher.py": """
import os, time
from otpd.agents import Agent, call, run

class Watcher(Agent):
    @call
    async def watch(self) -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            while True:
                time.sleep(60)
        return pid

if __name__ == "__main__":
    run(Watcher)
""",
    "talker.py": """
import multiprocessing, time
from otpd.agents import Agent, call, cast, run

class Talker(Agent):
    async def init(self):
        self.heard = []
    @cast
    async def tell(self, text: str):
        self.heard.append(text)
    @call
    async def what(self) -> list:
        return self.heard
    @call
    def hang(self, name: str):
        open(name, "w").close()
        time.sleep(600)
    def queue(self):
        return multiprocessing.Queue()

if __name__ == "__main__":
    run(Talker)
""",
    "clock.py": """
import threading
from otpd.agents import Agent, call, every, run

class Clock(Agent):
    @every("1h")
    async def tick(self): ...
    @call
    async def later(self):
        await self.schedule(after="1h", method="tick")
    def by_hand(self):
        threading.Timer(3600, self.tick).start()

if __name__ == "__main__":
    run(Clock)
""",
    "mapper.py": """
import concurrent.futures, os, time
from otpd.agents import Agent, call, run

def work(name):
    with open(name, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

class Mapper(Agent):
    @call
    async def by_hand(self) -> str:
        try:
            with concurrent.futures.ProcessPoolExecutor(1) as pool:
                return list(pool.map(abs, [1]))
        except PermissionError as error:
            return str(error)
    @call
    async def begin(self, name: str):
        self.running = self.task(work, name)

if __name__ == "__main__":
    run(Mapper)
""",
    "keeper.py": """
import os
from otpd.agents import Agent, call, run
KNOWN = {}

class Keeper(Agent):
    async def init(self):
        await self.register("door", {"pid": os.getpid()})
    @call
    async def note(self) -> int:
        KNOWN[self.name] = os.getpid()
        return len(KNOWN)
    @call
    async def count(self) -> int:
        return len(KNOWN)

if __name__ == "__main__":
    run(Keeper)
""",
    "runner.py": """
import ctypes, subprocess
from otpd.agents import Agent, call, run

class Runner(Agent):
    @call
    async def by_hand(self) -> list:
        found = []
        try:
            found.append(subprocess.run(["true"]).returncode)
        except PermissionError as error:
            found.append(type(error).__name__)
        return found + [ctypes.CDLL(None).system(b"true") >> 8]
    @call
    async def begin(self):
        self.running = await self.exec(["sleep", "600"], stream=True)

if __name__ == "__main__":
    run(Runner)
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def one() -> Iterator[Node]:
    with node(CONFIG, FILES, services=("store", "scheduler")) as made:
        yield made


@pytest.fixture(scope="module")
def client(one: Node) -> Iterator[Client]:
    with connect(one.home) as made:
        yield made


def kill(n: Node, name: str) -> None:
    """kill -9, and wait for the next incarnation."""
    row = n.worker(name)
    n.kill(row["pid"])
    n.reborn(name, row["generation"], 30)


def test_each_is_found_in_the_scripts_before_anything_starts(one: Node) -> None:
    findings = json.loads(one.otpd("check", "--json", check=1).stdout)["findings"]
    errors = {(Path(each["file"]).stem, each["fault"], each["rule"]) for each in findings if each["level"] == "error"}
    assert errors == {
        ("watcher", 1, "own-process"), ("talker", 2, "raw-message"), ("clock", 3, "own-timer"), ("mapper", 4, "own-pool"),
        ("keeper", 5, "process-table"), ("runner", 6, "own-command"),
    }  # fmt: skip


def test_1_no_process_outlives_who_started_it_past_the_tree(one: Node, client: Client) -> None:
    pid = client.call("watcher", "watch", timeout=30)
    assert not gone(pid)
    kill(one, "watcher")
    assert gone(pid), "before the next incarnation begins nothing of the last one is left"
    assert one.worker("watcher")["spawn"]["seen"] == 1
    with pytest.raises(RemoteError, match=r"SpawnRefused: os\.fork\(\) at .*watcher\.py:8 in Watcher\.watch: refused"):
        client.call("watcher-strict", "watch", timeout=30)


def test_2_no_message_is_without_a_sender_who_is_known_and_a_death_that_is_told(one: Node, client: Client) -> None:
    """Nobody speaks on the bus with another's name, and nobody waits for who is dead."""
    sockets = list((one.runtime / "otpd").glob("*/b*-s"))
    assert sockets, "the broker listens at a path that only its user may enter"
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(f"ipc://{sockets[0]}")
        hello = {"v": 1, "name": "talker", "inc": 1 << 32 | 1, "token": b"x" * 32, "lane": "system"}
        stranger.send(system(["hello", hello]))
        assert stranger.poll(30_000)
        assert next(commands(stranger.recv()))[0] == "stale"
    client.cast("talker", "tell", text="one")
    assert client.call("talker", "what", timeout=30) == ["one"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.call, "talker", "hang", timeout=60, name=str(one.home / "hangs"))
        eventually((one.home / "hangs").exists, 30)
        kill(one, "talker")
        with pytest.raises(Exited):
            waiting.result(30)


def test_3_a_timer_ends_with_its_owner(one: Node, client: Client) -> None:
    def timers() -> int:
        return len(client.call("scheduler", "schedules", name="clock", timeout=30)["rows"])

    client.call("clock", "later", timeout=30)
    assert timers() == 2
    kill(one, "clock")
    eventually(lambda: timers() == 2, 30, "the name has its timers, once")
    one.otpd("child", "stop", "clock")
    one.otpd("child", "delete", "clock")
    eventually(lambda: timers() == 0, 30)


def test_4_a_parallel_map_is_refused_and_a_task_is_killed_with_its_owner(one: Node, client: Client) -> None:
    assert "refused, because otpd.toml says spawn" in client.call("mapper", "by_hand", timeout=30)
    place = one.home / "pid"
    client.call("mapper", "begin", name=str(place), timeout=30)
    pid = int(eventually(lambda: place.exists() and place.read_text(), 30))
    kill(one, "mapper")
    eventually(lambda: gone(pid), 30)


def test_5_what_is_registered_goes_with_its_holder_and_a_global_is_nobodys_truth(one: Node, client: Client) -> None:
    assert client.call("keeper", "note", timeout=30) == 1
    before = client.lookup("door")
    assert before is not None
    kill(one, "keeper")
    after = client.lookup("door")
    assert after is not None and (after.generation, after.value["pid"]) == (2, one.pid("keeper")) != (1, before.value["pid"])
    assert client.call("keeper", "count", timeout=30) == 0


def test_6_commands_are_refused_and_those_in_the_sandbox_end_with_their_owner(one: Node, client: Client) -> None:
    assert client.call("runner", "by_hand", timeout=30) == [0, 0]
    assert client.call("runner-strict", "by_hand", timeout=30) == ["SpawnRefused", 127]
    if not why_not_native():
        client.call("runner-strict", "begin", timeout=60)
        running = lambda: client.call("commands", "look", timeout=30)["running"]  # noqa: E731
        assert [row["argv"] for row in running()] == ["sleep 600"]
        kill(one, "runner-strict")
        eventually(lambda: not running(), 30)
