"""`otpd start`: validates the config, writes the resolved tree, and becomes heart, or starts heart detached and waits.

Nothing visible is created before the config is known to be valid and no node is known to run. heart takes the lock, so
of two starts at the same instant one ends with exit 9.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from otpd.cli.arguments import to_seconds
from otpd.cli.client import Client, connect
from otpd.cli.context import Context, here
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import harmless, say, say_json
from otpd.cli.words import count, duration
from otpd.ipc.control import ControlError, NotRunning
from otpd.supervisor.paths import NodePaths, make_private, make_runtime, node_paths
from otpd.supervisor.spec import NodeSpec

#: Seconds of one question to root, between two looks at heart and at who will not become ready.
_SLICE = 1.0
#: A child that has failed so often in a row is reported without waiting for the end of the timeout.
_HOPELESS = 3
_HEART_LOG_LINES = 20


@click.command("start")
@click.argument("tree", required=False, metavar="[FILE]", type=click.Path())
@click.option("-d", "--detach", is_flag=True, help="Return when the tree is ready; the node runs on in the background.")
@click.option(
    "--timeout", metavar="DURATION", default="60s", show_default=True, callback=to_seconds,
    help="With --detach: how long to wait until all children are ready.",
)  # fmt: skip
@click.option("--json", "json_", is_flag=True, help="With --detach: answer in JSON.")
@click.pass_obj
def start(context: Context, tree: str | None, detach: bool, timeout: float, json_: bool) -> None:
    """Run the tree of the config, or of FILE (otpd.toml, or a tree in Python).

    In the foreground it shows what the children print; ^C stops in order, a second ^C kills.
    """
    if json_ and not detach:
        raise click.UsageError("--json needs --detach: a node in the foreground shows what its children print")
    if tree is not None:
        context.option = os.path.join(here(), tree)
    began = time.monotonic()
    require_machine()
    spec = context.load()
    paths = node_paths(spec.state_dir)
    refuse_if_running(paths)
    make_private(paths.state_dir)
    command = _heart_command(paths, _write_spec(paths, spec))
    if not detach:
        _become(command)
    _start_detached(command, paths, _Report(spec, began, json_), timeout)


def require_machine() -> None:
    """Failure 1 where no node can run: another system, an old kernel, an unknown architecture."""
    from otpd.supervisor.linux import UnsupportedError, require_linux

    try:
        require_linux()
    except UnsupportedError as error:
        raise Failure(Exit.FAILED, str(error), "otpd doctor") from error


def refuse_if_running(paths: NodePaths) -> None:
    """Failure 9 that names the node which runs already."""
    try:
        with connect(paths, grace=0) as control:
            node = control.ask("node", timeout=2.0)
    except NotRunning:
        return
    except ControlError as error:
        if error.code == Exit.NOT_RUNNING:
            return  # heart looks at the lock and says the rest
        if error.code == Exit.PERMISSION:
            raise
        raise Failure(
            Exit.ALREADY_RUNNING, f"a node is running with {paths.state_dir}, but: {error.error}", "otpd doctor"
        ) from error
    raise Failure(
        Exit.ALREADY_RUNNING,
        f"{node['name']} is already running: pid {node['pid']}, config {node['config']}",
        "look at it with: otpd tree; end it with: otpd stop",
    )


def _write_spec(paths: NodePaths, spec: NodeSpec) -> Path:
    """A draft that heart makes the node's own when it has the lock."""
    from otpd.ipc.frames import pack
    from otpd.supervisor.specdata import to_data

    make_runtime(paths)
    draft = paths.runtime_dir / f"spec.{os.getpid()}"
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(pack(to_data(spec)))
    return draft


def _heart_command(paths: NodePaths, draft: Path) -> list[str]:
    return [
        # -P: the current directory belongs to the user, and a file in it must not be taken for a module.
        sys.executable, "-P", "-m", "otpd.supervisor.heart",
        "--state-dir", str(paths.state_dir), "--runtime-dir", str(paths.runtime_dir), "--spec", str(draft),
    ]  # fmt: skip


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], [*command, "--console"])


# --- detached ---


