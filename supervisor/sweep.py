"""What the effects of `ladder` do to real processes: signal, kill, reap, find strays, and prove that nothing is left.

No signal goes to a bare pid that could be a stranger's (T19): it goes through a pidfd, to an unreaped child of this
process, or to a process whose start time is checked after a pidfd holds it. Root is a subreaper, so what a dead worker
leaves behind becomes root's child as soon as its parent is gone: an empty difference between root's children and root's
table proves that nothing is left, at the price of one read.

A stray belongs to a worker when it is in its session or group, or carries its cookie (OTPD_CHILD, OTPD_GENERATION) or is
in its cgroup. A process that has left its session *and* cleaned its environment can only be found through the cgroup.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from otpd.supervisor import cgroup, linux
from otpd.supervisor.incarnation import Status
from otpd.supervisor.ladder import Process
from otpd.supervisor.launch import CHILD, GENERATION, NODE

#: Seconds for which one pass may hold root up, and only while there is something to kill.
_PASS: Final = 0.005
#: Links of /proc/self/task when this process has one thread: two of any directory, one of the thread's own.
_ONE_THREAD: Final = 3
#: Seconds of the search for somebody who forks and exits for ever, and how many of the newest pids it looks at.
_CHASE: Final = 0.02
_NEWEST: Final = 16


class Owner(NamedTuple):
    """The worker whose leftovers are looked for. `pid` is its main process's, which led its session and group."""

    node: str
    name: str
    generation: int
    pid: int
    cgroup: str | None = None
    events: int = -1  # a descriptor of its cgroup.events, where one is open


@dataclass(frozen=True, slots=True)
class NodeSweep:
    """What a sweep by node id did. `unreadable`: processes of other users whose environment may not be read."""

    ended: tuple[Process, ...]
    left: tuple[Process, ...]
    unreadable: int


# --- the main process of a worker ---


def identify(pid: int) -> Process | None:
    """Identity of a live or dead process that nobody has reaped; None when there is none."""
    found = linux.stat(pid)
    return None if found is None else Process(pid, found.started, _title(pid))


def ask(pidfd: int, number: int) -> None:
    """The stop signal, then SIGCONT so that a stopped process gets it."""
    for each in (number, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, each)


def kill(pid: int, pidfd: int, group: bool) -> None:
    """SIGKILL to a main process that is not reaped yet, and to its group. One that became another user (sudo) may be out
    of reach; then the ladder finds that it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if group:
        kill_group(pid)


def kill_group(leader: int) -> None:
    """SIGKILL to the group of an unreaped child. The caller answers for `leader` being one."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def reap(pid: int, pidfd: int, group: bool) -> Status | None:
    """Collect a dead main process, after killing its group; None while it lives, an empty Status if another reaped it."""
    try:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        if group:
            kill_group(pid)
        reaped, status, usage = os.wait4(pid, os.WNOHANG)  # not reaped yet, as was just seen: so its pid is its own
    except ChildProcessError:
        return Status()
    return _status(status, used(usage)) if reaped else None


