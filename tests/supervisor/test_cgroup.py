"""Workers in cgroups of their own, where this machine allows it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.supervisor import cgroup, linux
from tests.helpers import eventually

DELEGATION = cgroup.probe()
needs_cgroups = pytest.mark.skipif(DELEGATION.directory is None, reason=f"no cgroups: {DELEGATION.why}")
JOIN = """
import sys, time
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write("0")
print("in", flush=True)
time.sleep(60)
"""


@pytest.fixture
def node() -> Iterator[cgroup.NodeCgroup]:
    assert DELEGATION.directory is not None
    node = cgroup.NodeCgroup(DELEGATION.directory, "c0ffee00" * 4)
    node.create()
    yield node
    assert node.sweep(5.0) == []


def join(leaf: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", JOIN, leaf], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    return child


@needs_cgroups
def test_the_probe_leaves_nothing_and_names_the_directory() -> None:
    assert DELEGATION.directory is not None
    before = os.listdir(DELEGATION.directory)
    assert cgroup.probe() == DELEGATION
    assert os.listdir(DELEGATION.directory) == before
    assert DELEGATION.why == f"{DELEGATION.directory} is delegated"


def test_without_a_hierarchy_the_probe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "read_proc", lambda _: None)
    assert cgroup.probe() == cgroup.Delegation(None, "no cgroup v2 hierarchy is mounted")


def test_a_mount_of_a_part_of_the_hierarchy_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": b"4:memory:/x\n0::/user.slice/a b/inner\n",
        "/proc/self/mountinfo": b"30 20 0:26 / /proc rw - proc proc rw\n"
        b"31 20 0:27 /user.slice/a\\040b /sys/fs/cg rw - cgroup2 c rw\n",
    }
    monkeypatch.setattr(linux, "read_proc", files.get)
    assert cgroup.own_directory() == "/sys/fs/cg/inner"


def test_a_directory_that_is_not_writable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "own_directory", lambda: "/proc/1")
    found = cgroup.probe()
    assert found.directory is None
    assert "/proc/1" in found.why


@needs_cgroups
def test_all_members_are_killed_and_the_end_is_pollable(node: cgroup.NodeCgroup) -> None:
    leaf = node.leaf("feed/1")
    assert (node.leaf("feed/1"), cgroup.populated(leaf)) == (leaf, False)
    children = [join(leaf), join(leaf)]
    assert (sorted(cgroup.members(leaf)), cgroup.populated(leaf)) == (sorted(child.pid for child in children), True)
    assert not node.forget("feed/1")
    fd = cgroup.events_fd(leaf)
    os.read(fd, 100)
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    cgroup.kill(leaf)
    assert poll.poll(5000)
    os.close(fd)
    for child in children:
        child.communicate()
        assert child.returncode == -9
    assert eventually(lambda: node.forget("feed/1"))
    assert not os.path.exists(leaf)


@needs_cgroups
def test_what_an_earlier_life_left_is_ended(node: cgroup.NodeCgroup) -> None:
    leaf = node.leaf("feed")
    os.mkdir(f"{leaf}/its own")
    child = join(f"{leaf}/its own")
    assert cgroup.members(leaf) == [child.pid]
    assert node.sweep(5.0) == []
    assert (child.wait(), os.path.exists(node.directory)) == (-9, False)
    child.communicate()


def test_a_leaf_that_is_gone_is_empty() -> None:
    cgroup.kill("/no/such/leaf")
    assert (cgroup.populated("/no/such/leaf"), cgroup.members("/no/such/leaf"), cgroup.remove("/no/such/leaf")) == (
        False, [], True
    )  # fmt: skip


def test_names_of_leaves_are_distinct_and_short() -> None:
    long = [cgroup.leaf_name("x" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) < 255 for name in long)


def test_groups_of_command_workers_that_are_gone_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = 2**22 + 1  # no pid is as large
    for name in (f"otpd-cmd-{dead}-nest", f"otpd-cmd-{os.getpid()}-nest", "otpd-cmd-x", f"other-{dead}"):
        (tmp_path / name).mkdir()
    (tmp_path / f"otpd-cmd-{dead}-nest" / "inner").mkdir()
    monkeypatch.setattr(cgroup, "_own", lambda controller, _wanted: None if controller == "pids" else str(tmp_path))
    cgroup.remove_abandoned()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"otpd-cmd-{os.getpid()}-nest", "otpd-cmd-x", f"other-{dead}"]
    )


def test_a_command_worker_that_is_dead_and_not_reaped_has_abandoned_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_own", lambda _controller, _wanted: str(tmp_path))
    with subprocess.Popen(["true"]) as worker:
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / f"otpd-cmd-{worker.pid}-nest").mkdir()
        assert cgroup.abandoned() == [str(tmp_path / f"otpd-cmd-{worker.pid}-nest")]
