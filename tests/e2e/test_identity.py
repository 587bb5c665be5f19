"""Who is who, and who may: stale files, strangers' pids, two starts at once, odd places, jumping clocks, control socket."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from otpd.ipc.control import ControlError
from otpd.ipc.frames import pack
from tests.e2e.node import OTPD, Node, gone, node
from tests.e2e.others import STRANGER, needs_root
from tests.e2e.watching import alive, cpu_seconds, everything, nothing_is_left
from tests.helpers import eventually

IDLE_AGENT = """
[agents.idle]
script = "idle.py"
"""
SLEEPER = """
[programs.sleep]
command = ["sleep", "600"]
"""


#: Says that it is ready as sd_notify does.
NOTIFY = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(600)
"""


def runtime_dir(n: Node) -> Path:
    return Path(n.control).parent


# --- what an earlier life left ---


def test_files_of_a_dead_node_with_a_strangers_pid_hurt_nobody() -> None:
    """T19, tests 48, 49 and 50: lock, record, spec and sockets as another boot left them, all with the pid of a stranger."""
    with node(SLEEPER, start=False) as n, subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            n.start()
            runtime = runtime_dir(n)
            for pid in n.guardians():
                n.kill(pid)
            eventually(lambda: not everything(n))
            for path in (runtime / "control.sock", runtime / "notify.1"):
                path.unlink(missing_ok=True)
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(str(path))
            (n.home / ".otpd" / "lock").write_text(f"{stranger.pid}\n")
            (n.home / ".otpd" / "runtime").write_text(str(runtime))
            (runtime / "spec").write_bytes(b"of another life")
            n.stop("--now", check=7)
            n.otpd("tree", check=7)
            n.start()
            assert n.worker("sleep")["generation"] == 1
            n.stop()
            assert stranger.poll() is None
            nothing_is_left(n, 0.5)
        finally:
            stranger.kill()


@needs_root
def test_after_a_reboot_under_another_name_with_other_device_numbers_the_node_starts_as_ever() -> None:
    """Test 49: what tells an earlier life is the cookie of living processes, which none has after a reboot."""
    with node(SLEEPER, start=False) as n:
        n.start()
        before = n.node_id()
        n.log("sleep")
        for pid in n.guardians():
            n.kill(pid)
        eventually(lambda: not everything(n))
        for path in (n.runtime / "otpd").glob("*/*"):
            path.unlink()
        device, _, inode = (n.home / ".otpd" / "place").read_text().partition(":")
        (n.home / ".otpd" / "place").write_text(f"{int(device) + 1}:{inode}")
        n.command = ["unshare", "--uts", "sh", "-c", 'hostname renamed; exec "$@"', "sh", *n.command]
        n.start()
        assert (n.worker("sleep")["state"], n.worker("sleep")["generation"]) == ("running", 1)
        assert n.node_id() != before, "a directory that may be a copy has a cookie of its own"
        n.stop()
        nothing_is_left(n)


def test_a_copy_of_a_running_nodes_directory_is_another_node() -> None:
    """T19: `cp -r project copy` takes .otpd along; neither stops, sweeps or answers for the other."""
    with node(SLEEPER) as n, node(SLEEPER, start=False) as copy:
        shutil.copytree(n.home / ".otpd", copy.home / ".otpd", ignore=shutil.ignore_patterns("*.sock"))
        pid = n.pid("sleep")
        copy.stop(check=7)
        copy.start()
        assert copy.node_id() != n.node_id()
        copy.stop()
        assert n.pid("sleep") == pid and not gone(pid)


