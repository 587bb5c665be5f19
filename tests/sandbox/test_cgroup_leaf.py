"""Leaves of both versions, on a directory that looks like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otpd.agents.sandbox import cgroup
from otpd.agents.sandbox.cgroup import Leaf

MIB = 2**20


def second(path: Path, **files: str) -> Leaf:
    for name, text in files.items():
        (path / name.replace("_", ".", 1)).write_text(text)
    return Leaf(2, dict.fromkeys(("memory", "pids", "cpu"), str(path)))


def test_version_two_limits_memory_without_swap_and_tasks(tmp_path: Path) -> None:
    leaf = second(tmp_path, memory_current=str(6 * MIB), memory_events="low 0\noom_kill 3\n")
    leaf.measure_overhead()
    leaf.limit(100 * MIB, 32)
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert (said["memory.max"], said["memory.swap.max"], said["pids.max"]) == (str(110 * MIB), "0", "40")


def test_a_kill_is_seen_when_it_came_after_the_limit(tmp_path: Path) -> None:
    leaf = second(tmp_path, memory_events="oom_kill 3\n")
    leaf.limit(MIB, 1)
    assert not leaf.killed_since_limit()
    (tmp_path / "memory.events").write_text("oom_kill 4\n")
    assert leaf.killed_since_limit()


def test_version_one_has_other_names(tmp_path: Path) -> None:
    (tmp_path / "memory.usage_in_bytes").write_text("0")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (tmp_path / "cpuacct.usage").write_text("1500000000")
    leaf = Leaf(1, dict.fromkeys(("memory", "pids", "cpu"), str(tmp_path)))
    leaf.measure_overhead()
    leaf.limit(10 * MIB, 8)
    assert (tmp_path / "memory.limit_in_bytes").read_text() == str(14 * MIB)
    assert (leaf.kills(), leaf.cpu_seconds()) == (2, 1.5)


def test_processor_time_of_version_two(tmp_path: Path) -> None:
    assert second(tmp_path, cpu_stat="usage_usec 2500000\nuser_usec 1\n").cpu_seconds() == 2.5


def test_a_leaf_without_controllers_limits_nothing(tmp_path: Path) -> None:
    leaf = Leaf(2, {"cpu": str(tmp_path)})
    leaf.limit(MIB, 1)
    assert (leaf.memory, leaf.pids, leaf.killed_since_limit(), list(tmp_path.iterdir())) == (False, False, False, [])


def test_leaves_of_makers_that_are_gone_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy = cgroup._Hierarchy(frozenset({"memory"}), str(tmp_path), 1)
    monkeypatch.setattr(cgroup, "_hierarchies", lambda: [hierarchy])
    gone, alive = f"otpd-cmd-{2**22 + 1}-nest", f"otpd-cmd-{os.getpid()}-nest"
    (tmp_path / gone / f"otpd-cmd-{2**22 + 2}-nest").mkdir(parents=True)
    (tmp_path / alive).mkdir()
    (tmp_path / "else").mkdir()
    cgroup.sweep(patience=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else", alive]


def test_a_real_leaf_is_made_and_removed_where_that_is_possible() -> None:
    leaf = cgroup.make_leaf("test")
    if leaf is None:
        pytest.skip("this process may not make control groups; the capability table says so, too")
    directories = set(leaf.directories.values())
    assert all(os.path.isdir(each) for each in directories)
    leaf.remove()
    assert not any(os.path.exists(each) for each in directories)
