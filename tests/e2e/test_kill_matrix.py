"""Any single process may be killed at any instant: the node is complete again, or has ended in order (tests 1-8, 10).

Victims: heart, root, zygote, logger, broker, an agent, a program, an agent's child. Ends: SIGKILL, SIGSEGV, SIGABRT, and a
short SIGSTOP. Moments: idle, during start, during stop. Always: no zombie older than 1 s, no process and no socket left.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otpd.ipc.control import ControlError
from tests.e2e.node import OTPD, Node, node
from tests.e2e.watching import (
    alive,
    by_child,
    everything,
    holds,
    linux_children,
    no_old_zombies,
    nothing_is_left,
    seen,
    stat,
)
from tests.helpers import eventually

#: An agent with a child of its own, which it reaps; init() and terminate() wait until they may go on.
SLOW = """
import asyncio, os, pathlib
from otpd.agents import Agent, run

async def until(file):
    while not pathlib.Path(file).exists():
        await asyncio.sleep(0.005)

class Slow(Agent):
    async def init(self, begin, end):
        self.end = end
        self.child = await asyncio.create_subprocess_exec("sleep", "1000")
        pathlib.Path("slow.child").write_text(str(self.child.pid))
        await until(begin)

    async def terminate(self, reason):
        await until(self.end)

if __name__ == "__main__":
    run(Slow)
"""
CONFIG = """
[agents.quick]
script = "idle.py"

[programs.sleep]
command = ["sleep", "1000"]

