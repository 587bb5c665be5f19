"""A command on a terminal of its own, as a person has it: a real pty, a controlling terminal, ^C by its line discipline."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CTRL_C = b"\x03"


class Terminal:
    """`close` hangs up, as a terminal window does that is closed."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._master, slave = os.openpty()
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=dict(env)
            )
        finally:
            os.close(slave)
        self.text = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, wanted: str, deadline: float = 60.0) -> str:
        """All that was shown, once `wanted` is in it."""
        end = time.monotonic() + deadline
        while wanted not in self.text:
            self._read(end)
            assert time.monotonic() < end, f"{wanted!r} was not shown within {deadline:g} s; shown: {self.text!r}"
        return self.text

    def wait(self, deadline: float = 60.0) -> int:
        """The exit code; what is shown meanwhile is read, as a terminal does."""
        end = time.monotonic() + deadline
        while self.process.poll() is None:
            self._read(time.monotonic() + 0.02)
            assert time.monotonic() < end, f"still there after {deadline:g} s; shown: {self.text!r}"
        while self._read(time.monotonic()):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self, end: float) -> bool:
        """Take what is there, wait for it until `end` at most; false when there was nothing."""
        if self._master < 0 or not select.select([self._master], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody has the other side open any more
            time.sleep(0.005)
            return False
        self.text += data.decode(errors="backslashreplace")
        return bool(data)


@contextmanager
def terminal(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Iterator[Terminal]:
    """A terminal that is closed at the end; its first process must have ended by then, or gets SIGKILL."""
    made = Terminal(command, cwd, env)
    try:
        yield made
    finally:
        made.close()
        try:
            made.process.wait(60)
        except subprocess.TimeoutExpired:
            made.process.kill()
            made.process.wait()
