"""Whoever is killed while a command runs: nothing of it is left, its caller has one outcome, and the next command runs."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from otpd.agents import BrokerLost, Client, Exited, OtpdError, connect
from otpd.agents.sandbox import cgroup
from otpd.ipc.control import ControlError
from tests.e2e.node import Node, gone, node
from tests.e2e.watching import dead_without_a_socket
from tests.helpers import eventually
from tests.sandbox.conftest import why_not_native

CONFIG = """
[commands]
workers = 2
queue_timeout = "10m"
slot_uids = "231000-231063"
limits = { wall = "10m" }

[agents.owner]
script = "owner.py"
"""
OWNER = """
    from otpd.agents import Agent, call, run

    class Owner(Agent):
        @call
        async def wait(self, argv: list[str]) -> str:
            return (await self.exec(argv)).summary()

    if __name__ == "__main__":
        run(Owner)
"""
_seconds = itertools.count(100_000_000 + os.getpid() * 100)


@pytest.fixture(scope="module")
def one() -> Iterator[Node]:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    with node(CONFIG, {"owner.py": OWNER}) as made:
        yield made


@pytest.fixture
def client(one: Node) -> Iterator[Client]:
    with connect(one.control, timeout=60) as made:
        yield made


class Hidden:
    """A command that has left its session and ignores what asks it to end, known by a number that nobody else sleeps."""

    def __init__(self) -> None:
        self.mark = str(next(_seconds))
        script = f"trap '' TERM INT HUP; setsid sleep {self.mark} & sleep {self.mark}; wait"
        self.argv = ["sh", "-c", script]

    def processes(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.cmdline() == ["sleep", self.mark]:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def runs(self) -> bool:
        return len(self.processes()) == 2


def outcome_of(do: Callable[[], Any]) -> Callable[[], Any]:
    """Begins `do` in a thread; what is returned waits for its value, or the error that it raised."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(do())
        except OtpdError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def outcome() -> Any:
        thread.join(90)
        assert len(found) == 1, "no outcome within 90 s"
        return found[0]

    return outcome


def worker_of(one: Node, pid: int) -> int:
    """The worker process above a sandboxed one."""
    pids = {row["pid"] for name, row in one.workers().items() if name.startswith("commands-")}
    return next(each.pid for each in psutil.Process(pid).parents() if each.pid in pids)


def nothing_left(one: Node, command: Hidden, *workers: int) -> None:
    eventually(lambda: not command.processes(), 30, "its processes are gone")
    eventually(lambda: all(map(gone, workers)), 30, "its worker is gone")
    eventually(lambda: not [each for each in leaves() if each.split("-")[2] in map(str, workers)], 30, "no cgroup is left")


def leaves() -> list[str]:
    """Names of the cgroups of all sandboxes on this machine, where this process looks for them."""
    parents = {parent for each in cgroup._hierarchies() for parent in cgroup._parents(each)}
    return [name for parent in parents for name in _two_deep(parent) if name.startswith("otpd-cmd-")]


def _two_deep(parent: str) -> Iterator[str]:
    """Names of the cgroups in one, and in those; others, whose they are, come and go meanwhile."""
    for entry in os.scandir(parent):
        with suppress(OSError):
            if entry.is_dir():
                yield entry.name
                yield from (each.name for each in os.scandir(entry.path) if each.is_dir())


def another_root(one: Node, *roots: int) -> bool:
    try:
        return one.facts()["pid"] not in roots
    except (ControlError, OSError):
        return False


def ended(client: Client) -> tuple[str, str]:
    """Who had ordered the last command, and what ended it."""
    (row,) = client.call("commands", "look", last=1, timeout=30)["last"]
    return row["caller"], row["killed_by"]


def next_one_runs(one: Node) -> None:
    with connect(one.control, timeout=60) as made:
        assert made.exec(["echo", "on"]).text == "on\n"


def begun(one: Node, do: Callable[[Hidden], Any]) -> tuple[Hidden, Callable[[], Any], int]:
    """The command, its outcome and its worker."""
    command = Hidden()
    outcome = outcome_of(lambda: do(command))
    eventually(command.runs, 60, "it runs")
    return command, outcome, worker_of(one, command.processes()[0])


