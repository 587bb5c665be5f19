"""A node as the first process of a container: its own pid namespace, no init, no $HOME, nothing writable but one place."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otpd.supervisor.linux import kernel_version
from tests.e2e.node import DIARY, OTPD, Node, node
from tests.e2e.others import as_user, give_away, needs_root
from tests.e2e.watching import Seen, alive, no_old_zombies, seen, stat
from tests.helpers import eventually

CONFIG = """
[agents.diary]
script = "diary.py"
"""
#: A root file system that can't be written, and one place that can.
READ_ONLY = (
    "mount --make-rprivate / && mount --bind {home} {home} && mount -o remount,bind,ro / && "
    "for place in /dev/shm /run /tmp; do touch $place/probe.$$ 2>/dev/null && mount -t tmpfs -o ro none $place; done; "
)
pytestmark = needs_root


class Container:
    """`init` is its first process, as the outside numbers it."""

    def __init__(self, n: Node, process: subprocess.Popen[str]) -> None:
        self._node, self.process = n, process
        self.strangers: list[subprocess.Popen[bytes]] = []
        self.init = eventually(lambda: _only_child(process.pid), 10, "the first process of the namespace")

    def run(self, *command: str, check: int = 0) -> str:
        """As `docker exec` does: a process that init did not make."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.init), "--pid", "--mount", "--wd", *command], env=self._node.env,
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == check, done
        return done.stdout

    def stranger(self) -> Seen:
        """Somebody who has nothing to do with the node, and ends with the namespace at the latest."""
        command = ["nsenter", "--target", str(self.init), "--pid", "--mount", "sleep", "1000"]
        self.strangers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        pid = eventually(lambda: _only_child(self.strangers[-1].pid))
        return eventually(lambda: (found := seen(pid)) and "sleep" in found.title and found) or Seen(0, "", "")

    def otpd(self, *arguments: str, check: int = 0) -> str:
        return self.run(*self._node.command, *arguments, check=check)

    def up(self) -> None:
        """What the agent has written is there: a file alone may be that of one that is killed before it writes."""
        eventually(lambda: diary(self._node), 30, "the agent is up")


def _only_child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


@contextmanager
def container(n: Node, before: str = "", cwd: str = "") -> Iterator[Container]:
    """`otpd start` as PID 1 of a namespace; what is still there at the end is killed with its init."""
    command = f"{before}cd {cwd or n.home} && exec {shlex.join([*n.command, 'start'])}"
    with open(n.home / "screen", "wb") as screen:
        process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", command],
            cwd=n.home, env=n.env, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, text=True,
        )  # fmt: skip
    made = Container(n, process)
    try:
        yield made
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stranger in made.strangers:
            stranger.wait(60)
        print((n.home / "screen").read_text())


@contextmanager
def unshared(config: str = CONFIG) -> Iterator[Node]:
    done = subprocess.run(["unshare", "--pid", "--mount", "--fork", "--mount-proc", "true"], capture_output=True)
    if done.returncode != 0:
        pytest.skip("no namespaces of its own here")
    with node(config, {"diary.py": DIARY}, start=False) as n:
        yield n


def diary(n: Node) -> list[str]:
    try:
        return [line.removeprefix("diary ") for line in (n.home / "diary").read_text().splitlines()]
    except FileNotFoundError:
        return []


def test_as_pid_1_it_stops_in_order_on_sigterm_and_exits_0() -> None:
    """T38, test 65: what `docker stop` does."""
    with unshared() as n, container(n) as c:
        c.up()
        assert '"heart_pid": 1' in c.otpd("tree", "--json")
        os.kill(c.init, signal.SIGTERM)
        assert c.process.wait(60) == 0
        assert diary(n) == ["init", "terminate shutdown"]


def test_as_pid_1_its_exit_code_says_that_it_was_killed_by_a_second_request() -> None:
    """T38, rule 66."""
    stubborn = DIARY.replace('self.note("init")', "import signal; signal.signal(15, signal.SIG_IGN); self.note('init')")
    with unshared(CONFIG + 'shutdown = "infinity"\n') as n:
        n.write("diary.py", stubborn)
        with container(n) as c:
            c.up()
            os.kill(c.init, signal.SIGTERM)
            eventually(lambda: "stopping" in c.otpd("tree", "--json"), 5)
            os.kill(c.init, signal.SIGTERM)
            assert c.process.wait(60) == 1


def test_as_pid_1_it_reaps_strangers() -> None:
    """T38, T3, test 65: orphans of `docker exec`, which come to init and to nobody else."""
    with unshared() as n, container(n) as c:
        c.up()
        with no_old_zombies(n):
            c.run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.5; exit 3) >/dev/null 2>&1 & done")
            eventually(lambda: len(_below(c.init)) > 3, 5, "the strangers come to init")
            eventually(lambda: len(_below(c.init)) <= 2, 5, "the strangers are gone")
        assert not [pid for pid in _below(c.init) if (stat(pid) or ("",))[0] == "Z"]
        assert c.otpd("status", "diary").count("running") == 1
        os.kill(c.init, signal.SIGTERM)
        assert c.process.wait(60) == 0


