"""What the process trees of children use, measured through psutil: one pass over the process table per look.

A child's processes are what descends from its main process or stayed in its session. Memory is RSS first, which is cheap and
never too small; only where the sum of that is over the limit PSS, which counts memory shared by n processes (the zygote's,
libraries) 1/n in each. A process whose PSS may not be read counts with its RSS. Who is gone uses nothing.

A look may be taken in any thread, one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from otpd.agents.services.health.limits import Allowed, Usage

#: Seconds between two looks, and the share of a core that they may take (T20).
PERIOD, SHARE = 2.0, 0.007

#: pid -> pids of its children.
Below: TypeAlias = Mapping[int, Sequence[int]]
#: A process that has lived: pid and the time of its birth.
_Life: TypeAlias = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Target:
    """An incarnation to look at."""

    name: str
    generation: int
    pid: int
    allowed: Allowed


def next_delay(cost: float) -> float:
    """Seconds to the next look after one that took `cost` seconds of processor time.

    >>> next_delay(0.001), next_delay(0.07)
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


def memory_of(pids: Iterable[int], limit: int, cheap: Callable[[int], int], exact: Callable[[int], int]) -> int:
    """Bytes of all `pids` together: by the cheap measure, which is never too small, unless that is over the limit."""
    pids = list(pids)
    most = sum(map(cheap, pids))
    return most if most <= limit else sum(map(exact, pids))


def spent(before: Mapping[_Life, float], now: Mapping[_Life, float]) -> float:
    """Processor time that was used between two looks by those who are still there at the second.

    >>> spent({(1, 0.0): 2.0, (2, 0.0): 9.0}, {(1, 0.0): 2.5, (3, 7.0): 0.25})
    0.75
    """
    return sum(used - before.get(life, 0.0) for life, used in now.items())


class Sampler:
    """`root`: the pid of who adopts what children leave behind."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._cpu: dict[tuple[str, int], dict[_Life, float]] = {}  # by incarnation

    def look(self, targets: Sequence[Target]) -> list[tuple[Target, Usage]]:
        below, processes = _table()
        sessions = {pid: _session(pid) for pid in below.get(self._root, ())}
        of_session: dict[int, dict[int, int]] = {}
        for pid, session in sessions.items():
            of_session.setdefault(session, {})[pid] = session
        self._cpu = {key: self._cpu[key] for each in targets if (key := (each.name, each.generation)) in self._cpu}
        found = []
        for target in targets:
            pids = family(target.pid, below, of_session.get(target.pid, {}))
            found.append((target, self._usage(target, [processes[pid] for pid in pids if pid in processes])))
        return found

    def _usage(self, target: Target, processes: Sequence[psutil.Process]) -> Usage:
        allowed = target.allowed
        by_pid = {each.pid: each for each in processes}
        memory = None
        if allowed.memory is not None:
            memory = memory_of(by_pid, allowed.memory, lambda pid: rss(by_pid[pid]), lambda pid: pss(by_pid[pid]))
        return Usage(
            memory=memory,
            cpu=None if allowed.cpu is None else self._spent(target, processes),
            files=None if allowed.files is None else sum(map(_files, processes)),
            threads=None if allowed.threads is None else sum(map(_threads, processes)),
        )

    def _spent(self, target: Target, processes: Iterable[psutil.Process]) -> float:
        """At the first look at an incarnation nothing: what it used before nobody has watched."""
        key, now = (target.name, target.generation), _cpu(processes)
        before, self._cpu[key] = self._cpu.get(key), now
        return 0.0 if before is None else max(0.0, spent(before, now))


def _table() -> tuple[dict[int, list[int]], dict[int, psutil.Process]]:
    below: dict[int, list[int]] = {}
    processes = {}
    for process in psutil.process_iter():
        try:
            below.setdefault(process.ppid(), []).append(process.pid)
        except psutil.Error:
            continue
        processes[process.pid] = process
    return below, processes


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


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


def _cpu(processes: Iterable[psutil.Process]) -> dict[_Life, float]:
    found = {}
    for process in processes:
        try:
            used = process.cpu_times()
            found[process.pid, process.create_time()] = used.user + used.system
        except psutil.Error:
            continue
    return found


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
