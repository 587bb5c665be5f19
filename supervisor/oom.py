"""Whether the kernel killed a child for want of memory: a SIGKILL that nobody sent looks like one that somebody did.

Three witnesses, surest first. The kernel's log names the victim, but not every user may read it, and in a pid namespace
of its own a node would not know its pids there. The counter of the cgroup that the node is in (`memory.events`, in version
1 `memory.oom_control`) says that it was one of those in it; the counter of the machine (/proc/vmstat), that there was a
victim at all. What the witness can't know, the answer says.

Nothing is read until a child has died of a SIGKILL that root did not send, and then seldom more than one small file.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from otpd.supervisor import cgroup, linux

_MACHINE: Final = "/proc/vmstat"
_KERNEL_LOG: Final = "/dev/kmsg"
#: Inode of the first pid namespace, in every kernel.
_FIRST_NAMESPACE: Final = 0xEFFF_FFFC
#: Records of the kernel's log that one look may read, and the size of one.
_MOST_RECORDS, _RECORD = 2000, 8192
#: Seconds for which a victim that nobody has asked for is remembered: its pid may be somebody else's then.
_MEMORY: Final = 5.0
_VICTIM: Final = re.compile(rb"[Oo]ut of memory\S*: Killed process (\d+) \(.*?\).*?anon-rss:(\d+)kB")


@dataclass(slots=True)
class Counter:
    """A file of the kernel's with a line `oom_kill N`, and what it said at the last two looks without a death."""

    path: str
    base: int = 0
    latest: int = 0

    def read(self) -> int:
        """0 where the file, or the line, is not there: then it never grows."""
        content = linux.read_proc(self.path) or b""
        found = re.search(rb"^oom_kill (\d+)$", content, re.MULTILINE)
        return int(found[1]) if found else 0

    def forget(self) -> None:
        """What was counted before the last but one look has nothing to do with a death that comes."""
        self.base, self.latest = max(self.base, self.latest), self.read()

    def grown(self) -> int:
        return self.read() - self.base


@dataclass(slots=True)
class OomWatch:
    """`log`: the kernel's, or -1; open for as long as root lives. `own`: the counter of the node's cgroup, if any."""

    machine: Counter
    own: Counter | None = None
    log: int = -1
    _victims: dict[int, tuple[float, str]] = field(default_factory=dict)

    @staticmethod
    def open() -> OomWatch:
        """With the witnesses that this machine has for this user; what happened before counts for nothing."""
        own = _own_counter()
        watch = OomWatch(Counter(_MACHINE), None if own is None else Counter(own), _open_log())
        watch.refresh()
        watch.refresh()
        return watch

    def refresh(self) -> None:
        """Call it every few seconds: the shorter what is counted, the surer whom it was about."""
        for counter in self._counters():
            counter.forget()

    def cause(self, pid: int) -> str | None:
        """Of the death of `pid`, which has just died of a SIGKILL that root did not send; None when it was no OOM kill."""
        grown = self.machine.grown()
        found = self._witnessed(pid, grown) if grown > 0 else None
        if found is not None:
            self.machine.base += 1
        return found

    def _witnessed(self, pid: int, grown: int) -> str | None:
        if self.log >= 0:
            return self._told(pid)
        if self.own is not None:
            return self._counted(self.own)
        return (
            f"perhaps oom: the kernel has just killed {_processes(grown)} on this machine for want of memory; "
            f"its log would name them, but uid {os.getuid()} may not read {_KERNEL_LOG} here"
        )

    def _counted(self, own: Counter) -> str | None:
        grown = own.grown()
        if grown <= 0:
            return None
        own.base += 1
        return f"oom: the kernel has just killed {_processes(grown)} for want of memory in the cgroup of this node"

    def _told(self, pid: int) -> str | None:
        now = time.monotonic()
        for victim, text in _victims(self.log):
            self._victims[victim] = (now, text)
        self._victims = {victim: told for victim, told in self._victims.items() if now - told[0] < _MEMORY}
        found = self._victims.pop(pid, None)
        return None if found is None else found[1]

    def _counters(self) -> Iterator[Counter]:
        yield self.machine
        if self.own is not None:
            yield self.own


def _processes(count: int) -> str:
    return "a process" if count == 1 else f"{count} processes"


def _own_counter() -> str | None:
    """Of the cgroup of this process, version 2 before 1."""
    candidates = ((cgroup.own_directory(), "memory.events"), (cgroup.own_memory_v1(), "memory.oom_control"))
    paths = (os.path.join(directory, name) for directory, name in candidates if directory is not None)
    return next((path for path in paths if b"\noom_kill " in (linux.read_proc(path) or b"")), None)


def _open_log() -> int:
    """From its end on; -1 where it may not be read, or would call our processes by other numbers."""
    with contextlib.suppress(OSError):
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_NAMESPACE:
            return -1
        fd = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(fd, 0, os.SEEK_END)
        return fd
    return -1


def _victims(log: int) -> Iterator[tuple[int, str]]:
    """(pid, what is said of it) of the records since the last call; of a flood only the first."""
    for _ in range(_MOST_RECORDS):
        try:
            record = os.read(log, _RECORD)
        except BrokenPipeError:
            continue  # the oldest were overwritten
        except OSError:
            return
        found = _VICTIM.search(record)
        if found is not None:
            yield int(found[1]), _said(record, int(found[2]))
    os.lseek(log, 0, os.SEEK_END)


def _said(record: bytes, kilobytes: int) -> str:
    where = "its cgroup" if b"Memory cgroup" in record else "the machine"
    return f"oom: the kernel killed it because {where} ran out of memory; it used {kilobytes >> 10}MiB"
