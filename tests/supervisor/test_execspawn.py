"""Fork and exec by root itself."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

import pytest

from otpd.supervisor import execspawn
from otpd.supervisor.incarnation import Status
from tests.supervisor.processes import Root, needs_extension, open_fds


@pytest.fixture(params=["fork", pytest.param("native", marks=needs_extension)])
def spawn(request: pytest.FixtureRequest, root: Root) -> Any:
    """Both ways in which root itself starts a program."""
    return root.native if request.param == "native" else root.spawn


def test_the_error_pipe_ends_when_exec_is_done(root: Root) -> None:
    worker = root.spawn("sh", "-c", "echo here; exit 3")
    assert (worker.exec_error(), worker.printed(), worker.reap()) == ("", "here\n", Status(code=3))


def test_both_outputs_are_one_pipe(spawn: Any) -> None:
    assert spawn("sh", "-c", "echo a; echo b >&2; echo c").printed() == "a\nb\nc\n"


@pytest.mark.parametrize("failing", ["fork", "pidfd_open"])
def test_a_fork_that_fails_is_an_error_and_leaks_nothing(
    root: Root, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = open_fds()
    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(
        execspawn.SpawnError, match="worker feed: can't make a process: Resource temporarily unavailable"
    ):
        root.spawn("true")
    monkeypatch.undo()
    assert open_fds() <= before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_nul_bytes_are_refused_before_the_fork(root: Root) -> None:
    with pytest.raises(execspawn.SpawnError, match=r"worker feed: argument with a NUL byte: 'a\\x00b'"):
        root.spawn("echo", "a\0b")


def test_a_script_is_not_its_business(root: Root) -> None:
    with pytest.raises(execspawn.SpawnError, match="expected a command to exec, got none"):
        execspawn.spawn(root.job(script="/x.py"), 1, os.environ)


def test_an_agent_that_is_a_command_gets_channel_and_job(root: Root) -> None:
    from otpd.ipc.frames import channel_pair, receive_packet

    ours, theirs = channel_pair()
    output, writer = os.pipe()
    source = "from otpd.agents import Agent, run\nclass A(Agent):\n  def init(self, n): print(self.name, n)\nrun(A)\n"
    job = root.job(kind="agent", command=(sys.executable, "-c", source), args={"n": 5})
    made = execspawn.spawn(job, writer, os.environ, theirs.fileno())
    os.close(writer)
    theirs.close()
    ours.settimeout(60)
    assert receive_packet(ours) == (["ready"], [])
    signal.pidfd_send_signal(made.pidfd, signal.SIGTERM)
    assert receive_packet(ours) == (["exit", "shutdown"], [])
    with open(output) as file:
        assert file.read() == "feed 5\n"
    os.waitpid(made.pid, 0)
    ours.close()
    for fd in (made.pidfd, made.error_fd):
        os.close(fd)
