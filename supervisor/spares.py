"""Root's side of the zygote and its blanks: how the zygote is started, and how a blank is given its job.

`zygote` and `blank` are the other side. Nothing here blocks.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from otpd.ipc.frames import PACKET_LIMIT, close_all, pack, send_packet, unpack
from otpd.supervisor.launch import CHILD, KEEP_ENVIRON, NODE, Job, LaunchError, from_wire, to_wire

#: Bytes for the cookie of a blank: its name, generation and the names of three variables.
COOKIE_SIZE: Final = 512
#: What most agents import; whatever is missing is reported by the zygote and skipped.
PRELOAD: Final = ("asyncio", "json", "logging", "msgpack", "otpd.agents", "otpd.ipc.sockets")


def zygote_argv(
    channel_fd: int, root_pid: int, node: str, preload: Iterable[str] = PRELOAD, cgroup: str | None = None
) -> list[str]:
    """-P: a file in the current directory must not pass for a module of the standard library.

    With `cgroup`, the node's own directory, each blank is born in a leaf of its own below it.
    """
    return [
        sys.executable, "-P", "-m", "otpd.supervisor.zygote",
        "--channel", str(channel_fd), "--root-pid", str(root_pid), "--node", node,
        *(("--cgroup", cgroup) if cgroup else ()), "--preload", *preload,
    ]  # fmt: skip


def zygote_environment(base: Mapping[str, str], node: str) -> dict[str, str]:
    """`base` with the node's cookie and room for a child's."""
    return {**base, NODE: node, KEEP_ENVIRON: "1", CHILD: " " * COOKIE_SIZE}


def assignment(job: Job) -> tuple[Any, tuple[int, ...]]:
    """The packet that gives a blank its job, and the descriptors that go with it after that of its output.

    The caller closes these once they are sent. LaunchError when the job has no form that can be sent. A job too long
    for one packet (a 2 MiB variable) goes in a file in memory.
    """
    try:
        data = to_wire(job)
        content = pack(data)
        return (["run", data], ()) if len(content) < PACKET_LIMIT - 100 else (["run", None], (_in_memory(content),))
    except (OSError, TypeError, ValueError, OverflowError) as error:
        raise LaunchError(f"worker {job.name}: its job can't be sent to a new process: {error}") from error


def assign(channel: socket.socket, job: Job, stdout_fd: int) -> None:
    """Send the assignment. LaunchError when that fails: the blank has no job and may be closed."""
    value, extra = assignment(job)
    try:
        send_packet(channel, value, (stdout_fd, *extra))
    except OSError as error:
        raise LaunchError(f"worker {job.name}: its job can't be sent to a new process: {error}") from error
    finally:
        close_all(extra)


def _in_memory(content: bytes) -> int:
    fd = os.memfd_create("otpd-job", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def assigned(data: Any, fds: list[int]) -> tuple[Job, int]:
    """The blank's inverse of `assign`: the job and the descriptor for its output."""
    stdout_fd, *rest = fds
    if data is None:
        with open(rest[0], "rb") as file:
            data = unpack(file.read())
    return from_wire(data), stdout_fd
