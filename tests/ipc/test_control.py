"""The client of the control socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.ipc import control
from otpd.ipc.control import Control, ControlError
from otpd.ipc.frames import pack_frame


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[list[bytes]]:
    """Frames that a server sends to whoever asks, each when the one before has been read."""
    frames: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "c.sock"))
    listener.listen()

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            if not connection.recv(4096):
                return
            for frame in frames:
                connection.sendall(frame)
                connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    yield frames
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    listener.close()


def test_a_socket_of_another_user_is_not_spoken_to(
    answers: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T45, T47: whoever got hold of the path would be told our requests and could answer anything."""
    monkeypatch.setattr(control.os, "getuid", lambda: 4242)
    monkeypatch.setattr(control, "struct", SimpleNamespace(unpack=lambda _form, _data: (1, 4243, 4243)))
    with pytest.raises(ControlError) as caught:
        Control.open(str(tmp_path / "c.sock"))
    assert (caught.value.code, "is served by uid 4243, you are uid 4242" in caught.value.error) == (5, True)


class Recorded:
    """A socket that remembers how much time it was given."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.given: list[float | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_the_time_of_a_stream_is_for_the_silence_between_two_answers(
    answers: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that says every two seconds what it waits for may last as long as it likes."""
    now = [0.0]
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    answers += [pack_frame({"ok": True, "n": n, "done": n == 4}) for n in range(5)]
    with Control.open(str(tmp_path / "c.sock")) as client:
        client._socket = recorded = Recorded(client._socket)  # type: ignore[assignment]
        heard = []
        for answer in client.stream("stop", 10.0):
            heard.append(answer["n"])
            now[0] += 6.0
            recorded.sendall(b"x")
            recorded.given.append(recorded.gettimeout())
    assert heard == [0, 1, 2, 3, 4]
    assert recorded.given == [10.0, 4.0, 4.0, 4.0, 4.0]
