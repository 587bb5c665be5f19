"""What a worker leaves behind is found, ended and proved gone; strangers are never touched (T1, T19)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from otpd.supervisor import cgroup, linux, sweep
from otpd.supervisor.incarnation import Status
from tests.helpers import eventually
from tests.supervisor.processes import NODE, Root, Worker, owner

SLEEP = "import time; time.sleep(60)"
#: A daemon in a session of its own, whose parent is gone.
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
"""
#: One process that never lives long: forks, and exits.
HOPPER = """
import os, time
print(os.getpid(), flush=True)
{setsid}
while True:
    if os.fork() != 0:
        os._exit(0)
    {setsid}
"""
LEAVE = "os.getpid() == os.getsid(0) or os.setsid()"


@pytest.fixture(params=["script", "python"])
def start(request: pytest.FixtureRequest, root: Root) -> Callable[..., Worker]:
    return getattr(root, request.param)  # type: ignore[no-any-return]


def end(root: Root, worker: Worker) -> None:
    """Kill it and clear up as the ladder would."""
    sweep.kill(worker.pid, worker.pidfd, group=True)
    clear(root, worker)


def clear(root: Root, worker: Worker) -> None:
    assert worker.died()
    assert sweep.reap(worker.pid, worker.pidfd, group=True) is not None
    eventually(lambda: sweep.Sweeper().sweep(owner(worker), root.known - {worker.pid}, kill=True) == ())


def alive(pid: int) -> bool:
    found = linux.stat(pid)
    return found is not None and found.state != "Z"


def test_a_worker_that_left_nothing_is_verified_empty(root: Root, start: Callable[..., Worker]) -> None:
    worker = start("pass")
    assert worker.reap() == Status(code=0)
    assert sweep.Sweeper().sweep(owner(worker), root.known - {worker.pid}, kill=True) == ()


def test_a_double_forked_daemon_in_its_own_session_is_ended(root: Root, start: Callable[..., Worker]) -> None:
    worker = start(DAEMON + "time.sleep(60)")
    daemon = int(worker.line())
    end(root, worker)
    assert not alive(daemon)


def test_a_group_member_that_outlives_its_leader_is_ended(root: Root) -> None:
    worker = root.spawn("sh", "-c", "trap '' TERM; sleep 60 & echo $!; exit 0")
    member = int(worker.line())
    clear(root, worker)
    assert not alive(member)


def test_a_deep_tree_of_sessions_is_ended(root: Root) -> None:
    worker = root.spawn(
        "sh", "-c", "setsid sh -c 'setsid sh -c \"setsid sleep 60 & echo $! \\$\\$; wait\" & wait' & wait"
    )
    pids = [int(pid) for pid in worker.line().split()]
    end(root, worker)
    assert not any(alive(pid) for pid in pids)


def test_a_detached_helper_is_reported_and_left_alone(root: Root) -> None:
    worker = root.python(DAEMON)
    daemon = int(worker.line())
    worker.reap()
    [left] = sweep.Sweeper().sweep(owner(worker), root.known - {worker.pid}, kill=False)
    assert (left.pid, alive(daemon)) == (daemon, True)
    assert left.title.startswith(sys.executable)
    clear_again = eventually(lambda: sweep.Sweeper().sweep(owner(worker), root.known, kill=True) == ())
    assert clear_again and not alive(daemon)