[agents.slow]
script = "slow.py"
args = { begin = "begin", end = "end" }
shutdown = "20s"
start_timeout = "20s"
"""
NAMES = {"broker", "quick", "sleep", "slow"}
HOUSE = ("heart", "root", "zygote", "logger", "broker")
WORKERS = ("agent", "program", "agent's child")
VICTIMS = HOUSE + WORKERS
NAME_OF = {"agent": "slow", "program": "sleep", "broker": "broker"}
DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


def pid_of(n: Node, victim: str) -> int:
    match victim:
        case "heart":
            return int(n.facts()["heart_pid"])
        case "root":
            return int(n.facts()["pid"])
        case "zygote" | "logger":
            return int(eventually(lambda: n.facts()[f"{victim}_pid"], 10, victim))
        case "broker":
            return int(n.services()["broker"]["pid"])
        case "agent's child":
            file = n.home / "slow.child"
            return int(eventually(lambda: file.exists() and file.read_text(), 10, "the child of slow"))
    return n.pid(NAME_OF[victim])


def strike(n: Node, pid: int, number: int) -> None:
    """The signal; a stop lasts until the process has really stopped, and 0.1 s more."""
    n.kill(pid, number)
    if number == signal.SIGSTOP:
        eventually(lambda: (stat(pid) or "T")[0] == "T", 10, f"{pid} is stopped")
        holds(lambda: True, 0.1)
        n.kill(pid, signal.SIGCONT)


def generations(n: Node) -> dict[str, int]:
    return {row["name"]: row["generation"] for row in n.ask("status")}


def whole(n: Node) -> bool:
    """Root answers, all run, each is there once (slow with its child), the helpers are up, nobody else is there."""
    try:
        facts, rows = n.facts(), n.ask("status")
    except (ControlError, OSError):
        return False
    if {row["state"] for row in rows} != {"running"} or not facts["zygote_pid"] or not facts["logger_pid"]:
        return False
    if len(facts["blanks"]) < 2:
        return False
    sizes = {name: len(processes) for name, processes in by_child(n).items()}
    house = {facts["heart_pid"], facts["pid"], facts["zygote_pid"], facts["logger_pid"], *facts["blanks"]}
    wanted = {"broker": 1, "quick": 1, "sleep": 1, "slow": 2}
    return sizes == wanted and len(everything(n)) == len(house) + sum(sizes.values())


def complete(n: Node) -> None:
    eventually(lambda: whole(n), 10, "the node is complete")


@contextmanager
def command(n: Node, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`otpd` in the background; it has ended by the end, or is killed."""
    process = subprocess.Popen(
        [*OTPD, *arguments], cwd=n.home, env=n.env, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
        process.said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()


def go(n: Node, file: str) -> None:
    (n.home / file).touch()


@pytest.fixture
def slow_node() -> Iterator[Node]:
    with node(CONFIG, {"slow.py": SLOW}, start=False) as n, no_old_zombies(n):
        yield n


# --- idle ---


@pytest.fixture(scope="module")
def idle_node() -> Iterator[Node]:
    with node(CONFIG, {"slow.py": SLOW, "begin": "", "end": ""}) as n, no_old_zombies(n):
        yield n


@pytest.mark.parametrize("number", [*DEADLY, signal.SIGSTOP], ids=lambda number: number.name)
@pytest.mark.parametrize("victim", [each for each in VICTIMS if each != "heart"])
def test_idle(idle_node: Node, victim: str, number: signal.Signals) -> None:
    """Tests 1, 7, 8: whatever is hit, the node is complete again, and nobody was touched that need not be."""
    n = idle_node
    complete(n)
    pid, before, facts = seen(pid_of(n, victim)), generations(n), n.facts()
    assert pid is not None
    strike(n, pid.pid, number)
    if number == signal.SIGSTOP:
        complete(n)
        assert pid.alive
        assert generations(n) == before
        assert n.facts()["pid"] == facts["pid"]
        return
    eventually(lambda: not pid.alive, 10, f"{victim} is gone")
    if victim == "agent's child":
        assert generations(n) == before
        n.ask("child", action="restart", names=["slow"])  # a child that nobody supervises comes with its agent
        return
    complete(n)
    after = {name: before[name] + (name == NAME_OF.get(victim)) for name in before}
    assert generations(n) == (dict.fromkeys(NAMES, 1) if victim == "root" else after)
    assert n.facts()["heart_pid"] == facts["heart_pid"]
    assert (n.facts()["pid"] == facts["pid"]) is (victim != "root")


def test_after_all_that_the_helpers_still_do_their_work(idle_node: Node) -> None:
    """A zygote and a logger that were killed came back for good: a crash is followed by a start, its output is stored."""
    n = idle_node
    complete(n)
    generation = n.worker("quick")["generation"]
    n.kill(n.pid("quick"))
    n.reborn("quick", generation)
    eventually(lambda: n.log("quick").count("init") >= generation + 1, 10, "the output of the last incarnation")


@pytest.mark.parametrize("number", DEADLY, ids=lambda number: number.name)
def test_the_death_of_heart_ends_the_node_in_order(slow_node: Node, number: signal.Signals) -> None:
    """Tests 1, 8, 10: root stops the tree as if asked, and goes."""
    n = slow_node
    go(n, "begin")
    n.start()
    complete(n)
    n.kill(n.facts()["heart_pid"], number)
    eventually(lambda: n.states()["slow"] == "stopping", 10, "slow is asked to stop")
    go(n, "end")
    nothing_is_left(n)
    assert "terminate shutdown" in n.log("quick")


def test_a_short_stop_of_heart_is_no_more_than_that(slow_node: Node) -> None:
    """Test 7."""
    n = slow_node
    go(n, "begin")
    go(n, "end")
    n.start()
    strike(n, n.facts()["heart_pid"], signal.SIGSTOP)
    complete(n)
    n.stop()
    nothing_is_left(n)


# --- during start and during stop ---


def starting(n: Node) -> None:
    """quick and sleep run, slow is in its init() and has made its child."""

    def there() -> bool:
        try:
            states = n.states()
        except (ControlError, OSError):
            return False
        wanted = {"quick": "running", "sleep": "running", "slow": "starting"}
        return states == wanted and len(by_child(n).get("slow", [])) == 2

    eventually(there, 10, "the node is in its start")


def stopping(n: Node) -> None:
    """slow is in its terminate(), the others still run."""
    wanted = {"quick": "running", "sleep": "running", "slow": "stopping"}
    eventually(lambda: n.states() == wanted, 10, "the node is in its stop")


#: The same life is struck twice: in its start by the first, in its stop by the second.
PAIRS = [(signal.SIGKILL, signal.SIGKILL), (signal.SIGSEGV, signal.SIGABRT), (signal.SIGSTOP, signal.SIGSTOP)]


@pytest.mark.parametrize(("at_start", "at_stop"), PAIRS, ids=lambda number: number.name)
@pytest.mark.parametrize("victim", VICTIMS)
def test_during_start_and_during_stop(
    slow_node: Node, victim: str, at_start: signal.Signals, at_stop: signal.Signals
) -> None:
    """Tests 3, 4, 7, 8: struck in its start the node comes up (heart: ends); struck in its stop it ends; nothing is left."""
    n = slow_node
    with command(n, "start", "--detach") as start:
        starting(n)
        strike(n, pid_of(n, victim), at_start)
        if victim == "heart" and at_start != signal.SIGSTOP:
            nothing_is_left(n)
        go(n, "begin")
    if victim == "heart" and at_start != signal.SIGSTOP:
        assert start.returncode == 1
        n.start()
    else:
        assert start.returncode == 0
    if victim == "agent's child" and at_start != signal.SIGSTOP:
        n.ask("child", action="restart", names=["quick"])
    else:
        complete(n)
    with command(n, "stop") as stop:
        stopping(n)
        old = everything(n)
        victims_pid = seen(pid_of(n, victim)) if victim != "agent's child" else by_child(n)["slow"][-1]
        assert victims_pid is not None
        strike(n, victims_pid.pid, at_stop)
        go(n, "end")
    assert stop.returncode == 0
    assert alive(old) == []
    nothing_is_left(n)


@pytest.mark.parametrize("victim", ["root", "zygote", "logger"])
def test_killed_as_soon_as_it_exists(slow_node: Node, victim: str) -> None:
    """Test 3: before it has said or read a word."""
    n = slow_node
    go(n, "begin")
    go(n, "end")
    with command(n, "start", "--detach") as start:
        n.kill(newborn(n, victim))
    assert start.returncode == 0, start.said
    complete(n)


def newborn(n: Node, victim: str) -> int:
    """The pid of root, or of a helper, as soon as there is one; found through heart, since nobody answers yet."""

    def found() -> int | None:
        for heart in (each for each in everything(n) if "heart" in each.title):
            for root in linux_children(heart.pid):
                if victim == "root":
                    return root
                for child in linux_children(root):
                    process = seen(child)
                    if process is not None and victim in process.title:
                        return child
        return None

    return int(eventually(found, 10, victim) or 0)
