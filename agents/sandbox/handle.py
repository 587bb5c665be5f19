"""A worker process as its pool holds it: the process, the channel, what it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Hashable
from typing import Any, Final

from otpd.agents.sandbox.nesting import memory
from otpd.agents.sandbox.profile import Settings
from otpd.ipc.frames import channel_pair, pack, send_packet

_LARGE: Final = 100_000
#: `python -m otpd.agents.sandbox.worker` without the SDK, which the package around it imports and a worker has no use for:
#: a third of the time that a worker takes to start, and half of its memory.
_START: Final = """
import importlib.util, runpy, sys
around = importlib.util.find_spec("otpd.agents")
sys.modules[around.name] = importlib.util.module_from_spec(around)
runpy.run_module("otpd.agents.sandbox.worker", run_name="__main__")
"""
#: What a worker needs of our environment to find its own modules. Nothing else reaches it, so that nothing can leak.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")


class Handle:
    """`ended` is a pidfd that becomes readable with the process's end. `close` kills what is left, and waits."""

    def __init__(self, number: int, key: Hashable, settings: Settings, backend: str, begin: dict[str, Any]) -> None:
        self.number = number
        self.key = key
        self.settings = settings
        self.backend = backend
        self.reported = False  # it has said that it can't be built
        self.run: int | None = None
        self.deadline = float("inf")  # when we stop trusting it to keep its own
        self.channel, theirs = channel_pair()
        self.channel.setblocking(False)
        command = [sys.executable, "-P", "-c", _START, "--channel", str(theirs.fileno())]
        env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=env, cwd="/", stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            theirs.close()
        self.ended = os.pidfd_open(self.process.pid)
        with contextlib.suppress(OSError):
            send_packet(self.channel, ["begin", begin])

    @property
    def pid(self) -> int:
        return self.process.pid

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
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.ended, signal.SIGKILL)

    def close(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds for it to end by itself, then end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.kill()
        self.process.wait()
        self.channel.close()
        os.close(self.ended)
