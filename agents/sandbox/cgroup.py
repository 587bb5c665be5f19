"""Control groups for a nest: memory and tasks that the kernel itself limits, where this process may make groups.

Version 2 where it is delegated to us, version 1 as root. One leaf per nest, around all its slots; without the
controllers, a leaf of version 2 still counts processor time. Nothing here raises: what can't be had is `None`, and the
capability table says so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_PREFIX: Final = "otpd-cmd-"
_MOUNT_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
#: What the nest itself may need beyond what it had when it was measured.
_SLACK: Final = 4 * 2**20
#: Weight of all that runs in a worker's sandbox together, where 100 is usual: it yields to what watches it and waits for
#: it, however many sessions it opens.
_SHARE: Final = 50


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    controllers: frozenset[str]
    directory: str  # of our own group
    version: int


@dataclass(slots=True)
class Leaf:
    """Directories of one group, by what they control. `memory`, `pids`, `cpu`: whether the kernel limits or counts them."""

    version: int
    directories: dict[str, str]
    _overhead: int = 0
    _set: dict[str, int] = field(default_factory=dict)
    _killed: int = 0
    _cpu: float = 0.0

    @property
    def memory(self) -> bool:
        return "memory" in self.directories

    @property
    def pids(self) -> bool:
        return "pids" in self.directories

    @property
    def cpu(self) -> bool:
        return "cpu" in self.directories

    def add(self, pid: int) -> bool:
        """Move a process in; what it forks is born there. False: the kernel refused."""
        moved = [_write(f"{directory}/cgroup.procs", pid) for directory in set(self.directories.values())]
        return all(moved)

    def measure_overhead(self) -> None:
        """Call when the nest stands idle: what it has then is not the command's."""
        if self.memory:
            name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
            self._overhead = _number(f"{self.directories['memory']}/{name}") + _SLACK

    def limit(self, memory: int, pids: int) -> None:
        """For the next run. The tasks of nest and slots are no command's."""
        if self.memory:
            self._put("memory", {2: "memory.max", 1: "memory.limit_in_bytes"}[self.version], memory + self._overhead)
            if self.version == 2:
                self._put("memory", "memory.swap.max", 0)
            self._killed = self.kills()
        if self.pids:
            self._put("pids", "pids.max", pids + 8)
        self._cpu = self.cpu_seconds()

    def _put(self, controller: str, name: str, value: int) -> None:
        if self._set.get(name) != value and _write(f"{self.directories[controller]}/{name}", value):
            self._set[name] = value

    def kills(self) -> int:
        """How many processes the kernel has killed in here because memory was over."""
        if not self.memory:
            return 0
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        rows = (line.split() for line in _text(f"{self.directories['memory']}/{name}").splitlines())
        return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill"), 0)

    def killed_since_limit(self) -> bool:
        return self.kills() > self._killed

    def cpu_seconds(self) -> float:
        """Of all that was ever in here."""
        if not self.cpu:
            return 0.0
        if self.version == 1:
            return _number(f"{self.directories['cpu']}/cpuacct.usage") / 1e9
        rows = (line.split() for line in _text(f"{self.directories['cpu']}/cpu.stat").splitlines())
        return next((int(row[1]) / 1e6 for row in rows if row[0] == "usage_usec"), 0.0)

    def cpu_since_limit(self) -> float:
        """Seconds of the run, and of the slot that was made for the next one meanwhile."""
        return self.cpu_seconds() - self._cpu

    def remove(self, patience: float = 1.0) -> None:
        """The directories, once their members are gone."""
        end = time.monotonic() + patience
        for directory in set(self.directories.values()):
            while not _remove(directory) and time.monotonic() < end:
                time.sleep(0.002)


def make_leaf(name: str) -> Leaf | None:
    """A fresh leaf, as much of it as this process may have; None: nothing at all."""
    hierarchies = list(_hierarchies())
    name = f"{_PREFIX}{os.getpid()}-{name}"
    unified = next((each for each in hierarchies if each.version == 2), None)
    found = _version_two(unified, name) if unified else None
    if found is not None and found.memory:
        return found
    first = _version_one([each for each in hierarchies if each.version == 1], name)
    if first is not None and found is not None:
        found.remove()
    return first or found


