"""`otpd doctor`: with a node, without one, without a config; each check by itself."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest

from otpd.cli import checkup
from otpd.cli.checkup import Level
from otpd.supervisor import oom
from otpd.supervisor.paths import node_paths
from tests.cli.fake import FakeNode

CHECKS = ["kernel", "python", "pidfd", "subreaper", "cgroup", "oom", "/proc", "clock", "config", "state directory",
    "runtime directory", "socket path", "node", "store", "open files", "processes", "commands"]  # fmt: skip


def levels(node: FakeNode, code: int = 0, **more: str) -> dict[str, str]:
    import json

    return {each["check"]: each["level"] for each in json.loads(node.otpd("doctor", "--json", code=code, **more).stdout)}


def test_all_is_well_without_a_node(down: FakeNode) -> None:
    found = levels(down)
    assert list(found) == CHECKS
    assert set(found.values()) - {"warn"} == {"ok"} and "fail" not in found.values()


def test_it_creates_nothing(down: FakeNode) -> None:
    down.otpd("doctor")
    assert sorted(path.name for path in down.home.iterdir()) == ["otpd.toml", "r"]


def test_it_works_without_any_config(down: FakeNode) -> None:
    assert levels(down, cwd="/")["config"] == "warn"


def test_a_broken_config_fails_and_points_to_check(down: FakeNode) -> None:
    (down.home / "otpd.toml").write_text("[node\n")
    done = down.otpd("doctor", code=1)
    assert "config: see them with: otpd check" in done.stdout


def test_a_running_node_whose_lock_is_gone_is_a_warning(node: FakeNode) -> None:
    assert levels(node)["node"] == "warn"


def test_a_lock_without_a_socket_fails(down: FakeNode) -> None:
    (down.home / ".otpd").mkdir(mode=0o700)
    with open(down.home / ".otpd" / "lock", "w") as lock:
        lock.write("4242\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = down.otpd("doctor", code=1)
    assert "the lock is held (heart 4242), but the control socket is gone" in done.stdout


def test_a_socket_without_a_listener_is_named(down: FakeNode) -> None:
    down.control.parent.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(down.control))
    assert "not running; it left control.sock, which the next start replaces" in down.otpd("doctor").stdout


def test_a_process_that_a_dead_node_has_left_is_named(down: FakeNode) -> None:
    (down.home / ".otpd").mkdir(mode=0o700)
    (down.home / ".otpd" / "node_id").write_text("d0c" * 10 + "\n")
    with subprocess.Popen(["sleep", "600"], env={**os.environ, "OTPD_NODE": "d0c" * 10}) as left:
        found = checkup.running(node_paths(down.home / ".otpd"))[0]
        left.kill()
    assert (found.level, found.what) == (Level.WARN, f"not running, but sleep 600 (pid {left.pid}) lives")


@pytest.mark.parametrize(
    ("system", "release", "level"),
    [("Linux", "5.10.0-8-amd64", "ok"), ("Linux", "6.1", "ok"), ("Linux", "5.4.0", "fail"), ("Darwin", "23.1.0", "fail")],
)
def test_kernel(system: str, release: str, level: str) -> None:
    assert checkup.kernel(system, release).level == level


@pytest.mark.parametrize(("version", "level"), [((3, 11, 0), "ok"), ((3, 14, 1), "ok"), ((3, 10, 9), "fail")])
def test_python(version: tuple[int, ...], level: str) -> None:
    assert checkup.python(version).level == level


@pytest.mark.parametrize(
    ("children", "soft", "hard", "level"),
    [(10, 1024, 4096, "ok"), (2000, 1024, 4096, "fail"), (500, 1024, 4096, "ok"), (10**6, -1, -1, "ok")],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, children: int, soft: int, hard: int, level: str) -> None:
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda _which: (soft, hard))
    assert checkup.files(children).level == level


def test_a_directory_open_to_others_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = checkup.directory("state directory", tmp_path)
    assert (found.level, found.advice) == (Level.WARN, f"chmod 700 {tmp_path}")


def test_a_file_in_the_place_of_a_directory_fails(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert checkup.directory("state directory", tmp_path / "f").level == Level.FAIL


def test_a_directory_that_is_not_there_yet_is_fine_where_it_can_be_made(tmp_path: Path) -> None:
    assert checkup.directory("state directory", tmp_path / "a" / "b").level == Level.OK
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert checkup.directory("state directory", tmp_path / "a").level == Level.FAIL


@pytest.mark.parametrize(("log", "own", "level"), [(True, True, "ok"), (False, True, "ok"), (False, False, "warn")])
def test_oom_kills(monkeypatch: pytest.MonkeyPatch, log: bool, own: bool, level: str) -> None:
    """Test 28: which witness there is decides what `otpd why` can say of one."""
    fd = os.open(os.devnull, os.O_RDONLY) if log else -1
    watch = oom.OomWatch(oom.Counter("/proc/vmstat"), oom.Counter("/sys/x/memory.events") if own else None, fd)
    monkeypatch.setattr(oom.OomWatch, "open", lambda: watch)
    assert checkup.oom_kills().level == level