def test_the_worker(one: Node, client: Client) -> None:
    command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
    one.kill(worker)
    ended = outcome()
    assert (ended.status, ended.killed_by) == ("killed", "worker")
    nothing_left(one, command, worker)
    next_one_runs(one)


def test_a_worker_that_stands_still_is_ended_when_the_time_of_its_command_is_over(one: Node, client: Client) -> None:
    command, outcome, worker = begun(one, lambda it: client.exec(it.argv, timeout=2.0))
    one.kill(worker, signal.SIGSTOP)
    ended = outcome()
    assert (ended.status, ended.killed_by) == ("killed", "timeout")
    nothing_left(one, command, worker)
    next_one_runs(one)


def test_the_service(one: Node, client: Client) -> None:
    before = one.worker("commands")
    command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
    one.kill(before["pid"])
    assert type(outcome()) is Exited
    nothing_left(one, command, worker)
    one.reborn("commands", before["generation"], 60)
    next_one_runs(one)


def test_the_service_while_its_output_is_read(one: Node, client: Client) -> None:
    before = one.worker("commands")
    with pytest.raises(Exited), client.exec(["sh", "-c", "echo begun; sleep 300"], stream=True) as run:
        assert next(run) == ("stdout", b"begun\n")
        one.kill(before["pid"])
        next(run)
    one.reborn("commands", before["generation"], 60)
    run.cancel()  # nothing happens: it is lost
    next_one_runs(one)


def test_the_owner(one: Node, client: Client) -> None:
    command, outcome, worker = begun(one, lambda it: client.call("owner", "wait", argv=it.argv, timeout=300))
    one.kill(one.pid("owner"))
    assert type(outcome()) is Exited
    eventually(lambda: not command.processes(), 30, "its processes are gone")
    eventually(lambda: ended(client) == ("owner", "owner"), 30, "it is noted who has ended it")
    assert not gone(worker), "the worker goes on"
    next_one_runs(one)


def test_the_broker(one: Node, client: Client) -> None:
    before = one.worker("commands")
    command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
    one.kill(one.pid("broker"))
    assert type(outcome()) is BrokerLost
    eventually(lambda: not command.processes(), 30, "its processes are gone")
    next_one_runs(one)
    assert (one.worker("commands")["generation"], gone(worker)) == (before["generation"], False)


def test_root(one: Node) -> None:
    with connect(one.control) as client:
        command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
        root = one.facts()["pid"]
        one.kill(root)
        assert isinstance(outcome(), OtpdError)
    eventually(lambda: another_root(one, root), 60, "another root")
    one.when("commands", 60, state="running")
    nothing_left(one, command, worker)
    next_one_runs(one)


def test_everybody_at_once(one: Node) -> None:
    with connect(one.control) as client:
        command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
        victims = [worker, one.pid("commands"), one.pid("broker"), *reversed(one.guardians())]
        for victim in victims[:-1]:  # heart stays: it starts root again
            one.kill(victim)
        found = outcome()  # that the worker died may be told before the service is killed
        assert isinstance(found, OtpdError) or (found.status, found.killed_by) == ("killed", "worker")
    eventually(lambda: another_root(one, *victims), 60, "another root")
    one.when("commands", 60, state="running")
    nothing_left(one, command, worker)
    next_one_runs(one)


def test_heart_and_root_at_once(one: Node) -> None:
    """The logger is left, and clears; also the group of the worker, which nobody has named to it."""
    with connect(one.control) as client:
        command, outcome, worker = begun(one, lambda it: client.exec(it.argv))
        for victim in one.guardians():
            one.kill(victim)
        assert isinstance(outcome(), OtpdError)
    dead_without_a_socket(one)
    nothing_left(one, command, worker)
    one.start()
    next_one_runs(one)


def test_the_node_is_killed_while_one_runs() -> None:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    with node('[agents.idle]\nscript = "idle.py"\n') as n, connect(n.control, timeout=60) as client:
        command, outcome, worker = begun(n, lambda it: client.exec(it.argv))
        n.stop("--now")
        assert (command.processes(), gone(worker)) == ([], True)
        nothing_left(n, command, worker)
        assert isinstance(outcome(), OtpdError) or outcome().killed_by == "cancelled"