class _Report:
    """What the waiting command says in the end."""

    def __init__(self, spec: NodeSpec, began: float, json_: bool) -> None:
        self._name, self._began, self._json = spec.name, began, json_

    def ready(self, node: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        seconds = time.monotonic() - self._began
        running = sum(row["state"] == "running" and row["kind"] != "service" for row in rows)
        if self._json:
            say_json({"name": self._name, "pid": node["pid"], "ready": True, "children": running, "seconds": seconds})
        else:
            children = count(running, "child", "children")
            say(f"{self._name}: {children} ready in {duration(seconds)}, pid {node['pid']}")

    def not_ready(self, node: dict[str, Any], late: list[str]) -> Failure:
        what = f"{self._name} is running (pid {node['pid']}), but not all of it is ready:\n"
        return Failure(
            Exit.FAILED,
            what + "\n".join(f"  {harmless(each)}" for each in late),
            "look with: otpd why NAME; or end the node with: otpd stop",
        )

    def silent(self, heart: int, timeout: float) -> Failure:
        return Failure(
            Exit.TIMED_OUT,
            f"{self._name}: heart runs (pid {heart}), but root has not answered within {duration(timeout)}",
            "look with: otpd doctor",
        )

    def ended(self, code: int, log: str) -> Failure:
        text = f"{self._name} did not start: heart ended with {f'signal {-code}' if code < 0 else f'status {code}'}"
        known = code in (Exit.FAILED, Exit.USAGE, Exit.PERMISSION, Exit.ALREADY_RUNNING, Exit.INTERNAL)
        return Failure(
            code if known else Exit.FAILED,
            text + (f"; it said:\n{log}" if log else ""),
            "look at the node that runs with: otpd tree" if code == Exit.ALREADY_RUNNING else "look with: otpd doctor",
        )


def _start_detached(command: list[str], paths: NodePaths, report: _Report, timeout: float) -> None:
    """Watch heart and ask root until all is ready; Failure says what is not, and the node runs on."""
    heart, offset = _spawn(command, paths)
    deadline = time.monotonic() + timeout
    ready = False
    while not ready:
        if (code := heart.poll()) is not None:
            raise report.ended(code, _said(paths.heart_log, offset))
        if time.monotonic() > deadline:
            raise report.silent(heart.pid, timeout)
        with _asking(paths, heart.pid) as control:
            ready = control is not None and _settled(control, report, deadline)
        time.sleep(0.0 if ready else 0.01)
    heart.returncode = 0  # it is not ours to wait for any more


def _spawn(command: list[str], paths: NodePaths) -> tuple[subprocess.Popen[bytes], int]:
    """heart in a session of its own, which no terminal, ^C or hang-up reaches; and where its log begins."""
    with open(paths.heart_log, "ab") as log:
        offset = log.tell()
        heart = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return heart, offset


def _settled(control: Client, report: _Report, deadline: float) -> bool:
    """True when all is ready; Failure when it will not be, or not in time."""
    late = _late(control, max(0.05, min(_SLICE, deadline - time.monotonic())))
    rows = control.status()
    if not late:
        report.ready(control.ask("node"), rows)
        return True
    if time.monotonic() >= deadline or _hopeless(rows):
        raise report.not_ready(control.ask("node"), _reasons(rows) or late)
    return False


@contextlib.contextmanager
def _asking(paths: NodePaths, heart: int) -> Iterator[Client | None]:
    """A connection to the root of this heart; None while there is none. A root that goes away meanwhile is no failure."""
    try:
        control = Client.open(str(paths.control))
    except NotRunning:
        yield None
        return
    with control:
        try:
            yield control if control.ask("node")["heart_pid"] == heart else None
        except ControlError as error:
            if error.code != Exit.NOT_RUNNING:
                raise


def _late(control: Client, patience: float) -> list[str]:
    """What is not ready after `patience` seconds, as root says it; empty when all is."""
    try:
        control.wait("ready", patience)
    except ControlError as error:
        if error.code != Exit.TIMED_OUT:
            raise
        return [error.error]
    return []


def _hopeless(rows: list[dict[str, Any]]) -> bool:
    """Nobody is on the way any more: who is not running has failed again and again."""
    late = [row for row in rows if row["state"] not in ("running", "stopped")]
    return bool(late) and all(
        row["state"] == "failed" or (row["state"] in ("backoff", "starting", "restarting") and row["restarts"] >= _HOPELESS)
        for row in late
    )


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['name']}: {row['state']}, {_why(row)}" for row in rows if row["state"] not in ("running", "stopped")
    ]


def _why(row: dict[str, Any]) -> str:
    past = row.get("last_exit") or {}
    return str(row.get("what") or past.get("reason") or "not ready yet")


def _said(path: Path, offset: int) -> str:
    """The last lines that heart and root wrote since this start."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            lines = file.read(64 * 1024).decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {harmless(line)}" for line in lines[-_HEART_LOG_LINES:])
