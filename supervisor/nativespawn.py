"""Starts a program by one call that comes back when exec has happened or failed: `_spawn`, the compiled part of otpd.

Its siblings are `execspawn`, which forks root, and the blanks of `spares`; both have an interpreter's memory to copy and
to take down, which costs more than the start itself. This one borrows root's memory and stops root meanwhile, for some
tenths of a millisecond: the time in which the kernel finds, reads and maps the first pages of a program. So it refuses
what may take longer, paths on networks and the like (see `mounts`), and everything where `_spawn` could not be built.
What it can't refuse is a local disk that hangs.
"""

from __future__ import annotations

import errno
import os
from collections import ChainMap
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from otpd.supervisor import execspawn, launch
from otpd.supervisor.execspawn import Spawned, SpawnError
from otpd.supervisor.launch import Job, LaunchError
from otpd.supervisor.mounts import Mounts

_INTERFACE: Final = 1


class Refused(Exception):
    """This kernel, or a filter of system calls, has not what `_spawn` needs."""


class NativeSpawner:
    """`base` is the environment that every program starts from."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = base
        self._mounts = Mounts()
        self._extension = extension()

    def takes(self, job: Job) -> bool:
        """Whether `spawn` is for this job."""
        if self._extension is None or not job.command:
            return False
        paths = launch.candidates(job.command[0], ChainMap(job.env, dict(self._base)))
        return not any(self._mounts.may_hang(os.path.join(job.cwd, path)) for path in (job.cwd, *paths))

    def spawn(self, job: Job, stdout_fd: int, channel_fd: int | None = None) -> Spawned:
        """A child that has become `job.command`; otherwise as `execspawn.spawn`, which it falls back to for good."""
        if self._extension is not None:
            try:
                return spawn(self._extension, job, stdout_fd, self._base, channel_fd)
            except Refused:
                self._extension = None
        return execspawn.spawn(job, stdout_fd, self._base, channel_fd)

    def close(self) -> None:
        self._mounts.close()


def extension() -> ModuleType | None:
    """`_spawn`, where it was built and is of this version."""
    try:
        from otpd.supervisor import _spawn
    except ImportError:
        return None
    return _spawn if _spawn.INTERFACE == _INTERFACE else None
