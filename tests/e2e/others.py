"""Nodes in other places than a test's own: as another user, in namespaces of their own, below a mounted file system."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otpd.supervisor import cgroup
from tests.e2e.node import Node
from tests.helpers import eventually

#: A user that nobody is.
STRANGER = 64_321

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user, a mount or a namespace")


@functools.cache
def as_user(uid: int = STRANGER) -> list[str]:
    """What turns a command into one of another user. Where the interpreter lies in a directory that is closed to him he
    keeps the one capability that lets him read it."""
    plain = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    check = "import otpd.cli.main, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    for way in (plain, [*plain, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]):
        done = subprocess.run([*way, sys.executable, "-c", check], capture_output=True, text=True)
        if done.returncode == 0:
            return way
    pytest.skip(f"can't run as another user here: {done.stderr.strip()}")


def give_away(n: Node, uid: int = STRANGER) -> None:
    """The directory of the node belongs to `uid` from now on."""
    for place, _, files in os.walk(n.home):
        for path in (place, *(os.path.join(place, name) for name in files)):
            os.lchown(path, uid, uid)


@contextmanager
def small_disk(place: Path, options: str = "size=1m,mode=700") -> Iterator[Path]:
    """A file system of its own at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"can't mount here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


@contextmanager
def read_only_on_top(place: Path) -> Iterator[None]:
    """Read-only for whoever opens something meanwhile; what is open for writing stays so, and would forbid `remount`."""
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        remount(place, "bind,ro")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(directory: Path) -> Path:
    """Take all the room that is left; the file that holds it."""
    path = directory / "filler"
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return path


@contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """The `cgroup.procs` of a cgroup of its own that may use `limit` bytes, swap included; of either version."""
    ways = (
        (cgroup.own_memory_v1(), {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}),
        (cgroup.own_directory(), {"memory.max": limit, "memory.swap.max": 0}),
    )
    for parent, limits in ways:
        place = Path(parent or "/nowhere", f"otpd-test-{os.getpid()}")
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            known = [name for name in limits if (place / name).exists()]
            if known:
                for name in known:
                    (place / name).write_text(str(limits[name]))
                yield place / "cgroup.procs"
                return
        finally:
            eventually(lambda: not (place / "cgroup.procs").read_text(), 10, "the cgroup is empty")  # noqa: B023
            place.rmdir()
    pytest.skip("no cgroup with a memory controller can be made here")
