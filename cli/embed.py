"""`otpd embed`, which no person types: a node of its own for one process, for `otpd.agents.PoolExecutor`.

Its directory is named after the process, so that whoever comes later knows whether it is still in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say_json
from otpd.supervisor import services
from otpd.supervisor.linux import stat
from otpd.supervisor.paths import node_paths

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


@click.group("embed", hidden=True)
def embed() -> None:
    """A node for one process."""


@embed.command("start")
@click.option("--for", "pid", type=int, required=True)
@click.option("--size", type=click.IntRange(1, 1000))
def start(pid: int, size: int | None) -> None:
    """Start it and say where it is."""
    found = stat(pid)
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
    _run(home, "stop")
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):
        home.parent.rmdir()


def _run(home: Path, *argv: str) -> None:
    command = [sys.executable, "-P", "-m", "otpd.cli.main", "-f", str(home / "otpd.toml"), *argv]
    done = subprocess.run(command, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in (0, Exit.NOT_RUNNING):
        raise Failure(Exit.FAILED, done.stderr.strip() or f"otpd {argv[0]} ended with {done.returncode}", "otpd doctor")


def _base() -> Path:
    base = Path(tempfile.gettempdir()) / f"otpd-embedded-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise Failure(Exit.FAILED, f"{base} belongs to somebody else", "set TMPDIR to a directory of your own")
    return base


def _sweep(base: Path) -> None:
    """Directories of processes that are no more, and whose nodes have ended."""
    for each in base.iterdir():
        pid, _, rest = each.name.partition("-")
        found = stat(int(pid)) if pid.isdigit() else None
        alive = found is not None and str(found.started) == rest.partition("-")[0]
        if not alive and not node_paths(str(each / ".otpd")).control.exists():
            shutil.rmtree(each, ignore_errors=True)
