"""A real node in a directory of its own: written as a user would, started with the real `otpd`, killed for real.

Every node is checked when it ends: no process with its cookie lives, no socket is left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from otpd.ipc.control import Control, ControlError, NotRunning
from otpd.supervisor import logstore, services
from otpd.supervisor.spec import NodeSpec, SupervisorSpec
from tests.helpers import eventually

OTPD = [sys.executable, "-m", "otpd.cli.main"]

#: A worker script that says where it is in its life and does nothing else.
IDLE = """
from otpd.agents import Agent, run

class Idle(Agent):
    async def init(self):
        print("init", flush=True)
    async def terminate(self, reason):
        print("terminate", reason, flush=True)

if __name__ == "__main__":
    run(Idle)
"""

#: An agent that writes down how its life goes.
DIARY = """
import os
from otpd.agents import Agent, run

class Diary(Agent):
    async def init(self):
        self.note("init")
    async def terminate(self, reason):
        self.note(f"terminate {reason}")
    def note(self, text):
        with open("diary", "a") as file:
            file.write(f"{os.environ['OTPD_CHILD']} {text}\\n")

if __name__ == "__main__":
    run(Diary)
"""


_OPTIONAL = [row for row in services.ROWS if row.optional]
#: All of the node's services, as a node has them whose configuration says nothing of them.
ALL_SERVICES = tuple(row.name for row in services.rows_of(NodeSpec(name="", state_dir="", config="", top=SupervisorSpec())))


def without(*names: str) -> str:
    """What an otpd.toml says to leave these services out."""
    return "".join(f"\n[services.{name}]\nenabled = false\n" for name in names)


class Node:
    """One node; `config` is the text of its otpd.toml, `files` are written beside it (IDLE is always there as idle.py).

    It has the broker and those of `services`, so that a test starts no process that it is not about; where the text has
    a table of a service, that counts.
    """

    def __init__(self, config: str, files: dict[str, str] | None = None, services: Iterable[str] = ()) -> None:
        self._left_out = [row.name for row in _OPTIONAL if row.name not in services]
        self.home = Path(tempfile.mkdtemp(prefix="ot."))
        self.command = OTPD  # how `otpd` is started; a test may put something in front
        self.runtime = self.home / "r"
        self.runtime.mkdir(mode=0o700)
        self.write("otpd.toml", config)
        self.write("idle.py", IDLE)
        for name, text in (files or {}).items():
            self.write(name, text)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OTPD_")},
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOME": str(self.home),
            "COLUMNS": "120",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = textwrap.dedent(text)
        if name == "otpd.toml":
            text += without(*(each for each in self._left_out if f"[services.{each}]" not in text))
        path.write_text(text)
        return path

    # --- the command line ---

    def otpd(self, *arguments: str, timeout: float = 60, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `otpd` in the node's directory; asserts the exit code unless `check` is None."""
        done = subprocess.run(
            [*self.command, *arguments], cwd=self.home, env=self.env, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check is not None:
            assert done.returncode == check, f"otpd {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.otpd(*arguments, "--json").stdout)

    def start(self, check: int | None = 0, *more: str) -> subprocess.CompletedProcess[str]:
        return self.otpd("start", "--detach", *more, check=check)

    def stop(self, *more: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.otpd("stop", *more, check=check)

    # --- what root says ---

    @property
    def control(self) -> str:
        found = list((self.runtime / "otpd").glob("*/control.sock"))
        return str(found[0]) if found else str(self.runtime / "none")

    def ask(self, op: str, **arguments: Any) -> Any:
        with Control.open(self.control) as control:
            return control.ask(op, **arguments)

    def events(self) -> list[dict[str, Any]]:
        """What root remembers, oldest first, but of the node's own services."""
        return [event for event in self.all_events() if event["path"].partition("/")[0] != "services"]

    def all_events(self) -> list[dict[str, Any]]:
        with Control.open(self.control) as control:
            return [answer["event"] for answer in control.stream("events", 10.0, n=1000) if "event" in answer]

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("node")
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the config says; the node's own are `services`."""
        return {row["name"]: row for row in self.ask("status") if row["kind"] != "service"}

    def services(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.ask("status") if row["kind"] == "service"}

    def worker(self, name: str) -> dict[str, Any]:
        """The row of a worker, or of one of the node's own."""
        return {row["name"]: row for row in self.ask("status")}[name]

    def pid(self, name: str) -> int:
        return int(self.worker(name)["pid"])

    def answers(self) -> bool:
        try:
            return bool(self.ask("node"))
        except (ControlError, OSError):
            return False

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.workers().items()}

    def when(self, name: str, deadline: float = 30.0, **wanted: Any) -> dict[str, Any]:
        """The worker's row once each key has the wanted value."""

        def found() -> dict[str, Any] | None:
            try:
                row = self.worker(name)
            except (ControlError, OSError, KeyError):
                return None
            return row if all(row.get(key) == value for key, value in wanted.items()) else None

        return eventually(found, deadline, f"{name} with {wanted}")  # type: ignore[return-value]

    def reborn(self, name: str, generation: int, deadline: float = 30.0) -> dict[str, Any]:
        """The worker's row once a generation after `generation` runs."""

        def found() -> dict[str, Any] | None:
            try:
                row = self.worker(name)
            except (ControlError, OSError, KeyError):
                return None
            return row if row["state"] == "running" and row["generation"] > generation else None

        return eventually(found, deadline, f"{name} after generation {generation}")  # type: ignore[return-value]

    def log(self, name: str) -> str:
        return self.otpd("logs", name, "-n", "100000", "--raw", check=None).stdout

    def printed(self, name: str) -> str:
        """Like `log`, but read here: cheap enough to be asked again and again."""
        data = b"".join(logstore.raw(self.home / ".otpd" / "logs", name))
        return data.decode(errors="backslashreplace")

    # --- what the machine says ---

    def node_id(self) -> str:
        try:
            return (self.home / ".otpd" / "node_id").read_text().strip()
        except FileNotFoundError:
            return "none"

    def processes(self) -> list[psutil.Process]:
        """Every live process that carries the node's cookie."""
        return [p for p in psutil.process_iter() if carries(p, f"OTPD_NODE={self.node_id()}")]

    def house_and_workers(self) -> list[psutil.Process]:
        """heart and root, which have no cookie, too: they are known by the runtime directory that is theirs alone."""
        cookies = (f"OTPD_NODE={self.node_id()}", f"XDG_RUNTIME_DIR={self.runtime}")
        return [p for p in psutil.process_iter() if any(carries(p, cookie) for cookie in cookies)]

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a process of this node."""
        os.kill(pid, number)

    def guardians(self) -> list[int]:
        """heart and root, as the control socket tells them."""
        facts = self.facts()
        return [facts["heart_pid"], facts["pid"]]

    def close(self) -> None:
        """Stop what runs, check that nothing is left, remove the files."""
        try:
            try:
                self.otpd("stop", "--now", check=None)
            except subprocess.TimeoutExpired:
                pass
            with suppress(AssertionError):
                eventually(lambda: not self.house_and_workers())
            left = self.house_and_workers()
            names = [describe(p) for p in left]
            for p in left:
                p.kill()
            assert not names, f"left behind: {names}"
            assert not list(self.runtime.glob("otpd/*/*.sock")), "sockets left behind"
        finally:
            shutil.rmtree(self.home, ignore_errors=True)


def carries(process: psutil.Process, cookie: str) -> bool:
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            return cookie.encode() in file.read().split(b"\0") and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


def gone(pid: int) -> bool:
    """No process with this pid, or a zombie of it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def node(
    config: str, files: dict[str, str] | None = None, start: bool = True, services: Iterable[str] = ()
) -> Iterator[Node]:
    """A node that is started and, at the end, stopped and checked."""
    made = Node(config, files, services)
    try:
        if start:
            made.start()
        yield made
    except BaseException:
        with suppress(AssertionError):  # what is left behind is a consequence, and must not hide the cause
            made.close()
        raise
    made.close()


__all__ = ["ALL_SERVICES", "DIARY", "IDLE", "OTPD", "Node", "NotRunning", "carries", "describe", "gone", "node", "without"]
