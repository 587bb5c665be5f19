"""Workers as children of the service: in the tree like anybody, started and, whatever happens, ended by root.

A pool wants a process that has one end of a socketpair; root starts processes, and passes no descriptors on. So the child
that root starts (`cradle`) comes to a socket of the service, shows the token that it was started with, is given its end, and
becomes a worker. The socket has no file, and takes nobody else.

    in the service                       root                       the child
    1 a pair; a token; start_child  ->   2 exec cradle       ->     3 connect, show the token
    4 its pid from the kernel, a pidfd; its end of the pair  ->     5 READY=1, exec of the worker
    6 start_child returns           <-     (notified)

Names are used again, so that logs and generations of a hundred workers are those of a few names; one is free when root has
said that nothing is left of who had it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import socket
import struct
import sys
from typing import Any, Final

from otpd.agents.agent import Agent
from otpd.agents.errors import OtpdError
from otpd.agents.sandbox.handle import START, clean_environment
from otpd.agents.services.commands import cradle

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 64


class TreeProcess:
    """A worker's process (`handle.Process`) that root starts. `pid` is 0 until it has come."""

    def __init__(self) -> None:
        self.pid = 0
        self.closed = asyncio.Event()
        self.is_doomed = False
        self._why = "killed"
        self._pidfd = -1
        self._failed = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll = select.epoll()  # readable when one of the two is
        self._epoll.register(self._failed, select.EPOLLIN)

    @property
    def ended(self) -> int:
        return self._epoll.fileno()

    def fate(self) -> str:
        return self._why

    def born(self, pid: int, pidfd: int) -> None:
        """It has come. Takes `pidfd`."""
        self.pid, self._pidfd = pid, pidfd
        self._epoll.register(pidfd, select.EPOLLIN)

    def fail(self, why: str) -> None:
        """It never came, or root says that it has not started."""
        if not self.closed.is_set():
            self._why = why
            os.eventfd_write(self._failed, 1)

    def kill(self) -> None:
        self.is_doomed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self, patience: float) -> None:
        """Ends it at once: the loop must not wait. Root says when it is gone."""
        if self.closed.is_set():
            return
        self.kill()
        self.closed.set()
        self._epoll.close()
        os.close(self._failed)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Nursery:
    """`spawn` is what a pool wants. At most `size` workers are there at a time; a further one waits for a name."""

    def __init__(self, service: Agent, size: int) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._names: asyncio.Queue[str] = asyncio.Queue()
        for number in range(1, size + 1):
            self._names.put_nowait(f"{service.name}-{number}")
        self._expected: dict[str, tuple[TreeProcess, socket.socket]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._socket.bind("")  # the kernel gives an abstract name that nobody else has
        self._socket.listen(_BACKLOG)
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def spawn(self, theirs: socket.socket) -> TreeProcess:
        """Returns before it is there; takes `theirs`."""
        process = TreeProcess()
        task = asyncio.ensure_future(self._life(process, theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return process

    async def close(self) -> None:
        """Returns when no worker is left."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- a worker's life ---

    async def _life(self, process: TreeProcess, theirs: socket.socket) -> None:
        name, token = await self._names.get(), secrets.token_hex(16)
        self._expected[token] = process, theirs
        try:
            await self._service.start_child(self._table(name, token))
            await process.closed.wait()
        except OtpdError as error:
            process.fail(str(error))
        finally:
            if self._expected.pop(token, None) is not None:
                theirs.close()
            with contextlib.suppress(OtpdError):  # it has ended by itself
                await self._service.stop_child(name)
            self._names.put_nowait(name)

    def _table(self, name: str, token: str) -> dict[str, Any]:
        address = os.fsencode(self._socket.getsockname()).hex()
        worker = [sys.executable, "-P", "-c", START]
        return {
            "name": name, "kind": "program", "restart": "temporary", "shutdown": "brutal_kill", "ready": "notify",
            "command": [sys.executable, "-I", "-S", cradle.__file__, address, ",".join(clean_environment()), *worker],
            "env": {cradle.TOKEN: token}, "cwd": "/",
        }  # fmt: skip

    # --- who comes ---

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            comer, _ = self._socket.accept()
            comer.setblocking(False)
            if _peer(comer)[1] == os.geteuid():
                self._loop.add_reader(comer.fileno(), self._greet, comer)
            else:
                comer.close()

    def _greet(self, comer: socket.socket) -> None:
        """Once: whoever has no token that is expected is sent away."""
        self._loop.remove_reader(comer.fileno())
        with comer, contextlib.suppress(OSError):
            process, theirs = self._expected.get(comer.recv(256).decode(errors="replace"), (None, None))
            if process is None or theirs is None or process.pid or process.is_doomed:
                return
            pid = _peer(comer)[0]
            pidfd = os.pidfd_open(pid)
            if not _is_there(comer):  # the pid may be another's by now
                os.close(pidfd)
                return
            process.born(pid, pidfd)
            with theirs:
                socket.send_fds(comer, [b"+"], [theirs.fileno()])


def _peer(comer: socket.socket) -> tuple[int, int]:
    """pid and uid, as the kernel tells them."""
    pid, uid, _ = _CREDENTIALS.unpack(comer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def _is_there(comer: socket.socket) -> bool:
    try:
        comer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    return False