GARBAGE = {
    "empty": b"",
    "nul": b"\0" * 64,
    "not-utf-8": b"\xff\xfe" * 16,
    "long": b"x" * 100_000,
    "future": pack({"otpd_spec": 999, "node": {}}),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_every_state_file_keeps_nobody_from_starting(kind: str) -> None:
    """Test 54: truncated, garbage, of a future version."""
    with node(IDLE_AGENT, start=False) as n:
        state = n.home / ".otpd"
        state.mkdir(mode=0o700)
        for name in ("lock", "node_id", "place", "runtime", "heart.log", "events.jsonl", "deaths"):
            (state / name).write_bytes(GARBAGE[kind])
        n.otpd("tree", check=7)
        n.start()
        assert n.worker("idle")["state"] == "running"
        assert len(n.node_id()) == 32 and n.node_id().isalnum()
        n.stop()
        nothing_is_left(n, 0.5)


@pytest.mark.parametrize("kind", ["empty", "not-utf-8", "future"])
def test_a_root_that_finds_no_usable_spec_gives_up_with_the_reason(kind: str) -> None:
    """Test 54, T53: root is killed and its spec is garbage; no loop of restarts, nothing runs unsupervised, exit 70."""
    with node(SLEEPER, start=False) as n:
        screen = n.home / "screen"
        with open(screen, "wb") as file:
            heart = subprocess.Popen(
                [*OTPD, "start"], cwd=n.home, env=n.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        pid = eventually(lambda: n.answers() and n.worker("sleep")["pid"], 10)
        (runtime_dir(n) / "spec").write_bytes(GARBAGE[kind])
        n.kill(n.facts()["pid"])
        assert heart.wait(60) == 70
        assert "can't be used" in screen.read_text() and "Traceback" not in screen.read_text()
        assert gone(pid)
        nothing_is_left(n, 0.5)


# --- two at once ---


def two_starts(rounds: int) -> None:
    with node(SLEEPER, start=False) as n:
        for _ in range(rounds):
            starts = [
                subprocess.Popen(
                    [*OTPD, "start", "-d"], cwd=n.home, env=n.env, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
                for _ in range(2)
            ]
            said = [start.communicate(timeout=30)[1] for start in starts]
            assert sorted(start.returncode for start in starts) == [0, 9], said
            assert [row["generation"] for row in n.ask("status")] == [1, 1]
            n.stop()
            nothing_is_left(n, 0.5)


def test_of_two_starts_at_the_same_instant_one_wins_and_one_exits_9() -> None:
    """T36, test 51: eight times here; a hundred times in the soak."""
    two_starts(8)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_of_two_starts_at_the_same_instant_one_wins_a_hundred_times() -> None:
    """Test 51."""
    two_starts(100)


# --- files that go ---


def test_a_runtime_directory_that_a_cleaner_removed_is_made_again() -> None:
    """Test 52: first the control socket, then all of it; the commands say what is wrong meanwhile, root still comes back."""
    config = SLEEPER + '[programs.note]\nscript = "note.py"\nready = "notify"\n'
    with node(config, {"note.py": NOTIFY}) as n:
        runtime, pid = runtime_dir(n), n.pid("sleep")
        shutil.rmtree(runtime)
        done = n.otpd("status", check=None)
        assert done.returncode == 0 or ("otpd doctor" in done.stderr and done.returncode == 7)
        eventually(lambda: (runtime / "control.sock").exists() and n.answers(), 10)
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert n.pid("sleep") == pid
        n.otpd("restart", "note")
        n.kill(n.facts()["pid"])
        n.reborn("note", 0, 15)
        assert n.pid("sleep") != pid


# --- odd places ---

PLACES = {
    "long": "d" * 120,
    "spaces": " two  words ",
    "not-utf-8": os.fsdecode(b"caf\xe9"),
    "shell": "a'b\"c$(d);e",
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_node_lives_at_an_odd_place(kind: str) -> None:
    """Test 53, T47: a path of more than 108 bytes, with spaces, with bytes that are no UTF-8, with shell characters."""
    with node(IDLE_AGENT, start=False) as n:
        home = n.home / PLACES[kind]
        home.mkdir()
        for name in ("otpd.toml", "idle.py"):
            (n.home / name).rename(home / name)
        outer, n.home = n.home, home
        try:
            n.start()
            assert n.worker("idle")["state"] == "running"
            assert len(os.fsencode(n.control)) < 108
            assert "running" in n.otpd("tree").stdout
            assert n.log("idle") == "init\n"
            n.stop()
        finally:
            n.otpd("stop", "--now", check=None)
            n.home = outer


def test_places_that_can_not_be_are_refused_with_the_reason() -> None:
    """Test 53, T47: a loop of links, a socket path that is too long everywhere, a runtime directory of somebody else."""
    with node(IDLE_AGENT, start=False) as n:
        (n.home / ".otpd").symlink_to(".otpd")
        done = n.start(check=None)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr and "symbolic links" in done.stderr, done
        (n.home / ".otpd").unlink()
        long = n.home / ("x" * 120)
        n.env["XDG_RUNTIME_DIR"] = str(long)
        n.start()  # it finds a shorter one
        n.stop()
        n.env["XDG_RUNTIME_DIR"] = str(n.runtime)
        if os.getuid() == 0:
            other = n.runtime / "otpd"
            shutil.rmtree(other, ignore_errors=True)
            n.start()
            runtime = runtime_dir(n)
            n.stop()
            os.chown(runtime, STRANGER, STRANGER)
            done = n.start(check=1)
            assert f"must be a directory that belongs to uid {os.getuid()}" in done.stderr, done


def test_what_lies_in_the_users_directory_is_never_taken_for_a_module() -> None:
    """-P everywhere; PYTHONPATH, which is meant, still works for workers; warnings as errors harm nobody (T41)."""
    trap = "raise SystemExit('a file of the user was imported')\n"
    worker = "import extra\nfrom otpd.agents import Agent, run\nprint(extra.WORD, flush=True)\nrun(Agent)\n"
    names = ("signal", "socket", "msgpack", "select", "psutil", "otpd", "supervisor", "json", "tomllib")
    files = {f"{name}.py": trap for name in names}
    config = '[agents.a]\nscript = "agents/a.py"\n'
    with node(config, {**files, "agents/a.py": worker, "lib/extra.py": "WORD = 'found'\n"}, start=False) as n:
        n.command = [sys.executable, "-P", *OTPD[1:]]
        n.env |= {"PYTHONPATH": str(n.home / "lib"), "PYTHONWARNINGS": "error", "PYTHONINSPECT": ""}
        n.start()
        assert n.log("a") == "found\n"
        n.kill(n.facts()["pid"])
        n.reborn("a", 0)
        n.stop()
        nothing_is_left(n, 0.5)


# --- T18: clocks ---

#: Imported by every interpreter of the node: its wall clock goes wrong by what the file says.
FAKE_CLOCK = """
import time
def _shift():
    try:
        with open({path!r}) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + int(_shift() * 1e9)
"""


def test_no_deadline_moves_when_the_wall_clock_jumps_by_a_day() -> None:
    """T18, test 46: back-off, watchdog, stop timeout and a waiting client, while the clock goes a day ahead and two back."""
    config = """
        [agents.beats]
        script = "idle.py"
        watchdog = "1s"

        [programs.fails]
        command = ["sh", "-c", "echo >> tries; exit 1"]
        backoff = { initial = "1s", factor = 1, max = "1s", jitter = 0, reset_after = "60s" }

        [programs.deaf]
        command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        shutdown = "1s"
    """
    with node(config, start=False) as n:
        n.write("lib/sitecustomize.py", FAKE_CLOCK.format(path=str(n.home / "shift")))
        n.env["PYTHONPATH"] = str(n.home / "lib")
        n.start(check=None)
        real = time.time()
        beats = n.pid("beats")
        for shift in (86_400, -86_400):
            before = n.worker("fails")["generation"]
            began = time.monotonic()
            (n.home / "shift").write_text(str(shift))
            eventually(lambda before=before: n.worker("fails")["generation"] >= before + 2, 10)
            assert 0.8 < time.monotonic() - began < 60, "two attempts, a second apart, and not a day"
            assert abs(n.events()[-1]["at"] - real - shift) < 60, "the clock of the records has jumped"
        began = time.monotonic()
        n.ask("child", action="stop", names=["deaf"])
        assert 0.9 < time.monotonic() - began < 60
        n.otpd("status", "fails", "--wait", "ready", "--timeout", "200ms", check=8)
        assert n.pid("beats") == beats, "the watchdog did not bite"
        n.stop()


@needs_root
def test_a_node_whose_monotonic_clock_is_another_than_that_of_its_clients_is_a_node_like_any() -> None:
    """T18: in a time namespace ten days ahead; no time of root's own clock, and no start time of a process, means anything
    to anybody else."""
    ahead = ["unshare", "--time", "--monotonic", "864000", "--boottime", "864000", "--fork"]
    if subprocess.run([*ahead, "true"], capture_output=True).returncode != 0:
        pytest.skip("no time namespaces here")
    config = SLEEPER + '[programs.fails]\ncommand = ["false"]\nbackoff = { initial = "1s", max = "60s" }\n'
    with node(config, start=False) as n:
        usual, n.command = n.command, [*ahead, *n.command]
        n.start(None, "--timeout", "100ms")
        n.command = usual
        root = eventually(lambda: n.answers() and n.facts()["pid"])
        n.kill(n.when("sleep", state="running")["pid"])
        assert n.reborn("sleep", 1)["uptime_s"] < 60
        waiting = n.when("fails", state="backoff")
        assert 0 <= waiting["next_attempt_s"] <= 60
        assert n.json("tree")["node"]["uptime_s"] < 60
        n.otpd("status", "sleep", "--wait", "ready", "--timeout", "10s")
        old = everything(n)
        n.kill(root)
        eventually(lambda: n.answers() and n.facts()["pid"] != root)
        n.when("sleep", state="running", generation=1)
        assert [each for each in alive(old) if each.pid not in n.guardians()] == []
        n.stop()
        nothing_is_left(n)


def test_deadlines_are_made_of_the_monotonic_clock_alone() -> None:
    """T18 by construction: the wall clock is read for records, in these files and no others."""
    readers = {
        path.name
        for path in Path(__file__).parents[2].joinpath("supervisor").glob("*.py")
        if any(word in path.read_text() for word in ("time.time(", "time.time_ns(", "datetime.now", "CLOCK_REALTIME"))
    }
    records = {"journal.py", "life.py", "root.py", "workers.py", "rawrequests.py"}
    records |= {"logwriter.py", "logevents.py", "logcursor.py"}
    assert readers <= records, f"looks at the wall clock: {sorted(readers - records)}"


# --- T45 to T48: the control socket of a running node ---


def test_only_its_own_user_reaches_the_node_and_nothing_listens_on_tcp() -> None:
    """T45, T46: modes of socket and directory, and no TCP port of any process of the node."""
    with node(IDLE_AGENT) as n:
        assert stat.S_IMODE(os.stat(n.control).st_mode) == 0o600
        for directory in (runtime_dir(n), n.home / ".otpd"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert directory.stat().st_uid == os.getuid()
        mine = {process.pid for process in everything(n)}
        listening = [c for c in psutil.net_connections("inet") if c.pid in mine]
        assert listening == []


@needs_root
def test_another_user_who_gets_as_far_as_the_socket_is_refused_by_name() -> None:
    """T45: SO_PEERCRED, with a real process of another user; the directories are opened to him for this."""
    with node(IDLE_AGENT) as n:
        for path in (n.home, n.runtime, n.runtime / "otpd", runtime_dir(n)):
            path.chmod(0o755)
        os.chmod(n.control, 0o666)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(STRANGER, STRANGER, STRANGER)
                os.setresuid(STRANGER, STRANGER, STRANGER)
                for op in ("tree", "stop"):
                    try:
                        n.ask(op)
                        os.write(writer, b"answered")
                    except ControlError as error:
                        os.write(writer, f"{error.code} {error.error}\n".encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with open(reader) as file:
            said = file.read().splitlines()
        assert said == [f"5 this node belongs to uid 0, you are uid {STRANGER}"] * 2
        assert n.facts()["state"] == "running"


def test_rubbish_on_the_control_socket_neither_kills_nor_slows_the_node() -> None:
    """T48, test 59: random bytes, a frame of 1 GiB, half-open connections by the hundred, a slow loris; all at once."""
    with node(IDLE_AGENT) as n:
        root = n.facts()["pid"]
        dice = random.Random(59)
        rubbish = [dice.randbytes(dice.randrange(1, 5000)) for _ in range(200)]
        rubbish += [struct.pack(">I", 1 << 30) + b"x" * 100, struct.pack(">I", 5) + b"\xc1" * 5, struct.pack(">I", 0)]
        wrong = [None, 1, [], {}, {"op": 1}, {"op": "no"}, {"op": "status", "name": {}}]
        wrong += [{"op": op, "names": 3, "n": [], "name": b"\xff"} for op in ("child", "scale", "why", "events", "reload")]
        rubbish += [_framed(pack(value)) for value in wrong]
        half_open = [_connected(n.control) for _ in range(300)]
        end = threading.Event()
        loris = threading.Thread(target=_drip, args=(n.control, end))
        loris.start()
        before = cpu_seconds(root)
        try:
            slowest = 0.0
            for index, data in enumerate(rubbish):
                with _connected(n.control) as client:
                    try:
                        client.sendall(data)
                    except OSError:
                        pass
                if index % 20 == 0:
                    began = time.monotonic()
                    assert n.worker("idle")["state"] == "running"
                    slowest = max(slowest, time.monotonic() - began)
            assert slowest < 30
        finally:
            end.set()
            loris.join(60)
            for client in half_open:
                client.close()
        assert n.facts()["pid"] == root and n.worker("idle")["generation"] == 1
        assert cpu_seconds(root) - before < 3.0


def _framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(path)
    return client


def _drip(path: str, end: threading.Event) -> None:
    with _connected(path) as client:
        for byte in struct.pack(">I", 1000) + b"x" * 1000:
            if end.wait(0.01):
                return
            try:
                client.sendall(bytes([byte]))
            except OSError:
                return


# --- test 61: environments ---


def test_environments_of_any_size_and_bytes_reach_a_child_or_are_refused_with_the_reason() -> None:
    """Test 61: 2 MiB for one variable, bytes that are no UTF-8; only exec has a limit, and says so."""
    show = "import os, sys\nprint(len(os.environ['BIG']), os.environb[b'ODD'], flush=True)\nimport time; time.sleep(600)\n"
    config = f"""
        [programs.forked]
        script = "show.py"
        env = {{ BIG = "{"x" * (2 << 20)}" }}

        [programs.execed]
        command = ["sleep", "600"]
        env = {{ BIG = "{"x" * (1 << 20)}" }}
        backoff = {{ initial = "60s", factor = 2, max = "60s" }}
    """
    with node(config, {"show.py": show}, start=False) as n:
        n.env["ODD"] = os.fsdecode(b"caf\xe9")
        n.start(1, "--timeout", "2s")
        eventually(lambda: n.log("forked") == f"{2 << 20} b'caf\\xe9'\n", 10)
        row = eventually(lambda: (r := n.worker("execed"))["state"] == "backoff" and r)
        assert "too long" in row["what"].lower(), row["what"]
        assert n.worker("forked")["generation"] == 1
        n.write("otpd.toml", config.replace('"600"', '"601"'))
        assert "Traceback" not in n.otpd("reload", check=None).stderr
        assert n.worker("forked")["generation"] == 1
        n.stop()


def test_a_nul_in_a_variable_is_an_error_of_the_config() -> None:
    """Test 61, T25."""
    with node('[programs.p]\ncommand = ["sleep", "60"]\nenv = { A = "b\\u0000c" }\n', start=False) as n:
        done = n.start(check=2)
        assert "otpd.toml:3" in done.stderr and "NUL" in done.stderr, done.stderr


