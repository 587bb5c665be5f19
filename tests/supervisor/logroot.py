"""A stand-in for root in tests of the logger: starts it, hands it pipes, keeps their read ends, restarts it when killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from otpd.ipc.frames import channel_pair, receive_packet, send_packet


class LogRoot:
    """What root does for the logger, without a tree. Use as a context manager: nothing is left behind."""

    def __init__(
        self, logs: Path, max_bytes: int = 1 << 20, keep: int = 1000, full: str = "drop", prefix: tuple[str, ...] = ()
    ) -> None:
        self.logs = logs
        self._options = ["--life", "7", "--root", str(os.getpid()), "--dir", str(logs), "--runtime-dir", str(logs)]
        self._options += ["--max-bytes", str(max_bytes), "--keep", str(keep), "--full", full]
        self._prefix = prefix  # a command that runs another one
        self.pipes: dict[tuple[str, int], int] = {}
        self.received: list[list[Any]] = []
        self._token = 0
        self.start()

    def __enter__(self) -> LogRoot:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
            self.process.wait(60)
        finally:
            self.process.kill()
            for fd in self.pipes.values():
                os.close(fd)

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        self.channel, theirs = channel_pair()
        command = [
            *self._prefix,
            sys.executable,
            "-m",
            "otpd.supervisor.logger",
            "--channel",
            str(theirs.fileno()),
            *self._options,
        ]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        for (name, generation), fd in self.pipes.items():
            send_packet(self.channel, ["open", name, generation], (fd,))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def open(self, name: str, generation: int = 1) -> int:
        """A new incarnation's pipe; its write end."""
        read, write = os.pipe2(os.O_CLOEXEC)
        self.pipes[name, generation] = read
        send_packet(self.channel, ["open", name, generation], (read,))
        return write

    def send(self, *message: Any) -> None:
        send_packet(self.channel, list(message))

    def hear(self, word: str, *rest: Any, deadline: float = 60.0) -> list[Any]:
        """The next message that begins so; it is taken out of `received`."""
        end = time.monotonic() + deadline
        while True:
            for message in self.received:
                if message[: 1 + len(rest)] == [word, *rest]:
                    self.received.remove(message)
                    return message
            if not self.pump(max(0.0, end - time.monotonic())):
                raise AssertionError(f"not within {deadline:g} s: {[word, *rest]}; heard: {self.received}")

    def pump(self, timeout: float = 0.0) -> bool:
        """Take in one message; False when none came."""
        if not select.select([self.channel], [], [], timeout)[0]:
            return False
        packet = receive_packet(self.channel)
        assert packet is not None, f"the logger is gone: {self.process.wait()}"
        message = packet[0]
        self.received.append(message)
        if message[0] == "eof":
            os.close(self.pipes.pop((message[1], message[2])))
        return True

    def flush(self) -> None:
        self._token += 1
        self.send("flush", self._token)
        self.hear("flushed", self._token)

    def cpu(self) -> float:
        """Seconds of CPU that the logger has used, finer than in ticks where the kernel counts so."""
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))
