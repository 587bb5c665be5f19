"""The child side of a launch, by fork and by blank: what user code finds, and what a failure says."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otpd.ipc.frames import pack, unpack
from otpd.supervisor import launch
from otpd.supervisor.execspawn import SpawnError
from otpd.supervisor.incarnation import Status
from otpd.supervisor.spec import Launch, Limits
from tests.supervisor.processes import NODE, Root, Worker, needs_extension

LOOK = """
import json, os, resource
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
mask = os.umask(0)
print(json.dumps({
    "cwd": os.getcwd(), "umask": mask, "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
    "stdin": os.read(0, 10).decode(), "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16),
    "leader": os.getsid(0) == os.getpgrp() == os.getpid(), "parent": os.getppid(), "uid": os.getuid(),
    "env": {k: v for k, v in os.environ.items() if k.startswith(("OTPD_", "MY_", "HOME", "NOTIFY"))},
}), flush=True)
"""
#: Python ignores these two itself, whatever it inherits.
PYTHON_IGNORES = 1 << (13 - 1) | 1 << (25 - 1)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


NATIVE = pytest.param("native", marks=needs_extension)


@pytest.fixture(params=["exec", "blank", "blank-exec", NATIVE])
def start(request: pytest.FixtureRequest, root: Root) -> Any:
    def go(source: str, **more: Any) -> Worker:
        if request.param == "exec":
            return root.python(source, **more)
        if request.param == "native":
            return root.native(sys.executable, "-c", source, **more)
        if request.param == "blank":
            return root.script(source, **more)
        return root.run(root.job(command=(sys.executable, "-c", source), **more))

    return go


def test_user_code_finds_what_was_asked_for(start: Any, root: Root) -> None:
    inherited, _ = os.pipe()
    os.set_inheritable(inherited, True)
    worker = start(
        LOOK, umask=0o027, limits=Limits(files=64, core=0), env={"MY_VALUE": "ü \n"}, generation=7, notify="/run/n.sock"
    )
    seen = json.loads(worker.line())
    os.close(inherited)
    os.close(_)
    env = {k: v for k, v in seen.pop("env").items() if k not in ("HOME", "OTPD_RESERVED")}
    assert env == {
        "OTPD_NODE": NODE, "OTPD_CHILD": "feed", "OTPD_GENERATION": "7", "MY_VALUE": "ü \n", "NOTIFY_SOCKET": "/run/n.sock"
    }  # fmt: skip
    fds = seen.pop("fds")
    assert fds[:3] == [0, 1, 2] and len(fds) <= 5
    assert seen == {
        "cwd": str(root.directory), "umask": 0o027, "files": [64, 64], "core": [0, 0], "stdin": "", "blocked": 0,
        "ignored": PYTHON_IGNORES, "leader": True, "parent": os.getpid(), "uid": os.getuid(),
    }  # fmt: skip


@pytest.fixture(params=["exec", NATIVE])
def spawn(request: pytest.FixtureRequest, root: Root) -> Any:
    return root.native if request.param == "native" else root.spawn


def test_a_program_has_no_descriptors_but_three(spawn: Any) -> None:
    worker = spawn("/bin/ls", "/proc/self/fd")
    assert worker.printed().split() == ["0", "1", "2", "3"]  # 3 is the directory itself


def test_a_program_starts_with_nothing_ignored(spawn: Any) -> None:
    worker = spawn("cat", "/proc/self/status")
    lines = [line.split() for line in worker.printed().splitlines()]
    assert {line[0]: int(line[1], 16) for line in lines if line[0] in ("SigBlk:", "SigIgn:", "SigCgt:")} == {
        "SigBlk:": 0, "SigIgn:": 0, "SigCgt:": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cwd": "/no/such/place"}, "cwd /no/such/place: No such file or directory"),
        ({"user": "nobody-of-this-name"}, "user nobody-of-this-name: unknown; `getent passwd` lists"),
        ({"cgroup": "/no/such/cgroup"}, "cgroup /no/such/cgroup: No such file or directory"),
        ({"env": {"A": "x\0y"}}, "variable 'A' has a NUL byte, which no environment can carry"),
    ],
)
def test_a_failed_step_says_what_was_wrong(root: Root, change: dict[str, Any], message: str) -> None:
    worker = root.script("print('not reached')", **change)
    [[word, text]] = worker.packets()
    assert (word, worker.printed()) == ("failed", "")
    assert message in text
    assert worker.reap() == Status(code=127)


@pytest.mark.parametrize("name", ["nothing-of-this-name", "./missing", "./plain", "./garbage", "./interpreter"])
@pytest.mark.parametrize("way", ["exec", "blank", NATIVE])
def test_a_failed_exec_says_why(root: Root, name: str, way: str) -> None:
    for file, content, mode in (
        ("plain", "#!/bin/sh\n", 0o644), ("garbage", "\1\2\3", 0o755), ("interpreter", "#!/no/python -x\n", 0o755)
    ):  # fmt: skip
        (root.directory / file).write_text(content)
        (root.directory / file).chmod(mode)
    expected = {
        "nothing-of-this-name": "command nothing-of-this-name: not found in PATH (/bin:/usr/bin)",
        "./missing": f"command ./missing: no such file (cwd is {root.directory})",
        "./plain": "command ./plain: permission denied: ./plain is not executable; chmod +x ./plain",
        "./garbage": "command ./garbage: ./garbage is neither a binary nor a script of this machine; "
        "it may lack its #! line",
        "./interpreter": "command ./interpreter: bad interpreter: ./interpreter begins with #!/no/python -x, "
        "which does not exist",
    }[name]
    env = {"PATH": "/bin:/usr/bin"}
    if way == "native":
        with pytest.raises(SpawnError) as caught:
            root.native(name, env=env)
        assert str(caught.value) == expected
        return
    if way == "exec":
        worker = root.spawn(name, env=env)
        assert worker.exec_error() == expected
    else:
        worker = root.run(root.job(command=(name,), env=env))
        assert worker.packets() == [["failed", expected]]
    assert worker.reap() == Status(code=127)


def test_a_variable_of_two_mebibytes_is_too_long_by_either_way(root: Root) -> None:
    env = {"BIG": "x" * (2 << 20)}
    assert "command true: arguments and environment are too long together" in root.spawn("true", env=env).exec_error()
    [[word, text]] = root.run(root.job(command=("true",), env=env)).packets()
    assert (word, "too long together" in text) == ("failed", True)


def test_a_limit_above_the_hard_one_is_named() -> None:
    with pytest.raises(launch.LaunchError, match=r"limit files = \d+: .*; the hard limit here is"):
        launch.set_limits(Limits(files=1 << 40))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change the user")
def test_the_user_is_changed_with_its_groups_and_still_dies_with_root(root: Root, public: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    (public / "look.py").write_text(
        """
