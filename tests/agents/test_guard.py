"""Processes that an agent makes by itself are reported or refused, in a real blank under a test that plays root."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import pytest

from otpd.agents import guard, noexec
from otpd.agents.sandbox import kernel
from otpd.supervisor import sweep
from tests.helpers import eventually
from tests.supervisor.processes import Root, Worker

needs_seccomp = pytest.mark.skipif(not kernel.supported(), reason="no table of system calls for this architecture")

LAYERS = ["audit", "seccomp"]
HEAD = "import ctypes, multiprocessing, os, pty, subprocess, sys, threading, uuid\n"
RUN = "from otpd.agents import Agent, SpawnRefused, run\nclass Feed(Agent): ...\nrun(Feed)\n"


def start(root: Root, body: str, spawn: str) -> Worker:
    return root.script(HEAD + body + "\n", kind="agent", spawn=spawn)


def told(worker: Worker) -> list[tuple[str, str, str]]:
    """Call, program and line of each place that root was told of, and before the first of them of the guard itself."""
    packets: list[Any] = worker.packets()
    assert packets[:2] == [["spawned"], ["guard", ["audit"], ""]]
    places = [packet[1] for packet in packets if packet[0] == "spawn"]
    return [(each["call"], each["program"], each["place"].partition(".py:")[2]) for each in places]


WAYS = {
    "os.fork": ("os.fork() or os._exit(0)", "os.fork", ""),
    "os.forkpty": ("os.forkpty()[0] or os._exit(0)", "os.forkpty", ""),
    "pty.fork": ("pty.fork()[0] or os._exit(0)", "pty.fork", ""),
    "os.system": ("os.system('true --now')", "os.system", "true"),
    "os.popen": ("os.popen('true').close()", "os.popen", "sh"),
    "os.spawnlp": ("os.spawnlp(os.P_WAIT, 'true', 'true')", "os.spawnlp", ""),
    "os.posix_spawn": ("os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)", "os.posix_spawn", "true"),
    "subprocess.run": ("subprocess.run(['true', 'secret'])", "subprocess.run", "true"),
    "close_fds=False": ("subprocess.run(['/bin/true'], close_fds=False)", "subprocess.run", "true"),
    "fork": ("process = multiprocessing.get_context('fork').Process(target=print); process.start(); process.join()",
             "multiprocessing.process.BaseProcess.start", ""),
    "spawn": ("process = multiprocessing.get_context('spawn').Process(target=print); process.start(); process.join()",
              "multiprocessing.process.BaseProcess.start", ""),
}  # fmt: skip


def test_every_way_of_making_a_process_is_reported_once_with_its_line(root: Root) -> None:
    """And goes on. What a fork does then is not reported again; it stays the agent's."""
    lines = "\n".join(way for way, _, _ in WAYS.values())
    guarded = f"if __name__ == '__main__':\n{lines}".replace("\n", "\n    ")
    worker = start(root, guarded, "warn")
    expected = [(call, program, f"{line} in <module>") for line, (_, call, program) in enumerate(WAYS.values(), 3)]
    assert told(worker) == expected
    printed = [line for line in worker.printed().splitlines() if line.startswith("otpd: ")]
    assert len(printed) == len(WAYS)
    eventually(lambda: sweep.Sweeper().strays(root.known) == (), 30)  # the tracker of multiprocessing ends when it is alone
    assert "worker.py:10 in <module>: agents make no processes of their own; await self.exec([...])" in printed[7]
    assert "secret" not in "".join(printed)


@needs_seccomp
def test_every_way_of_making_a_process_is_refused(root: Root) -> None:
    shown = "except PermissionError as error: print(error.errno, error)"
    tries = "\n".join(f"try:\n    {way}\n{shown}" for way, _, _ in WAYS.values())
    worker = start(root, f"from otpd.agents import SpawnRefused\n{tries}\nos.execvp('true', ['true'])", "deny")
    packets = worker.packets()
    assert packets[0] == ["guard", LAYERS, ""]
    calls = [packet[1]["call"] for packet in packets if packet[0] == "spawn"]
    assert calls == [*(call for _, call, _ in WAYS.values()), "os.execvp"]
    (last,) = [packet[1] for packet in packets if packet[0] == "exit"]
    assert last.startswith("error(otpd.agents.errors.SpawnRefused: os.execvp('true') at ")
    refused = [line for line in worker.printed().splitlines() if line.startswith("1 ")]
    assert len(refused) == len(WAYS)
    assert 'refused, because otpd.toml says spawn = "deny"; await self.exec([...]) runs it in the sandbox' in refused[3]


