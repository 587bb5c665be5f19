"""A slot as its worker sees it: a socket to its init, descriptors to watch and to kill by. One run, then it is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from typing import Final

from otpd.agents.sandbox.errors import NotInTime, SetupFailed
from otpd.agents.sandbox.records import Report, Word

#: Setting up a slot takes milliseconds. So long, and the machine is not well.
_PATIENCE: Final = 20.0


class Slot:
    """Made by a backend. `link` and every descriptor belong to it; `close` is for all of them."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.init = -1  # pidfd of the init, whose end is the end of all
        self.command = -1  # pidfd of the process that becomes the command
        self.proc = -1  # its /proc, or -1
        self.unset = 0, 0  # bits of sysctls that could not be set: of the slot, of the user namespace

    def fileno(self) -> int:
        return self.link.fileno()

    def await_ready(self) -> None:
        """SetupFailed unless the slot says that it is ready. BrokenPipeError: it was killed."""
        data, fds = self._receive()
        report = Report.unpack(data)
        if report.word is not Word.READY:
            raise setup_failed(report)
        self.command, self.proc = (*fds, -1, -1)[:2]
        self.unset = report.status, report.pid

    def _receive(self) -> tuple[bytes, list[int]]:
        if not select.select([self.link], [], [], _PATIENCE)[0]:
            raise NotInTime(
                f"a slot was not ready within {_PATIENCE:g} s", layer="nest", fix="look at the load of the machine"
            )
        data, fds, _, _ = socket.recv_fds(self.link, 4096, 4, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise BrokenPipeError(errno.EPIPE, "a slot ended before it was ready")
        return data, fds

    def alive(self) -> bool:
        """Whether both its processes still wait. The kernel may have killed one, for want of memory."""
        poll = select.poll()
        for fd in (self.init, self.command):
            poll.register(fd, select.POLLIN)
        return not poll.poll(0)

    def start(self, plan: int, streams: tuple[int, ...], trees: list[int]) -> None:
        """Hand over the run. BrokenPipeError: the slot is gone."""
        socket.send_fds(self.link, [b"+"], [plan, *streams, *trees])

    def report(self) -> Report | None:
        """The slot's last word, once `fileno` is readable; None: it ended without one."""
        try:
            data = self.link.recv(4096)
        except ConnectionResetError:
            return None
        return Report.unpack(data) if data else None

    def signal(self, number: int) -> None:
        """To the command's own process alone."""
        _send(self.command, number)

    def kill(self) -> None:
        """SIGKILL to the init: whatever is in the slot is gone when its pidfd is readable."""
        _send(self.init, signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Whether the init is gone, at most `seconds` later."""
        if self.init < 0:
            return True
        poll = select.poll()
        poll.register(self.init, select.POLLIN)
        end = time.monotonic() + seconds
        return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))

    def close(self) -> None:
        self.link.close()
        for fd in (self.init, self.command, self.proc):
            if fd >= 0:
                os.close(fd)
        self.init = self.command = self.proc = -1


def _send(pidfd: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, number)


def setup_failed(report: Report) -> SetupFailed:
    text = f"step {report.step.name.lower()} failed: {os.strerror(report.errno)}"
    return SetupFailed(text, layer=report.step.name.lower())
