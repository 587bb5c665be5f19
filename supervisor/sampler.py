"""The sampler: one process that watches the memory of children which declare `restart_when`, so that root measures nothing.

    python -P -m otpd.supervisor.sampler --channel FD

It reports and decides nothing; root restarts. A child's memory is that of its whole process tree: what descends from its
main process or stayed in its session. Measured is RSS first, which is cheap and never too small; only where the sum of that
is over the limit PSS, which counts memory shared by n processes (the zygote's, libraries) 1/n in each. A process whose
PSS may not be read counts with its RSS.

Root to sampler: ["watch", name, generation, pid, bytes], which replaces an earlier one - ["forget", name, generation].
Sampler to root: ["over", name, generation, bytes], again in each sample in which it is so. A sample is taken every 2 s, and
less often where more than 1 % of a core would be needed (T20); nothing is done while nobody is watched. It may be killed
at any time, and ends when its channel does.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psutil

from otpd.ipc.frames import FrameError, close_all, receive_packet, send_packet
from otpd.supervisor import linux

#: Seconds between two samples, and the share of a core that they may take.
PERIOD = 2.0
SHARE = 0.01

#: pid -> pids of its children.
Below: TypeAlias = Mapping[int, Sequence[int]]
Measure: TypeAlias = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Watched:
    name: str
    generation: int
    pid: int
    limit: int  # bytes


class Watches:
    """Who is watched. Pure; at most one incarnation per name."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}

    def __iter__(self) -> Iterator[Watched]:
        return iter(self._watched.values())

    def __len__(self) -> int:
        return len(self._watched)

    def on_packet(self, value: Any) -> None:
        """What root says; anything else is ignored."""
        match value:
            case ["watch", str(name), int(generation), int(pid), int(limit)]:
                self._watched[name] = Watched(name, generation, pid, limit)
            case ["forget", str(name), int(generation)]:
                found = self._watched.get(name)
                if found is not None and found.generation == generation:
                    del self._watched[name]


def family(pid: int, below: Below, sessions: Mapping[int, int]) -> list[int]:
    """`pid`, what descends from it, and what was left to somebody else but is still in its session, with descendants.

    >>> family(5, {5: [6], 6: [7], 8: [9], 1: [5, 8, 10]}, {8: 5, 10: 10})
    [5, 8, 6, 9, 7]
    """
    found = [pid, *(each for each, session in sessions.items() if session == pid and each != pid)]
    for each in found:  # grows while it is walked
        found += below.get(each, ())
    return found


def used(pids: Iterable[int], limit: int, cheap: Measure, exact: Measure) -> int:
    """Bytes of all `pids` together: by the cheap measure, which is never too small, unless that is over the limit."""
    pids = list(pids)
    most = sum(map(cheap, pids))
    return most if most <= limit else sum(map(exact, pids))


def next_delay(cost: float) -> float:
    """Seconds to the next sample after one that took `cost` seconds of processor time.

    >>> next_delay(0.001), next_delay(0.1)
    (2.0, 10.0)
    """
    return max(PERIOD, cost / SHARE)


def rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def pss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.AccessDenied:
        return rss(pid)
    except psutil.Error:
        return 0


class Sampler:
    """The process: `run` returns when root has closed the channel."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._watches = Watches()
        self._root = os.getppid()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        due = time.monotonic()
        while True:
            wait = None if not self._watches else max(0.0, due - time.monotonic()) * 1000
            if poll.poll(wait) and not self._hear():
                return
            if self._watches and time.monotonic() >= due:
                before = time.process_time()
                self._sample()
                due = time.monotonic() + next_delay(time.process_time() - before)

    def _hear(self) -> bool:
        """All that has come; false when root is gone."""
        while True:
            try:
                packet = receive_packet(self._channel)
            except BlockingIOError:
                return True
            except (FrameError, OSError):
                return False
            if packet is None:
                return False
            close_all(packet[1])
            self._watches.on_packet(packet[0])

    def _sample(self) -> None:
        """One pass over the process table, however many are watched."""
        below = _process_table()
        sessions = {pid: _session(pid) for pid in below.get(self._root, ())}
        for each in self._watches:
            found = used(family(each.pid, below, sessions), each.limit, rss, pss)
            if found > each.limit:
                self._say(["over", each.name, each.generation, found])

    def _say(self, value: list[Any]) -> None:
        """It is said again in the next sample; a root that can't listen now, or never will, is no failure."""
        try:
            send_packet(self._channel, value)
        except OSError:
            return


def _process_table() -> dict[int, list[int]]:
    below: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        below.setdefault(process.info["ppid"], []).append(process.pid)
    return below


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="otpd sampler", description="Watches the memory of children for root.")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel to root")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.set_inheritable(options.channel, False)
    linux.set_title("otpd: sampler")
    Sampler(socket.socket(fileno=options.channel)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