def dead(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def used(usage: resource.struct_rusage) -> dict[str, float]:
    """What a dead process and the children that it waited for have used: seconds of CPU, bytes of memory at most, and
    counts of the kernel's."""
    return {
        "cpu_user_s": round(usage.ru_utime, 4),
        "cpu_system_s": round(usage.ru_stime, 4),
        "max_memory": usage.ru_maxrss * 1024,
        "major_faults": usage.ru_majflt,
        "blocks_read": usage.ru_inblock,
        "blocks_written": usage.ru_oublock,
        "waits": usage.ru_nvcsw,
        "preemptions": usage.ru_nivcsw,
    }


def _status(status: int, resources: dict[str, float]) -> Status:
    if os.WIFEXITED(status):
        return Status(code=os.WEXITSTATUS(status), resources=resources)
    return Status(signal=os.WTERMSIG(status), core=os.WCOREDUMP(status), resources=resources)


# --- what it left behind ---


class Sweeper:
    """Strays of this process's workers. `known` is always the caller's own table: main processes, helpers, blanks. A process
    that has one thread now must never have another (T37)."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._children = linux.open_own_children() if threading.active_count() == 1 else -1
        self._spare = -1
        self._keep_spare()
        #: Whose a stray was found to be. On its way out it has no environment any more that could tell.
        self._claims: dict[int, tuple[int, str, int]] = {}

    def __del__(self) -> None:
        for fd in (self._children, self._spare):
            if fd >= 0:
                os.close(fd)

    def sweep(self, owner: Owner, known: Set[int], kill: bool) -> tuple[Process, ...]:
        """What `owner` left and is alive; killed on the way if `kill`. Empty: verified that nothing is left.

        The main process must be reaped. Dead strays, of whomever, are reaped.
        """
        if self._nothing_left(owner, known):
            return ()
        end = time.monotonic() + _PASS
        with self._eyes():
            while True:
                found, settled = self._pass(owner, known, kill)
                if settled and not (found and kill):
                    return found
                if time.monotonic() > end:
                    return found or (Process(owner.pid, 0, "processes that fork and exit"),)

    def strays(self, known: Set[int]) -> tuple[Process, ...]:
        """Every live child that is not in `known`, whosever it is, for the end of the node."""
        with self._eyes():
            found = (self._live(pid) for pid in self._unknown(known))
            return tuple(Process(each.pid, each.started, _title(each.pid)) for each in found if each is not None)

    def reap_dead(self, known: Set[int]) -> None:
        """Collect dead strays. Call it on SIGCHLD."""
        with self._eyes():
            for pid in self._unknown(known):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        self._claims.pop(pid, None)

    def _nothing_left(self, owner: Owner, known: Set[int]) -> bool:
        """The usual case, seen at once and without a free descriptor; when in doubt, no."""
        if self._children < 0:
            return False
        if not known >= set(map(int, linux.read_again(self._children).split())):
            return False
        return owner.cgroup is None or (owner.events >= 0 and cgroup.is_empty(owner.events))

    @contextlib.contextmanager
    def _eyes(self) -> Iterator[None]:
        """A descriptor is free meanwhile, also when all are taken: who can't read /proc would take all for gone."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            yield
        finally:
            self._keep_spare()

    def _keep_spare(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _unknown(self, known: Set[int]) -> list[int]:
        """One read when this process has one thread; the whole walk where the kernel has no such file."""
        alone = os.stat("/proc/self/task").st_nlink == _ONE_THREAD
        content = linux.read_proc("/proc/thread-self/children") if alone else None
        found = linux.children(self._pid) if content is None else map(int, content.split())
        return sorted(set(found).difference(known))

    def _pass(self, owner: Owner, known: Set[int], kill: bool) -> tuple[tuple[Process, ...], bool]:
        """What was found, and whether that is all: a stray that died meanwhile may have left a child to us."""
        unknown = self._unknown(known)
        live = [each for each in map(self._live, unknown) if each is not None]
        strays = [each for each in live if self._belongs(each, owner)]
        members = cgroup.members(owner.cgroup) if owner.cgroup and cgroup.populated(owner.cgroup) else []
        found = {each.pid: Process(each.pid, each.started, _title(each.pid)) for each in strays}
        found |= {each.pid: each for each in map(identify, members) if each is not None and each.pid not in found}
        if kill:
            for each in strays:
                self._kill(each)
            if members and owner.cgroup:
                cgroup.kill(owner.cgroup)
        doubtful = any(each.pid not in found and _is_leaving(each.pid) for each in live)
        return tuple(found.values()), len(live) == len(unknown) and not doubtful

    def _live(self, pid: int) -> linux.Stat | None:
        """A live child of ours; a dead one is reaped."""
        found = linux.stat(pid)
        if found is None or found.ppid != self._pid:
            return None
        if found.state not in "ZX":
            return found
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                return found  # only its first thread is dead
        except ChildProcessError:
            pass
        self._claims.pop(pid, None)
        return None

    def _belongs(self, stray: linux.Stat, owner: Owner) -> bool:
        started, name, generation = self._claims.get(stray.pid, (0, "", 0))
        if started == stray.started:
            return name == owner.name and generation <= owner.generation
        if _belongs(stray, owner):
            self._claims[stray.pid] = (stray.started, owner.name, owner.generation)
            return True
        return False

    def _kill(self, stray: linux.Stat) -> None:
        """Its whole group at once, so that one that forks and exits for ever has no time to; the stray is our own child,
        so neither its pid nor its group can have become somebody else's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(stray.pid, signal.SIGKILL)
            if stray.group != os.getpgrp():
                os.killpg(stray.group, signal.SIGKILL)


def _is_leaving(pid: int) -> bool:
    """It has no environment any more because it is on its way out, so whose it is can't be told, and it may have forked."""
    if linux.environ_block(pid):
        return False
    found = linux.stat(pid)
    return found is None or found.exiting


def _belongs(stray: linux.Stat, owner: Owner) -> bool:
    if stray.pid == owner.pid:  # the number was given anew: main has been reaped
        return False
    if owner.pid in (stray.session, stray.group):
        return True
    cookie = cookie_of(stray.pid)
    if cookie.get(NODE) != owner.node or cookie.get(CHILD) != owner.name:
        return False
    generation = cookie.get(GENERATION, "")
    return generation.isdigit() and int(generation) <= owner.generation


def cookie_of(pid: int) -> dict[str, str]:
    """The cookie in the environment of `pid`; empty when there is none or it may not be read."""
    block = linux.environ_block(pid) or b""
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry.startswith(b"OTPD_"))
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}


