"""Whatever a command does, and whoever is killed: one outcome, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.agents.sandbox import Limits, Pool, PoolSettings, Profile, Result, Run
from tests.helpers import eventually
from tests.sandbox.conftest import SLOT_UIDS
from tests.sandbox.stage import beneath, marked

FAMILY = "import os,time\nfor _ in range(3):\n  if os.fork()==0: os.setsid()\nprint('up',flush=True)\ntime.sleep(60)"


@pytest.fixture
def mark() -> str:
    return secrets.token_hex(8)


def family(pool: Pool, mark: str) -> Run:
    """A command with children in sessions of their own; running."""
    run = pool.start(["python3", "-c", FAMILY], env={"OTPD_MARK": mark}, stream=True)
    next(run.events())
    eventually(lambda: len(marked(mark)) == 8)
    return run


def kill_whole(init: int) -> None:
    """With all that lives in its namespace: an init is a zombie only when that is gone. Else the next run may begin in a
    slot that the kernel has not come to yet, and be killed with it."""
    os.kill(init, signal.SIGKILL)
    eventually(lambda: state_of(init) in ("", "Z", "X"), what="it is dead, and all that lived in its namespace")


def state_of(pid: int) -> str:
    """Of a process, "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def all_gone(mark: str) -> None:
    eventually(lambda: marked(mark) == [], what="every process of the run is gone")


def busy_worker(pool: Pool) -> int:
    """pid of the only worker."""
    (pid,) = pool.workers()
    return pid


def nest_of(worker: int) -> int:
    return next(pid for pid in beneath(worker) if _parent(pid) == worker)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def alone(launcher: str | None, **options: int) -> Iterator[Pool]:
    """A pool with one worker, which has run something."""
    settings = PoolSettings(workers=1, backend="native", slot_uids=SLOT_UIDS, max_per_caller=64, **options)
    with Pool(settings, launcher=launcher) as made:
        made.run(["true"]).check()
        yield made


# --- who is killed ---


def test_kill_of_a_worker_in_the_middle_of_a_command(launcher: str | None, mark: str) -> None:
    with alone(launcher) as pool:
        run = family(pool, mark)
        os.kill(busy_worker(pool), signal.SIGKILL)
        assert (run.result().status, run.result().killed_by) == ("killed", "worker")
        all_gone(mark)
        assert pool.run(["echo", "on"]).check().text == "on\n"


def test_kill_of_an_idle_worker_is_not_noticed(launcher: str | None) -> None:
    with alone(launcher) as pool:
        os.kill(busy_worker(pool), signal.SIGKILL)
        assert pool.run(["echo", "on"]).check().text == "on\n"
        assert pool.counters.done == {"exited": 2}


def test_kill_of_the_nest_in_the_middle_of_a_command(launcher: str | None, mark: str) -> None:
    with alone(launcher) as pool:
        run = family(pool, mark)
        kill_whole(nest_of(busy_worker(pool)))
        assert (run.result().status, run.result().killed_by) == ("killed", "worker")
        all_gone(mark)
        assert pool.run(["echo", "on"]).check().text == "on\n"


def test_kill_of_an_idle_nest_is_not_noticed(launcher: str | None) -> None:
    with alone(launcher) as pool:
        kill_whole(nest_of(busy_worker(pool)))
        assert pool.run(["echo", "on"]).check().text == "on\n"


