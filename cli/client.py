"""The control client of the command line: waits, and bridges the moments in which heart starts root again."""

from __future__ import annotations

import os
import time
from typing import Any

from otpd.ipc.control import Control, ControlError, NotRunning
from otpd.supervisor.paths import NodePaths

#: Seconds for which a node whose lock is held may be silent before it counts as not running.
GRACE = 3.0
#: What the client waits beyond the time that root was given to answer.
_SLACK = 5.0
#: What root answers for a broker that is not there, or does not answer.
_BROKER_IS_AWAY = (3, 8)


class Client(Control):
    def wait(self, wanted: str, timeout: float, name: str | None = None) -> None:
        """Return when it is so; ControlError 8 after `timeout` seconds, with what is not."""
        arguments: dict[str, Any] = {"for": wanted, "timeout": timeout}
        if name is not None:
            arguments["name"] = name
        for _answer in self._answers("wait", timeout + _SLACK, arguments):
            return
        raise self._gone("wait")

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """The rows of all workers, or of those that `name` means."""
        found: list[dict[str, Any]] = self.ask("status") if name is None else self.ask("status", name=name)
        return found

    def status_and_messages(self, name: str | None = None) -> list[dict[str, Any]]:
        """The same with what the broker knows of each name (inbox, breaker, counters); without, while it is away."""
        rows = self.status(name)
        try:
            told: dict[str, dict[str, Any]] = {row["name"]: row for row in self.ask("stats")}
        except ControlError as error:
            if error.code not in _BROKER_IS_AWAY:
                raise
            return rows
        return [told.get(row["name"], {}) | row for row in rows]


def connect(paths: NodePaths, grace: float = GRACE) -> Client:
    """A connection to root; waits up to `grace` seconds when there is a node but nobody answers yet."""
    deadline = time.monotonic() + grace
    while True:
        try:
            return Client.open(str(paths.control))
        except NotRunning:
            holder = lock_holder(paths)
            if holder is None:
                raise _not_running(paths) from None
            if time.monotonic() > deadline:
                raise ControlError(
                    7,
                    f"the node with {paths.state_dir} holds its lock (heart pid {holder}) but nobody answers on "
                    f"{paths.control}",
                    "look with: otpd doctor",
                ) from None
        time.sleep(0.02)


def _not_running(paths: NodePaths) -> ControlError:
    error = NotRunning(str(paths.control))
    error.error = f"no node is running with {paths.state_dir}: nobody answers on {paths.control}"
    error.args = (error.error,)
    return error


def lock_holder(paths: NodePaths) -> str | None:
    """The pid in the lock file, as heart numbers it, if somebody holds the lock."""
    try:
        return None if lock_owner(paths) is None else paths.lock.read_text(errors="replace").strip() or "unknown"
    except OSError:
        return None


def lock_owner(paths: NodePaths) -> int | None:
    """Who took the lock that is held, as this process numbers it. From /proc/locks: trying it could disturb a start."""
    try:
        inode = str(os.stat(paths.lock).st_ino)
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            found = [line.split() for line in file]
    except OSError:
        return None
    owners = (row[4] for row in found if len(row) > 5 and row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode)
    return next((int(pid) for pid in owners if pid.isdecimal()), None)
