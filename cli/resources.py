"""cpu and memory of workers, each with all processes below it, measured here and not by root.

One pass over the process table per look, however many workers there are. The first look has no cpu figures yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from otpd.cli.tree_view import Usage


@dataclass(frozen=True, slots=True)
class _Process:
    cpu: float  # seconds used so far
    memory: int
    began: float  # tells a reused pid from its predecessor


class Sampler:
    """`sample` gives the usage since the last call."""

    def __init__(self) -> None:
        self._before: dict[int, _Process] = {}
        self._at = 0.0

    def sample(self, pids: Iterable[int]) -> dict[int, Usage]:
        """Usage by pid of the worker; one that is gone is left out."""
        now = time.monotonic()
        table, parents = _process_table()
        below: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            below.setdefault(parent, []).append(pid)
        elapsed = now - self._at if self._before else 0.0
        found = {pid: self._usage(_family(pid, below), table, elapsed) for pid in pids if pid in table}
        self._before, self._at = table, now
        return found

    def _usage(self, family: list[int], table: Mapping[int, _Process], elapsed: float) -> Usage:
        used = sum(self._used(pid, table[pid]) for pid in family)
        percent = 100 * used / elapsed if elapsed else 0.0
        return Usage(percent, sum(table[pid].memory for pid in family), len(family))

    def _used(self, pid: int, process: _Process) -> float:
        before = self._before.get(pid)
        return process.cpu - before.cpu if before and before.began == process.began else process.cpu


def _process_table() -> tuple[dict[int, _Process], dict[int, int]]:
    table, parents = {}, {}
    for process in psutil.process_iter(["ppid", "cpu_times", "memory_info", "create_time"]):
        info = process.info
        if info["cpu_times"] is None or info["memory_info"] is None:
            continue
        cpu = info["cpu_times"].user + info["cpu_times"].system
        table[process.pid] = _Process(cpu, info["memory_info"].rss, info["create_time"])
        parents[process.pid] = info["ppid"]
    return table, parents


def _family(pid: int, below: Mapping[int, list[int]]) -> list[int]:
    found = [pid]
    for each in found:  # grows while it is walked
        found += below.get(each, ())
    return found
