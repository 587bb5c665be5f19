"""A stop always ends, in order, with nothing left, and says so: by command, by signal and by ^C on a real terminal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from otpd.ipc.control import ControlError
from tests.e2e.node import DIARY, IDLE, OTPD, Node, gone, node
from tests.e2e.others import as_user, give_away, needs_root
from tests.e2e.stuckfs import stuck_directory
from tests.e2e.terminal import CTRL_C, terminal
from tests.e2e.watching import everything, holds, no_old_zombies, nothing_is_left, seen
from tests.helpers import eventually

#: Ignores every polite request, once it is ready; `hold`: leaves behind somebody who holds its output.
DEAF = """
import os, signal, time
from otpd.agents import Agent, run

class Deaf(Agent):
    async def init(self, hold=False):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if hold and os.fork() == 0:
            os.setsid()
            while True:
                time.sleep(60)

if __name__ == "__main__":
    run(Deaf)
"""
IDLE_AGENT = """
[agents.idle]
script = "idle.py"
"""
DEAF_FOR_EVER = """
[agents.deaf]
script = "deaf.py"
shutdown = "infinity"
"""
DIARIES = """
[agents.first]
script = "diary.py"

[agents.second]
script = "diary.py"
"""


def diary(n: Node) -> list[str]:
    try:
        return (n.home / "diary").read_text().splitlines()
    except FileNotFoundError:
        return []


IN_ORDER = ["first init", "second init", "second terminate shutdown", "first terminate shutdown"]


@contextmanager
def running(n: Node, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`otpd ...` that is under way; it must be over at the end, or gets SIGKILL."""
    process = subprocess.Popen(
        [*OTPD, *arguments], cwd=n.home, env=n.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


# --- how long a stop may take, and what it says ---


def test_a_stop_ends_within_the_stop_timeouts_whatever_the_children_do() -> None:
    """T21, T22, tests 14 and 15: one ignores TERM, one has stopped itself, a stranger holds the pipe of a third."""
    config = """
        [agents.deaf]
        script = "deaf.py"
        shutdown = "400ms"

        [agents.frozen]
        script = "idle.py"
        shutdown = "60s"

        [agents.holder]
        script = "deaf.py"
        args = { hold = true }
        shutdown = "400ms"
    """
    with node(config, {"deaf.py": DEAF}) as n:
        n.ask("signal", signal=signal.SIGSTOP, name="frozen")
        began = time.monotonic()
        done = n.stop()
        seconds = time.monotonic() - began
        assert "nothing is left" in done.stdout
        assert seconds < 30, f"{seconds:.1f} s"
        assert n.log("frozen").splitlines() == ["init", "terminate shutdown"]
        nothing_is_left(n, 0.5)


def test_a_stop_says_every_two_seconds_what_it_waits_for_and_ctrl_c_kills_it() -> None:
    """T23."""
    with node(IDLE_AGENT + DEAF_FOR_EVER, {"deaf.py": DEAF}) as n, running(n, "stop") as stop:
        assert stop.stderr is not None
        said = [stop.stderr.readline()]
        first = time.monotonic()
        said.append(stop.stderr.readline())
        assert said == ["otpd: waiting for idle, deaf\n", "otpd: waiting for idle, deaf\n"]
        assert time.monotonic() - first > 1.5
        stop.send_signal(signal.SIGINT)
        _out, rest = stop.communicate(timeout=60)
        assert stop.returncode == 0, rest
        nothing_is_left(n, 0.5)


def test_stop_now_kills_without_waiting() -> None:
    with node(DEAF_FOR_EVER, {"deaf.py": DEAF}) as n:
        began = time.monotonic()
        n.stop("--now")
        assert time.monotonic() - began < 30
        nothing_is_left(n, 0.5)


def test_stop_now_comes_after_a_stop_that_waits() -> None:
    """Rules 55, 65: somebody who gives up waiting ends nobody else's stop."""
    with node(DEAF_FOR_EVER, {"deaf.py": DEAF}) as n, running(n, "stop") as patient:
        eventually(lambda: n.facts()["state"] == "stopping", 10)
        assert n.ask("stop", timeout=60) is None, "the first word: what it waits for"
        assert n.facts()["state"] == "stopping"
        n.stop("--now")
        patient.communicate(timeout=60)
        assert patient.returncode == 0, "the patient one is told as well"
        nothing_is_left(n, 0.5)


def test_a_stop_names_what_it_could_not_end_and_ends_the_rest() -> None:
    """T21, test 34: one child waits in state D for a file system that never answers."""
    config = """
        [agents.idle]
        script = "idle.py"

        [programs.stuck]
        command = ["stat", "stuck/file"]
        shutdown = "100ms"
    """
    with node(config, start=False) as n:
        with stuck_directory(n.home / "stuck"):
            n.start()
            stuck, idle = n.pid("stuck"), n.pid("idle")
            eventually(lambda: (found := seen(stuck)) is not None and "stat" in found.title, 10)
            done = n.stop(check=1)
            assert done.stderr.splitlines()[-2:] == [
                f"otpd: could not end: /usr/bin/stat stuck/file (pid {stuck})",
                "next: look at them with: ps -fp PID; a process in state D ends when its device answers",
            ]
            assert gone(idle) and not gone(stuck)
        nothing_is_left(n)


@needs_root
def test_a_child_that_may_not_be_signalled_is_named_and_is_the_end_of_nobody_else() -> None:
    """T21: the node of a user, and a program that has become root (`sudo`): EPERM for every signal to it."""
    config = IDLE_AGENT + '[programs.sudo]\ncommand = ["./become", "--reuid=0", "sleep", "60"]\nshutdown = "100ms"\n'
    with node(config, start=False) as n:
        n.command = [*as_user(), *n.command]
        give_away(n)
        shutil.copy(shutil.which("setpriv") or "", n.home / "become")
        (n.home / "become").chmod(0o4755)
        n.start()
        sudo = n.pid("sudo")
        eventually(lambda: (found := seen(sudo)) is not None and "sleep" in found.title, 10)
        if psutil.Process(sudo).uids().real != 0:
            pytest.skip("no set-user-ID programs here")
        try:
            n.kill(n.pid("idle"))
            n.reborn("idle", 1)
            done = n.stop(check=1)
            assert f"could not end: sleep 60 (pid {sudo})" in done.stderr, done.stderr
        finally:
            os.kill(sudo, signal.SIGKILL)
        nothing_is_left(n)


# --- T24: at any moment ---

NEVER = """
import time
from otpd.agents import Agent, run

class Never(Agent):
    async def init(self):
        print("begin", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run(Never)
"""
MOMENTS = {
    "start": """
        [agents.late]
        script = "never.py"
        start_timeout = "60s"
        shutdown = "300ms"
    """,
    "tcp probe": """
        [programs.late]
        command = ["sleep", "60"]
        ready = { tcp = 9 }
        start_timeout = "60s"
    """,
    "exec probe": """
        [programs.late]
        command = ["sleep", "60"]
        ready = { exec = ["sleep", "59"] }
        start_timeout = "60s"
    """,
    "notify": """
        [programs.late]
        command = ["sleep", "60"]
        ready = "notify"
        start_timeout = "60s"
    """,
    "back-off": """
        [programs.late]
        command = ["false"]
        backoff = { initial = "50s", factor = 2, max = "60s", jitter = 0.2, reset_after = "60s" }
    """,
}


def stopping_time(n: Node) -> float:
    """Seconds from the request to the end of the tree, on root's own clock: the start of a Python on a busy machine is not
    what T21 is about."""
    events = [json.loads(line) for line in (n.home / ".otpd" / "events.jsonl").read_text().splitlines()]
    at = {event["event"]: float(event["at"]) for event in events}
    return at["otpd.node.ended"] - at["otpd.node.stopping"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_at_any_moment_of_a_start_ends_in_down(moment: str) -> None:
    """T24: during the start of a child, while it is probed, while it waits for its next attempt."""
    state = "backoff" if moment == "back-off" else "starting"
    with node(MOMENTS[moment] + IDLE_AGENT, {"never.py": NEVER}, start=False) as n, running(n, "start", "-d") as start:
        n.when("late", state=state)
        n.stop()
        assert stopping_time(n) < 30
        nothing_is_left(n, 0.5)
        start.communicate(timeout=60)
        assert start.returncode in (0, 1), "it says that the node has ended, or was content before"


def test_a_stop_during_a_reload_ends_in_down_and_the_reload_is_told() -> None:
    """T24."""
    with node(IDLE_AGENT, {"never.py": NEVER}) as n:
        n.write("otpd.toml", IDLE_AGENT + MOMENTS["start"])
        with running(n, "reload") as reload:
            n.when("late", state="starting")
            n.stop()
            _, said = reload.communicate(timeout=60)
        assert (reload.returncode, said.splitlines()[0]) == (
            3,
            "otpd: the node is stopping; the reload did not get to its end",
        )
        nothing_is_left(n, 0.5)


def test_a_stop_of_an_idle_worker_answers_in_the_middle_of_a_restart_storm() -> None:
    """T24: forty children that exit at once, without any back-off."""
    storm = "".join(f'[programs.storm-{i}]\ncommand = ["false"]\nbackoff = false\n' for i in range(20))
    with node(storm, start=False) as n, running(n, "start", "-d"):
        eventually(n.answers, 10)
        eventually(lambda: n.worker("storm-19")["generation"] > 1, 20)
        began = time.monotonic()
        n.stop()
        assert time.monotonic() - began < 30
        nothing_is_left(n, 0.5)


def test_what_a_start_script_has_started_before_it_became_otpd_is_left_alone() -> None:
    """`sidecar & exec otpd start`: heart, which kills everything below it, is then the sidecar's parent."""
    script = f"sleep 1000 & echo $! > sidecar; exec {shlex.join(OTPD)} start > said 2>&1"
    with node(IDLE_AGENT, start=False) as n:
        shell = subprocess.Popen(["sh", "-c", script], cwd=n.home, env=n.env, stdin=subprocess.DEVNULL)
        n.when("idle", state="running")
        sidecar, root = int((n.home / "sidecar").read_text()), n.facts()["pid"]
        try:
            assert n.facts()["heart_pid"] == shell.pid
            n.kill(root)
            eventually(lambda: n.answers() and n.facts()["pid"] != root)
            assert not gone(sidecar)
            n.stop()
            assert shell.wait(60) == 0
            assert not gone(sidecar)
        finally:
            os.kill(sidecar, signal.SIGKILL)


# --- the foreground, on a terminal ---

FOREGROUND = [*OTPD, "start"]


def test_ctrl_c_in_the_foreground_stops_in_order_and_reaches_no_child() -> None:
    """T40, tests 64 and 66 of the rules: one ^C, exit 0, children in reverse order, none of them interrupted."""
    with node(DIARIES, {"diary.py": DIARY}, start=False) as n, terminal(FOREGROUND, n.home, n.env) as screen:
        screen.until("is ready; ^C stops it in order")
        assert os.getsid(n.pid("first")) == n.pid("first"), "in a session of its own"
        screen.type(CTRL_C)
        assert screen.wait() == 0
        assert "is stopping in order" in screen.text
        assert "KeyboardInterrupt" not in screen.text and "Traceback" not in screen.text
        assert diary(n) == IN_ORDER
        nothing_is_left(n, 0.5)


def test_a_second_ctrl_c_kills_and_the_exit_code_says_that_it_was_no_clean_stop() -> None:
    """T23, test 64, rule 66."""
    config = DEAF_FOR_EVER
    with node(config, {"deaf.py": DEAF}, start=False) as n, terminal(FOREGROUND, n.home, n.env) as screen:
        screen.until("is ready; ^C stops it in order")
        screen.type(CTRL_C)
        screen.until("waiting for deaf")
        began = time.monotonic()
        screen.type(CTRL_C)
        assert screen.wait() == 1
        assert time.monotonic() - began < 30
        nothing_is_left(n, 0.5)


def test_ten_times_ctrl_c_is_as_good_as_twice() -> None:
    """Test 64."""
    config = IDLE_AGENT + DEAF_FOR_EVER
    with node(config, {"deaf.py": DEAF}, start=False) as n, terminal(FOREGROUND, n.home, n.env) as screen:
        screen.until("is ready; ^C stops it in order")
        for _ in range(10):
            screen.type(CTRL_C)
            time.sleep(0.01)
        assert screen.wait() == 1
        assert "Traceback" not in screen.text
        nothing_is_left(n, 0.5)


def test_ctrl_c_before_the_node_is_up_ends_it() -> None:
    """T24: while the first child starts, at whatever line the command is."""
    with node(MOMENTS["start"], {"never.py": NEVER}, start=False) as n, terminal(FOREGROUND, n.home, n.env) as screen:
        n.when("late", state="starting")
        screen.type(CTRL_C)
        assert screen.wait() == 0
        nothing_is_left(n, 0.5)


def test_a_terminal_that_closes_stops_the_foreground_node_in_order() -> None:
    """Test 64: the hang-up comes from the kernel."""
    with node(DIARIES, {"diary.py": DIARY}, start=False) as n:
        with terminal(FOREGROUND, n.home, n.env) as screen:
            screen.until("is ready; ^C stops it in order")
            screen.close()
            assert screen.wait() == 0
        assert diary(n) == IN_ORDER
        nothing_is_left(n, 0.5)


def test_a_hang_up_from_shell_and_kernel_is_still_one_ordered_stop() -> None:
    """Test 64: an interactive shell passes on its own SIGHUP, so that there are two of them."""
    slow = DIARY.replace("async def terminate(self, reason):", "async def terminate(self, reason):\n        time.sleep(0.4)")
    with node(DIARIES, {"diary.py": "import time\n" + slow}, start=False) as n:
        with terminal(["bash", "--norc", "-i"], n.home, n.env) as screen:
            screen.type(f"{shlex.join(FOREGROUND)}\n".encode())
            screen.until("is ready; ^C stops it in order")
            heart = n.facts()["heart_pid"]
            screen.close()
            eventually(lambda: n.facts()["state"] == "stopping", 5)
            n.kill(heart, signal.SIGHUP)
            eventually(lambda: gone(heart), 10)
        assert diary(n) == IN_ORDER
        nothing_is_left(n, 0.5)


def test_a_detached_node_survives_the_terminal_that_it_was_started_on() -> None:
    """Test 64."""
    with node(DIARIES, {"diary.py": DIARY}, start=False) as n:
        with terminal(["bash", "--norc", "-i"], n.home, n.env) as screen:
            screen.type(f"{shlex.join([*OTPD, 'start', '--detach'])}; echo it is $?\n".encode())
            screen.until("it is 0")
            before = n.workers()
            screen.close()
            screen.wait()
        assert {name: row["pid"] for name, row in n.workers().items()} == {k: row["pid"] for k, row in before.items()}
        assert n.facts()["state"] == "running"
        assert diary(n) == IN_ORDER[:2]


def test_a_node_whose_output_nobody_reads_any_more_still_survives_the_death_of_root() -> None:
    """Tests 1 and 64: `otpd start 2>&1 | head -1`; heart has something to say and nobody to say it to."""
    with node(DIARIES, {"diary.py": DIARY}, start=False) as n:
        reader, writer = os.pipe()
        process = subprocess.Popen(FOREGROUND, cwd=n.home, env=n.env, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        os.close(writer)
        try:
            first = n.when("first", state="running")
            os.close(reader)
            n.kill(n.facts()["pid"])
            eventually(lambda: n.answers() and n.facts()["heart_pid"] == process.pid, 10)
            assert n.reborn("first", 0)["pid"] != first["pid"]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        nothing_is_left(n, 0.5)


# --- signals ---


def test_sigterm_during_sigterm_kills_what_is_left() -> None:
    """Test 64: to heart, whose second request means at once."""
    with node(IDLE_AGENT + DEAF_FOR_EVER, {"deaf.py": DEAF}) as n:
        heart = n.facts()["heart_pid"]
        n.kill(heart, signal.SIGTERM)
        eventually(lambda: n.facts()["state"] == "stopping", 5)
        assert holds(lambda: not gone(heart), 0.3), "the first one waits"
        n.kill(heart, signal.SIGTERM)
        eventually(lambda: gone(heart), 4)
        nothing_is_left(n, 0.5)


def test_sigterm_to_root_is_an_ordered_stop_of_the_node() -> None:
    """Also twice: a process manager that signals everything in its group must not turn order into murder."""
    with node(DIARIES, {"diary.py": DIARY}) as n:
        heart, root = n.guardians()
        n.kill(root, signal.SIGTERM)
        n.kill(heart, signal.SIGTERM)
        eventually(lambda: gone(heart), 10)
        assert diary(n) == IN_ORDER
        nothing_is_left(n, 0.5)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    """Test 64, SIGPIPE: `otpd tree | head -1`."""
    with node("".join(f'[programs.p{i}]\ncommand = ["sleep", "60"]\n' for i in range(40))) as n:
        for command in ("tree", "status", "events -n 1000", "status --json", "logs"):
            line = f"set -o pipefail; {shlex.join(OTPD)} {command} | head -1"
            done = subprocess.run(["bash", "-c", line], cwd=n.home, env=n.env, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, "") or command == "logs", f"{command}: {done}"


FLOOD = """
import os, signal, sys, time
count = int(sys.argv[1])
reader, writer = os.pipe()
middle = os.fork()
if middle == 0:
    os.setsid()
    for _ in range(count):
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os._exit(0)
os.waitpid(middle, 0)
with open("ready", "w"):
    pass
signal.signal(signal.SIGUSR1, lambda *_: os.close(writer))
while True:
    time.sleep(60)
"""


def test_a_flood_of_deaths_is_reaped_at_once_and_keeps_nobody_waiting() -> None:
    """Test 64, T3, T17: 600 strays of one worker end in one instant, then 600 are killed with their worker."""
    config = """
        [programs.flood]
        script = "flood.py"
        args = ["600"]
        backoff = false
    """
    with node(config + IDLE_AGENT, {"flood.py": FLOOD}) as n, no_old_zombies(n):
        for way in (signal.SIGUSR1, signal.SIGKILL):
            eventually((n.home / "ready").exists, 120, "all strays are there")
            (n.home / "ready").unlink()
            assert len(everything(n)) > 600
            n.kill(n.pid("flood"), way)
            assert n.ask("tree", timeout=30.0)
            if way == signal.SIGUSR1:
                eventually(lambda: len(everything(n)) < 20, 120, "no stray lives")
                n.kill(n.pid("flood"))
        assert n.reborn("flood", 2) and n.worker("idle")["generation"] == 1


# --- what the exit code says ---


def test_a_node_that_gave_up_never_exits_0() -> None:
    """T53: the top itself gives up, which no TOML file can ask for; heart passes it on and starts nothing again."""
    from otpd.ipc.frames import pack
    from otpd.supervisor import specdata
    from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, SupervisorSpec

    with node(IDLE_AGENT, start=False) as n:
        crash = Launch(kind="program", command=("false",), cwd=str(n.home))
        top = SupervisorSpec(max_restarts=2, max_seconds=30, children=(ChildSpec(id="crash", start=crash),))
        spec = NodeSpec(name="n", config=str(n.home / "otpd.toml"), state_dir=str(n.home / ".otpd"), top=top)
        draft = n.home / "draft"
        draft.write_bytes(pack(specdata.to_data(spec)))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "otpd.supervisor.heart", "--state-dir", spec.state_dir,
             "--runtime-dir", str(n.runtime / "otpd" / "x"), "--spec", str(draft)],
            env=n.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 70, done
        assert "root gave up" in done.stderr and "starting it again" not in done.stderr
        nothing_is_left(n, 0.5)


def test_the_stop_of_a_node_that_does_not_run_says_so() -> None:
    with node(IDLE_AGENT, {"idle.py": IDLE}, start=False) as n:
        done = n.stop(check=7)
        assert done.stderr.startswith("otpd: no node is running") and "otpd start" in done.stderr


def test_a_change_that_comes_while_the_node_stops_is_refused_with_the_reason() -> None:
    with node(DEAF_FOR_EVER, {"deaf.py": DEAF}) as n, running(n, "stop"):
        eventually(lambda: n.facts()["state"] == "stopping", 5)
        with pytest.raises(ControlError, match="the node is stopping") as refused:
            n.ask("child", action="restart", names=["deaf"])
        assert refused.value.code == 3
        n.stop("--now")


