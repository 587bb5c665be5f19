"""Task pools in a real node: who is killed while tasks run, what is left then, and what everybody is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from otpd.agents import (
    Client,
    Exited,
    NodeNotRunning,
    NotData,
    Overloaded,
    PoolExecutor,
    Refused,
    RemoteError,
    connect,
)
from tests.e2e.node import Node, gone, node
from tests.helpers import eventually

CONFIG = """
[agents.boss]
script = "boss.py"

[pools.few]
size = 3
queue = 2
grace = "100ms"
idle = "30s"

[pools.own]
size = 2
pickle = true
preload = ["json"]
memory = "200MiB"
max_tasks_per_worker = 50

[pools.strict]
size = 1
spawn = "deny"

[pools.broken]
preload = ["no_such_module"]

[pools.endless]
preload = ["endless"]
start_timeout = "200ms"
grace = "0s"
"""
ENDLESS = """
import time

while True:
    time.sleep(60)
"""

WORK = """
import os, time

def pid():
    return os.getpid()

def hold(mark):
    "Says where it runs, and goes on until it is let go."
    with open(mark + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(mark + ".new", mark)
    while not os.path.exists(mark + ".go"):
        time.sleep(0.01)
    return "let go"

def eat(mib):
    eat.kept = bytearray(mib << 20)
    return os.getpid()

def shell():
    import subprocess
    return subprocess.run(["true", "secret"]).returncode

def who():
    from otpd.agents import current_task
    task = current_task()
    return [task.function, task.owner, task.generation]
"""

BOSS = """
from otpd.agents import Agent, call, run
import work

def twice(x):
    return 2 * x

class Boss(Agent):
    @call
    async def begin(self, marks: list) -> None:
        self.kept = [self.task_nolink(work.hold, mark, pool="few") for mark in marks]

    @call
    async def abandon(self, mark: str) -> bool:
        return await self.start_task(work.hold, mark, pool="few")

    @call
    async def run(self, n: int) -> list:
        return [outcome.value async for outcome in self.stream(twice, range(n), max_concurrency=4, timeout=60)]

    @call
    def in_a_thread(self) -> list:
        doubled = [outcome.value for outcome in self.sync.stream(twice, [1, 2], timeout=60)]
        return [self.sync.task(work.who, pool="few"), doubled]

if __name__ == "__main__":
    run(Boss)
"""


@pytest.fixture(scope="module")
def n() -> Iterator[Node]:
    with node(CONFIG, {"boss.py": BOSS, "work.py": WORK, "endless.py": ENDLESS}) as made:
        assert not [row for row in made.ask("status") if row["path"].startswith("tasks")], "an idle node has no pools"
        assert "tasks" not in made.otpd("tree").stdout
        yield made


@pytest.fixture
def client(n: Node) -> Iterator[Client]:
    eventually(lambda: n.workers()["boss"]["state"] == "running")
    with connect(n.control, timeout=60) as made:
        yield made


class Held:
    """A task of this process that runs until it is let go. `outcome()`: its value, or the name of its error."""

    def __init__(self, n: Node, client: Client, name: str, threads: ThreadPoolExecutor, **options: Any) -> None:
        self.mark = str(n.home / name)
        self._future: Future[Any] = threads.submit(client.task, "work:hold", self.mark, pool="few", **options)

    @property
    def pid(self) -> int:
        return where(self.mark)

    def let_go(self) -> None:
        let_go(self.mark)

    def outcome(self) -> Any:
        try:
            return self._future.result(60)
        except Exception as error:
            return type(error).__name__


def where(mark: str) -> int:
    """The worker in which a task has begun."""

    def read() -> int:
        try:
            with open(mark) as file:
                return int(file.read())
        except FileNotFoundError:
            return 0

    return eventually(read, what=f"{mark} begins")


def let_go(mark: str) -> None:
    with open(f"{mark}.go", "w"):
        pass


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def names(n: Node) -> list[str]:
    """Who is below the pool `few`."""
    rows = n.ask("status")
    return [row["name"] for row in rows if row["path"].startswith("tasks/tasks-few/")]


# --- what can be run, and how it is told ---


def test_the_first_task_brings_its_pool_with_workers_that_are_in_the_tree(n: Node, client: Client) -> None:
    assert client.call("boss", "run", n=20, timeout=60) == [2 * x for x in range(20)]
    tree = n.ask("tree")["tree"]
    (tasks,) = [child for child in tree["children"] if child["name"] == "tasks"]
    (pool,) = [child for child in tasks["children"] if child["name"] == "tasks-general"]
    assert (pool["path"], pool["kind"]) == ("tasks/tasks-general", "service")
    assert {child["path"].rpartition("-")[0] for child in pool["children"]} == {"tasks/tasks-general/tasks-general"}
    assert eventually(lambda: "20 done" in n.otpd("tree").stdout)


def test_a_task_knows_who_has_asked_for_it_and_threads_have_the_verbs_too(client: Client) -> None:
    """Rule 111."""
    who, doubled = client.call("boss", "in_a_thread", timeout=60)
    assert (who[:2], doubled) == (["work:who", "boss"], [2, 4])


def test_large_arguments_and_results_cross_whole_and_leave_no_descriptor(client: Client) -> None:
    data = os.urandom(3 << 20)
    client.task("builtins:bytes", b"warm", pool="few")
    before = len(os.listdir("/proc/self/fd"))
    assert client.task("builtins:bytes", data, pool="few", wait=True) == data
    assert len(os.listdir("/proc/self/fd")) == before
    eventually(lambda: client.call("tasks-few", "facts", timeout=60)["unread_bytes"] == 0, 60, "it is known to be read")


def test_pickles_are_for_pools_that_say_so(client: Client) -> None:
    assert client.task(lambda a: (a, {a}), 7, pool="own") == (7, {7})
    with pytest.raises(NotData, match="can be imported"):
        client.task(lambda: 1, pool="few")


def test_a_process_that_a_task_makes_is_told_with_its_task_or_refused(n: Node, client: Client) -> None:
    assert client.task("work:shell", pool="few", timeout=60) == 0
    refusal = r"subprocess.run\('true'\) at .*work.py:.* in shell: refused.*spawn = \"deny\"; let the agent do it"
    with pytest.raises(RemoteError, match=refusal):
        client.task("work:shell", pool="strict", timeout=60)
    facts = [client.call(f"tasks-{pool}", "facts", timeout=60)["spawn"] for pool in ("few", "strict")]
    assert facts == [{"policy": "warn", "seen": 1, "refused": 0}, {"policy": "deny", "seen": 1, "refused": 1}]
    expected = [("otpd.tasks.spawned", "tasks-few"), ("otpd.tasks.spawn_refused", "tasks-strict")]
    assert eventually(lambda: spawned(n) == [(*each, "work:shell") for each in expected], 60, "the event log has both")


def spawned(n: Node) -> list[tuple[str, str, str]]:
    told = [each for each in n.all_events() if each["event"].startswith("otpd.tasks.spawn")]
    return sorted(((each["event"], each["name"], each["task"]) for each in told), reverse=True)


def test_a_worker_that_keeps_too_much_memory_is_replaced_after_its_task(client: Client) -> None:
    first = client.task("work:eat", 300, pool="own", timeout=60)
    assert eventually(lambda: gone(first))
    assert client.task("work:pid", pool="own") != first


def test_a_pool_whose_workers_can_not_start_says_why_and_one_that_is_not_there_too(client: Client) -> None:
    with pytest.raises(Exited, match="no_such_module"):
        client.task("work:pid", pool="broken", timeout=60)
    with pytest.raises(Exited, match=r"no worker was ready within 0\.2 s"):
        client.task("work:pid", pool="endless", timeout=60)
    with pytest.raises(Refused, match=r'no pool or service "fwe".*did you mean few'):
        client.task("work:pid", pool="fwe")
    with pytest.raises(RemoteError, match="has no nothing"):
        client.task("work:nothing", pool="few")


def test_a_full_queue_and_a_running_task_of_a_cancelled_future(n: Node, client: Client, threads: ThreadPoolExecutor) -> None:
    with PoolExecutor(pool="few", config=n.control) as executor:
        marks = [str(n.home / f"full{i}") for i in range(5)]
        futures = [executor.submit(_hold(), mark) for mark in marks]
        pids = [where(mark) for mark in marks[:3]]
        eventually(lambda: client.call("tasks-few", "facts", timeout=60)["queued"] == 2)
        with pytest.raises(Overloaded, match="the queue of pool few is full"):
            client.task("work:pid", pool="few")
        waiting = threads.submit(client.task, "work:pid", pool="few", wait=True)
        shown = n.json("tasks", "few")
        assert (shown["queued"], shown["running"], shown["tasks"][0]["function"]) == (2, 3, "work:hold")
        assert shown["refused"] >= 1
        assert futures[0].cancel() and eventually(lambda: gone(pids[0]))
        for mark in marks[1:]:
            let_go(mark)
        assert [future.result(60) for future in futures[1:]] == ["let go"] * 4
        assert isinstance(waiting.result(60), int)


def _hold() -> Callable[[str], str]:
    """As a function that this process can't import: by its name in the node's directory."""

    def hold(mark: str) -> str:
        raise AssertionError("runs in a worker")

    hold.__module__, hold.__qualname__ = "work", "hold"
    work = type(sys)("work")
    work.hold = hold  # type: ignore[attr-defined]
    sys.modules["work"] = work
    return hold


def test_an_operator_resizes_and_drains_a_pool(n: Node, client: Client, threads: ThreadPoolExecutor) -> None:
    held = Held(n, client, "drained", threads)
    pid = held.pid
    assert n.otpd("pool", "resize", "few", "1").stdout == "few: 1 worker at most, it was 3\n"
    assert eventually(lambda: len(names(n)) == 1)
    drained = threads.submit(n.otpd, "pool", "drain", "few")
    eventually(lambda: client.call("tasks-few", "facts", timeout=60)["draining"])
    with pytest.raises(Overloaded, match="is drained"):
        client.task("work:pid", pool="few")
    held.let_go()
    assert (held.outcome(), "came to an end" in drained.result(60).stdout) == ("let go", True)
    assert gone(pid) and client.task("work:pid", pool="few") != pid
    assert n.otpd("pool", "resize", "few", "3").returncode == 0
    assert "no pool 'nobody' is running" in n.otpd("pool", "drain", "nobody", check=4).stderr


def test_a_reload_ends_a_pool_whose_table_has_changed_and_no_other(n: Node, client: Client) -> None:
    assert client.task("work:pid", pool="own") and client.task("work:pid", pool="few")
    before = n.pid("tasks-few")
    n.write("otpd.toml", CONFIG.replace("size = 2\npickle", "size = 1\npickle"))
    assert "pools.own" in n.otpd("reload").stdout
    assert client.task("work:pid", pool="own", wait=True)
    assert (client.call("tasks-own", "facts", timeout=60)["size"], n.pid("tasks-few")) == (1, before)


# --- who is killed, mid-task ---


def test_the_kill_of_a_worker_is_the_end_of_its_task_alone(n: Node, client: Client, threads: ThreadPoolExecutor) -> None:
    one, other = Held(n, client, "w1", threads), Held(n, client, "w2", threads)
    pid = one.pid
    assert other.pid != pid
    n.kill(pid)
    assert one.outcome() == "Exited"
    other.let_go()
    assert other.outcome() == "let go"


def test_a_worker_that_is_stopped_can_not_hold_up_its_timeout(n: Node, client: Client, threads: ThreadPoolExecutor) -> None:
    held = Held(n, client, "s1", threads, timeout=4.0)
    pid = held.pid
    n.kill(pid, signal.SIGSTOP)
    assert (held.outcome(), gone(pid)) == ("CallTimeout", True)


def test_the_kill_of_an_owner_ends_its_tasks_and_nobody_elses(n: Node, client: Client, threads: ThreadPoolExecutor) -> None:
    marks = [str(n.home / name) for name in ("o1", "o2")]
    client.call("boss", "begin", timeout=60, marks=marks[:1])
    mine, pid = Held(n, client, "o3", threads), where(marks[0])
    assert client.call("boss", "abandon", timeout=60, mark=marks[1]) is True
    left = where(marks[1])
    n.kill(n.pid("boss"))
    assert eventually(lambda: gone(pid))
    assert mine.pid and not gone(left), "a task of nobody goes on"
    mine.let_go(), let_go(marks[1])
    assert mine.outcome() == "let go"


@pytest.mark.parametrize("victims", ["pool", "pool worker", "worker pool owner", "owner pool"])
def test_the_kill_of_the_pool_ends_all_of_its_tasks_and_the_next_one_finds_a_new_one(
    n: Node, client: Client, threads: ThreadPoolExecutor, victims: str
) -> None:
    marks = [str(n.home / f"{victims}-o")]
    client.call("boss", "begin", timeout=60, marks=marks)
    held = Held(n, client, f"{victims}-h", threads)
    pids = {"worker": held.pid, "pool": n.pid("tasks-few"), "owner": n.pid("boss"), "other": where(marks[0])}
    for victim in victims.split():
        n.kill(pids[victim])
    assert held.outcome() == "Exited"
    assert eventually(lambda: gone(pids["worker"]) and gone(pids["other"]))
    assert client.task("work:pid", pool="few", wait=True) not in pids.values()


def test_the_kill_of_root_leaves_nothing_and_every_caller_is_told_once(n: Node, threads: ThreadPoolExecutor) -> None:
    eventually(lambda: n.workers()["boss"]["state"] == "running")
    with connect(n.control, timeout=60) as client:
        held = [Held(n, client, f"r{i}", threads) for i in range(3)]
        pids = [each.pid for each in held]
        n.kill(n.facts()["pid"])
        assert {each.outcome() for each in held} <= {"Exited", "NodeNotRunning"}
        assert eventually(lambda: all(map(gone, pids)))
    eventually(n.answers)
    eventually(lambda: n.workers()["boss"]["state"] == "running")
    with connect(n.control, timeout=60) as client:
        assert client.task("work:pid", pool="few", timeout=60) not in pids


# --- without a node ---

ALONE = """
import sys, time
from otpd.agents import PoolExecutor

def cube(x):
    return x ** 3

if __name__ == "__main__":
    with PoolExecutor(2) as executor:
        print(executor._embedded.home, executor._embedded.control, sum(executor.map(cube, range(5))), flush=True)
        if sys.argv[1:] == ["hang"]:
            executor.submit(time.sleep, 3600)
            time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_an_executor_without_a_node_has_one_of_its_own_that_ends_with_it(tmp_path: Any, how: str) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTPD_")}
    env |= {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    tmp_path.chmod(0o700)
    argv = [sys.executable, "alone.py", *(["hang"] if how == "killed" else [])]
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        home, control, total = process.stdout.readline().split()
        assert int(total) == 100
        if how == "killed":
            process.kill()
    assert eventually(lambda: not os.path.exists(control), 60, "the node ends")
    assert eventually(lambda: not _of(home), 60, "nobody of it is left")
    assert how == "killed" or not os.path.exists(home)


def _of(home: str) -> list[int]:
    """Processes that run in the directory of an embedded node, or are started with it."""
    found = []
    for process in psutil.process_iter():
        try:
            if home in process.cwd() or home in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_closed_client_refuses_tasks(n: Node) -> None:
    eventually(n.answers)
    client = connect(n.control, timeout=60)
    client.close()
    with pytest.raises(NodeNotRunning):
        client.task("work:pid")
