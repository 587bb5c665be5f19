"""A program in an embedded node: when the process that the node is for has ended, root is told to stop."""

from __future__ import annotations

import os
import select
import sys

from otpd.ipc.control import Control, ControlError


def main() -> None:
    pid, started = int(sys.argv[1]), sys.argv[2]
    watch(pid, started)
    try:
        with Control.open(os.environ["OTPD_CONTROL"]) as control:
            control.ask("stop", timeout=60.0)
    except ControlError:
        pass  # it is stopping already


def watch(pid: int, started: str) -> None:
    """Until the process `pid` that was started at `started` is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if started_at(pid) == started:
        select.select([pidfd], [], [])
    os.close(pidfd)


def started_at(pid: int) -> str:
    """In ticks since the machine was started; "" when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
