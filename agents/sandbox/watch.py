"""Measures what runs in a slot: memory, tasks, processor time. From outside, so that nothing in it can lie.

Where a memory cgroup enforces the limit this only counts; elsewhere it is the limit, with the ticks between two looks
as its error. Memory here is what processes have made their own, swapped out or not, and what they share among themselves;
files in /tmp and /dev/shm have limits of their own, and memory of the kernel for them is not seen. Shared anonymous memory
stays when who has filled it lets go of its pages or ends, and then nobody has them: where there could be more of it than the
limit it counts with its whole size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from otpd.agents.sandbox import family

_TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024
#: What the kernel calls shared anonymous memory in a list of mappings.
_SHARED: Final = b"/dev/zero (deleted)"
#: Bytes of one file of /proc: some ten thousand mappings.
_MOST: Final = 2**20
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


def measure(proc: int, limit: int, *, bounded: bool = False) -> Usage:
    """`proc`: a descriptor of the slot's /proc, whose pid 1 is the init. `limit`: the memory from which on it is exact.
    `bounded`: a cgroup sees to the limit.

    Summing what each process has counts what is shared more than once; only when that sum is over the limit is the
    exact share read, which is slow.
    """
    pids = [name for name in os.listdir(proc) if name.isdigit() and name != "1"]
    return _sum(proc, pids, limit, _reaped(proc, "1"), bounded)


def measure_tree(init: int, limit: int, *, bounded: bool = False) -> Usage:
    """The same without a pid namespace: what descends from `init`, a pid."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _sum(proc, map(str, family.descendants(init)), limit, _reaped(proc, str(init)), bounded)
    finally:
        os.close(proc)


def _sum(proc: int, pids: Iterable[str], limit: int, reaped: float, bounded: bool) -> Usage:
    own = shared = tasks = 0
    cpu = reaped
    mapped: dict[str, int] = {}
    for pid in pids:
        status, times = _read(proc, f"{pid}/status"), _stat(proc, pid)
        if status and times:
            own += _field(status, b"RssAnon:") + _field(status, b"VmSwap:")
            shared += _field(status, b"RssShmem:")
            tasks += int(times[17])
            cpu += sum(map(int, times[11:15])) * _TICK
            mapped[pid] = _field(status, b"VmSize:")
    if own + shared > limit:
        shares = [_share(proc, pid) for pid in mapped]
        own, shared = sum(each[0] for each in shares), sum(each[1] for each in shares)
    if not bounded and sum(mapped.values()) > limit:
        shared = max(shared, _size_of_shared(proc, mapped))
    return Usage(own + shared, tasks, cpu)


def _size_of_shared(proc: int, mapped: Mapping[str, int]) -> int:
    """Bytes of all shared anonymous memory that is mapped, touched or not; each once, whoever maps it. Who has too many
    mappings to look through may have hidden it: then all that is mapped counts."""
    hidden = 0
    sizes: dict[bytes, int] = {}  # by inode
    for pid, size in mapped.items():
        text = _read(proc, f"{pid}/maps")
        hidden += size if len(text) > _MOST else 0
        for line in text.splitlines():
            if line.endswith(_SHARED):
                span, _, offset, _, inode, *_ = line.split()
                start, _, end = span.partition(b"-")
                sizes[inode] = max(sizes.get(inode, 0), int(offset, 16) + int(end, 16) - int(start, 16))
    return hidden + sum(sizes.values())


def _read(proc: int, path: str) -> bytes:
    """All of it, or a little more than `_MOST`: the kernel gives a few pages at a time of what is long."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return b""
    content = b""
    try:
        while len(content) <= _MOST and (chunk := os.read(fd, 65536)):
            content += chunk
    except OSError:
        pass
    finally:
        os.close(fd)
    return content


def _stat(proc: int, pid: str) -> list[bytes]:
    """The fields after the name, from the state on: number 11 is utime."""
    return _read(proc, f"{pid}/stat").rpartition(b")")[2].split()


def _reaped(proc: int, init: str) -> float:
    """Seconds of what the init has reaped."""
    fields = _stat(proc, init)
    return sum(map(int, fields[13:15])) * _TICK if fields else 0.0


def _field(text: bytes, name: bytes) -> int:
    """Bytes of a line such as `RssAnon:  124 kB`; 0 if there is none. Not in the first line, which may be a name that the
    process has given itself."""
    _, found, rest = text.partition(b"\n" + name)
    return int(rest.split(None, 1)[0]) * _KIB if found else 0


def _share(proc: int, pid: str) -> tuple[int, int]:
    """What would be free if this process went: its own, and of what is shared its part."""
    text = _read(proc, f"{pid}/smaps_rollup")
    if b"Pss_Anon:" in text:
        return _field(text, b"Pss_Anon:") + _field(text, b"SwapPss:"), _field(text, b"Pss_Shmem:")
    status = _read(proc, f"{pid}/status")
    return _field(status, b"RssAnon:") + _field(status, b"VmSwap:"), _field(status, b"RssShmem:")


def next_look(memory: int, limit: int, age: float) -> float:
    """Seconds until the next look. `age`: of the run; a short one is left alone at first."""
    left = max(0, limit - memory) / _FASTEST
    return min(max(SOONEST, left, age / 4), LATEST)
