"""The runner's side of a node: connections to its control socket, its events sorted by scenario, and root frozen."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otpd.ipc.control import ControlError
from otpd.ipc.frames import ANSWER_LIMIT, FrameReader, pack_frame
from tests.helpers import eventually

#: Seconds that anything may take on a busy machine.
PATIENCE = 30.0


class Line:
    """One connection, one request at a time; the answer may be waited for or looked for."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        self._reader = FrameReader(ANSWER_LIMIT)
        self._answers: list[dict[str, Any]] = []

    def close(self) -> None:
        self._socket.close()

    def send(self, op: str, **arguments: Any) -> None:
        self._socket.sendall(pack_frame({"op": op, **arguments}))

    def receive(self) -> dict[str, Any]:
        """The next answer; ControlError when it is one."""
        while not self._answers:
            self._take()
        return self._next()

    def look(self) -> dict[str, Any] | None:
        """The next answer that is there."""
        while not self._answers and select.select([self._socket], [], [], 0)[0]:
            self._take()
        return self._next() if self._answers else None

    def ask(self, op: str, **arguments: Any) -> Any:
        self.send(op, **arguments)
        return self.receive()["result"]

    def _take(self) -> None:
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("root has closed the connection")
        self._answers += self._reader.feed(chunk)

    def _next(self) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if not answer.get("ok", True):
            raise ControlError(answer["code"], answer["error"], answer.get("hint", ""))
        return answer


class Events:
    """The events of the node, sorted by scenario. Whatever root did before an answer is there when the answer is."""

    def __init__(self, path: str) -> None:
        self._line = Line(path)
        self._line.send("events", follow=True, n=0)
        self._lock = threading.Lock()
        self._found: dict[str, list[dict[str, Any]]] = {}

    def close(self) -> None:
        self._line.close()

    def take(self, key: str) -> list[dict[str, Any]]:
        """Those of one scenario that came since."""
        with self._lock:
            while (part := self._line.look()) is not None:
                event = part["event"]
                parts = event["path"].split("/")
                if len(parts) > 1:
                    self._found.setdefault(parts[1], []).append(event)
            return self._found.pop(key, [])


class Desk:
    """What the scenarios of one node share; the node has WORKER as scripted.py."""

    def __init__(self, control: str, home: Path) -> None:
        self.control, self.script, self.gates = control, str(home / "scripted.py"), home / "gates"
        self.gates.mkdir(exist_ok=True)
        self.events = Events(control)
        with self.line() as line:
            self.root_pid = int(line.ask("node")["pid"])
        self._freeze = threading.Lock()
        self._keys = itertools.count()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.events.close()

    def new_key(self) -> str:
        """The name of a scenario in the node; never given twice, for generations count on for ever."""
        return f"s{next(self._keys)}"

    @contextmanager
    def line(self) -> Iterator[Line]:
        line = Line(self.control)
        try:
            yield line
        finally:
            line.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Root does nothing meanwhile: exits and requests queue up in the kernel, in their order."""
        with self._freeze:
            os.kill(self.root_pid, signal.SIGSTOP)
            try:
                eventually(lambda: state_of(self.root_pid) == "T", PATIENCE, "root is stopped")
                yield
            finally:
                os.kill(self.root_pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
