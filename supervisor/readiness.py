"""Asks a program again and again whether it is ready, without ever waiting for the answer.

A TCP port at a numeric address is tried by root itself; an exec or HTTP probe is a process of its own, one at a time, with
the child's environment, user and directory and its own deadline.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from otpd.supervisor import cgroup, execspawn, probe, spares, sweep
from otpd.supervisor.helpers import Blank
from otpd.supervisor.launch import Job, LaunchError
from otpd.supervisor.loop import READ, WRITE, Timer
from otpd.supervisor.spec import TcpReady

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Seconds between two attempts, and for one.
INTERVAL, TIMEOUT = 0.1, 5.0


class Prober:
    """From the first attempt until one succeeds (`on_ready`, once) or `close`."""

    def __init__(self, root: Root, live: Live, on_ready: Callable[[], None]) -> None:
        self._root, self._loop, self._live = root, root.loop, live
        self._on_ready = on_ready
        self._timer: Timer | None = None
        self._tcp: probe.TcpAttempt | None = None
        self._pid = 0
        self._pidfd = -1
        self._leaf: str | None = None  # cgroup of a blank that became the probe
        self._attempt()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._root.zygote.withdraw(self)
        self._close_tcp()
        self._end_process()

    def _attempt(self) -> None:
        ready = self._live.launch.ready
        assert not isinstance(ready, str)
        if isinstance(ready, TcpReady) and probe.is_numeric(ready.host):
            self._try_tcp(ready)
        else:
            self._run(probe.probe_argv(ready))

    def _again(self, delay: float = INTERVAL) -> None:
        self._timer = self._loop.after(delay, self._attempt)

    def _try_tcp(self, ready: TcpReady) -> None:
        try:
            self._tcp = probe.TcpAttempt(ready)
        except OSError:
            self._again()
            return
        self._loop.add(self._tcp.fileno(), WRITE, lambda _mask: self._tcp_went())
        self._timer = self._loop.after(TIMEOUT, self._tcp_late)

    def _tcp_went(self) -> None:
        assert self._tcp is not None
        problem = self._tcp.result()
        if problem == "":
            return
        self._cancel_timer()
        self._close_tcp()
        if problem is None:
            self._on_ready()
        else:
            self._again()

    def _tcp_late(self) -> None:
        self._close_tcp()
        self._again(0.0)

    def _run(self, argv: tuple[str, ...]) -> None:
        """A probe of its own: what it prints goes nowhere, what it leaves behind is swept as the child's own. To look up the
        child's user may ask a directory service: a blank does that, root never waits for one."""
        try:
            job = self._root.workers.starts.job(self._live)
        except LaunchError:
            self._again()
            return
        job = replace(job, command=argv, kind="program", script=None, cgroup=None, credentials=None)
        if job.user is None:
            self._make(lambda sink: self._spawn(job, sink))
        else:
            self._root.zygote.take(self, lambda blank: self._make(lambda sink: self._assign(blank, job, sink)))

    def _make(self, start: Callable[[int], tuple[int, int]]) -> None:
        """`start` is given what the probe prints to, and gives pid and pidfd."""
        try:
            sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._pid, self._pidfd = start(sink)
            finally:
                os.close(sink)
        except (execspawn.SpawnError, LaunchError, OSError):
            self._again()
            return
        self._root.extra_pids.add(self._pid)
        self._loop.add(self._pidfd, READ, lambda _mask: self._ran())
        self._timer = self._loop.after(TIMEOUT, self._end_process_again)

    def _spawn(self, job: Job, sink: int) -> tuple[int, int]:
        spawned = self._root.workers.starts.native.run(job, sink)
        if spawned.error_fd >= 0:
            os.close(spawned.error_fd)
        return spawned.pid, spawned.pidfd

    def _assign(self, blank: Blank, job: Job, sink: int) -> tuple[int, int]:
        try:
            spares.assign(blank.channel, job, sink)
        except LaunchError:
            sweep.ask(blank.pidfd, signal.SIGKILL)
            blank.close()
            raise
        blank.channel.close()
        self._leaf = blank.cgroup
        return blank.pid, blank.pidfd

    def _ran(self) -> None:
        self._cancel_timer()
        status = sweep.reap(self._pid, self._pidfd, group=True)
        self._forget_process()
        if status is not None and status.code == 0:
            self._on_ready()
        else:
            self._again()

    def _end_process_again(self) -> None:
        self._end_process()
        self._again(0.0)

    def _end_process(self) -> None:
        if self._pidfd < 0:
            return
        sweep.kill(self._pid, self._pidfd, group=True)
        self._forget_process()  # reaped as a stray when it is gone: nobody waits here

    def _forget_process(self) -> None:
        self._root.extra_pids.discard(self._pid)
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._leaf is not None:
            self._loop.defer(partial(cgroup.remove, self._leaf))
            self._leaf = None

    def _close_tcp(self) -> None:
        if self._tcp is not None:
            self._loop.remove(self._tcp.fileno())
            self._tcp.close()
            self._tcp = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


