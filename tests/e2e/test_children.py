"""What children do to their supervisor: end in every way, refuse to end, be strange meanwhile (tests 11-15, 21-32)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import OTPD, Node, node
from tests.e2e.watching import alive, cpu_seconds, everything, holds, no_old_zombies, of_child, seen, stat
from tests.helpers import eventually

CHILD = """
import os, signal, socket, sys, time

NAME = os.environ["OTPD_CHILD"]


def stay():
    while True:
        time.sleep(60)


def say(text):
    with open(f"{NAME}.said", "a") as file:
        file.write(text + "\\n")


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("deaf")


def frozen():
    say("frozen")
    os.kill(os.getpid(), signal.SIGSTOP)


def silent():
    os.closerange(0, 3)
    say("closed")


def doubled():
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    say("closed")


def closed():
    os.closerange(0, 1024)
    say("closed")


def reader():
    say(repr(sys.stdin.read()))


def twice():
    notify("READY=1")
    notify("READY=1")
    say("twice")


def short():
    notify("READY=1")
    sys.exit(3)


def late():
    def end(_number, _frame):
        notify("READY=1")
        say("late")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    notify("READY=1")


def eater():
    eaten = []
    while True:
        eaten.append(bytearray(1 << 24))


def changer():
    os.nice(5)
    os.chdir("/")
    if os.fork() == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execve("/bin/sh", ["harmless", "-c", "while :; do sleep 1; done"], {"PATH": os.environ["PATH"]})


def becomer():
    say("before")
    os.execvp("sleep", ["sleep", "1000"])


def never():
    pass


globals()[sys.argv[1]]()
stay()
"""
CLOSING_AGENT = """
import os
from otpd.agents import Agent, run

class Closing(Agent):
    async def init(self, first, last):
        os.closerange(first, last)

if __name__ == "__main__":
    run(Closing)
"""
LOOKING_AGENT = """
import os
from otpd.agents import Agent, run

