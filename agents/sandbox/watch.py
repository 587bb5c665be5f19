"""Measures what runs in a slot: memory, tasks, processor time. From outside, so that nothing in it can lie.

Where a memory cgroup enforces the limit this only counts; elsewhere it is the limit, with the ticks between two looks
as its error. Memory here is what processes have made their own and what they share among themselves; files in /tmp and
/dev/shm have limits of their own, and memory of the kernel for them is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otpd.agents.sandbox import family

_TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024
#: Seconds between two looks: soon while little is left, rarely when nothing happens.
SOONEST, LATEST = 0.005, 0.05
#: Bytes per second that a process can touch at most, about. Decides when to look again.
_FASTEST: Final = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Usage:
    """Of everything in the slot, now. `cpu` counts those that have ended, too."""

    memory: int = 0
    tasks: int = 0
    cpu: float = 0.0
    tmp: int = 0  # bytes and files in private directories, where nothing else limits them
    tmp_files: int = 0


def measure(proc: int, limit: int) -> Usage:
    """`proc`: a descriptor of the slot's /proc, whose pid 1 is the init. `limit`: the memory from which on it is exact.

    Summing what each process has counts what is shared more than once; only when that sum is over the limit is the
    exact share read, which is slow.
    """
    pids = [name for name in os.listdir(proc) if name.isdigit() and name != "1"]
    return _sum(proc, pids, limit, _reaped(proc, "1"))


def measure_tree(init: int, limit: int) -> Usage:
    """The same without a pid namespace: what descends from `init`, a pid."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _sum(proc, map(str, family.descendants(init)), limit, _reaped(proc, str(init)))
    finally:
        os.close(proc)


def _sum(proc: int, pids: Iterable[str], limit: int, reaped: float) -> Usage:
    memory = tasks = 0
    cpu = reaped
    seen = []
    for pid in pids:
        status, times = _read(proc, f"{pid}/status"), _stat(proc, pid)
        if status and times:
            memory += _field(status, b"RssAnon:") + _field(status, b"RssShmem:")
            tasks += int(times[17])
            cpu += sum(map(int, times[11:15])) * _TICK
            seen.append(pid)
    if memory > limit:
        memory = sum(_share(proc, pid) for pid in seen)
    return Usage(memory, tasks, cpu)


def _read(proc: int, path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _stat(proc: int, pid: str) -> list[bytes]:
    """The fields after the name, from the state on: number 11 is utime."""
    return _read(proc, f"{pid}/stat").rpartition(b")")[2].split()


def _reaped(proc: int, init: str) -> float:
    """Seconds of what the init has reaped."""
    fields = _stat(proc, init)
    return sum(map(int, fields[13:15])) * _TICK if fields else 0.0


def _field(text: bytes, name: bytes) -> int:
    """Bytes of a line such as `RssAnon:  124 kB`; 0 if there is none."""
    _, found, rest = text.partition(name)
    return int(rest.split(None, 1)[0]) * _KIB if found else 0


def _share(proc: int, pid: str) -> int:
    """What would be free if this process went, the shared divided by those who share it."""
    text = _read(proc, f"{pid}/smaps_rollup")
    if b"Pss_Anon:" in text:
        return _field(text, b"Pss_Anon:") + _field(text, b"Pss_Shmem:")
    status = _read(proc, f"{pid}/status")
    return _field(status, b"RssAnon:") + _field(status, b"RssShmem:")


def next_look(memory: int, limit: int, age: float) -> float:
    """Seconds until the next look. `age`: of the run; a short one is left alone at first."""
    left = max(0, limit - memory) / _FASTEST
    return min(max(SOONEST, left, age / 4), LATEST)
