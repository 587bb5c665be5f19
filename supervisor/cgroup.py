"""Workers in cgroups of their own, where the node may make them: the strongest way to own processes.

A process can leave its session, its parent and its environment, but not its cgroup, and `cgroup.kill` ends all members
at once. Without delegation everything works by session, subreaper and cookie (`sweep`); `probe` says why.
Layout: OWN/otpd-<id>/<name>, one leaf per worker, kept over its restarts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from otpd.supervisor import linux

_LONGEST_NAME: Final = 200
#: What groups of command workers are called, and the controllers of version 1 in which they make them.
_COMMANDS: Final = "otpd-cmd-"
_COMMAND_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")


@dataclass(frozen=True, slots=True)
class Delegation:
    """`directory` in which this process may make cgroups, or None; `why` in words, for doctor."""

    directory: str | None
    why: str


def probe() -> Delegation:
    """Whether cgroups can be used here. Makes nothing that stays."""
    own = own_directory()
    if own is None:
        return Delegation(None, "no cgroup v2 hierarchy is mounted")
    if not os.access(own, os.W_OK | os.X_OK) or not os.access(os.path.join(own, "cgroup.procs"), os.W_OK):
        return Delegation(None, f"{own} is not delegated to uid {os.getuid()}; with systemd: Delegate=yes")
    trial = os.path.join(own, f"otpd-probe-{os.getpid()}")
    try:
        os.mkdir(trial)
    except OSError as error:
        return Delegation(None, f"can't make a cgroup in {own}: {error.strerror}")
    try:
        if not os.path.exists(os.path.join(trial, "cgroup.kill")):
            return Delegation(None, "this kernel has no cgroup.kill (Linux 5.14)")
        return Delegation(own, f"{own} is delegated")
    finally:
        os.rmdir(trial)


def own_directory() -> str | None:
    """The directory of this process's own cgroup v2; None when none is mounted."""
    return _own("", lambda kind, _options: kind == "cgroup2")


def own_memory_v1() -> str | None:
    """The same in the hierarchy of version 1 that has the memory controller, where there is one."""
    return _own("memory", lambda kind, options: kind == "cgroup" and "memory" in options)


def remove_abandoned(patience: float = 0.0) -> None:
    """Groups of command workers that were killed before they could remove them (agents/sandbox/cgroup.py names them).

    Waits at most `patience` seconds for those that are not empty yet.
    """
    end = time.monotonic() + patience
    while [group for group in abandoned() if not remove(group)] and time.monotonic() < end:
        time.sleep(0.005)


def abandoned() -> list[str]:
    """Groups of command workers that are dead, where this process would make some; whose node it was can't be told."""
    first = (_own(each, partial(_has_controller, each)) for each in _COMMAND_CONTROLLERS)
    parents = {each for each in (own_directory(), *first) if each is not None}
    return [os.path.join(parent, name) for parent in parents for name in _names(parent) if _is_abandoned(name)]


def _is_abandoned(name: str) -> bool:
    """Also where its maker is on its way out, or not reaped."""
    maker = name.removeprefix(_COMMANDS).partition("-")[0]
    if not name.startswith(_COMMANDS) or not maker.isdecimal():
        return False
    found = linux.stat(int(maker))
    return found is None or found.exiting


