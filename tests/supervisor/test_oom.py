"""What each witness of an OOM kill can know, and what is said then (test 28)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.supervisor import linux, oom
from otpd.supervisor.oom import Counter, OomWatch

#: As Linux 6.18 wrote them, with another task's lines between.
MEMCG = (
    b"6,507,6464030553,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/shop,"
    b"task_memcg=/shop,task=python3,pid=4711,uid=0\n",
    b"3,508,6464030569,-;Memory cgroup out of memory: Killed process 4711 (python3) total-vm:323768kB, anon-rss:65280kB, "
    b"file-rss:6568kB, shmem-rss:0kB, UID:0 pgtables:184kB oom_score_adj:0\n",
)
GLOBAL = (
    b"3,90,1,-;Out of memory: Killed process 4712 (a (b) c) total-vm:9000000kB, anon-rss:8388608kB, file-rss:0kB, "
    b"shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0\n",
)


class Kernel:
    """The files that a watch reads; the log is a queue of datagrams, a record each, as /dev/kmsg gives them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        for name in ("vmstat", "memory.events"):
            self.counts(name, 3)
        self._log, self.written = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)

    def counts(self, name: str, number: int) -> None:
        (self._home / name).write_text(f"low 0\noom {number + 9}\noom_kill {number}\noom_group_kill 0\n")

    def watch(self, log: bool = False, own: bool = False) -> OomWatch:
        counter = Counter(str(self._home / "memory.events")) if own else None
        watch = OomWatch(Counter(str(self._home / "vmstat")), counter, self._log if log else -1)
        watch.refresh()
        watch.refresh()
        return watch

    def says(self, *records: bytes) -> None:
        for record in records:
            os.write(self.written, record)

    def close(self) -> None:
        os.close(self._log)
        os.close(self.written)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setattr(oom.os, "lseek", lambda *_: 0)  # a pipe has no end to go to
    made = Kernel(tmp_path)
    yield made
    made.close()


def test_who_is_named_by_the_kernels_log_was_killed_for_want_of_memory_and_nobody_else_was(kernel: Kernel) -> None:
    watch = kernel.watch(log=True)
    kernel.counts("vmstat", 5)
    kernel.says(b"6,1,1,-;eth0: link up\n", *MEMCG, *GLOBAL)
    assert watch.cause(4713) is None
    assert watch.cause(4711) == "oom: the kernel killed it because its cgroup ran out of memory; it used 63MiB"
    assert watch.cause(4712) == "oom: the kernel killed it because the machine ran out of memory; it used 8192MiB"
    assert [watch.cause(pid) for pid in (4711, 4712)] == [None, None], "each death has its own cause"


def test_the_log_is_not_read_while_the_machine_counts_no_kill(kernel: Kernel) -> None:
    watch = kernel.watch(log=True)
    kernel.says(*MEMCG)
    assert watch.cause(4711) is None
    kernel.counts("vmstat", 4)
    assert watch.cause(4711) is not None


def test_a_victim_that_nobody_asked_for_is_forgotten(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid may be that of a child by then, which somebody kills."""
    watch = kernel.watch(log=True)
    kernel.counts("vmstat", 4)
    kernel.says(*MEMCG)
    assert watch.cause(1) is None
    now = oom.time.monotonic()
    monkeypatch.setattr(oom.time, "monotonic", lambda: now + 10)
    assert watch.cause(4711) is None


def test_without_the_log_the_counter_of_the_nodes_cgroup_speaks_once_for_each_kill(kernel: Kernel) -> None:
    watch = kernel.watch(own=True)
    for name in ("vmstat", "memory.events"):
        kernel.counts(name, 4)
    assert watch.cause(7) == "oom: the kernel has just killed a process for want of memory in the cgroup of this node"
    assert watch.cause(8) is None


def test_a_kill_outside_the_nodes_cgroup_says_nothing_about_its_children(kernel: Kernel) -> None:
    watch = kernel.watch(own=True)
    kernel.counts("vmstat", 4)
    assert watch.cause(7) is None


def test_with_the_counter_of_the_machine_alone_the_answer_says_what_it_does_not_know(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.counts("vmstat", 5)
    said = watch.cause(7)
    assert said is not None
    assert said.startswith("perhaps oom: the kernel has just killed 2 processes on this machine for want of memory")
    assert re.search(r"uid \d+ may not read /dev/kmsg", said)
    assert watch.cause(8) is not None, "there were two"
    assert watch.cause(9) is None


def test_what_was_counted_a_while_ago_is_not_about_a_death_of_now(kernel: Kernel) -> None:
    """The last but one look counts: what happened just before the last one may be about a death that is told now."""
    watch = kernel.watch()
    kernel.counts("vmstat", 4)
    watch.refresh()
    assert watch.cause(7) is not None
    kernel.counts("vmstat", 5)
    for _ in range(2):
        watch.refresh()
    assert watch.cause(8) is None


def test_a_kernel_without_such_counters_is_never_asked_twice(kernel: Kernel, tmp_path: Path) -> None:
    watch = OomWatch(Counter(str(tmp_path / "none")), None, -1)
    watch.refresh()
    assert watch.cause(7) is None


def test_the_witnesses_of_this_machine_can_be_asked() -> None:
    watch = OomWatch.open()
    try:
        assert b"oom_kill " in (linux.read_proc(watch.machine.path) or b"")
        assert watch.cause(os.getpid()) is None
    finally:
        if watch.log >= 0:
            os.close(watch.log)
