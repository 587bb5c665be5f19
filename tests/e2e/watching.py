"""What the machine shows of a node while things are killed: who belongs to it, who is left, who is dead and not reaped.

`node` drives a node; this only looks, through /proc, and never asks root.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.node import Node
from tests.helpers import eventually

#: Seconds for which a dead process may wait to be reaped (T3).
ZOMBIE_AGE = 1.0


@dataclass(frozen=True)
class Seen:
    """One process, told from a later one with the same pid."""

    pid: int
    started: str
    title: str

    @property
    def alive(self) -> bool:
        found = stat(self.pid)
        return found is not None and found[2] == self.started and found[0] not in "ZX"


def stat(pid: int) -> tuple[str, int, str] | None:
    """State, parent, start time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), fields[19]


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def linux_children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def seen(pid: int) -> Seen | None:
    found = stat(pid)
    if found is None or found[0] in "ZX":
        return None
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Seen(pid, found[2], title)


def everything(n: Node) -> list[Seen]:
    """Every live process of the node: heart, root and whatever descends from them and kept its environment."""
    mine = f"XDG_RUNTIME_DIR={n.runtime}".encode()
    found = [process for pid in pids() if mine in environment(pid) and (process := seen(pid))]
    return [process for process in found if "otpd.cli.main" not in process.title]


def by_child(n: Node) -> dict[str, list[Seen]]:
    """Every live process with the cookie of a child, by the child's name."""
    node, by_name = f"OTPD_NODE={n.node_id()}".encode(), dict[str, list[Seen]]()
    for pid in pids():
        entries = environment(pid)
        names = [entry[11:].decode() for entry in entries if entry.startswith(b"OTPD_CHILD=")]
        if node in entries and names and names[0].strip() and (found := seen(pid)):
            by_name.setdefault(names[0], []).append(found)
    return by_name


def of_child(n: Node, name: str) -> list[Seen]:
    """Every live process with the cookie of this child."""
    return by_child(n).get(name, [])


def alive(processes: list[Seen]) -> list[Seen]:
    return [each for each in processes if each.alive]


def nothing_is_left(n: Node, deadline: float = 60.0) -> None:
    """No process of the node lives, and no socket stands about."""
    eventually(lambda: not everything(n), deadline, "no process of the node lives")
    sockets = sorted(path.name for path in n.runtime.glob("otpd/*/*"))
    assert sockets == [], f"left in the runtime directory: {sockets}"


def dead_without_a_socket(n: Node) -> None:
    """No process of a node that was killed lives, and no socket stands about; files, which name nobody, may."""
    eventually(lambda: not everything(n), 60, "no process of the node lives")
    assert [path.name for path in n.runtime.glob("otpd/*/*") if path.is_socket()] == []


def holds(condition: Callable[[], bool], seconds: float) -> bool:
    """True when `condition` was true all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.005)
    return True


def cpu_seconds(pid: int) -> float:
    """That it has used; finer than in ticks where the kernel counts so."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Zombies(threading.Thread):
    """Looks for processes that are dead for longer than ZOMBIE_AGE and whose parent is one of the house (T3)."""

    def __init__(self, n: Node) -> None:
        super().__init__(daemon=True)
        self._mine = f"XDG_RUNTIME_DIR={n.runtime}".encode()
        self._since: dict[tuple[int, str], float] = {}
        self._end = threading.Event()
        self.old: dict[tuple[int, str], str] = {}

    def run(self) -> None:
        while not self._end.wait(0.05):
            self._look()

    def finish(self) -> None:
        self._end.set()
        self.join()

    def _look(self) -> None:
        now = time.monotonic()
        dead = {}
        for pid in pids():
            found = stat(pid)
            if found is not None and found[0] == "Z":
                dead[pid, found[2]] = found[1]
        self._since = {key: self._since.get(key, now) for key in dead}
        for key, parent in dead.items():
            if now - self._since[key] > ZOMBIE_AGE and key not in self.old and self._of_the_house(parent):
                self.old[key] = f"pid {key[0]} below {parent} ({seen(parent)})"

    def _of_the_house(self, parent: int) -> bool:
        """heart, root, zygote, logger, a spare; a worker reaps for itself."""
        env = environment(parent)
        return self._mine in env and not any(entry.startswith(b"OTPD_GENERATION=") for entry in env)


@contextmanager
def no_old_zombies(n: Node) -> Iterator[None]:
    """Fails when a zombie older than 1 s was seen meanwhile."""
    watch = Zombies(n)
    watch.start()
    try:
        yield
    finally:
        watch.finish()
    assert watch.old == {}, f"zombies older than {ZOMBIE_AGE:g} s: {list(watch.old.values())}"
