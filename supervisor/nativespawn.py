"""Starts a program by one call that comes back when exec has happened or failed: `_spawn`, the compiled part of otpd.

Its siblings are `execspawn`, which forks root, and the blanks of `spares`; both have an interpreter's memory to copy and
to take down, which costs more than the start itself. This one borrows root's memory and stops root meanwhile, for some
tenths of a millisecond: the time in which the kernel finds, reads and maps the first pages of a program. So it refuses
what may take longer, paths on networks and the like (see `mounts`), and everything where `_spawn` could not be built.
What it can't refuse is a local disk that hangs.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from otpd.supervisor import execspawn, launch
from otpd.supervisor.execspawn import Spawned, SpawnError
from otpd.supervisor.launch import Job, LaunchError
from otpd.supervisor.mounts import Mounts
from otpd.supervisor.spec import Launch

_INTERFACE: Final = 1


class Refused(Exception):
    """This kernel, or a filter of system calls, has not what `_spawn` needs."""


class NativeSpawner:
    """`base` is the environment that every program starts from."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = base
        self._mounts = Mounts()
        self._extension = extension()

    def takes(self, what: Launch) -> bool:
        """Whether to start `what` here will not hold root up."""
        if self._extension is None or not what.command:
            return False
        paths = launch.candidates(what.command[0], {**self._base, **what.env})
        return not any(self._mounts.may_hang(os.path.join(what.cwd, path)) for path in (what.cwd, *paths))

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


def spawn(
    native: ModuleType, job: Job, stdout_fd: int, base: Mapping[str, str], channel_fd: int | None = None
) -> Spawned:
    """A child that has become `job.command`. SpawnError says what failed, in the words of `launch`; Refused."""
    if not job.command:
        raise SpawnError(f"worker {job.name}: expected a command to exec, got none; scripts are run by the zygote")
    with contextlib.ExitStack() as ours:
        try:
            env = launch.environment(job, base)
            kept = execspawn.passed(job, env, channel_fd, ours)
            launch.refuse_nul(job, env)
            attempt = Attempt(job, job.command, env)
            cgroup_fd = _open_cgroup(job.cgroup, ours)
        except (LaunchError, OSError, ValueError) as error:
            raise SpawnError(f"worker {job.name}: {error}") from error
        try:
            pid, pidfd = native.spawn(*attempt.arguments(stdout_fd, kept, cgroup_fd))
        except native.Failed as error:
            step, number, index = error.args
            if number == errno.ENOSYS or (step, number) == ("clone", errno.EPERM):
                raise Refused(os.strerror(number)) from error
            raise SpawnError(attempt.explain(step, number, index)) from error
        except (OSError, ValueError, OverflowError) as error:
            raise SpawnError(f"worker {job.name}: {error}") from error
    return Spawned(pid, pidfd, -1)


def _variable(key: str, value: str) -> bytes:
    if "=" in key or not key:
        raise ValueError(f"{key!r} can't be the name of an environment variable")
    return os.fsencode(f"{key}={value}")


def _open_cgroup(directory: str | None, ours: contextlib.ExitStack) -> int:
    if directory is None:
        return -1
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchError(f"cgroup {directory}: {error.strerror}") from error
    ours.callback(os.close, fd)
    return fd


class Attempt:
    """A job in the form that the kernel takes, and back: what each failure means. LaunchError for an unknown user."""

    def __init__(self, job: Job, command: tuple[str, ...], env: Mapping[str, str]) -> None:
        self._job, self._command, self._env = job, command, env
        self._paths = launch.candidates(command[0], env)
        self._limits = launch.limits_of(job.limits)
        self._ids = None if job.user is None else launch.ids_of(job.user)

    def arguments(self, stdout_fd: int, kept: tuple[int, ...], cgroup_fd: int) -> tuple[Any, ...]:
        """For `_spawn.spawn`."""
        job, ids = self._job, self._ids
        return (
            tuple(map(os.fsencode, self._paths)),
            tuple(map(os.fsencode, self._command)),
            tuple(_variable(key, value) for key, value in self._env.items()),
            os.fsencode(job.cwd),
            stdout_fd,
            tuple(sorted(kept)),
            cgroup_fd,
            -1 if job.umask is None else job.umask,
            tuple((limit.kind, limit.soft, limit.hard) for limit in self._limits),
            None if ids is None else (ids.uid, ids.gid, ids.groups),
            job.root_pid,
        )

    def explain(self, step: str, number: int, index: int) -> str:
        """One line for a failed step."""
        job, why = self._job, os.strerror(number)
        match step:
            case "clone":
                return f"worker {job.name}: can't make a process: {why}"
            case "limit":
                return self._limits[index].refused(why)
            case "cwd":
                return launch.cwd_refused(job.cwd, number)
            case "user":
                return launch.user_refused(job.user or "", number)
            case "exec":
                error = OSError(number, why, self._paths[index])
                return launch.explain(self._command, self._env, error, job.cwd, self._ids.uid if self._ids else None)
        return f"{step}: {why}"
