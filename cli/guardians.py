"""heart and root of a running node, held by pidfd: who ends the node, and whose end says that it has ended.

Pids are numbers of one pid namespace. Root tells its own, and so does the lock; seen from outside of a container they are
other processes' numbers. What the kernel says of the peer of the control socket is translated, so it is where the search
begins; a node whose processes have no number here is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otpd.cli.client import connect, lock_owner
from otpd.cli.failures import Exit, Failure
from otpd.ipc.control import ControlError
from otpd.supervisor import linux
from otpd.supervisor.paths import NodePaths


@dataclass(frozen=True, slots=True)
class Guardians:
    """`heart` as this process numbers it; the pidfds can't come to mean another process."""

    name: str
    heart: int
    heart_fd: int
    root_fd: int | None = None  # of the root that answered
    silent: bool = False  # root did not answer

    def close(self) -> None:
        os.close(self.heart_fd)
        if self.root_fd is not None:
            os.close(self.root_fd)


def asked(paths: NodePaths, timeout: float) -> Guardians:
    """As root tells them. ControlError when it does not; Failure when they can't be reached from here."""
    with connect(paths) as control:
        peer = control.peer_pid
        if peer == 0:
            raise _out_of_reach("its processes have no number here")
        facts: dict[str, Any] = control.ask("node", timeout=timeout)
    root, heart = _here(peer, facts)
    heart_fd = _pidfd(heart)
    try:
        return Guardians(facts["name"], heart, heart_fd, os.pidfd_open(root))
    except ProcessLookupError:
        return Guardians(facts["name"], heart, heart_fd)


def asked_or_found(paths: NodePaths, timeout: float) -> Guardians:
    """The same; where root does not answer, heart as the kernel knows it, which holds the lock."""
    try:
        return asked(paths, timeout)
    except ControlError:
        heart = lock_owner(paths)
        if heart is None:
            raise
        found = Guardians("the node", heart, _pidfd(heart), silent=True)
        if not _is_heart(heart):
            found.close()
            raise
        return found


def refuse_elsewhere(paths: NodePaths) -> None:
    """Failure where root's pids are not those of this namespace, so that they would be taken for other processes'."""
    with connect(paths) as control:
        if len(_numbers(control.peer_pid)) != 1:
            raise _out_of_reach("what its processes use can't be told from here")


def _here(peer: int, facts: Mapping[str, Any]) -> tuple[int, int]:
    """Root and heart as this process numbers them; `facts` are in the numbers of root's own namespace."""
    if len(_numbers(peer)) <= 1:
        return facts["pid"], facts["heart_pid"]
    found = linux.stat(peer)
    heart = found.ppid if found is not None else 0
    if _numbers(heart)[-1:] != [facts["heart_pid"]]:
        raise _out_of_reach(f"its heart ({facts['heart_pid']} there) is not the parent of its root ({peer} here)")
    return peer, heart


def _out_of_reach(why: str) -> Failure:
    return Failure(
        Exit.FAILED,
        f"the node runs in another pid namespace: {why}",
        "run this where the node runs, for example with: docker exec, or nsenter --pid --mount --target PID",
    )


def _numbers(pid: int) -> list[int]:
    """The pids of `pid` in the namespace of /proc and in those below, its own last."""
    for line in (linux.read_proc(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise Failure(Exit.NOT_RUNNING, "the node has just ended", "start it with: otpd start") from None


def _is_heart(pid: int) -> bool:
    return b"heart" in (linux.read_proc(f"/proc/{pid}/cmdline") or b"")
