"""Root starts a program by one call, without a fork of itself: what the program finds, and what each failure says.

What all ways of starting have in common is in test_launch and test_execspawn.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otpd.supervisor import cgroup, launch, nativespawn
from otpd.supervisor.execspawn import SpawnError
from otpd.supervisor.incarnation import Status
from otpd.supervisor.nativespawn import NativeSpawner
from otpd.supervisor.spec import Limits
from tests.helpers import eventually
from tests.supervisor.processes import Root, needs_extension, open_fds

pytestmark = needs_extension
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may change the user")


@pytest.fixture
def spawner() -> Iterator[NativeSpawner]:
    spawner = NativeSpawner(os.environ)
    yield spawner
    spawner.close()


def failure(root: Root, *command: str, **more: Any) -> str:
    """What the attempt says; it must leave neither a process nor a descriptor."""
    before = open_fds()
    with pytest.raises(SpawnError) as caught:
        root.native(*command, **more)
    assert open_fds() <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return str(caught.value)


# --- what the program finds ---


def test_it_comes_back_when_exec_has_happened_with_a_pidfd_that_is_not_inherited(root: Root) -> None:
    worker = root.native("sleep", "100")
    assert os.path.basename(os.readlink(f"/proc/{worker.pid}/exe")) in ("sleep", "coreutils", "busybox")
    assert not os.get_inheritable(worker.pidfd)
    signal.pidfd_send_signal(worker.pidfd, signal.SIGTERM)
    assert worker.reap() == Status(signal=15)


def test_it_dies_with_root_also_as_another_user(root: Root, tmp_path: Path) -> None:
    """A root of its own starts a program and is killed."""
    source = """
    import os, sys, time
    from otpd.supervisor.launch import Job
    from otpd.supervisor.nativespawn import NativeSpawner
    user = sys.argv[1] or None
    job = Job(name="a", generation=1, kind="program", node="n", root_pid=os.getpid(), command=("sleep", "100"), user=user)
    spawner = NativeSpawner(os.environ)
    print(spawner.spawn(spawner.plan(job), 1, os.open("/dev/null", os.O_WRONLY)).pid, flush=True)
    time.sleep(100)
    """
    for user in ("", "nobody") if os.getuid() == 0 else ("",):
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), user], stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
            assert os.path.exists(f"/proc/{pid}")
            parent.kill()
            parent.wait()
        eventually(lambda pid=pid: not alive(pid))


def alive(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # orphans come to the test process
        os.kill(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return False
    return True


def test_nothing_that_the_caller_ignores_or_blocks_is_inherited(root: Root) -> None:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        worker = root.native("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        assert [int(line.split()[1], 16) for line in worker.printed().splitlines()] == [0, 0]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_to_the_caller_meanwhile_is_handled_by_the_caller_alone(root: Root) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    try:
        with_signals = subprocess.Popen(
            ["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do kill -USR1 {os.getpid()}; done"], start_new_session=True
        )
        outputs = [root.native("echo", str(n)).printed() for n in range(50)]
        assert with_signals.wait(60) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert outputs == [f"{n}\n" for n in range(50)]
    assert set(got) == {signal.SIGUSR1}


@needs_root
def test_the_user_has_its_groups_and_no_others(root: Root) -> None:
    nobody = pwd.getpwnam("nobody")
    worker = root.native("sh", "-c", "id -u; id -g; id -G; echo $HOME; pwd", user="nobody", cwd="/")
    groups = " ".join(map(str, os.getgrouplist("nobody", nobody.pw_gid)))
    assert worker.printed().splitlines() == [str(nobody.pw_uid), str(nobody.pw_gid), groups, nobody.pw_dir, "/"]


def test_the_first_of_the_path_that_can_be_executed_is_taken(root: Root) -> None:
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (root.directory / name).mkdir()
        (root.directory / name / "hello").write_text(f"#!/bin/sh\necho {name}\n")
        (root.directory / name / "hello").chmod(mode)
    path = f"/no/such/place:{root.directory}/a:{root.directory}/b:{root.directory}/c"
    assert root.native("hello", env={"PATH": path}).printed() == "b\n"


def test_a_plan_is_good_for_many_incarnations(root: Root, spawner: NativeSpawner) -> None:
    plan = spawner.plan(root.job(command=("sh", "-c", "echo $OTPD_CHILD $OTPD_GENERATION")))
    assert plan is not None
    said = []
    for generation in (3, 4):
        output, writer = os.pipe()
        made = spawner.spawn(plan, generation, writer)
        os.close(writer)
        with open(output) as file:
            said.append(file.read())
        os.waitpid(made.pid, 0)
        os.close(made.pidfd)
    assert said == ["feed 3\n", "feed 4\n"]


@pytest.mark.skipif(cgroup.probe().directory is None, reason=f"no cgroups: {cgroup.probe().why}")
def test_it_is_born_in_its_cgroup_which_is_then_empty_and_goes(root: Root) -> None:
    before = open_fds()
    delegated = cgroup.probe().directory
    assert delegated is not None
    node = cgroup.NodeCgroup(delegated, "c0ffee01" * 4)
    node.create()
    node.prepare()
    leaf, other = node.fresh(), node.fresh()
    assert leaf.path != other.path
    worker = root.native("sleep", "100", leaf=leaf)
    assert (cgroup.members(leaf.path), cgroup.is_empty(leaf.events)) == ([worker.pid], False)
    os.kill(worker.pid, signal.SIGKILL)
    worker.reap()
    assert cgroup.is_empty(leaf.events)
    node.prepare()
    for each in (leaf, other):
        each.remove()
        assert not os.path.exists(each.path)
    assert node.sweep(5.0) == []
    assert not os.path.exists(node.directory)
    for fd in (worker.pidfd, worker.output):
        os.close(fd)
    root.workers.remove(worker)
    assert open_fds() <= before


# --- failures ---


def test_each_failed_step_says_what_was_wrong_and_leaves_nothing(root: Root) -> None:
    (root.directory / "file").write_text("")
    place = root.directory
    assert failure(root, "true", cwd="/no/such/place") == "cwd /no/such/place: No such file or directory"
    assert failure(root, "true", cwd=f"{place}/file") == f"cwd {place}/file: Not a directory"
    assert failure(root, "sh", "-c", "x" * (1 << 18)).startswith("command sh: arguments and environment are too long")
    assert failure(root, f"{place}/file") == (
        f"command {place}/file: permission denied: {place}/file is not executable; chmod +x {place}/file"
    )
    assert failure(root, "/").startswith(f"command /: permission denied: uid {os.geteuid()} may not execute / or not enter")
    assert failure(root, f"{place}/file/x") == f"command {place}/file/x: no such file (cwd is {place})"


def test_a_limit_above_the_hard_one_is_named(root: Root) -> None:
    text = failure(root, "true", limits=Limits(files=1 << 40))
    assert text.startswith(f"limit files = {1 << 40}: Operation not permitted; the hard limit here is ")


@needs_root
def test_a_program_that_the_user_may_not_execute_says_for_whom(root: Root) -> None:
    (root.directory / "mine").write_text("#!/bin/sh\n")
    (root.directory / "mine").chmod(0o700)
    uid = pwd.getpwnam("nobody").pw_uid
    path = root.directory / "mine"
    assert failure(root, str(path), user="nobody", cwd="/") == (
        f"command {path}: permission denied: uid {uid} may not execute {path} or not enter a directory on the way"
    )


def test_no_more_processes_is_an_error_and_leaves_nothing(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    native = nativespawn.extension()
    assert native is not None

    def refuse(*_: object) -> None:
        raise native.Failed("clone", errno.EAGAIN, 0)

    monkeypatch.setattr(native, "spawn", refuse)
    assert failure(root, "true") == "worker feed: can't make a process: Resource temporarily unavailable"


@pytest.mark.parametrize(
    "change",
    [
        {"command": ("a\0b",)}, {"command": ("true", "\0")}, {"env": {"A": "\0"}}, {"env": {"A=B": "1"}}, {"cwd": "/\0"},
        {"user": "nobody-of-this-name"}, {"command": None},
    ],
)  # fmt: skip
def test_what_has_no_form_for_the_kernel_has_no_plan(root: Root, spawner: NativeSpawner, change: dict[str, Any]) -> None:
    """The other ways say why."""
    assert spawner.plan(root.job(**{"command": ("true",), **change})) is None


def test_the_extension_itself_refuses_what_would_end_badly() -> None:
    native = nativespawn.extension()
    assert native is not None
    good = ((b"/bin/true",), (b"true",), (b"A=1",), b"/", 5, -1, -1, (), None, os.getpid())
    for index, bad in ((0, ()), (0, ["x"]), (0, (b"a\0b",)), (1, ("true",)), (2, (b"A=\0",)), (3, b"/\0"), (4, 2)):
        with pytest.raises((TypeError, ValueError)):
            native.spawn(*good[:index], bad, *good[index + 1 :])
    for index, bad in ((7, ((1, 2),)), (7, ((7, 1 << 70, 1),)), (8, (1, 2)), (8, "root"), (8, (1, 2, (-1,)))):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            native.spawn(*good[:index], bad, *good[index + 1 :])


def test_two_thousand_starts_leave_nothing(root: Root, spawner: NativeSpawner) -> None:
    before = open_fds()
    sink = os.open(os.devnull, os.O_WRONLY)
    plans = [spawner.plan(root.job(command=(each,))) for each in ("true", "/no/such/program")]
    for n in range(2000):
        plan = plans[n % 2]
        assert plan is not None
        try:
            made = spawner.spawn(plan, n, sink)
        except SpawnError:
            continue
        assert os.waitpid(made.pid, 0) == (made.pid, 0)
        os.close(made.pidfd)
    os.close(sink)
    assert open_fds() <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# --- where it does not work ---


@pytest.mark.parametrize(("step", "number"), [("clone", errno.ENOSYS), ("clone", errno.EPERM), ("close", errno.ENOSYS)])
def test_where_the_kernel_refuses_it_forks_from_then_on(
    root: Root, spawner: NativeSpawner, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    calls = []

    class Failed(Exception):
        pass

    def refuse(*arguments: object) -> None:
        calls.append(arguments)
        raise Failed(step, number, 0)

    monkeypatch.setattr(spawner, "_extension", types.SimpleNamespace(spawn=refuse, Failed=Failed))
    plan = spawner.plan(root.job(command=("true",)))
    assert plan is not None and spawner.takes(plan)
    sink = os.open(os.devnull, os.O_WRONLY)
    for _ in range(2):
        made = spawner.spawn(plan, 1, sink)
        assert made.error_fd >= 0
        assert os.waitpid(made.pid, 0) == (made.pid, 0)
        os.close(made.pidfd)
        os.close(made.error_fd)
    os.close(sink)
    assert (len(calls), spawner.takes(plan)) == (1, False)


def test_without_the_extension_everything_is_left_to_the_other_ways(
    root: Root, spawner: NativeSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawner, "_extension", None)
    assert spawner.plan(root.job(command=("true",))) is None


def test_an_extension_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    native = nativespawn.extension()
    assert native is not None
    monkeypatch.setattr(native, "INTERFACE", 0)
    assert nativespawn.extension() is None


def test_what_lies_on_a_network_is_left_to_the_other_ways(
    root: Root, spawner: NativeSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.directory / "link").symlink_to("/far/tool")
    near = spawner.plan(root.job(command=("true",), env={"PATH": "/bin"}))
    far = [
        spawner.plan(root.job(command=(str(root.directory / "link"),))),
        spawner.plan(root.job(command=("true",), env={"PATH": "/bin:/far/bin"})),
        spawner.plan(root.job(command=("/bin/true",), cwd="/far")),
    ]
    monkeypatch.setattr(spawner._mounts, "_suspects", frozenset({"/far"}))
    assert near is not None and spawner.takes(near)
    assert [plan is not None and spawner.takes(plan) for plan in far] == [False, False, False]


def test_a_job_that_comes_once_goes_the_way_that_takes_it(
    root: Root, spawner: NativeSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = []
    sink = os.open(os.devnull, os.O_WRONLY)
    for suspects in (frozenset(), frozenset({str(root.directory)})):
        monkeypatch.setattr(spawner._mounts, "_suspects", suspects)
        made = spawner.run(root.job(command=("true",)), sink)
        ways.append("fork" if made.error_fd >= 0 else "native")
        assert os.waitpid(made.pid, 0) == (made.pid, 0)
        for fd in (made.pidfd, made.error_fd):
            if fd >= 0:
                os.close(fd)
    os.close(sink)
    assert ways == ["native", "fork"]


def test_the_order_of_the_variables_and_what_is_added_is_that_of_every_other_way(root: Root, spawner: NativeSpawner) -> None:
    job = root.job(command=("env", "-0"), env={"MY_VALUE": "ü \n"}, generation=7)
    printed = root.native("env", "-0", env={"MY_VALUE": "ü \n"}, generation=7).printed()
    expected = launch.environment(job, os.environ)
    assert dict(entry.split("=", 1) for entry in printed.split("\0") if entry) == expected