CTYPES = """
libc = ctypes.CDLL(None, use_errno=True)
def tried(function, *args):
    found = function(*args)
    if found == 0: libc._exit(7)
    return found, ctypes.get_errno()
argv = (ctypes.c_char_p * 2)(b"true", None)
print(tried(libc.fork), tried(libc.vfork), tried(libc.execv, b"/bin/true", argv), libc.system(b"true") >> 8)
print(libc.posix_spawn(ctypes.byref(ctypes.c_int()), b"/bin/true", None, None, argv, None))
def work(): print("a thread", tried(libc.fork))
for _ in range(3):
    thread = threading.Thread(target=work); thread.start(); thread.join()
"""


@needs_seccomp
def test_what_does_not_go_through_python_is_refused_by_the_kernel_and_threads_go_on(root: Root) -> None:
    worker = start(root, CTYPES, "deny")
    assert worker.packets() == [["guard", LAYERS, ""], ["spawned"]]
    printed = worker.printed().splitlines()
    assert printed[0] == "(-1, 1) (-1, 1) (-1, 1) 127"
    assert printed[1:] == ["1", *["a thread (-1, 1)"] * 3]


@pytest.mark.parametrize("spawn", ["warn", "deny"])
@needs_seccomp
def test_libraries_that_ask_other_programs_are_told_once_per_place_and_can_do_without(root: Root, spawn: str) -> None:
    body = "import ctypes.util\nfor _ in range(12):\n    ctypes.util.find_library('nothing')\nprint(uuid.uuid1().version)\n"
    worker = start(root, body, spawn)
    counts = [packet[-2] for packet in worker.packets() if packet[0] in ("spawn", "spawns")]
    lines = worker.printed().splitlines()
    told = [line for line in lines if line.startswith("otpd: ")]
    assert {line.partition(".py:")[2].partition(" ")[0] for line in told} == {"4"}
    assert len(told) <= 4  # ldconfig, gcc, ld: one line for each call that a script could make
    assert lines[-1] == "1"
    assert max(counts) >= 12


def test_an_agent_that_makes_no_processes_says_nothing_of_its_guard(root: Root) -> None:
    worker = start(root, "print(sys.audit('otpd.guard', found := []), len(found))", "warn")
    assert (worker.packets(), worker.printed()) == ([["spawned"]], "None 1\n")


def test_where_it_is_allowed_nothing_listens(root: Root) -> None:
    worker = start(root, "subprocess.run(['true'])", "allow")
    assert worker.packets() == [["spawned"]]


def test_what_is_started_past_otpd_gets_nothing_of_the_agent(root: Root) -> None:
    """Neither the channel to root, on which it could speak as the agent, nor the job with its token."""
    look = "os.system('ls /proc/self/fd')"
    agent = f"from otpd.agents import Agent, run\nclass Feed(Agent):\n  def init(self): {look}\nrun(Feed)"
    worker = start(root, f"{look}\n{agent}", "allow")
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    os.kill(worker.pid, 15)
    assert worker.printed().split() == [*"0123", *"0123"]  # 3 is the directory that ls reads


def test_a_kernel_without_the_filter_leaves_the_hook_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EINVAL, "Invalid argument", "seccomp")

    monkeypatch.setattr(noexec, "install", refuse)
    assert guard._layers() == (["audit"], "no seccomp: [Errno 22] Invalid argument: 'seccomp'")


def test_a_program_is_left_alone(root: Root) -> None:
    worker = root.script(HEAD + "subprocess.run(['true'])\n", kind="program", spawn="allow")
    assert (worker.packets(), worker.printed()) == ([["spawned"]], "")


def test_an_agent_that_is_started_as_a_command_is_guarded_from_its_run_on(root: Root) -> None:
    source = HEAD + "subprocess.run(['true'])\n" + RUN.replace("...", "\n    def init(self): subprocess.run(['false'])")
    path = root.directory / "other.py"
    path.write_text(source)
    worker = root.run(root.job(command=(sys.executable, str(path)), kind="agent", spawn="warn"))
    packets = [worker.packet() for _ in range(3)]
    assert [packet[0] for packet in packets] == ["guard", "spawn", "ready"]
    assert packets[1][1]["place"].endswith("other.py:5 in Feed.init")


@pytest.mark.parametrize("spawn", ["warn", "deny"])
@needs_seccomp
def test_counts_reach_root_though_nothing_follows(root: Root, spawn: str) -> None:
    body = """
from otpd.agents import Agent, run
class Feed(Agent):
    def init(self):
        for _ in range(30):
            try: subprocess.run(["true"])
            except PermissionError: pass
run(Feed)"""
    worker = start(root, body, spawn)
    counts = (30, 30 if spawn == "deny" else 0)
    assert ["spawns", *counts] in iter(worker.packet, None)
    os.kill(worker.pid, 15)
    assert ["exit", "shutdown"] in worker.packets()