def _title(pid: int) -> str:
    line = linux.read_proc(f"/proc/{pid}/cmdline") or linux.read_proc(f"/proc/{pid}/comm") or b""
    return line.replace(b"\0", b" ").decode(errors="backslashreplace").strip()[:200]


# --- what an earlier life of the node left ---


def sweep_node(node: str, patience: float = 5.0, keep: Iterable[int] = ()) -> NodeSweep:
    """End every process that carries the cookie of `node`, and wait until it is gone, at most `patience` seconds.

    Blocks; for the start of a node, when the lock is held. This process, its ancestors and `keep` are left alone.
    """
    spared = {*keep, *_ancestors(os.getpid())}
    end = time.monotonic() + patience
    ended: dict[int, Process] = {}
    while True:
        seen = list(_carriers(node, _numbers("/proc"), spared))
        found = [each for each in seen if each is not None] or _fleeting(node, spared)
        if not found or time.monotonic() > end:
            unreadable = seen.count(None)
            left = {each.pid for each in found}
            return NodeSweep(tuple(p for p in ended.values() if p.pid not in left), tuple(found), unreadable)
        ended |= {each.pid: each for each in found}
        _end_all(node, found, end)


def carriers(node: str) -> tuple[Process, ...]:
    """What carries the cookie of `node` now, but for this process and its ancestors."""
    found = _carriers(node, _numbers("/proc"), _ancestors(os.getpid()))
    return tuple(each for each in found if each is not None)


def _fleeting(node: str, spared: Set[int]) -> list[Process]:
    """Who forks and exits for ever has another pid before a walk over /proc gets to it: look at the newest pids only."""
    end = time.monotonic() + _CHASE
    while time.monotonic() < end:
        newest = int((linux.read_proc("/proc/loadavg") or b"0").split()[-1])
        around = range(newest + _NEWEST // 4, max(1, newest - _NEWEST), -1)
        found = [each for each in _carriers(node, around, spared) if each is not None]
        if found:
            return found
    return []


def _carriers(node: str, pids: Iterable[int], spared: Set[int]) -> Iterator[Process | None]:
    """Those of `pids` with the cookie of `node`; None for one whose environment may not be read."""
    wanted = f"{NODE}={node}".encode()
    for pid in pids:
        if pid in spared:
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                carries = wanted in file.read().split(b"\0")
        except PermissionError:
            yield None
            continue
        except OSError:
            continue
        found = identify(pid) if carries else None
        if found is not None:
            yield found


def _numbers(directory: str) -> list[int]:
    return [int(name) for name in os.listdir(directory) if name.isdigit()]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        entry = linux.stat(pid)
        pid = entry.ppid if entry else 0
    return found


def _end_all(node: str, targets: list[Process], end: float) -> None:
    """SIGKILL to all, then wait for each."""
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        waiting = 0
        for target in targets:
            pidfd = _hold(target, node)
            if pidfd is not None:
                stack.callback(os.close, pidfd)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll.register(pidfd, select.POLLIN)
                waiting += 1
        while waiting and (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                waiting -= 1


def _hold(target: Process, node: str) -> int | None:
    """A pidfd of exactly this process; None when it is gone or its pid is somebody else's now."""
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return None
    found = linux.stat(target.pid)
    if found is not None and found.started == target.started and cookie_of(target.pid).get(NODE) == node:
        return pidfd
    os.close(pidfd)
    return None