def test_nothing_is_proved_while_a_stray_is_on_its_way_out(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment, which could tell whose it is, goes first; until it is dead it may have forked somebody."""
    other = root.python(DAEMON, name="other")
    leaving = int(other.line())
    other.reap()
    gone = root.python("pass")
    gone.reap()
    stat, block = linux.stat, linux.environ_block

    def stat_of_who_leaves(pid: int) -> linux.Stat | None:
        found = stat(pid)
        return replace(found, exiting=True) if found is not None and pid == leaving else found

    with monkeypatch.context() as patch:
        patch.setattr(linux, "environ_block", lambda pid: b"" if pid == leaving else block(pid))
        patch.setattr(linux, "stat", stat_of_who_leaves)
        (left,) = sweep.Sweeper().sweep(owner(gone), root.known, kill=True)
        assert left.title == "processes that fork and exit"
    assert sweep.Sweeper().sweep(owner(gone), root.known, kill=True) == ()
    assert alive(leaving)
    sweeper = sweep.Sweeper()
    eventually(lambda: sweeper.sweep(owner(other, name="other"), root.known, kill=True) == ())


def test_a_helper_of_another_worker_or_a_newer_generation_is_not_touched(root: Root) -> None:
    other = root.python(DAEMON, name="other")
    newer = root.python(DAEMON, generation=2)
    helpers = [int(other.line()), int(newer.line())]
    for each in (other, newer):
        each.reap()
    gone = root.python("pass")
    gone.reap()
    assert sweep.Sweeper().sweep(owner(gone), root.known, kill=True) == ()
    assert all(alive(pid) for pid in helpers)
    assert {each.pid for each in sweep.Sweeper().strays(root.known)} == set(helpers)
    sweeper = sweep.Sweeper()
    eventually(lambda: sweeper.sweep(owner(other, name="other"), root.known, kill=True) == ())
    eventually(lambda: sweeper.sweep(owner(newer, generation=2), root.known, kill=True) == ())


def test_blanks_are_no_strays_of_anybody(root: Root) -> None:
    blank = root.blank()
    worker = root.python("pass")
    worker.reap()
    assert sweep.Sweeper().sweep(owner(worker), root.known - {blank.pid}, kill=True) == ()
    assert not blank.died(0)


@pytest.mark.parametrize("setsid", ["pass", LEAVE], ids=["in its session", "with a new session each time"])
def test_a_hopper_is_ended(root: Root, setsid: str) -> None:
    worker = root.python(HOPPER.format(setsid=setsid))
    worker.line()
    worker.reap()
    sweeper = sweep.Sweeper()
    eventually(lambda: sweeper.sweep(owner(worker), root.known, kill=True) == (), 10)


@pytest.mark.skipif(cgroup.probe().directory is None, reason=f"no cgroups: {cgroup.probe().why}")
def test_a_hopper_without_any_cookie_is_ended_through_its_cgroup(root: Root) -> None:
    directory = cgroup.probe().directory
    assert directory is not None
    node = cgroup.NodeCgroup(directory, "feedfeed" * 4)
    node.create()
    root.start_zygote(cgroup=node.directory)
    command = ("env", "-i", sys.executable, "-c", HOPPER.format(setsid=LEAVE))
    worker = root.run(root.job(command=command))
    leaf = worker.cgroup
    assert leaf is not None and worker.pid in cgroup.members(leaf)
    worker.line()
    worker.reap()
    sweeper = sweep.Sweeper()
    eventually(lambda: sweeper.sweep(owner(worker, cgroup=leaf), root.known, kill=True) == ())
    assert not cgroup.populated(leaf)
    sweeper.reap_dead(root.known)
    eventually(lambda: cgroup.remove(leaf))
    node.close()
    assert not os.path.exists(node.directory)


def test_dead_strays_are_reaped(root: Root) -> None:
    worker = root.spawn("sh", "-c", "setsid sh -c 'echo $$; read x' < /dev/null & wait")
    stray = int(worker.line())
    worker.reap()
    sweeper = sweep.Sweeper()

    def gone() -> bool:
        sweeper.reap_dead(root.known)
        return linux.stat(stray) is None

    eventually(gone)


def test_a_stopped_process_gets_the_stop_signal(root: Root) -> None:
    worker = root.python(
        "import signal, time; signal.signal(15, lambda *_: exit(4)); print('up', flush=True); time.sleep(60)"
    )
    worker.line()
    signal.pidfd_send_signal(worker.pidfd, signal.SIGSTOP)
    eventually(lambda: (found := linux.stat(worker.pid)) is not None and found.state == "T")
    sweep.ask(worker.pidfd, signal.SIGTERM)
    assert worker.reap() == Status(code=4)


def test_a_status_that_somebody_else_collected_is_empty(root: Root) -> None:
    worker = root.python("pass")
    worker.died()
    os.waitpid(worker.pid, 0)
    assert sweep.reap(worker.pid, worker.pidfd, group=False) == Status()


def test_the_living_are_not_reaped(root: Root) -> None:
    worker = root.python(SLEEP)
    assert sweep.reap(worker.pid, worker.pidfd, group=True) is None
    assert not worker.died(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_the_signal_that_ended_it_is_told(root: Root, number: signal.Signals) -> None:
    worker = root.spawn("sleep", "60")
    assert worker.exec_error() == ""
    signal.pidfd_send_signal(worker.pidfd, number)
    assert worker.reap() == Status(signal=number)


def test_a_sweep_by_node_ends_what_carries_its_cookie_and_nobody_else() -> None:
    mine, theirs = "a1" * 16, "a1" * 15 + "b2"
    command = [sys.executable, "-c", "print(1, flush=True); " + SLEEP]
    started = []
    for env in (
        {"OTPD_NODE": mine},
        {"OTPD_NODE": mine},
        {"OTPD_NODE": theirs},
        {"OTPD_NODE": mine + "0"},
        {"X": f"OTPD_NODE={mine}"},
    ):
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
        started.append(child)
    kept = started[1]
    report = sweep.sweep_node(mine, 5.0, keep={kept.pid})
    assert ([each.pid for each in report.ended], report.left) == ([started[0].pid], ())
    assert started[0].wait() == -signal.SIGKILL
    assert [child.poll() for child in started[1:]] == [None] * 4
    for child in started[1:]:
        child.kill()
    for child in started:
        child.communicate()


def test_a_sweep_by_node_spares_this_process_and_its_ancestors() -> None:
    code = f"from otpd.supervisor import sweep; print(sweep.sweep_node('{'5e' * 16}', 1.0).ended)"
    command = ["sh", "-c", f'{sys.executable} -c "{code}"; echo lived']
    run = subprocess.run(command, env={**os.environ, "OTPD_NODE": "5e" * 16}, capture_output=True, text=True)
    assert run.stdout == "()\nlived\n"


def test_a_pid_that_was_given_anew_is_not_held() -> None:
    """T19, rule 59."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = sweep.identify(stranger.pid)
    assert found is not None
    stale = sweep.Process(found.pid, found.started - 1)
    assert sweep._hold(stale, NODE) is None
    stranger.communicate()


def test_the_end_of_a_worker_is_cheap_to_verify_among_many(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """No timed test: it reads one file and looks into nobody, however many workers there are."""
    eventually(lambda: threading.active_count() == 1, what="the cheap way is for a process of one thread")
    workers = [root.spawn("sleep", "60") for _ in range(30)]
    gone = root.python("pass")
    gone.reap()
    sweeper, known, read = sweep.Sweeper(), root.known - {gone.pid}, []
    for name in ("read_proc", "read_again"):
        original = getattr(linux, name)
        monkeypatch.setattr(linux, name, lambda what, original=original: (read.append(what), original(what))[1])
    assert sweeper.sweep(owner(gone), known, kill=True) == ()
    assert (len(workers), len(read)) == (30, 1)


def test_a_sweeper_that_is_gone_holds_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    sweep.Sweeper().strays(set())
    assert set(os.listdir("/proc/self/fd")) <= before
