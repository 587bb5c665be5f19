"""What the process trees of children use: one pass over the process table per look, and psutil for those that count.

A child's processes are what descends from its main process or stayed in its session. Memory is RSS first, which is cheap and
never too small; only where the sum of that is over the limit PSS, which counts memory shared by n processes (the zygote's,
libraries) 1/n in each. A process whose PSS may not be read counts with its RSS. Who is gone uses nothing.

A look may be taken in any thread, one at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import psutil

from otpd.agents.services.health.limits import Usage
from otpd.agents.services.health.ward import Target

#: Seconds between two looks, and the share of a core that they may take (T20).
PERIOD, SHARE = 2.0, 0.005

T = TypeVar("T")
#: pid -> pids of its children.
Below: TypeAlias = Mapping[int, Sequence[int]]
#: A process that has lived: pid and the tick of its birth.
_Life: TypeAlias = tuple[int, int]


def next_delay(cost: float) -> float:
    """Seconds to the next look after one that took `cost` seconds of processor time.

    >>> next_delay(0.001), next_delay(0.05)
    (2.0, 10.0)
    """
    return max(PERIOD, cost / SHARE)


def family(pid: int, below: Below, sessions: Mapping[int, int]) -> list[int]:
    """`pid`, what descends from it, and what was left to somebody else but is still in its session, with descendants.

    >>> family(5, {5: [6], 6: [7], 8: [9], 1: [5, 8, 10]}, {8: 5, 10: 10})
    [5, 8, 6, 9, 7]
    """
    found = [pid, *(each for each, session in sessions.items() if session == pid and each != pid)]
    for each in found:  # grows while it is walked
        found += below.get(each, ())
    return found


def memory_of(all_of: Iterable[T], limit: int, cheap: Callable[[T], int], exact: Callable[[T], int]) -> int:
    """Bytes of `all_of` them together: by the cheap measure, which is never too small, unless that is over the limit."""
    them = list(all_of)
    most = sum(map(cheap, them))
    return most if most <= limit else sum(map(exact, them))


def spent(before: Mapping[_Life, float], now: Mapping[_Life, float]) -> float:
    """Processor time that was used between two looks by those who are still there at the second.

    >>> spent({(1, 0): 2.0, (2, 0): 9.0}, {(1, 0): 2.5, (3, 7): 0.25})
    0.75
    """
    return sum(used - before.get(life, 0.0) for life, used in now.items())


class Sampler:
    """`root`: the pid of who adopts what children leave behind."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._processes: dict[_Life, psutil.Process] = {}
        self._cpu: dict[tuple[str, int], dict[_Life, float]] = {}  # by incarnation

    def look(self, targets: Sequence[Target]) -> list[tuple[Target, Usage]]:
        table = _table()
        below: dict[int, list[int]] = {}
        for pid, entry in table.items():
            below.setdefault(entry.parent, []).append(pid)
        strays: dict[int, dict[int, int]] = {}  # by session, what root has adopted
        for pid in below.get(self._root, ()):
            strays.setdefault(table[pid].session, {})[pid] = table[pid].session
        families = [family(each.pid, below, strays.get(each.pid, {})) for each in targets]
        self._forget(targets, {(pid, table[pid].born) for pids in families for pid in pids if pid in table})
        return [
            (target, self._usage(target, [(pid, table[pid].born) for pid in pids if pid in table]))
            for target, pids in zip(targets, families, strict=True)
        ]

    def _forget(self, targets: Sequence[Target], lives: set[_Life]) -> None:
        keys = {(each.name, each.generation) for each in targets}
        self._cpu = {key: cpu for key, cpu in self._cpu.items() if key in keys}
        self._processes = {life: process for life, process in self._processes.items() if life in lives}

    def _usage(self, target: Target, lives: Sequence[_Life]) -> Usage:
        allowed = target.allowed
        found = {life: process for life in lives if (process := self._process(life)) is not None}
        memory = cpu = files = threads = None
        with contextlib.ExitStack() as once:
            for process in found.values():
                once.enter_context(process.oneshot())
            if allowed.memory is not None:
                memory = memory_of(found, allowed.memory, lambda life: rss(found[life]), lambda life: pss(found[life]))
            if allowed.cpu is not None:
                cpu = self._spent(target, {life: _cpu(process) for life, process in found.items()})
            if allowed.files is not None:
                files = sum(map(_files, found.values()))
            if allowed.threads is not None:
                threads = sum(map(_threads, found.values()))
        return Usage(memory=memory, cpu=cpu, files=files, threads=threads)

    def _process(self, life: _Life) -> psutil.Process | None:
        """psutil's handle, made once per process."""
        found = self._processes.get(life)
        if found is None:
            try:
                found = self._processes[life] = psutil.Process(life[0])
            except psutil.Error:
                return None
        return found

    def _spent(self, target: Target, now: dict[_Life, float]) -> float:
        """At the first look at an incarnation nothing: what it used before nobody has watched."""
        key = (target.name, target.generation)
        before, self._cpu[key] = self._cpu.get(key), now
        return 0.0 if before is None else max(0.0, spent(before, now))


class _Entry(NamedTuple):
    parent: int
    session: int
    born: int  # ticks since boot


def _table() -> dict[int, _Entry]:
    """All processes of the host. psutil looks three times into the same file to tell a parent, and there are many."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    rest = file.read(1024).rpartition(b")")[2].split()
            except OSError:
                continue
            found[int(name)] = _Entry(int(rest[1]), int(rest[3]), int(rest[19]))
    return found


def rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return rss(process)
    except psutil.Error:
        return 0


def _cpu(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
        return float(used.user + used.system)
    except psutil.Error:
        return 0.0


def _files(process: psutil.Process) -> int:
    try:
        return int(process.num_fds())
    except psutil.Error:
        return 0


def _threads(process: psutil.Process) -> int:
    try:
        return int(process.num_threads())
    except psutil.Error:
        return 0
