"""Plays root for one test: starts a zygote, hands out jobs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otpd.ipc.frames import channel_pair, receive_packet, send_packet
from otpd.supervisor import cgroup, execspawn, launch, linux, nativespawn, spares, sweep
from otpd.supervisor.launch import Job

NODE = "0123456789abcdef" * 2


@dataclass
class Worker:
    """A process under test, with all that root holds of it."""

    pid: int
    pidfd: int
    channel: socket.socket | None
    output: int = -1
    error_fd: int = -1
    cgroup: str | None = None

    def packet(self, timeout: float = 60.0) -> Any:
        """The next packet; None when the channel is closed."""
        assert self.channel is not None
        self.channel.settimeout(timeout)
        try:
            got = receive_packet(self.channel)
        except ConnectionResetError:
            return None
        return None if got is None else got[0]

    def packets(self) -> list[Any]:
        return list(iter(self.packet, None))

    def exec_error(self) -> str:
        """Empty when exec is done."""
        os.set_blocking(self.error_fd, True)
        return os.read(self.error_fd, 5000).decode()

    def printed(self) -> str:
        """Everything until the last writer is gone."""
        with open(os.dup(self.output), "rb") as file:
            return file.read().decode()

    def line(self) -> str:
        """One line of output."""
        found = b""
        while not found.endswith(b"\n"):
            byte = os.read(self.output, 1)
            if not byte:
                break
            found += byte
        return found.decode().rstrip("\n")

    def died(self, timeout: float = 60.0) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def reap(self, timeout: float = 60.0) -> Any:
        assert self.died(timeout), f"pid {self.pid} lives"
        return sweep.reap(self.pid, self.pidfd, group=False)

    def close(self) -> None:
        if sweep.dead(self.pidfd) is False:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.died()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.output, self.error_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        if self.channel is not None:
            self.channel.close()


@dataclass
class Root:
    """The test process in the role of root."""

    directory: Path
    preload: tuple[str, ...] = ("asyncio", "otpd.agents")
    workers: list[Worker] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    zygote: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None

    def __post_init__(self) -> None:
        linux.set_child_subreaper()
        self.before = set(linux.children(os.getpid()))

    def start_zygote(self, *preload: str, cgroup: str | None = None) -> None:
        self.channel, theirs = channel_pair()
        self.channel.settimeout(60)
        argv = spares.zygote_argv(theirs.fileno(), os.getpid(), NODE, preload or self.preload, cgroup)
        env = spares.zygote_environment(os.environ, NODE)
        self.zygote = subprocess.Popen(argv, env=env, pass_fds=(theirs.fileno(),), start_new_session=True)
        theirs.close()

    def blank(self) -> Worker:
        if self.zygote is None:
            self.start_zygote()
        assert self.channel is not None
        send_packet(self.channel, ["fork", 1])
        while True:
            got = receive_packet(self.channel)
            assert got is not None, f"the zygote is gone: {self.problems}"
            value, fds = got
            if value[0] == "blank":
                break
            self.problems.append(value[1])
        worker = Worker(value[1], fds[0], socket.socket(fileno=fds[1]))
        worker.cgroup = value[2] if len(value) > 2 else None
        self.workers.append(worker)
        return worker

    def job(self, **more: Any) -> Job:
        base: dict[str, Any] = {
            "name": "feed", "generation": 1, "kind": "program", "node": NODE, "root_pid": os.getpid(),
            "cwd": str(self.directory),
        }  # fmt: skip
        return Job(**(base | more))

    def script(self, source: str, **more: Any) -> Worker:
        """A worker that runs `source`, through a blank."""
        path = self.directory / "worker.py"
        path.write_text(textwrap.dedent(source))
        return self.run(self.job(**{"script": str(path), **more}))

    def run(self, job: Job) -> Worker:
        worker = self.blank()
        worker.output, writer = os.pipe()
        assert worker.channel is not None
        spares.assign(worker.channel, job, writer)
        os.close(writer)
        return worker

    def spawn(self, *command: str, **more: Any) -> Worker:
        """A worker by fork and exec."""
        output, writer = os.pipe()
        try:
            made = execspawn.spawn(self.job(**{"command": command, **more}), writer, os.environ)
        except execspawn.SpawnError:
            os.close(output)
            raise
        finally:
            os.close(writer)
        worker = Worker(made.pid, made.pidfd, None, output, made.error_fd)
        self.workers.append(worker)
        return worker

    def native(self, *command: str, leaf: cgroup.Leaf | None = None, **more: Any) -> Worker:
        """A worker by one call; SpawnError."""
        spawner = nativespawn.NativeSpawner(os.environ)
        output, writer = os.pipe()
        try:
            job = self.job(**{"command": command, **more})
            plan = spawner.plan(job)
            assert plan is not None, "not for the extension"
            made = spawner.spawn(plan, job.generation, writer, leaf)
        except execspawn.SpawnError:
            os.close(output)
            raise
        finally:
            os.close(writer)
            spawner.close()
        assert made.error_fd == -1
        worker = Worker(made.pid, made.pidfd, None, output)
        self.workers.append(worker)
        return worker

    def python(self, source: str, **more: Any) -> Worker:
        return self.spawn(sys.executable, "-c", textwrap.dedent(source), **more)

    @property
    def known(self) -> set[int]:
        helpers = {self.zygote.pid} if self.zygote else set()
        return self.before | helpers | {worker.pid for worker in self.workers}

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.zygote is not None:
            self.zygote.wait(60)
        for worker in self.workers:
            worker.close()
        left = sweep.Sweeper().strays(self.before)
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
                os.waitpid(each.pid, 0)
        linux.set_child_subreaper(False)
        assert left == (), "processes were left behind"


def owner(worker: Worker, **more: Any) -> sweep.Owner:
    return sweep.Owner(**{"node": NODE, "name": "feed", "generation": 1, "pid": worker.pid, **more})


needs_extension = pytest.mark.skipif(nativespawn.extension() is None, reason="otpd.supervisor._spawn was not built")


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


__all__ = ["NODE", "Root", "Worker", "launch", "needs_extension", "open_fds", "owner"]