def _has_controller(controller: str, kind: str, options: list[str]) -> bool:
    return kind == "cgroup" and controller in options


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _own(controller: str, is_wanted: Callable[[str, list[str]], bool]) -> str | None:
    """`is_wanted` by type and options of a mount; `controller` as /proc/self/cgroup has it."""
    path = _own_path(controller)
    for line in (linux.read_proc("/proc/self/mountinfo") or b"").decode(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if path is not None and is_wanted(kind, options.split(",")):
            fields = before.split(" ")
            mounted, point = _unescape(fields[3]), _unescape(fields[4])
            if path == mounted or path.startswith(mounted.rstrip("/") + "/"):
                return os.path.normpath(point + "/" + path[len(mounted.rstrip("/")) :])
    return None


def _own_path(controller: str) -> str | None:
    for line in (linux.read_proc("/proc/self/cgroup") or b"").decode(errors="surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _unescape(text: str) -> str:
    r"""mountinfo writes blanks as \040."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


@dataclass(slots=True)
class Leaf:
    """The cgroup of one incarnation. -1: no such descriptor."""

    path: str
    directory: int = -1  # to be born in
    events: int = -1  # says whether it has members

    @staticmethod
    def make(path: str) -> Leaf:
        """A new one. OSError, after which there is none."""
        os.mkdir(path)
        leaf = Leaf(path)
        try:
            leaf.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            leaf.events = events_fd(path)
        except OSError:
            leaf.remove()
            raise
        return leaf

    def born(self) -> None:
        """Its process is in it."""
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

    def remove(self) -> None:
        """What has members stays for the sweep of the node."""
        self.born()
        if self.events >= 0:
            os.close(self.events)
            self.events = -1
        remove(self.path)


class NodeCgroup:
    """The cgroup of a node and its leaves. OSError as the kernel gives it; the caller goes on without cgroups then."""

    def __init__(self, delegated: str, node: str) -> None:
        self.directory = os.path.join(delegated, f"otpd-{node[:8]}")
        self._made = 0
        self._prepared: Leaf | None = None

    def create(self) -> None:
        os.makedirs(self.directory, exist_ok=True)

    def fresh(self) -> Leaf:
        """A new leaf; the one that was prepared, if any."""
        found, self._prepared = self._prepared, None
        return found or self._make()

    def prepare(self) -> None:
        """Make the next `fresh` leaf ahead of its need: that takes the kernel a tenth of a millisecond."""
        if self._prepared is None:
            self._prepared = self._make()

    def _make(self) -> Leaf:
        """Of a name that neither a worker nor the zygote gives."""
        self._made += 1
        return Leaf.make(os.path.join(self.directory, f"r-{os.getpid()}-{self._made}"))

    def leaf(self, name: str) -> str:
        """The directory of a worker's cgroup, made if missing."""
        directory = os.path.join(self.directory, leaf_name(name))
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        return directory

    def forget(self, name: str) -> bool:
        """Remove a leaf; false while it has members."""
        return remove(os.path.join(self.directory, leaf_name(name)))

    def close(self) -> None:
        """Remove it all; what has members stays for the next start's `sweep`."""
        remove(self.directory)

    def sweep(self, patience: float) -> list[int]:
        """Kill every member and remove it all, waiting at most `patience` seconds; the pids that are left. Blocks."""
        end = time.monotonic() + patience
        if self._prepared is not None:
            self._prepared.remove()
            self._prepared = None
        while os.path.isdir(self.directory):
            with contextlib.suppress(OSError):
                kill(self.directory)
            leaves = [entry.path for entry in os.scandir(self.directory) if entry.is_dir()]
            for leaf in leaves:
                remove(leaf)
            if remove(self.directory):
                break
            if time.monotonic() > end:
                return [pid for directory in (self.directory, *leaves) for pid in members(directory)]
            time.sleep(0.002)
        return []


def leaf_name(name: str) -> str:
    """A directory name for any worker's name.

    >>> leaf_name("feed-1"), leaf_name("a/b"), leaf_name("cgroup.procs")
    ('c-feed-1', 'c-a%2Fb', 'c-cgroup.procs')
    """
    quoted = "c-" + urllib.parse.quote(name, safe="")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return quoted[:_LONGEST_NAME] + hashlib.sha256(name.encode()).hexdigest()[:16]


def populated(leaf: str) -> bool:
    """Whether it has live members. False for one that is gone."""
    return b"populated 1" in (linux.read_proc(os.path.join(leaf, "cgroup.events")) or b"")


def is_empty(events: int) -> bool:
    """The same, the other way round, from a descriptor of its events. False when it can't be told."""
    try:
        return b"populated 0" in linux.read_again(events)
    except OSError:
        return False


def events_fd(leaf: str) -> int:
    """A descriptor that polls POLLPRI when `populated` changes. The caller closes it. OSError."""
    return os.open(os.path.join(leaf, "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)


def members(leaf: str) -> list[int]:
    """The pids in it; a worker's own sub-cgroups included."""
    found = [int(pid) for pid in (linux.read_proc(os.path.join(leaf, "cgroup.procs")) or b"").split()]
    with contextlib.suppress(OSError):
        for entry in os.scandir(leaf):
            if entry.is_dir():
                found += members(entry.path)
    return found


def kill(leaf: str) -> None:
    """SIGKILL to every member, those that are being forked included. One that is gone is no error."""
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(leaf, "cgroup.kill"), "wb", buffering=0) as file:
            file.write(b"1")


def remove(leaf: str) -> bool:
    """Remove it with its sub-cgroups; false while it has members."""
    with contextlib.suppress(OSError):
        os.rmdir(leaf)
        return True
    try:
        for entry in list(os.scandir(leaf)):
            if entry.is_dir():
                remove(entry.path)
        os.rmdir(leaf)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_node(node: str, patience: float) -> None:
    """End what is in the cgroup of a node that is dead, and remove it. Blocks for at most `patience` seconds."""
    delegation = probe()
    if delegation.directory is not None:
        with contextlib.suppress(OSError):
            NodeCgroup(delegation.directory, node).sweep(patience)


def open_node(node: str, patience: float = 5.0) -> NodeCgroup | None:
    """The node's cgroup, fresh: what an earlier life left in it is ended. None where cgroups can't be used. Blocks."""
    delegation = probe()
    if delegation.directory is None:
        return None
    found = NodeCgroup(delegation.directory, node)
    try:
        found.sweep(patience)
        found.create()
    except OSError:
        return None
    return found
