"""The client of the control socket: asks root, from any process, without any dependency but msgpack.

>>> # with Control.open(paths.control) as control: control.ask("tree")
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Self

from otpd.ipc.frames import ANSWER_LIMIT, FrameError, FrameReader, pack_frame


class ControlError(Exception):
    """root answered with an error: `code` is the exit code of the table, `hint` the next step."""

    def __init__(self, code: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.code, self.error, self.hint = code, error, hint


class NotRunning(ControlError):
    """Nobody listens on the control socket."""

    def __init__(self, path: str) -> None:
        super().__init__(7, f"no node is running: nobody answers on {path}", "start it with: otpd start")


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    """A socket with a timeout is told EAGAIN when the backlog is full, and must come again by itself."""
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _after(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


class Control:
    """One connection. Every method blocks at most until `timeout` seconds passed without a byte."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._socket, self._path = connection, path
        self._reader = FrameReader(ANSWER_LIMIT)

    @classmethod
    def open(cls, path: str, timeout: float = 10.0) -> Self:
        """Connect. NotRunning when nobody listens; ControlError 5 when the socket belongs to somebody else."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            _connect(connection, path, time.monotonic() + timeout)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            connection.close()
            raise NotRunning(path) from error
        except OSError as error:
            connection.close()
            code = 5 if isinstance(error, PermissionError) else 1
            hint = "run otpd as the user who started the node" if code == 5 else "look at it with: otpd doctor"
            raise ControlError(code, f"can't talk to the node at {path}: {error.strerror or error}", hint) from error
        uid = _peer(connection)[1]
        if os.getuid() not in (0, uid) and uid != 0:
            connection.close()
            raise ControlError(5, f"{path} is served by uid {uid}, you are uid {os.getuid()}", "look with: otpd doctor")
        return cls(connection, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def peer_pid(self) -> int:
        """Of root, as this process numbers it; 0 when it has no number here (root is in another pid namespace)."""
        return _peer(self._socket)[0]

    def ask(self, op: str, timeout: float | None = 10.0, **arguments: Any) -> Any:
        """The result of one request. ControlError as root says; code 8 when it stays silent."""
        for answer in self._answers(op, timeout, arguments):
            return answer.get("result")
        raise self._gone(op)

    def hang_up(self) -> None:
        """From another thread: whoever waits for an answer is told that the node went away."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def stream(
        self, op: str, timeout: float | None = None, first: float | None = None, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """All answers to one request, the last one (with "done") included. `timeout` is for the silence between two,
        `first` for that before the first one where it differs."""
        for answer in self._answers(op, first or timeout, arguments, each=True, then=timeout):
            yield answer
            if answer.get("done"):
                return
        raise self._gone(op)

    def _answers(
        self,
        op: str,
        timeout: float | None,
        arguments: dict[str, Any],
        each: bool = False,
        then: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """`timeout` for all; with `each` for the first, and `then` for the silence before each other one."""
        deadline = _after(timeout)
        try:
            self._socket.settimeout(timeout)
            with contextlib.suppress(BrokenPipeError):  # who was turned away has been told why: that can still be read
                self._socket.sendall(pack_frame({"op": op, **arguments}))
            while True:
                self._socket.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
                chunk = self._socket.recv(1 << 18)
                if not chunk:
                    return
                if each:
                    timeout, deadline = then, _after(then)
                yield from map(self._checked, self._reader.feed(chunk))
        except TimeoutError as error:
            raise ControlError(
                8, f"the node did not answer '{op}' within {timeout:g} s", "is root stopped? look with: otpd doctor"
            ) from error
        except FrameError as error:
            raise ControlError(70, f"the node's answer to '{op}' can't be read: {error}") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone(op) from error

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("ok") is False:
            raise ControlError(int(answer.get("code", 1)), str(answer.get("error", "")), str(answer.get("hint", "")))
        return answer

    def _gone(self, op: str) -> ControlError:
        return ControlError(7, f"the node went away while it answered '{op}'", "look with: otpd status")


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of whoever listens."""
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
