"""Two are killed at once while a command runs, of all that take part in it: each pair, each alone, and those who clear.

Takes minutes, is left out of the suite and started by scripts/soak; `test_exec_kills` says of the single ones what each
outcome is.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from otpd.agents import OtpdError, connect
from otpd.ipc.control import ControlError
from tests.e2e.node import Node, node
from tests.e2e.test_exec_kills import OWNER, begun, nothing_left
from tests.e2e.test_exec_soak import CONFIG, files, foreign
from tests.e2e.watching import everything
from tests.helpers import eventually
from tests.sandbox.conftest import why_not_native

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

PARTS = ("worker", "commands", "owner", "broker", "root", "heart")
#: All who could clear what a command has left: then the next start does.
EVERY_GUARD = ("logger", "root", "heart")
VICTIMS = [*itertools.combinations(PARTS, 1), *itertools.combinations(PARTS, 2), EVERY_GUARD]


@pytest.fixture(scope="module")
def one() -> Iterator[Node]:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    with node(CONFIG, {"owner.py": OWNER, "work/seed": "seed"}) as made:
        yield made


def pid_of(n: Node, part: str, worker: int) -> int:
    match part:
        case "worker":
            return worker
        case "heart":
            return n.guardians()[0]
        case "root":
            return n.guardians()[1]
        case "logger":
            return int(n.facts()["logger_pid"])
    return n.pid(part)


def workers(n: Node) -> list[int]:
    return [row["pid"] for name, row in n.workers().items() if name.startswith("commands-")]


def runs(n: Node) -> bool:
    """The whole way: an agent orders a command."""
    try:
        with connect(n.control, timeout=60) as client:
            return "exited 0" in client.call("owner", "wait", argv=["true"], timeout=60)
    except (OtpdError, ControlError, OSError):
        return False


def mounted(n: Node) -> list[str]:
    """What this machine has of it in its table of mounts, where nothing of a sandbox ever is."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{n.home}/" in line]


@pytest.mark.parametrize("victims", VICTIMS, ids="-".join)
def test_nothing_is_left_and_there_is_one_outcome(one: Node, victims: tuple[str, ...]) -> None:
    eventually(lambda: runs(one), 120, "it runs")
    before = files(one)
    with connect(one.control, timeout=60) as client:
        command, outcome, worker = begun(one, lambda it: client.call("owner", "wait", argv=it.argv, timeout=300))
        had, was = {worker, *workers(one)}, everything(one)
        for pid in [pid_of(one, part, worker) for part in victims]:
            with suppress(ProcessLookupError):  # the first one's death may be its, too
                os.kill(pid, signal.SIGKILL)
        assert isinstance(outcome(), OtpdError | str)
    if "heart" in victims:
        eventually(lambda: not everything(one), 60, "the node has ended")
        eventually(lambda: not [each for each in was if each.alive], 60, "none of its processes lives")
        eventually(lambda: not command.processes(), 60, "nor does the command")
        if victims != EVERY_GUARD:
            nothing_left(one, command, *had)
        one.start()
    eventually(lambda: runs(one), 120, "it runs again")
    lost = had - set(workers(one))
    nothing_left(one, command, *lost)
    eventually(lambda: (files(one), mounted(one), foreign()) == (before, [], []), 60, "nothing else is there")
