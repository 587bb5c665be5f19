"""Nothing grows: thousands of restarts, connections and reloads leave root and heart as they were (T29).

A shorter run of each is in the suite; the whole length is marked `soak` and started by scripts/soak.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import time
from dataclasses import dataclass

import pytest

from otpd.ipc.control import Control
from otpd.ipc.frames import pack_frame
from tests.e2e.node import Node, node
from tests.e2e.watching import everything, no_old_zombies
from tests.helpers import eventually

MIB = 1 << 20
CRASHING = """
[supervisors.s]
max_restarts = 1000000
max_seconds = 1

[agents.crash]
script = "idle.py"
supervisor = "s"
"""


@dataclass(frozen=True)
class Usage:
    """Of one process, by its pid."""

    fds: int
    rss: int


def usage(pid: int) -> Usage:
    pages = int(open_text(f"/proc/{pid}/statm").split()[1])
    return Usage(len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGESIZE"))


def open_text(path: str) -> str:
    with open(path) as file:
        return file.read()


#: Of root; they live as long as it. Workers and spares come and go.
HELPERS = ("otpd: zygote", "otpd.supervisor.logger", "otpd: logger")


def house(n: Node) -> list[int]:
    """heart, root and its helpers."""
    heart, root = n.guardians()
    helpers = eventually(lambda: found if len(found := helpers_of(root)) == 2 else None, what="zygote and logger")
    return [heart, root, *helpers]


def helpers_of(root: int) -> list[int]:
    """For a moment after its birth a spare has the zygote's title, too."""
    children = open_text(f"/proc/{root}/task/{root}/children").split()
    return [int(pid) for pid in children if any(title in title_of(pid) for title in HELPERS)]


def title_of(pid: str) -> str:
    try:
        return open_text(f"/proc/{pid}/cmdline").replace("\0", " ")
    except OSError:
        return ""


def at_rest(n: Node) -> dict[int, Usage]:
    """Measured when the worker is up, the spares are made and nobody is about to close anything: ten looks alike.

    Root is asked nothing meanwhile: the looker's own connection would be counted, or not.
    """
    n.when("crash", state="running")
    pids = house(n)
    looks = [{pid: usage(pid) for pid in pids}]
    end = time.monotonic() + 20
    while len(looks) < 10 or any(fds_of(look) != fds_of(looks[-1]) for look in looks[-10:]):
        assert time.monotonic() < end, f"it never comes to rest: {looks[-1]}"
        time.sleep(0.02)
        looks.append({pid: usage(pid) for pid in pids})
    return looks[-1]


def fds_of(look: dict[int, Usage]) -> dict[int, int]:
    return {pid: each.fds for pid, each in look.items()}


def unchanged(n: Node, before: dict[int, Usage]) -> None:
    """fds back to the baseline, RSS grown by less than 2 MiB, the same processes and no more of them."""
    after = at_rest(n)
    assert fds_of(after) == fds_of(before)
    growth = {pid: round((after[pid].rss - before[pid].rss) / MIB, 2) for pid in before}
    assert max(growth.values()) < 2.0, f"MiB: {growth}"
    assert len(everything(n)) < 10


def crash(n: Node, control: Control, times: int) -> None:
    """Kill the worker so many times, each time when it is up again."""
    generation = 0
    for _ in range(times):
        end = time.monotonic() + 10
        while True:
            row = control.ask("status", name="crash")[0]
            if row["state"] == "running" and row["generation"] > generation:
                break
            assert time.monotonic() < end, row
            time.sleep(0.001)
        generation = row["generation"]
        os.kill(row["pid"], signal.SIGKILL)


def restarts(warm: int, times: int) -> None:
    with node(CRASHING) as n, Control.open(n.control) as control, no_old_zombies(n):
        crash(n, control, warm)  # rings and caches are full
        before = at_rest(n)
        crash(n, control, times)
        unchanged(n, before)
        assert n.worker("crash")["restarts"] >= warm + times - 1


def test_a_thousand_restarts_leave_nothing_behind() -> None:
    """T29, test 67: by SIGKILL, one after the other, without any back-off."""
    restarts(350, 1000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_restarts_leave_nothing_behind() -> None:
    """T29, test 67."""
    restarts(1000, 10_000)


def connections(times: int) -> None:
    dice = random.Random(29)
    with node(CRASHING) as n:
        for _ in range(300):
            one_connection(n.control, dice)
        before = at_rest(n)
        for _ in range(times):
            one_connection(n.control, dice)
        unchanged(n, before)


def one_connection(path: str, dice: random.Random) -> None:
    """Half of them are aborted: at once, in the middle of a request, before the answer, in the middle of a stream."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        way = dice.randrange(8)
        if way == 0:
            return
        frame = pack_frame({"op": "events", "follow": True} if way == 3 else {"op": "tree"})
        client.sendall(frame[:5] if way == 1 else frame)
        if way in (1, 2):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        assert client.recv(65536)


def test_a_thousand_connections_half_of_them_aborted_leave_nothing_behind() -> None:
    """T29, test 59."""
    connections(1000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_connections_half_of_them_aborted_leave_nothing_behind() -> None:
    """T29, test 59."""
    connections(10_000)


def reloads(times: int) -> None:
    """Every other one adds a program and changes another, the rest take that back; `crash` never restarts."""
    from otpd.supervisor.resolve import load_node
    from otpd.supervisor.specdata import to_data

    with node(CRASHING) as n:
        plain = to_data(load_node(n.home / "otpd.toml"))
        extra = '[programs.extra]\ncommand = ["sleep", "600"]\n'
        n.write("more.toml", f'[node]\nname = "{n.facts()["name"]}"\n{CRASHING}\n{extra}')
        more = to_data(load_node(n.home / "more.toml"))
        more["node"]["config"] = plain["node"]["config"]
        pid = n.pid("crash")
        with Control.open(n.control) as control:
            for spec in [more, plain] * 15:
                assert control.ask("reload", spec=spec, timeout=30)["applied"]
            before = at_rest(n)
            for spec in [more, plain] * (times // 2):
                assert control.ask("reload", spec=spec, timeout=30)["applied"]
            unchanged(n, before)
        assert n.pid("crash") == pid


def test_a_hundred_reloads_leave_nothing_behind() -> None:
    """T29, T27."""
    reloads(100)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_reloads_leave_nothing_behind() -> None:
    """T29, T27, test 66."""
    reloads(1000)