with open("agent.fds", "w") as file:
    found = {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")} - {str(file.fileno())}
    file.write(" ".join(sorted(found, key=int)) + "\\n")
    file.write(f"0 1 2 {os.environ['OTPD_CONTROL_FD']} {os.environ['OTPD_JOB_FD']}\\n")

if __name__ == "__main__":
    run(Agent)
"""


def program(name: str, *more: str) -> str:
    return "\n".join([f"[programs.{name}]", 'script = "child.py"', f'args = ["{name}"]', *more, ""])


def said(n: Node, name: str) -> str:
    def found() -> str:
        path = n.home / f"{name}.said"
        return path.read_text() if path.exists() else ""

    return eventually(found, 10, f"a word of {name}")


def begin(n: Node) -> None:
    """Start a node whose children will not all become ready."""
    n.start(None, "--timeout", "1s")
    eventually(n.answers, 10, "root answers")


def stop(n: Node, name: str) -> dict[str, Any]:
    """Stop one child; its last exit."""
    n.ask("child", action="stop", names=[name])
    row = n.worker(name)
    assert (row["state"], row["pid"]) == ("stopped", None)
    last: dict[str, Any] = row["last_exit"]
    return last


# --- how children end ---

EXITS = """
[programs.code]
command = ["sh", "-c", "exit $((${OTPD_CHILD#code-} - 1))"]
instances = 256
restart = "transient"
backoff = { initial = "100s", max = "100s" }
"""


def test_all_256_exit_statuses_have_their_reason() -> None:
    """Test 31, rules 23-24: 0 is normal and stays down (transient), every other is error(n); nobody is left."""
    with node(EXITS, start=False) as n, no_old_zombies(n):
        begin(n)

        def rows() -> list[dict[str, Any]] | None:
            found = list(n.workers().values())
            ended = all(row["last_exit"] and row["state"] in ("stopped", "backoff", "failed") for row in found)
            return found if ended and len(found) == 256 else None

        found = eventually(rows, 20, "256 exits")
        assert found is not None
        reasons = {row["name"]: (row["last_exit"]["reason"], row["last_exit"]["status"]) for row in found}
        assert reasons == {f"code-{i + 1}": ("normal" if i == 0 else f"error({i})", i) for i in range(256)}
        assert {row["name"] for row in found if row["state"] == "stopped"} == {"code-1"}
        facts = n.facts()
        assert len(everything(n)) == 4 + len(n.services()) + len(facts["blanks"])


#: Signals whose default is to be ignored, or to stop a process (which in an orphaned group three of them do not).
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
SLEEPERS = """
[programs.s]
command = ["sleep", "1000"]
instances = 31
"""


def reason_for(number: int) -> str:
    return {signal.SIGTERM: "shutdown", signal.SIGKILL: "killed"}.get(number, f"signal({number})")  # type: ignore[call-overload,no-any-return]


def test_all_31_signals_have_their_reason() -> None:
    """Test 30: killed by each: restarted, with the right reason; by one that does not kill: not noticed."""
    deadly = [number for number in range(1, 32) if number not in HARMLESS | STOPPING]
    with node(SLEEPERS) as n, no_old_zombies(n):
        before = n.workers()
        for number in range(1, 32):
            n.ask("signal", name=f"s-{number}", signal=number)
        for number in deadly:
            n.reborn(f"s-{number}", 1)
        after = n.workers()
        exits = {number: after[f"s-{number}"]["last_exit"] for number in deadly}
        assert {number: found["reason"] for number, found in exits.items()} == {n: reason_for(n) for n in deadly}
        assert {number: found["signal"] for number, found in exits.items()} == {n: n for n in deadly}
        for number in sorted(HARMLESS | STOPPING):
            name = f"s-{number}"
            assert (after[name]["pid"], after[name]["generation"]) == (before[name]["pid"], 1), name
            n.ask("signal", name=name, signal=signal.SIGCONT)


def test_an_end_by_its_own_stop_signal_is_shutdown_when_asked_and_a_signal_when_not() -> None:
    """Test 30, rule 30."""
    config = '[programs.s]\ncommand = ["sleep", "1000"]\nstop_signal = "SIGUSR1"\n'
    with node(config) as n:
        n.kill(n.pid("s"), signal.SIGUSR1)
        n.reborn("s", 1)
        assert stop(n, "s")["reason"] == "shutdown"
        deaths = n.ask("why", name="s")["deaths"]
        assert [(death["reason"], death["asked_by"]) for death in deaths] == [("shutdown", "operator"), ("signal(10)", None)]


def test_a_child_that_exits_0_at_once_is_restarted_with_growing_delays() -> None:
    """Test 11, T6: permanent; the delays are those of the back-off, within the jitter."""
    config = '[programs.zero]\ncommand = ["true"]\nbackoff = { initial = "40ms", factor = 2, max = "160ms", jitter = 0.2 }\n'
    with node(config, start=False) as n, no_old_zombies(n):
        begin(n)
        eventually(lambda: n.worker("zero")["generation"] >= 6, 10, "six attempts")
        delays = [each["delay"] for each in n.events() if each["event"] == "otpd.restart.scheduled"][:4]
        expected = [0.04, 0.08, 0.16, 0.16]
        assert all(0.8 * right <= delay <= 1.2 * right for delay, right in zip(delays, expected, strict=True)), delays
        assert n.worker("zero")["last_exit"]["reason"] == "normal"


def test_200_crashes_of_one_child_cost_root_nothing_that_stays() -> None:
    """Test 12, T3: exits 1 at once, 200 times; no descriptor and no process is left over."""
    config = '[programs.one]\ncommand = ["false"]\nbackoff = { initial = "1ms", factor = 1, max = "1ms" }\n'
    with node(config, start=False) as n, no_old_zombies(n):
        begin(n)
        n.ask("child", action="stop", names=["one"])
        before, first = idle_descriptors(n), n.worker("one")["generation"]
        n.ask("child", action="start", names=["one"])
        eventually(lambda: n.worker("one")["generation"] >= first + 200, 60, "200 crashes")
        assert n.worker("one")["last_exit"]["reason"] == "error(1)"
        n.ask("child", action="stop", names=["one"])
        eventually(lambda: idle_descriptors(n) <= before, 10, f"at most {before} descriptors")
        assert len(of_child(n, "one")) == 0


def idle_descriptors(n: Node) -> int:
    """Of root, with all spares there."""
    facts = eventually(lambda: (found := n.facts()) and len(found["blanks"]) == 2 and found, 10, "two spares")
    assert isinstance(facts, dict)
    return int(facts["descriptors"])


# --- programs that can't be started (test 13, T9) ---

TOOL = "#!/bin/sh\nexec sleep 1000\n"
BROKEN = {
    "enoent": ("no such file", lambda tool: tool.unlink()),
    "eacces": ("is not executable; chmod +x", lambda tool: tool.chmod(0o644)),
    "enoexec": ("neither a binary nor a script", lambda tool: tool.write_text("exec sleep 1000\n")),
    "interpreter": ("bad interpreter", lambda tool: tool.write_text("#!/nowhere/sh\n")),
    "cwd": ("No such file or directory", lambda tool: shutil.rmtree(tool.parent / "cwd.d")),
}


def test_a_program_that_can_t_be_started_says_why_and_backs_off() -> None:
    """Test 13, T9: ENOENT, EACCES, ENOEXEC, bad interpreter, missing cwd: one report an attempt, few attempts."""
    config = "".join(
        f'[programs.{name}]\ncommand = ["./{name}"]\nbackoff = {{ initial = "100ms" }}\n'
        + ('cwd = "cwd.d"\n' if name == "cwd" else "")
        for name in BROKEN
    )
    with node(config, dict.fromkeys(BROKEN, TOOL), start=False) as n, no_old_zombies(n):
        (n.home / "cwd.d").mkdir()
        for name in BROKEN:
            (n.home / name).chmod(0o755)
        (n.home / "cwd").rename(n.home / "cwd.d" / "cwd")
        n.start()
        began = time.monotonic()
        for name, (_, breaks) in BROKEN.items():
            breaks(n.home / name)
            n.kill(n.pid(name))
        for name, (why, _) in BROKEN.items():
            row = eventually(lambda name=name: failing(n, name), 10, f"{name} has failed twice")  # type: ignore[misc]
            assert why in row["what"], name
            failed = [each for each in n.events() if each["event"] == "otpd.child.start_failed" and each["name"] == name]
            assert len({each["generation"] for each in failed}) == len(failed), f"{name} reported twice: {failed}"
            assert all(why in each["reason"] for each in failed), failed
        attempts = {name: row["generation"] - 1 for name, row in n.workers().items()}
        seconds = time.monotonic() - began
        assert max(attempts.values()) <= 2 + seconds / 0.08, attempts


def failing(n: Node, name: str) -> dict[str, Any] | None:
    row = n.worker(name)
    return row if row["state"] == "backoff" and row["generation"] >= 3 else None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('command = ["./nowhere"]', "nowhere"),
        ('command = ["./child.py"]', "child.py"),
        ('command = ["true"]\ncwd = "nowhere"', "nowhere"),
        ('command = ["true"]\nuser = "nobody-of-that-name"', "nobody-of-that-name"),
        ('script = "nowhere.py"', "nowhere.py"),
    ],
    ids=["missing", "not executable", "cwd", "user", "script"],
)
def test_what_the_file_names_and_is_not_there_is_an_error_before_anything_starts(line: str, why: str) -> None:
    """Test 13: exit 2 with the line, and no node."""
    with node(f"[programs.p]\n{line}\n", {"child.py": CHILD}, start=False) as n:
        done = n.start(check=2)
        assert why in done.stderr
        assert "otpd.toml:" in done.stderr
        assert everything(n) == []


# --- children that are hard to end ---


@pytest.fixture(scope="module")
def strange() -> Iterator[Node]:
    """One node with all those that run on and on."""
    config = "".join(
        [
            program("deaf", 'shutdown = "300ms"'),
            program("frozen"),
            program("silent"),
            program("doubled"),
            program("closed"),
            program("reader"),
            program("twice", 'ready = "notify"'),
            program("late", 'ready = "notify"'),
            program("changer", 'shutdown = "300ms"'),
            program("becomer"),
            '[agents.mute]\nscript = "closing.py"\nargs = { first = 0, last = 3 }\n',
        ]
    )
    with node(config, {"child.py": CHILD, "closing.py": CLOSING_AGENT}) as n, no_old_zombies(n):
        yield n


def test_one_that_ignores_term_is_killed_after_its_shutdown_time(strange: Node) -> None:
    """Test 14, rules 53, 57: asked, waited for 300 ms, killed, really gone."""
    said(strange, "deaf")
    pid, began = seen(strange.pid("deaf")), time.monotonic()
    assert stop(strange, "deaf")["reason"] == "killed"
    assert time.monotonic() - began >= 0.3
    assert pid is not None
    assert not pid.alive


def test_one_that_has_stopped_itself_still_hears_the_stop(strange: Node) -> None:
    """Test 15: SIGCONT goes with the signal; no waiting for the end of `shutdown`."""
    said(strange, "frozen")
    pid = strange.pid("frozen")
    eventually(lambda: (stat(pid) or "?")[0] == "T", 10, "it has stopped itself")
    assert stop(strange, "frozen")["reason"] == "shutdown"


@pytest.mark.parametrize("name", ["silent", "doubled", "closed"])
def test_one_that_closes_or_redirects_its_descriptors_is_supervised_like_any(strange: Node, name: str) -> None:
    """Tests 21, 22: death is learned from the kernel, not from a pipe (T22, rule 59)."""
    said(strange, name)
    strange.kill(strange.pid(name))
    row = strange.reborn(name, 1)
    assert row["last_exit"]["reason"] == "killed"
    assert stop(strange, name)["reason"] == "shutdown"
    strange.ask("child", action="start", names=[name])


def test_closed_descriptors_make_nobody_spin(strange: Node) -> None:
    """T30: root and logger use next to nothing while five children have no stdout any more."""
    for name in ("silent", "doubled", "closed"):
        said(strange, name)
    facts = strange.facts()
    house = [facts["pid"], facts["logger_pid"], facts["heart_pid"]]
    before = [cpu_seconds(pid) for pid in house]
    assert holds(lambda: True, 0.5)
    used = [cpu_seconds(pid) - earlier for pid, earlier in zip(house, before, strict=True)]
    assert max(used) < 0.1, used


def test_an_agent_without_stdout_runs(strange: Node) -> None:
    """Test 21: closes 0-2 in init() and is ready all the same."""
    assert strange.worker("mute")["state"] == "running"
    assert stop(strange, "mute")["reason"] == "shutdown"


def test_stdin_is_at_its_end(strange: Node) -> None:
    """Test 24."""
    assert said(strange, "reader") == "''\n"


def test_ready_said_twice_is_ready_once(strange: Node) -> None:
    """Test 26."""
    said(strange, "twice")
    started = [each for each in strange.events() if each["event"] == "otpd.child.started" and each["name"] == "twice"]
    assert len(started) == 1
    assert strange.worker("twice")["state"] == "running"


def test_ready_said_after_the_stop_began_changes_nothing(strange: Node) -> None:
    """Test 26: it goes down, stays down, and is not started a second time."""
    assert stop(strange, "late")["reason"] in ("normal", "shutdown")
    assert said(strange, "late") == "late\n"
    assert holds(lambda: strange.worker("late")["state"] == "stopped", 0.2)


def test_one_that_changes_all_that_it_can_is_still_found(strange: Node) -> None:
    """Test 29: niceness and directory of its own, a child in another group, with another title and without the cookie."""
    main = strange.pid("changer")
    (child,) = eventually(lambda: in_session(strange, main), 10, "its child")
    assert child.title.startswith("harmless")
    strange.kill(main)
    strange.reborn("changer", 1)
    assert not child.alive
    main = strange.pid("changer")
    (child,) = eventually(lambda: in_session(strange, main), 10, "its second child")
    stop(strange, "changer")
    assert not child.alive


def in_session(n: Node, leader: int) -> list[Any]:
    """Shells in the session of `leader` other than itself; what one of them forks bears its title until it execs."""
    found = [seen(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]
    shells = [each for each in found if each and each.title.startswith("harmless")]
    return [each for each in shells if _ids(each.pid) == (leader, each.pid)]


def _ids(pid: int) -> tuple[int, int]:
    """Its session and its group; (0, 0) when it is gone."""
    try:
        return os.getsid(pid), os.getpgid(pid)
    except ProcessLookupError:
        return 0, 0


def test_one_that_execs_another_program_stays_who_it_is(strange: Node) -> None:
    """Test 32: the same pid, the same generation, the same end."""
    said(strange, "becomer")
    pid = strange.pid("becomer")
    eventually(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00", 10, "sleep")
    row = strange.worker("becomer")
    assert (row["pid"], row["generation"], row["state"]) == (pid, 1, "running")
    assert stop(strange, "becomer")["reason"] == "shutdown"


# --- readiness ---


def test_one_that_is_never_ready_is_given_up_after_its_start_timeout() -> None:
    """Test 25: and the others start meanwhile; the command says who is not ready, exit 1."""
    config = program("never", 'ready = "notify"', 'start_timeout = "300ms"', 'backoff = { initial = "100s", max = "100s" }')
    with node(config + '[agents.a]\nscript = "idle.py"\n', {"child.py": CHILD}, start=False) as n, no_old_zombies(n):
        done = n.start(1, "--timeout", "5s")
        assert "never: " in done.stderr
        assert "not ready within 0.3 s" in done.stderr
        row = n.when("never", state="backoff")
        assert row["what"] == "not ready within 0.3 s"
        assert n.states()["a"] == "running"
        assert of_child(n, "never") == []


def test_ready_and_then_dead_is_a_crash_of_a_running_child() -> None:
    """Test 26: Started, then Exited, in this order, once each per generation."""
    config = program("short", 'ready = "notify"', 'backoff = { initial = "100s", max = "100s" }')
    with node(config, {"child.py": CHILD}, start=False) as n:
        begin(n)
        row = n.when("short", state="backoff")
        assert row["last_exit"]["reason"] == "error(3)"
        kinds = [each["event"] for each in n.events() if each["name"] == "short" and each["generation"] == 1]
        assert [kind for kind in kinds if kind in ("otpd.child.started", "otpd.child.exited")] == [
            "otpd.child.started",
            "otpd.child.exited",
        ]


def test_an_agent_that_closes_even_its_channel_is_not_ready_and_not_left() -> None:
    """Test 22: init() closes every descriptor; the start fails in time and leaves no process."""
    config = """
    [agents.shut]
    script = "closing.py"
    args = { first = 0, last = 1024 }
    start_timeout = "1s"
    shutdown = "200ms"
    backoff = { initial = "100s", max = "100s" }
    """
    with node(config, {"closing.py": CLOSING_AGENT}, start=False) as n, no_old_zombies(n):
        begin(n)
        n.when("shut", state="backoff")
        assert of_child(n, "shut") == []


def test_memory_over_the_limit_is_an_error_that_says_so() -> None:
    """Test 28 by RLIMIT_AS: MemoryError, not signal 9. The kernel's OOM killer needs a delegated cgroup; not tried here."""
    config = program("eater", 'limits = { memory = "512MiB" }', 'backoff = { initial = "100s", max = "100s" }')
    with node(config, {"child.py": CHILD}, start=False) as n:
        begin(n)
        row = n.when("eater", state="backoff")
        assert row["last_exit"]["reason"] == "error(MemoryError)"


def test_a_child_has_the_file_limit_that_otpd_was_started_with_though_root_raises_its_own() -> None:
    """Programs that select(2) break above 1,024, and some close every descriptor up to the limit."""
    say = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE), flush=True); import time; time.sleep(1000)"
    config = f"""
    [programs.command]
    command = ["{sys.executable}", "-c", "{say}"]

    [programs.script]
    script = "limit.py"

    [programs.own]
    script = "limit.py"
    limits = {{ files = 500 }}
    """
    with node(config, {"limit.py": say.replace("; ", "\n")}, start=False) as n:
        n.command = ["sh", "-c", 'ulimit -Sn 300; ulimit -Hn 2000; exec "$@"', "sh", *n.command]
        n.start()
        limits = {"command": "300 2000", "script": "300 2000", "own": "500 500"}
        for name, limit in limits.items():
            eventually(lambda name=name, limit=limit: n.printed(name) == f"{limit}\n")  # type: ignore[misc]
        assert resource.prlimit(n.facts()["pid"], resource.RLIMIT_NOFILE) == (2000, 2000)


