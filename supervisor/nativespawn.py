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
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Final

from otpd.supervisor import execspawn, launch
from otpd.supervisor.cgroup import Leaf
from otpd.supervisor.execspawn import Spawned, SpawnError
from otpd.supervisor.launch import GENERATION, Job, LaunchError
from otpd.supervisor.mounts import Mounts

_INTERFACE: Final = 2


class Refused(Exception):
    """This kernel, or a filter of system calls, has not what `_spawn` needs."""


class Plan:
    """A job in the form that the kernel takes, for all its incarnations. LaunchError, ValueError: it has no such form.

    Who a user is, it looks up: a plan for another user is good for one start only.
    """

    def __init__(self, job: Job, base: Mapping[str, str]) -> None:
        self.job = job
        self.env = launch.environment(job, base)
        del self.env[GENERATION]
        self.command = job.command or ()
        self.paths = launch.candidates(self.command[0], self.env) if self.command else []
        self.places = (job.cwd, *(os.path.join(job.cwd, path) for path in self.paths))
        self.limits = launch.limits_of(job.limits)
        self.ids = None if job.user is None else launch.ids_of(job.user)
        launch.refuse_nul(job, self.env)
        self._head = (_all_bytes(self.paths), _all_bytes(self.command))
        self._env = _variables(self.env)
        self._tail = (
            -1 if job.umask is None else job.umask,
            tuple((limit.kind, limit.soft, limit.hard) for limit in self.limits),
            None if self.ids is None else (self.ids.uid, self.ids.gid, self.ids.groups),
            job.root_pid,
        )
        self._cwd = os.fsencode(job.cwd)

    def start(self, native: ModuleType, generation: int, stdout_fd: int, cgroup_fd: int) -> tuple[int, int]:
        """(pid, pidfd) of one more incarnation; SpawnError says what failed, in the words of `launch`; Refused."""
        env = (*self._env, b"%s=%d" % (GENERATION.encode(), generation))
        try:
            found: tuple[int, int] = native.spawn(*self._head, env, self._cwd, stdout_fd, cgroup_fd, *self._tail)
            return found
        except native.Failed as error:
            step, number, index = error.args
            if number == errno.ENOSYS or (step, number) == ("clone", errno.EPERM):
                raise Refused(os.strerror(number)) from error
            raise SpawnError(self.explain(step, number, index)) from error
        except (OSError, ValueError, OverflowError) as error:
            raise SpawnError(f"worker {self.job.name}: {error}") from error

    def explain(self, step: str, number: int, index: int) -> str:
        """One line for a failed step."""
        job, why = self.job, os.strerror(number)
        match step:
            case "clone":
                return f"worker {job.name}: can't make a process: {why}"
            case "limit":
                return self.limits[index].refused(why)
            case "cwd":
                return launch.cwd_refused(job.cwd, number)
            case "user":
                return launch.user_refused(job.user or "", number)
            case "exec":
                error = OSError(number, why, self.paths[index])
                return launch.explain(self.command, self.env, error, job.cwd, self.ids.uid if self.ids else None)
        return f"{step}: {why}"


def _all_bytes(strings: tuple[str, ...] | list[str]) -> tuple[bytes, ...]:
    return tuple(map(os.fsencode, strings))


def _variables(env: Mapping[str, str]) -> tuple[bytes, ...]:
    for key in env:
        if "=" in key or not key:
            raise ValueError(f"{key!r} can't be the name of an environment variable")
    return _all_bytes([f"{key}={value}" for key, value in env.items()])


class NativeSpawner:
    """`base` is the environment that every program starts from."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = base
        self._mounts = Mounts()
        self._extension = extension()

    def plan(self, job: Job) -> Plan | None:
        """None for what can't be started at all: the other ways say why."""
        if self._extension is None or not job.command:
            return None
        try:
            return Plan(job, self._base)
        except (LaunchError, ValueError):
            return None

    def may_hang(self, paths: Iterable[str]) -> bool:
        """Whether to touch one of these absolute paths may hold root up."""
        return self._mounts.may_hang(paths)

    def takes(self, plan: Plan) -> bool:
        """Whether to start it here, now, will not hold root up."""
        return self._extension is not None and not self._mounts.may_hang(plan.places)

    def spawn(self, plan: Plan, generation: int, stdout_fd: int, leaf: Leaf | None = None) -> Spawned:
        """A child that has become the command of `plan`, in `leaf`. SpawnError. Falls back to a fork, then for good."""
        if self._extension is not None:
            try:
                pid, pidfd = plan.start(self._extension, generation, stdout_fd, -1 if leaf is None else leaf.directory)
                return Spawned(pid, pidfd, -1)
            except Refused:
                self._extension = None
        job = replace(plan.job, generation=generation, cgroup=None if leaf is None else leaf.path)
        return execspawn.spawn(job, stdout_fd, self._base)

    def run(self, job: Job, stdout_fd: int) -> Spawned:
        """The same for a job that comes once and needs no cgroup, by whichever way takes it. SpawnError."""
        plan = self.plan(job)
        if plan is not None and self.takes(plan):
            return self.spawn(plan, job.generation, stdout_fd)
        return execspawn.spawn(job, stdout_fd, self._base)

    def close(self) -> None:
        self._mounts.close()


def extension() -> ModuleType | None:
    """`_spawn`, where it was built and is of this version."""
    try:
        from otpd.supervisor import _spawn
    except ImportError:
        return None
    return _spawn if _spawn.INTERFACE == _INTERFACE else None