def _version_one(hierarchies: list[_Hierarchy], name: str) -> Leaf | None:
    made = {}
    for hierarchy in hierarchies:
        for ours, theirs in (("memory", "memory"), ("pids", "pids"), ("cpu", "cpuacct"), ("share", "cpu")):
            if theirs in hierarchy.controllers:
                directory = f"{hierarchy.directory}/{name}"
                if _make(directory):
                    made[ours] = directory
    if "share" in made:
        _write(f"{made['share']}/cpu.shares", _SHARE * 1024 // 100)
    return Leaf(1, made) if made else None


def _version_two(hierarchy: _Hierarchy, name: str) -> Leaf | None:
    """Beneath our own group, or beside it in a node's: a group with members can't hand controllers down, its parent can."""
    found: Leaf | None = None
    for parent in _parents(hierarchy):
        directory = f"{parent}/{name}"
        _write(f"{parent}/cgroup.subtree_control", "+memory +pids +cpu")
        if not _make(directory):
            continue
        present = {"cpu": "cpu.stat", "memory": "memory.max", "pids": "pids.max"}
        made = Leaf(2, {each: directory for each, file in present.items() if os.path.exists(f"{directory}/{file}")})
        _write(f"{directory}/cpu.weight", _SHARE)
        if made.memory:
            if found is not None:
                found.remove()
            return made
        if found is None and made.directories:
            found = made
        else:
            made.remove()
            _remove(directory)
    return found


def _parents(hierarchy: _Hierarchy) -> list[str]:
    """Groups in which a leaf may be made: ours, and the one around it if it was made by otpd."""
    around = os.path.dirname(hierarchy.directory)
    return [hierarchy.directory, *([around] if os.path.basename(around).startswith("otpd-") else [])]


def _hierarchies() -> Iterator[_Hierarchy]:
    groups: dict[frozenset[str], str] = {}
    for line in _text("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        groups[frozenset(names.split(",")) - {""}] = path
    for line in _text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        for controllers, path in groups.items():
            matches = (
                not controllers if kind == "cgroup2" else kind == "cgroup" and controllers <= set(re.split("[ ,]", options))
            )
            if matches and (controllers or kind == "cgroup2"):
                root, point = (_unescape(each) for each in before.split(" ")[3:5])
                if path == root or path.startswith(root.rstrip("/") + "/"):
                    directory = os.path.normpath(point + "/" + path[len(root.rstrip("/")) :])
                    yield _Hierarchy(controllers, directory, 2 if kind == "cgroup2" else 1)


def _unescape(text: str) -> str:
    return _MOUNT_ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def sweep(patience: float = 0.0) -> None:
    """Remove leaves whose makers are gone: one that was killed had nobody to do it.

    Waits at most `patience` seconds for those that are not empty yet.
    """
    end = time.monotonic() + patience
    parents = [parent for hierarchy in _hierarchies() for parent in _parents(hierarchy)]
    while [leaf for parent in parents for leaf in _abandoned(parent) if not _remove(leaf)]:
        if time.monotonic() >= end:
            return
        time.sleep(0.005)


def _abandoned(parent: str) -> list[str]:
    try:
        names = os.listdir(parent)
    except OSError:
        return []
    made = [(name, name.removeprefix(_PREFIX).partition("-")[0]) for name in names if name.startswith(_PREFIX)]
    return [f"{parent}/{name}" for name, maker in made if maker.isdigit() and not os.path.exists(f"/proc/{maker}")]


def _make(directory: str) -> bool:
    try:
        os.mkdir(directory)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def _remove(directory: str) -> bool:
    """With the leaves that are in it; False while it has members."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        inner = [entry.path for entry in _entries(directory) if entry.name.startswith(_PREFIX)]
        stuck = [each for each in inner if not _remove(each)]
        return bool(inner) and not stuck and _remove(directory)
    return True


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(directory))
    except OSError:
        return []


def _write(path: str, value: object) -> bool:
    try:
        with open(path, "w") as file:
            file.write(str(value))
    except OSError:
        return False
    return True


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0
