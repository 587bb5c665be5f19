"""`otpd embed`, which no person types: a node of its own for one process, for `otpd.agents.PoolExecutor`.

Its directory is named after the process, so that whoever comes later knows whether it is still in use. Nothing is removed
that has not such a name, in a directory that nobody else can have made or written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say_json
from otpd.supervisor import linux, services
from otpd.supervisor.paths import node_paths, remove_traces

_CONFIG: Final = """\
# Made by otpd for one process; it is removed with it.
[node]
name = "executor"

[pools.executor]
pickle = true
queue = 1000000
{size}
[programs.keeper]
script = "{keeper}"
args = ["{pid}", "{started}"]
{services}"""
#: pid and start of the process, and what makes it unique.
_NAME: Final = re.compile(r"(\d+)-(\d+)-\w+")


@click.group("embed", hidden=True)
def embed() -> None:
    """A node for one process."""


@embed.command("start")
@click.option("--for", "pid", type=int, required=True)
@click.option("--size", type=click.IntRange(1, 1000))
def start(pid: int, size: int | None) -> None:
    """Start it and say where it is."""
    found = linux.stat(pid)
    if found is None:
        raise Failure(Exit.FAILED, f"there is no process {pid}", "start it from the process that it is for")
    base = _base()
    _sweep(base)
    home = Path(tempfile.mkdtemp(prefix=f"{pid}-{found.started}-", dir=base))
    keeper = services.script_of("otpd.agents.tasks.keeper")
    optional = [row.name for row in services.ROWS if row.optional]
    text = _CONFIG.format(
        size=f"size = {size}\n" if size is not None else "", keeper=keeper, pid=pid, started=found.started,
        services="".join(f"\n[services.{name}]\nenabled = false\n" for name in optional),
    )  # fmt: skip
    (home / "otpd.toml").write_text(text)
    _run(home, "start", "--detach")
    say_json({"control": str(node_paths(str(home / ".otpd")).control), "home": str(home)})


@embed.command("stop")
@click.argument("home", type=click.Path(path_type=Path))
def stop(home: Path) -> None:
    """Stop it and remove its directory."""
    if _NAME.fullmatch(home.name) is None or home.parent.name != _name() or not _is_own(home):
        raise Failure(Exit.USAGE, f"{home} is not the directory of an embedded node", "take it from `otpd embed start`")
    _run(home, "stop")
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):
        home.parent.rmdir()


def _run(home: Path, *argv: str) -> None:
    command = [sys.executable, "-P", "-m", "otpd.cli.main", "-f", str(home / "otpd.toml"), *argv]
    done = subprocess.run(command, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in (0, Exit.NOT_RUNNING):
        raise Failure(Exit.FAILED, done.stderr.strip() or f"otpd {argv[0]} ended with {done.returncode}", "otpd doctor")


def _name() -> str:
    return f"otpd-embedded-{os.getuid()}"


def _base() -> Path:
    base = Path(tempfile.gettempdir()) / _name()
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    if not _is_own(base) or base.lstat().st_mode & 0o077:
        got = f"{stat.filemode(base.lstat().st_mode)} of uid {base.lstat().st_uid}"
        expected = f"expected {base} to be a directory for uid {os.getuid()} alone, got {got}"
        raise Failure(Exit.FAILED, expected, "remove it, or set TMPDIR to a directory of your own")
    return base


def _is_own(path: Path) -> bool:
    """A directory of this user, no link to one."""
    try:
        found = path.lstat()
    except FileNotFoundError:  # another one has swept it away
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _sweep(base: Path) -> None:
    """Directories of processes that are no more, and whose nodes have ended."""
    for each in base.iterdir():
        named = _NAME.fullmatch(each.name)
        if named is None or not _is_own(each):
            continue
        found = linux.stat(int(named[1]))
        if found is None or str(found.started) != named[2]:
            _remove(each)


def _remove(home: Path) -> None:
    """Unless its node lives: heart and root hold its lock, also one that was killed can't leave that behind."""
    paths = node_paths(str(home / ".otpd"))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # it never came to that
            lock = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        remove_traces(paths)
        shutil.rmtree(home, ignore_errors=True)
        with contextlib.suppress(OSError):
            paths.runtime_dir.rmdir()