def _below(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _root_below(heart: int) -> int:
    return next(pid for pid in _below(heart) if b"otpd: root" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_as_pid_1_it_survives_the_death_of_root() -> None:
    """T2, T38: heart is init; the tree comes back below it."""
    with unshared() as n, container(n) as c:
        c.up()
        os.kill(_root_below(c.init), signal.SIGKILL)
        eventually(lambda: diary(n) == ["init", "init"], 60, "the tree is back")
        os.kill(c.init, signal.SIGTERM)
        assert c.process.wait(60) == 0
        assert diary(n) == ["init", "init", "terminate shutdown"]


def test_it_runs_with_a_read_only_root_one_writable_directory_any_user_and_no_home() -> None:
    """T38: `docker run --read-only --user 64321 -v data:/data`; XDG_RUNTIME_DIR and HOME are not set."""
    with unshared() as n:
        n.command = [*as_user(), *n.command, "-f", f"{n.home}/otpd.toml"]
        give_away(n)
        for name in ("HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
            n.env.pop(name, None)
        with container(n, READ_ONLY.format(home=n.home), cwd="/") as c:
            c.up()
            assert "Read-only" in c.run("sh", "-c", "touch /etc/probe 2>&1 || true")
            assert "running" in c.otpd("status", "diary")
            os.kill(c.init, signal.SIGTERM)
            assert c.process.wait(60) == 0
        assert diary(n) == ["init", "terminate shutdown"]


def test_a_node_starts_without_home_shell_user_or_path() -> None:
    """T38: as a service manager starts it, with an empty environment."""
    with node(CONFIG, {"diary.py": DIARY}, start=False) as n:
        n.env = {"XDG_RUNTIME_DIR": str(n.runtime)}
        n.command = [sys.executable, *OTPD[1:]]
        n.start()
        assert n.worker("diary")["state"] == "running"
        n.stop()
        assert diary(n) == ["init", "terminate shutdown"]


# --- seen from outside of the namespace ---


def test_a_stop_from_outside_of_the_container_ends_the_node_and_no_stranger() -> None:
    """Root tells its own numbers; here they are other processes': its heart is 1 there, here that is the machine's init."""
    with unshared() as n, container(n) as c:
        c.up()
        assert n.json("tree")["node"]["heart_pid"] == 1
        for arguments in (["tree", "--resources"], ["top", "--json"]):
            assert "what its processes use can't be told from here" in n.otpd(*arguments, check=1).stderr
        done = n.otpd("stop")
        assert "stopped in" in done.stdout
        assert c.process.wait(60) == 0
        assert diary(n) == ["init", "terminate shutdown"]


def test_stop_now_from_outside_reaches_heart_though_root_does_not_answer() -> None:
    with unshared() as n, container(n) as c:
        c.up()
        root = _root_below(c.init)
        os.kill(root, signal.SIGSTOP)
        done = n.otpd("stop", "--now")
        assert "root does not answer; heart kills it" in done.stderr
        assert c.process.wait(60) == 1
        assert stat(root) is None


def test_a_stop_from_a_namespace_in_which_the_node_has_no_pids_is_refused_with_what_to_do() -> None:
    """The other way round: from a container that shares the node's directory; the node runs on."""
    with unshared() as n:
        n.start()
        for arguments in (["stop"], ["stop", "--now"]):
            inside = ["unshare", "--pid", "--fork", "--mount-proc", *n.command, *arguments]
            done = subprocess.run(inside, cwd=n.home, env=n.env, capture_output=True, text=True, timeout=30)
            assert done.returncode == 1
            assert done.stderr.splitlines() == [
                "otpd: the node runs in another pid namespace: its processes have no number here",
                "next: run this where the node runs, for example with: docker exec, or nsenter --pid --mount --target PID",
            ]
        assert n.worker("diary")["state"] == "running"
        n.stop()
        assert diary(n) == ["init", "terminate shutdown"]


# --- pids that come again ---


def test_pids_that_come_again_and_again_never_mean_somebody_else() -> None:
    """T19, test 48: a namespace with 200 pids, a child that dies at once and for ever, and strangers on the numbers between.
    Every pid has been the child's several times when the stop comes; no stranger has been signalled."""
    if kernel_version(platform.release()) < (6, 14):
        pytest.skip("before Linux 6.14 pid_max is the whole machine's")
    config = CONFIG + """
[supervisors.s]
max_restarts = 1000000
max_seconds = 1
[programs.brief]
command = ["sh", "-c", "sleep 0.001 & exit 1"]
supervisor = "s"
"""
    machine = Path("/proc/sys/kernel/pid_max").read_text()
    with unshared(config) as n, container(n, "echo 500 > /proc/sys/kernel/pid_max; ") as c:
        c.up()
        strangers = [c.stranger() for _ in range(20)]
        eventually(lambda: n.worker("brief")["generation"] > 300, 60, "each of 200 pids has been used several times")
        os.kill(_root_below(c.init), signal.SIGKILL)
        eventually(lambda: n.answers() and n.worker("brief")["generation"] > 20, 60)
        assert alive(strangers) == strangers
        assert n.worker("diary")["generation"] == 1
        n.otpd("stop")
        assert diary(n) == ["init", "init", "terminate shutdown"]
    assert Path("/proc/sys/kernel/pid_max").read_text() == machine
