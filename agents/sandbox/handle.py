"""A worker process as its pool holds it: the process, the channel, what it is doing.

Where the process comes from is its pool's choice (`Spawn`): a child of this process, or one that somebody else starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Hashable
from typing import Any, Final, Protocol, TypeAlias

from otpd.agents.sandbox.nesting import memory
from otpd.agents.sandbox.profile import Settings
from otpd.ipc.frames import channel_pair, pack, send_packet

_LARGE: Final = 100_000
#: `python -m otpd.agents.sandbox.worker` without the SDK, which the package around it imports and a worker has no use for:
#: a third of the time that a worker takes to start, and half of its memory.
START: Final = """
import importlib.util, runpy, sys
around = importlib.util.find_spec("otpd.agents")
sys.modules[around.name] = importlib.util.module_from_spec(around)
runpy.run_module("otpd.agents.sandbox.worker", run_name="__main__")
"""
#: HOME and PYTHONUSERBASE say where `pip install --user` has put otpd.
ENVIRONMENT: Final = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "LD_LIBRARY_PATH")


class Process(Protocol):
    """A worker's process, also while it is still being started."""

    @property
    def pid(self) -> int:
        """0 while it has none."""

    @property
    def ended(self) -> int:
        """A descriptor that is readable once it has ended, or never will be."""

    def fate(self) -> str:
        """In words, how it ended."""

    def kill(self) -> None:
        """SIGKILL: all that it runs goes with it."""

    def close(self, patience: float) -> None:
        """Wait `patience` seconds for it to end by itself, then end it, and `ended` with it."""


#: Starts a worker that gets this end of its channel, and closes it here.
Spawn: TypeAlias = Callable[[socket.socket], Process]


class ChildProcess:
    """One that this process starts itself."""

    def __init__(self, theirs: socket.socket) -> None:
        command = [sys.executable, "-P", "-c", START, "--channel", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=clean_environment(), cwd="/", stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        self._ended = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int:
        return self._ended

    def fate(self) -> str:
        return f"status {self._process.returncode}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, signal.SIGKILL)

    def close(self, patience: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.kill()
        self._process.wait()
        os.close(self._ended)


def clean_environment() -> dict[str, str]:
    """What a worker needs of ours to find its own modules. Nothing else reaches it, so that nothing can leak."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


class Handle:
    """One worker. `close` kills what is left, and waits."""

    def __init__(
        self, number: int, key: Hashable, settings: Settings, backend: str, begin: dict[str, Any], spawn: Spawn
    ) -> None:
        self.number = number
        self.key = key
        self.settings = settings
        self.backend = backend
        self.reported = False  # it has said that it can't be built
        self.run: int | None = None
        self.deadline = float("inf")  # when we stop trusting it to keep its own
        self.is_paused = False  # nobody takes what its run says: the channel is not read
        self.channel, theirs = channel_pair()
        self.channel.setblocking(False)
        self.process = spawn(theirs)
        with contextlib.suppress(OSError):
            send_packet(self.channel, ["begin", begin])

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> int:
        return self.process.ended

    def send_run(self, run: int, options: dict[str, Any], order: list[Any], stdin: int) -> None:
        """OSError: it is gone."""
        packed = pack(order)
        large = memory(packed) if len(packed) > _LARGE else -1
        fds = tuple(fd for fd in (large, stdin) if fd >= 0)
        try:
            body = {**options, "order": None if large >= 0 else order, "stdin": stdin >= 0}
            send_packet(self.channel, ["run", run, body], fds)
        finally:
            if large >= 0:
                os.close(large)
        self.run = run

    def say(self, *message: Any) -> None:
        with contextlib.suppress(OSError):
            self.channel.send(pack(list(message)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def kill(self) -> None:
        """SIGKILL: all that it runs goes with it."""
        self.process.kill()

    def close(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds for it to end by itself, then end it."""
        self.process.close(patience)
        self.channel.close()