# --- T39, T37 ---

#: Starts otpd as a careless parent would: everything blocked, much ignored, a descriptor left open.
CARELESS = """
import os, signal, sys
os.dup2(os.open("/dev/null", os.O_RDONLY), 77)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGPIPE, signal.SIGTTOU):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""
#: And its parent one that uses posix_spawn(), which leaves two signals ignored that nobody can change through libc.
SPAWNING = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def signals(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line[:6]: int(line[8:], 16) for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt"))}


def mask(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


def inheritable(pid: int) -> dict[str, str]:
    """Open descriptors that an exec keeps; a script's link to root is not among them."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        flags = int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8)
        if not flags & os.O_CLOEXEC:
            found[fd.name] = os.readlink(fd)
    return found


def test_a_child_starts_clean_however_careless_the_parent_of_otpd_was() -> None:
    """T39: default dispositions, empty mask, own session, descriptors 0-2 and the documented ones and no others."""
    config = """
    [programs.command]
    command = ["sleep", "1000"]
    restart_when = { memory = "1GiB" }

    [programs.script]
    script = "child.py"
    args = ["never"]

    [agents.agent]
    script = "looking.py"
    """
    with node(config, {"child.py": CHILD, "looking.py": LOOKING_AGENT}, start=False, services=["health"]) as n:
        command = [sys.executable, "-c", SPAWNING, sys.executable, "-c", CARELESS, *OTPD, "start", "--detach"]
        subprocess.run(command, cwd=n.home, env=n.env, check=True, capture_output=True, timeout=60, close_fds=False)
        pids = {name: n.pid(name) for name in ("command", "script", "agent")}
        assert signals(pids["command"]) == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
        usual = {"SigBlk": 0, "SigIgn": mask(signal.SIGPIPE, signal.SIGXFSZ), "SigCgt": mask(signal.SIGINT, signal.SIGQUIT)}
        assert signals(pids["script"]) == usual
        assert signals(pids["agent"])["SigBlk"] == 0
        for name in ("command", "script"):
            fds = inheritable(pids[name])
            assert fds.keys() == {"0", "1", "2"}, name
            assert (fds["0"], fds["1"] == fds["2"], fds["1"][:5]) == ("/dev/null", True, "pipe:")
        found, documented = (n.home / "agent.fds").read_text().splitlines()
        assert set(found.split()) == set(documented.split())
        assert all(os.getsid(pid) == pid for pid in pids.values())
        helpers = [n.facts()[name] for name in ("zygote_pid", "logger_pid")]
        helpers.append(n.pid("health"))
        eventually(lambda: not any(signals(pid)["SigBlk"] for pid in helpers), 10, "nothing that root blocks stays so")
        root = n.facts()["pid"]
        n.kill(root)
        eventually(lambda: n.answers() and n.facts()["pid"] != root, 10, "root is back although SIGCHLD was ignored")
        n.stop()


