"""Killed at once while tasks run, of all that take part in them: each alone, each pair, and all together.

Takes minutes, so that all but two are left out of the suite and started by scripts/soak. Three tasks run meanwhile, each
with a process of its own that has left its session: one that an agent waits for, one that it has abandoned, and one of a
program's.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from otpd.agents import Exited, OtpdError, connect
from otpd.ipc.control import ControlError
from tests.e2e.node import Node, node
from tests.e2e.test_exec_kills import outcome_of
from tests.e2e.watching import Seen, alive, by_child, everything, seen
from tests.helpers import eventually

pytestmark = pytest.mark.timeout(600)

CONFIG = """
[agents.owner]
script = "owner.py"

[pools.few]
size = 4
grace = "100ms"
"""
OWNER = """
    from otpd.agents import Agent, call, run

    class Owner(Agent):
        @call
        async def hold(self, mark: str) -> str:
            return await self.task("work:hold", mark, pool="few")

        @call
        async def measure(self) -> int:
            return await self.task("builtins:len", "four", pool="few")

        @call
        async def abandon(self, mark: str) -> bool:
            return await self.start_task("work:hold", mark, pool="few")

    if __name__ == "__main__":
        run(Owner)
"""
WORK = '''
    import os, subprocess, time

    def hold(mark):
        """Goes on until its mark is taken away; what it has started goes on until it is killed."""
        hidden = subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; exec sleep 100000"], start_new_session=True)
        with open(mark + ".new", "w") as file:
            file.write(f"{os.getpid()} {hidden.pid}")
        os.rename(mark + ".new", mark)
        while os.path.exists(mark):
            time.sleep(0.01)
        hidden.kill(), hidden.wait()
        return "let go"
'''
PARTS = ("worker", "pool", "owner", "broker", "root", "heart")
#: Whose death is that of every task.
OF_ALL = {"pool", "root", "heart"}
SUITE: list[tuple[str, ...]] = [("pool", "broker"), ("worker", "root")]
MORE = [*itertools.combinations(PARTS, 1), *itertools.combinations(PARTS, 2), PARTS[:-1], PARTS]
OTHERS = [each for each in MORE if each not in SUITE]


@pytest.fixture(scope="module")
def n() -> Iterator[Node]:
    with node(CONFIG, {"owner.py": OWNER, "work.py": WORK}) as made:
        yield made


@dataclass
class Held:
    """A task that runs until it is let go. `outcome()` waits for what its caller is told."""

    mark: str
    outcome: Callable[[], Any]
    processes: list[Seen] = field(default_factory=list)

    @classmethod
    def begin(cls, n: Node, do: Callable[[str], Any]) -> Held:
        mark = str(n.home / f"mark{next(_numbers)}")
        held = cls(mark, outcome_of(lambda: do(mark)))
        held.processes = eventually(held.begun, 60, "it has begun")
        return held

    def begun(self) -> list[Seen]:
        try:
            with open(self.mark) as file:
                return [found for pid in file.read().split() if (found := seen(int(pid)))]
        except FileNotFoundError:
            return []

    def let_go(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.mark)


_numbers = itertools.count()


def pid_of(n: Node, part: str, worker: int) -> int:
    heart, root = n.guardians()
    match part:
        case "worker":
            return worker
        case "heart":
            return heart
        case "root":
            return root
        case "pool":
            return n.pid("tasks-few")
    return n.pid(part)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # the first one's death may be its, too
            os.kill(pid, signal.SIGKILL)


def works(n: Node) -> bool:
    """The whole way: a program asks an agent, which asks the pool."""
    try:
        with connect(n.control, timeout=60) as client:
            return bool(client.call("owner", "measure", timeout=60) == 4)
    except (OtpdError, ControlError, OSError):
        return False


def of_pool(n: Node) -> tuple[set[int], set[int]]:
    """The pids of the pool and its workers: as the machine has them, and as the tree."""
    found = {each.pid for name, processes in by_child(n).items() if name.startswith("tasks-few") for each in processes}
    rows = n.ask("status")
    return found, {row["pid"] for row in rows if row["name"].startswith("tasks-few") and row["pid"]}


def at_rest(n: Node) -> bool:
    """No process of the pool is there but those in the tree, and no task is in its books."""
    try:
        with connect(n.control, timeout=60) as client:
            facts = client.call("tasks-few", "facts", timeout=60)
        found, told = of_pool(n)
    except (OtpdError, ControlError, OSError):
        return False
    return found == told and (facts["queued"], facts["running"], facts["parked"]) == (0, 0, 0)


def killed(n: Node, victims: tuple[str, ...]) -> None:
    eventually(lambda: works(n), 120, "it works")
    with connect(n.control, timeout=60) as client, connect(n.control, timeout=60) as program:
        left = Held.begin(n, lambda mark: client.call("owner", "abandon", mark=mark, timeout=60))
        assert left.outcome() is True
        waited = Held.begin(n, lambda mark: client.call("owner", "hold", mark=mark, timeout=300))
        mine = Held.begin(n, lambda mark: program.task("work:hold", mark, pool="few"))
        kill([pid_of(n, part, waited.processes[0].pid) for part in victims])
        over = OF_ALL.intersection(victims)
        ends = [waited, left, mine] if over else [waited] if {"worker", "owner"}.intersection(victims) else []
        eventually(lambda: not [each for held in ends for each in alive(held.processes)], 60, "nothing of them is left")
        goes_on = [held for held in (waited, left, mine) if held not in ends]
        assert [len(alive(held.processes)) for held in goes_on] == [2] * len(goes_on), "nobody else's ends"
        for held in (waited, left, mine):
            held.let_go()
        assert isinstance(waited.outcome(), OtpdError)
        assert (type(mine.outcome()) is Exited) if over else (mine.outcome() == "let go")
    if "heart" in victims:
        eventually(lambda: not everything(n), 60, "the node has ended")
        n.start()
    eventually(lambda: works(n), 120, "it works again")
    eventually(lambda: at_rest(n), 60, "nothing else is there")


@pytest.mark.parametrize("victims", SUITE, ids="-".join)
def test_nothing_is_left_and_every_caller_has_one_outcome(n: Node, victims: tuple[str, ...]) -> None:
    killed(n, victims)


@pytest.mark.soak
@pytest.mark.parametrize("victims", OTHERS, ids="-".join)
def test_so_it_is_with_any_others(n: Node, victims: tuple[str, ...]) -> None:
    killed(n, victims)