import ctypes, os
print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], os.environ["USER"])
found = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(found), 0, 0, 0)
print(found.value)
"""
    )
    worker = root.run(root.job(script=str(public / "look.py"), user="nobody", cwd="/"))
    uid, gid = nobody.pw_uid, nobody.pw_gid
    assert worker.printed().splitlines() == [
        f"({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) [{gid}] {nobody.pw_dir} nobody", "9"
    ]  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change the user")
def test_a_program_of_another_user_that_may_not_be_executed_says_for_whom(root: Root, public: Path) -> None:
    shutil.copy("/bin/true", public / "mine")
    (public / "mine").chmod(0o700)
    worker = root.spawn(str(public / "mine"), user="nobody", cwd="/")
    assert worker.exec_error().startswith(
        f"command {public}/mine: permission denied: uid {pwd.getpwnam('nobody').pw_uid} may"
    )
    assert root.spawn("id", "-un", user="nobody", cwd="/").printed() == "nobody\n"


def test_a_job_survives_the_wire() -> None:
    limits = Limits(cpu=3, files_soft=300)
    made = Launch(kind="agent", script="/x.py", argv=("a",), args={"n": 1}, limits=limits, watchdog=1.5, umask=2)
    own = launch.Credentials(life=7, identity=b"i" * 16, token=b"t" * 32, broker=("b7.1", "ipc:///r/b7.1"), runtime="/r")
    job = launch.job_of(made, "a/b", 3, NODE, 17, None, "/n", own)
    assert launch.from_wire(unpack(pack(launch.to_wire(job)))) == job