def test_whoever_forks_python_has_one_thread(strange: Node) -> None:
    """T37: heart and root fork and exec, the zygote forks workers; none of them has a second thread."""
    facts = strange.facts()
    house = {name: facts[name] for name in ("heart_pid", "pid", "zygote_pid", "logger_pid")}
    assert {name: len(os.listdir(f"/proc/{pid}/task")) for name, pid in house.items()} == dict.fromkeys(house, 1)


# --- T52 ---

STRATEGIES = {
    "one_for_one": {"b"},
    "rest_for_one": {"b", "c"},
    "one_for_all": {"a", "b", "c"},
}


def test_a_death_touches_exactly_those_whom_the_strategy_names() -> None:
    """T52, rules 31-35: three supervisors side by side; the middle child of each dies in turn."""
    config = "".join(
        f'[supervisors.{strategy}]\nstrategy = "{strategy}"\n'
        + "".join(f'[agents.{strategy}-{name}]\nscript = "idle.py"\nsupervisor = "{strategy}"\n' for name in "abc")
        for strategy in STRATEGIES
    )
    with node(config) as n, no_old_zombies(n):
        for strategy, touched in STRATEGIES.items():
            before, old = n.workers(), {name: seen(row["pid"]) for name, row in n.workers().items()}
            n.kill(n.pid(f"{strategy}-b"))
            n.reborn(f"{strategy}-b", 1)
            for name in touched:
                n.reborn(f"{strategy}-{name}", 1)
            after = n.workers()
            changed = {name for name in after if after[name]["pid"] != before[name]["pid"]}
            assert changed == {f"{strategy}-{name}" for name in touched}
            assert {name for name in after if after[name]["generation"] != before[name]["generation"]} == changed
            assert alive([each for name, each in old.items() if name in changed and each]) == []
