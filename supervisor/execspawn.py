"""Starts a program by fork and exec from root itself, without waiting for either.

The others are `nativespawn`, the fastest, which needs a compiled part, and `spares`, a process forked ahead by the zygote
that execs; this one needs nobody. Root must have one thread. How the exec went arrives on `Spawned.error_fd`: end of file
when it is done, else the one line that says what failed. A fork that fails is a SpawnError: data for the tree, never the
end of root.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from otpd.supervisor import launch
from otpd.supervisor.launch import Job, LaunchError

_FAILED = 127


class SpawnError(Exception):
    """No process came to be; one line that says why."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child between fork and exec. Root owns both descriptors; `error_fd` is non-blocking, -1: exec has happened."""

    pid: int
    pidfd: int
    error_fd: int


def spawn(job: Job, stdout_fd: int, base: Mapping[str, str], channel_fd: int | None = None) -> Spawned:
    """Fork a child that becomes `job.command`. `stdout_fd` and `channel_fd` stay the caller's; SpawnError.

    With `channel_fd` (agents) the program inherits it and a description of its job; the environment says where.
    """
    if not job.command:
        raise SpawnError(f"worker {job.name}: expected a command to exec, got none; scripts are run by the zygote")
    with contextlib.ExitStack() as ours:
        try:
            env = launch.environment(job, base)
            passed = _passed(job, env, channel_fd, ours)
            launch.refuse_nul(job, env)
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except (LaunchError, OSError) as error:
            raise SpawnError(f"worker {job.name}: {error}") from error
        ours.callback(os.close, writer)
        try:
            pid = _fork(job, env, stdout_fd, writer, passed)
            return Spawned(pid, _pidfd(pid), reader)
        except OSError as error:
            os.close(reader)
            raise SpawnError(f"worker {job.name}: can't make a process: {error.strerror}") from error


def _passed(job: Job, env: dict[str, str], channel_fd: int | None, ours: contextlib.ExitStack) -> tuple[int, ...]:
    if channel_fd is None:
        return ()
    document = launch.job_document(job)
    ours.callback(os.close, document)
    env |= {launch.CONTROL_FD: str(channel_fd), launch.JOB_FD: str(document)}
    return channel_fd, document


def _fork(job: Job, env: dict[str, str], stdout_fd: int, writer: int, passed: tuple[int, ...]) -> int:
    """Signals are blocked around the fork: a handler of root's must not run in the child."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(job, env, stdout_fd, writer, passed)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _child(job: Job, env: dict[str, str], stdout_fd: int, writer: int, passed: tuple[int, ...]) -> NoReturn:
    try:
        os.setsid()
        launch.enter(job, stdout_fd)
        launch.close_others({writer, *passed})
        for fd in passed:
            os.set_inheritable(fd, True)
        launch.default_signals()
        launch.execute(job.command or (), env)
    except BaseException as error:
        os.write(writer, str(error).encode(errors="backslashreplace")[:4000])
    finally:
        os._exit(_FAILED)
