"""Nothing grows: after 10,000 commands a node is as it was after 1,000.

Takes minutes, is left out of the suite and started by scripts/soak.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from otpd.agents import Client, connect
from otpd.agents.sandbox import Result
from tests.e2e.node import Node, node
from tests.e2e.test_exec_kills import OWNER, leaves
from tests.e2e.test_soak import MIB, usage
from tests.helpers import eventually
from tests.sandbox.conftest import why_not_native

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SLOTS = range(232000, 232064)
CONFIG = f"""
[commands]
workers = 2
queue_timeout = "10m"
slot_uids = "{SLOTS[0]}-{SLOTS[-1]}"
limits = {{ wall = "60s", output = "1MiB" }}

[commands.profiles.work]
rw = ["work"]

[agents.owner]
script = "owner.py"
"""
#: MiB by which a process may be larger after the last command than it was after the first thousand.
GROWTH = 4.0
#: Commands of a kind that follow each other.
ROW = 50
PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True)
class Shape:
    """What must be equal. By the names of processes in the tree; what lives below a worker counts by what it is."""

    fds: dict[str, int]
    mounts: dict[str, list[int]]
    processes: dict[str, dict[str, int]]
    cgroups: int
    files: list[str]
    foreign: list[str]


def pids(n: Node) -> dict[str, int]:
    heart, root = n.guardians()
    rows = {row["name"]: row["pid"] for row in n.ask("status") if row["pid"]}
    return {"heart": heart, "root": root, **rows}


def shape(n: Node) -> Shape:
    found = pids(n)
    workers = {name: psutil.Process(pid) for name, pid in found.items() if name.startswith("commands-")}
    below = {name: worker.children(recursive=True) for name, worker in workers.items()}
    return Shape(
        fds={name: usage(pid).fds for name, pid in found.items()},
        mounts={name: sorted(map(mounts, [pid, *(it.pid for it in below.get(name, []))])) for name, pid in found.items()},
        processes={name: dict(Counter(each.name() for each in them)) for name, them in below.items()},
        cgroups=len([each for each in leaves() if each.split("-")[2] in {str(pid) for pid in found.values()}]),
        files=files(n),
        foreign=foreign(),
    )


def mounts(pid: int) -> int:
    return Path(f"/proc/{pid}/mountinfo").read_text().count("\n")


def files(n: Node) -> list[str]:
    """Of the node's own directories, without their numbers. Segments of logs come and go, which is the logger's affair."""
    found = (str(path.relative_to(n.home)) for path in n.home.rglob("*") if "logs" not in path.parts)
    return sorted({re.sub(r"[0-9]+", "N", each) for each in found})


def foreign() -> list[str]:
    """Where everybody may write, of the uids that commands run as."""
    return [entry.path for place in PLACES for entry in os.scandir(place) if owned(entry)]


def owned(entry: os.DirEntry[str]) -> bool:
    with suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_uid in SLOTS
    return False


def at_rest(n: Node, client: Client) -> Shape:
    """Nothing runs, and ten looks are alike."""
    eventually(lambda: not client.call("commands", "look", timeout=30)["running"], 60, "nothing runs or waits")
    looks: list[Shape | None] = []

    def same() -> Shape | None:
        with suppress(psutil.Error, OSError):
            looks.append(shape(n))
            return looks[-1] if len(looks) > 10 and all(each == looks[-1] for each in looks[-10:]) else None
        looks.clear()
        return None

    return eventually(same, 120, "it comes to rest")  # type: ignore[return-value]


def memory(n: Node) -> dict[str, float]:
    return {name: usage(pid).rss / MIB for name, pid in pids(n).items()}


def ways(client: Client, work: Path) -> list[Callable[[], Result]]:
    """How commands go, and with what they end."""

    def left_alone() -> Result:
        with client.exec(["sleep", "50"], stream=True) as run:
            pass
        return run.result()

    return [
        lambda: client.exec(["true"]),
        lambda: client.exec(["sh", "-c", "cat; sleep 50 & exit 3"], stdin=b"x" * 1000),
        lambda: client.exec(["sh", "-c", "echo $$ > f; mkdir -p d; rm -r f d"], profile="work", cwd=work),
        lambda: client.exec_python("print(open('in').read())", files={"in": "data"}),
        lambda: client.exec(["no-such-command"]),
        lambda: client.exec(["sleep", "50"], timeout=0.02),
        lambda: client.exec(["head", "-c", "2000000", "/dev/zero"]),
        lambda: client.exec(["sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1k count=99; kill -9 $$"]),
        left_alone,
    ]


def order(client: Client, work: Path, times: int) -> Counter[str]:
    """So many, two at a time; how they ended. Fifty of a kind in turn, since workers of other profiles are other workers.

    The last ones are alike, so that the workers are.
    """
    every = ways(client, work)
    kinds = [every[number // ROW % len(every)] for number in range(times - ROW)] + ROW * every[:1]
    with ThreadPoolExecutor(2) as two:
        return Counter(result.status for result in two.map(lambda kind: kind(), kinds))


@pytest.fixture
def one() -> Iterator[Node]:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    with node(CONFIG, {"owner.py": OWNER, "work/seed": "seed"}) as made:
        yield made


def test_ten_thousand_commands_leave_nothing_behind(one: Node) -> None:
    with connect(one.control, timeout=600) as client:
        order(client, one.home / "work", 1000)
        before, had = at_rest(one, client), memory(one)
        began = time.monotonic()
        ended = order(client, one.home / "work", 9000)
        seconds = time.monotonic() - began
        after, has = at_rest(one, client), memory(one)
    growth = {name: round(has[name] - had[name], 2) for name in had}
    print(f"{ended}, {9000 / seconds:.0f} a second; MiB more: {growth}\n{after}")
    assert after == before
    assert not [name for name in growth if growth[name] > GROWTH], f"MiB: {growth}"
    assert ended.keys() <= {"exited", "signaled", "killed", "not_found", "cancelled"}