def test_kill_of_every_process_beneath_the_worker(launcher: str | None, mark: str) -> None:
    with alone(launcher) as pool:
        run = family(pool, mark)
        for pid in beneath(busy_worker(pool)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert run.result().status == "killed" or run.result().status == "signaled"
        all_gone(mark)
        assert pool.run(["echo", "on"]).check().text == "on\n"


def test_a_stopped_worker_keeps_its_time_all_the_same(launcher: str | None, mark: str) -> None:
    with alone(launcher) as pool:
        profile = Profile(limits=Limits(wall=1.0), grace=0.1)
        run = pool.start(["sleep", "60"], profile=profile, env={"OTPD_MARK": mark})
        eventually(lambda: marked(mark))
        os.kill(busy_worker(pool), signal.SIGSTOP)
        assert run.result(60).killed_by == "timeout"
        all_gone(mark)
        assert pool.run(["echo", "on"]).check().text == "on\n"


def test_a_stopped_worker_is_cancelled_all_the_same(launcher: str | None, mark: str) -> None:
    with alone(launcher) as pool:
        run = family(pool, mark)
        os.kill(busy_worker(pool), signal.SIGSTOP)
        run.cancel("owner")
        assert run.result(60).killed_by == "owner"
        all_gone(mark)


OWNER = """
import os, sys
from otpd.agents.sandbox import Pool, PoolSettings
pool = Pool(PoolSettings(workers=2, backend="native", slot_uids=({0}, {1})))
command = ["sh", "-c", "echo up; sleep 60 & sleep 60"]
runs = [pool.start(command, env={{"OTPD_MARK": sys.argv[1]}}, stream=True) for _ in range(2)]
for run in runs: next(run.events())
print(*pool.workers(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_pools_process_ends_everything(launcher: str | None, mark: str, number: int) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(*SLOT_UIDS), mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    workers = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(workers) == 2
    owner.send_signal(number)
    owner.communicate()
    all_gone(mark)
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))


# --- what is left ---


def traces(pool: Pool) -> dict[str, object]:
    """What a command might leave behind, seen from outside."""
    (worker,) = pool.workers()
    groups = [place for place, _, _ in os.walk("/sys/fs/cgroup") if f"/otpd-cmd-{worker}-" in place]
    return {
        "worker": worker,
        "fds of the worker": len(os.listdir(f"/proc/{worker}/fd")),
        "fds of the pool": len(os.listdir("/proc/self/fd")),
        "processes": len(beneath(worker)),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "mounts of the worker": len(Path(f"/proc/{worker}/mountinfo").read_text().splitlines()),
        "groups": groups,
        "private directories": [name for name in os.listdir("/tmp") if name.startswith(f"otpd-sandbox-{worker}-")],
    }


NASTY = [
    "sleep 60 & setsid sleep 60 & nohup sleep 60 & exit 3",
    "trap '' TERM HUP INT; while :; do sleep 0.01; done",
    "mkdir -p /tmp/a/b; chmod 000 /tmp/a; ln -s / $HOME/root; mkfifo /tmp/f; echo x > /dev/shm/x",
    "kill -STOP $$",
    "kill -9 -1",
    "yes | head -c 3000000",
    "exec 1>&- 2>&-; sleep 0.1",
    "head -c 100000000 /dev/zero > /tmp/x",
    "b(){ b|b& }; b; sleep 0.2",
]


def test_after_any_command_nothing_of_it_is_left(launcher: str | None) -> None:
    profile = Profile(limits=Limits(wall=0.7, pids=32, memory=128 * 2**20), grace=0.1)
    with alone(launcher) as pool:
        pool.run(["true"], profile=profile).check()
        before = eventually(lambda: traces(pool) if traces(pool)["processes"] == 3 else None)
        for script in NASTY:
            result: Result = pool.run(["sh", "-c", script], profile=profile)
            assert result.status in ("exited", "signaled", "killed"), result.summary()
            eventually(lambda: traces(pool) == before, what=f"as before: {script}: {before} {traces(pool)}")


def test_many_commands_leave_descriptors_and_mounts_flat(launcher: str | None) -> None:
    with alone(launcher) as pool:
        before = eventually(lambda: traces(pool) if traces(pool)["processes"] == 3 else None)
        for _ in range(100):
            pool.run(["true"], stdin=b"x", files={"f": b"y"}).check()
        for _ in range(30):
            assert pool.run(["true"], stdin=b"x" * 200_000, profile=Profile(rw=("/etc",))).status == "refused"
            assert pool.run(["no-such-program"], stdin=b"x").status == "not_found"
        eventually(lambda: traces(pool) == before)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_commands_are_flat(launcher: str | None) -> None:
    with alone(launcher, recycle_after=1_000_000) as pool:
        for _ in range(500):
            pool.run(["true"]).check()
        before = eventually(lambda: traces(pool) if traces(pool)["processes"] == 3 else None)
        sizes = [_memory(busy_worker(pool)), _memory(os.getpid())]
        for count in range(10_000):
            script = NASTY[count // 100 % len(NASTY)] if count % 100 == 0 else "exit 0"
            pool.run(["sh", "-c", script], timeout=0.5)
        eventually(lambda: traces(pool) == before)
        grown = [_memory(busy_worker(pool)) - sizes[0], _memory(os.getpid()) - sizes[1]]
        assert max(grown) < 8 << 20, grown


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


# --- machines that give less ---


def as_root_of_a_namespace(*command: str) -> list[str]:
    """What a command says, in words, whose user namespace is a child of the host's: like a container of an ordinary user."""
    done = subprocess.run(["unshare", "--user", "--map-root-user", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PROBE = f"""
from otpd.agents.sandbox import Pool, PoolSettings
with Pool(PoolSettings(workers=1, slot_uids={SLOT_UIDS})) as pool:
    found = pool.capability()
    result = pool.run(["sh", "-c", "ls /proc | wc -l; id -u"])
    print(found.backend, "proc" in found.layers, "slot_uid" in found.layers, result.status, *result.text.split())
"""


def test_a_masked_proc_is_not_shown_at_all(launcher: str | None) -> None:
    mask = f'mount -t tmpfs none /proc/fs; exec {sys.executable} -c "$0"'
    found = as_root_of_a_namespace("--mount", "sh", "-c", mask, PROBE)
    assert found == ["native", "False", "False", "exited", "0", "1000"]


def test_root_of_a_user_namespace_is_an_ordinary_user(launcher: str | None) -> None:
    assert as_root_of_a_namespace(sys.executable, "-c", PROBE)[:4] == ["native", "True", "False", "exited"]


def test_without_user_namespaces_the_next_backend_is_found_by_trying() -> None:
    none = f'echo 0 > /proc/sys/user/max_user_namespaces; exec {sys.executable} -c "$0"'
    assert as_root_of_a_namespace("sh", "-c", none, PROBE)[:1] == ["landlock"]
