"""A node of its own for one process: started by the command line, ended with the process, whatever ends that.

A program in the node, `keeper`, watches the process by a pidfd and has root stop the node when it is gone. What a killed
process has left on disk the next one removes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final, Self

from otpd.agents.errors import NodeNotRunning

#: The name of its only pool.
POOL: Final = "executor"
_START, _STOP = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """`control`: path of its control socket; `home`: its directory."""

    control: str
    home: str

    @classmethod
    def start(cls, size: int | None) -> Self:
        """NodeNotRunning says why there is none."""
        argv = ["embed", "start", "--for", str(os.getpid()), *(("--size", str(size)) if size is not None else ())]
        told = json.loads(_otpd(argv, _START))
        return cls(told["control"], told["home"])

    def stop(self) -> None:
        """In order; returns when nothing of it is left."""
        _otpd(["embed", "stop", self.home], _STOP)


def _otpd(argv: list[str], timeout: float) -> str:
    command = [sys.executable, "-P", "-m", "otpd.cli.main", *argv]
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTPD_")}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NodeNotRunning(f"`otpd {' '.join(argv)}` did not end within {timeout:g} s; look with: otpd doctor") from None
    if done.returncode != 0:
        raise NodeNotRunning(f"a node for the executor could not be started: {done.stderr.strip() or done.returncode}")
    return done.stdout
