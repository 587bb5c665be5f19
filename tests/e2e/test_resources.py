"""What runs out, is taken away or is wrong on the machine: descriptors, processes, disks, log files. The tree goes on."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.node import Node, gone, node
from tests.e2e.others import STRANGER, as_user, fill, give_away, needs_root, read_only_on_top, remount, small_disk
from tests.e2e.watching import cpu_seconds, holds, no_old_zombies, nothing_is_left
from tests.helpers import eventually

IDLE_AGENT = """
[agents.idle]
script = "idle.py"
"""
#: Says a line of 100 bytes about a hundred times a second.
TALKER = """
import time
for number in range(1_000_000):
    print(f"{number:>99}", flush=True)
    time.sleep(0.01)
"""
TALKING = """
[programs.talker]
script = "talker.py"
"""


def kinds(n: Node) -> list[str]:
    return [event["event"] for event in n.events()]


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def limit_files(pid: int, soft: int) -> int:
    """Set the soft limit of a process; gives the one that it had."""
    before, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    return before


# --- descriptors and processes ---


def test_a_root_without_free_descriptors_reaps_pauses_accepting_and_recovers() -> None:
    """Test 35: RLIMIT_NOFILE = what is in use; a worker dies meanwhile, and clients come."""
    with node(IDLE_AGENT + TALKING, {"talker.py": TALKER}) as n, no_old_zombies(n):
        root, idle = n.facts()["pid"], n.worker("idle")
        usual = limit_files(root, fds(root))
        clients = []
        for _ in range(5):
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.settimeout(1.0)
            client.connect(n.control)
        n.kill(idle["pid"])
        eventually(lambda: gone(idle["pid"]), 2)
        before = cpu_seconds(root)
        assert holds(lambda: not gone(root), 2.0)
        assert cpu_seconds(root) - before < 0.3, "it does not spin"
        limit_files(root, usual)
        for client in clients:
            client.close()
        eventually(n.answers, 5)
        n.reborn("idle", idle["generation"])
        assert n.facts()["pid"] == root


def test_a_zygote_and_a_logger_that_die_while_root_has_no_descriptors_come_back_later() -> None:
    """Test 35: the helpers of root, which it can't start again at once."""
    with node(IDLE_AGENT, {}) as n:
        root = n.facts()["pid"]
        children = [int(pid) for pid in Path(f"/proc/{root}/task/{root}/children").read_text().split()]
        helpers = [pid for pid in children if pid != n.pid("idle")]
        usual = limit_files(root, fds(root) // 2)
        for pid in helpers:
            n.kill(pid)
        eventually(lambda: all(gone(pid) for pid in helpers), 5)
        assert holds(lambda: not gone(root), 1.0)
        limit_files(root, usual)
        old = eventually(lambda: n.answers() and n.worker("idle"), 10)
        n.kill(old["pid"])
        n.reborn("idle", old["generation"], 15)
        assert n.facts()["pid"] == root, "root is still the same"


@needs_root
def test_a_user_without_free_processes_gets_no_new_ones_but_keeps_his_node() -> None:
    """Test 36: RLIMIT_NPROC; a fork fails with EAGAIN, backs off, and goes well when there is room again."""
    with node(IDLE_AGENT + '[programs.sleep]\ncommand = ["sleep", "60"]\n', start=False) as n:
        n.command = [*as_user(), *n.command]
        give_away(n)
        n.start()
        root = n.facts()["pid"]
        before = n.workers()
        limit_processes(root, 1)
        for _ in range(3):  # spares are used up first
            for name in ("idle", "sleep"):
                row = n.worker(name)
                if row["pid"]:
                    with suppress(ProcessLookupError):  # it has just ended by itself, for want of processes
                        n.kill(row["pid"])
                    eventually(lambda pid=row["pid"], name=name: n.worker(name)["pid"] != pid, 5)
        eventually(lambda: {"starting", "backoff"} & set(n.states().values()), 10, "somebody can't be started")
        used = cpu_seconds(root)
        assert holds(lambda: not gone(root), 1.0)
        assert cpu_seconds(root) - used < 0.3, "it does not spin"
        limit_processes(root, 1000)
        for name in before:
            n.reborn(name, before[name]["generation"], 20)
        assert n.facts()["pid"] == root
        n.stop()
        nothing_is_left(n, 0.5)


def limit_processes(root: int, soft: int) -> None:
    """Of root and all that it has made, by its own user: nobody else needs to have the right to."""
    children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    for pid in (str(root), *children):
        subprocess.run([*as_user(), "prlimit", "--pid", pid, f"--nproc={soft}:"], check=True)


# --- disks ---


@needs_root
def test_a_full_disk_of_logs_and_state_keeps_nobody_from_running_and_stopping() -> None:
    """T13, test 38: 1 MiB for the state directory, filled by a stranger; one event on entry, one on exit."""
    with node(IDLE_AGENT + TALKING, {"talker.py": TALKER}, start=False) as n, small_disk(n.home / ".otpd"):
        n.start()
        filler = fill(n.home / ".otpd")
        eventually(lambda: "otpd.log.full" in kinds(n), 10)
        before, idle = n.pid("talker"), n.worker("idle")
        n.kill(idle["pid"])
        n.reborn("idle", idle["generation"])
        n.otpd("tree")
        n.otpd("reload")
        filler.unlink()
        eventually(lambda: "otpd.log.recovered" in kinds(n), 10)
        told = [kind for kind in kinds(n) if kind.startswith("otpd.log.")]
        assert told == ["otpd.log.full", "otpd.log.recovered"]
        assert n.pid("talker") == before, "who was talking all the time runs on"
        fill(n.home / ".otpd")
        n.stop()
        nothing_is_left(n, 1)


@needs_root
def test_five_that_flood_a_full_disk_cost_root_and_logger_less_than_2_percent_of_a_core() -> None:
    """T13: bytes that nobody can keep are dropped for next to nothing, and who writes them is slowed down, not stopped."""
    config = IDLE_AGENT + '[programs.flood]\ncommand = ["yes"]\ninstances = 5\n'
    with node(config, start=False) as n, small_disk(n.home / ".otpd"):
        n.start()
        fill(n.home / ".otpd")
        eventually(lambda: "otpd.log.full" in kinds(n), 10)
        facts = n.facts()
        house = (facts["pid"], facts["logger_pid"])
        used, began = sum(map(cpu_seconds, house)), time.monotonic()
        assert holds(lambda: not any(map(gone, house)), 2.0)
        share = (sum(map(cpu_seconds, house)) - used) / (time.monotonic() - began)
        assert share < 0.02
        assert set(n.states().values()) == {"running"}
        n.stop()


@needs_root
def test_a_node_does_not_start_on_a_full_disk_and_says_which() -> None:
    """Test 38: the state directory, then the directory of the socket."""
    with node(IDLE_AGENT, start=False) as n:
        for place in (n.home / ".otpd", n.runtime):
            with small_disk(place, "size=1m,nr_inodes=20,mode=700"):
                for number in range(30):
                    try:
                        (place / f"taken.{number}").touch()
                    except OSError:
                        break
                done = n.start(check=1)
                assert "No space left on device" in done.stderr and str(place) in done.stderr, done.stderr
                assert "Traceback" not in done.stderr
                nothing = [path.name for path in place.rglob("*") if not path.name.startswith("taken")]
                assert not {"control.sock", "spec"} & set(nothing)


@needs_root
def test_a_state_directory_that_becomes_read_only_keeps_nobody_from_running_and_stopping() -> None:
    """Test 39: remounted while the node runs; and a start on it is refused with the reason."""
    with node(IDLE_AGENT + TALKING, {"talker.py": TALKER}, start=False) as n, small_disk(n.home / ".otpd"):
        n.start()
        with read_only_on_top(n.home / ".otpd"):
            idle, talker = n.worker("idle"), n.pid("talker")
            n.kill(idle["pid"])
            n.reborn("idle", idle["generation"])
            n.kill(n.facts()["pid"])  # root comes back on it as well, with a logger that can't open anything
            eventually(lambda: n.answers() and n.reborn("idle", 0)["pid"] != idle["pid"], 10)
            n.reborn("talker", 0)
            assert n.pid("talker") != talker
            n.stop()
            nothing_is_left(n, 1)


@needs_root
def test_a_start_on_a_read_only_state_directory_says_so() -> None:
    """Test 39."""
    with node(IDLE_AGENT, start=False) as n, small_disk(n.home / ".otpd"):
        remount(n.home / ".otpd", "ro")
        done = n.start(check=1)
        assert f"{n.home}/.otpd" in done.stderr and "Read-only file system" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


# --- log files ---


def test_a_log_directory_that_is_deleted_is_made_again_and_nobody_restarts() -> None:
    """Test 40, T11, T13."""
    with node(TALKING, {"talker.py": TALKER}) as n:
        pid = n.pid("talker")
        eventually(lambda: n.log("talker"), 5)
        shutil.rmtree(n.home / ".otpd" / "logs")
        eventually(lambda: list((n.home / ".otpd" / "logs").glob("talker/*")), 10)
        eventually(lambda: n.log("talker"), 10)
        assert "otpd.log.full" in kinds(n)
        assert n.pid("talker") == pid


@needs_root
def test_logs_that_are_taken_from_their_owner_are_reported_and_taken_up_again() -> None:
    """Test 41: mode 000, and owned by another; the node belongs to somebody who is not root."""
    with node(TALKING + IDLE_AGENT, {"talker.py": TALKER}, start=False) as n:
        n.command = [*as_user(), *n.command]
        give_away(n)
        n.start()
        talker = n.pid("talker")
        logs = n.home / ".otpd" / "logs"
        own = logs / "idle"
        for path in (*own.iterdir(), own):
            os.chown(path, 0, 0)
            os.chmod(path, 0)
        idle = n.worker("idle")
        n.kill(idle["pid"])
        n.reborn("idle", idle["generation"])
        eventually(lambda: "otpd.log.full" in kinds(n), 10)
        for path in (own, *own.iterdir()):
            os.chown(path, STRANGER, STRANGER)
            os.chmod(path, 0o700)
        eventually(lambda: "otpd.log.recovered" in kinds(n), 10)
        assert n.pid("talker") == talker
        n.stop()
        nothing_is_left(n, 1)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _full(path: Path) -> None:
    path.symlink_to("/dev/full")


@pytest.mark.parametrize("make", [_fifo, _full, os.mkdir], ids=["fifo", "dev-full", "directory"])
def test_a_log_that_is_no_file_holds_nobody_up(make: Callable[[Path], None]) -> None:
    """Test 42: it waits there before the node starts; the child starts, is stopped, and nothing was written through it."""
    with node(IDLE_AGENT, start=False) as n:
        (n.home / ".otpd").mkdir(mode=0o700)
        with node(IDLE_AGENT) as model:  # how a log is called
            names = eventually(lambda: [path.name for path in (model.home / ".otpd" / "logs").glob("idle/*")])
        own = n.home / ".otpd" / "logs" / "idle"
        own.mkdir(parents=True)
        for name in names:
            make(own / name)
        n.start()
        row = n.worker("idle")
        assert row["state"] == "running"
        n.kill(row["pid"])
        n.reborn("idle", row["generation"])
        n.otpd("logs", "idle", check=None)
        assert not any(stat.S_ISREG(os.lstat(own / name).st_mode) for name in names), "not replaced in silence"
        n.stop()
        nothing_is_left(n, 1)
