"""How a child is asked by a command: `exec`, with the child's environment, directory and user, in a session of its own.

Status 0 means well. Who asks decides when it is enough: then the command's whole group is killed, as it is when the command
ends by itself; what has left the group ends with the health service, as root sweeps what that leaves behind. `/bin/sh` is
between: it goes into the directory and becomes the command, so that a file system that hangs holds up only this question.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from otpd.agents.services.health.probes import Verdict

#: Bytes of what it prints to stderr that are kept: the last line says why.
_TAIL: Final = 4096
_ENTER: Final = 'cd -- "$0" && exec "$@"'
#: What only an agent itself may have of the environment of an agent.
_OWN: Final = ("OTPD_CONTROL_FD", "OTPD_JOB_FD")


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int
    groups: tuple[int, ...]


def user_of(name: str) -> User:
    """As the child itself is started. KeyError when there is no such user. May wait for a directory service."""
    found = pwd.getpwnam(name)
    return User(found.pw_uid, found.pw_gid, tuple(os.getgrouplist(name, found.pw_gid)))


class Command:
    """One run. `wait` ends with its verdict; `end` kills what is left of it, now or later, and must be called."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, user: User | None) -> None:
        """OSError when it can't be started."""
        self._loop = asyncio.get_running_loop()
        self._what = argv[0]
        self._said = bytearray()
        self._done: asyncio.Future[None] = self._loop.create_future()
        who: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
        own = {key: value for key, value in os.environ.items() if key not in _OWN}
        self._stderr, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(theirs, True)
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _ENTER, cwd, *argv], env={**own, **env}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, **who,
            )  # fmt: skip
            self._pidfd = _opened(self._process)
        except BaseException:
            os.close(self._stderr)
            raise
        finally:
            os.close(theirs)
        self._loop.add_reader(self._stderr, self._hear)
        self._loop.add_reader(self._pidfd, self._ended)

    async def wait(self) -> Verdict:
        await self._done
        self._hear()
        status = self._process.returncode
        if status == 0:
            return Verdict(True)
        how = f"status {status}" if status > 0 else f"signal {-status}"
        said = self._said.decode(errors="backslashreplace").strip().splitlines()
        return Verdict(False, f"{self._what}: {how}{': ' + said[-1][:200] if said else ''}")

    def end(self) -> None:
        """Kill its group. The pid is its own until it is reaped, which happens in `_ended`."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = -1

    def _ended(self) -> None:
        """First the rest of its group, while the number of the group can't be anybody else's; then it is reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self._done.done():
            self._done.set_result(None)

    def _hear(self) -> None:
        if self._stderr < 0:
            return
        try:
            chunk = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._stderr)
        self._said += chunk
        del self._said[:-_TAIL]


def _opened(process: subprocess.Popen[bytes]) -> int:
    """Its pidfd; without a descriptor for it, it can't run on."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
