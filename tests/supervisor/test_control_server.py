"""The server of the control socket, against real sockets (T45-T48, test 59)."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otpd.ipc.control import Control, ControlError
from otpd.ipc.frames import FrameReader, pack_frame
from otpd.supervisor import control
from otpd.supervisor.control import Connection, ControlServer, OperationError
from otpd.supervisor.loop import Loop
from tests.helpers import eventually


class Served:
    """A server in a thread, with a few operations."""

    def __init__(self, path: Path) -> None:
        self.loop, self.path = Loop(), path
        self.server = ControlServer(self.loop, path, self.dispatch)
        self.server.listen()
        self.followers: list[Connection] = []
        self.wake, self.wakened = socket.socketpair()
        self.loop.add(self.wakened.fileno(), 1, lambda _mask: self.loop.stop())
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def dispatch(self, connection: Connection, request: dict[str, Any]) -> None:
        match request["op"]:
            case "echo":
                connection.answer(request.get("value"))
            case "fail":
                raise OperationError(4, "no child 'x'", "look with: otpd tree")
            case "bug":
                raise KeyError("oops")
            case "follow":
                self.followers.append(connection)

    def close(self) -> None:
        self.wake.send(b"x")
        self.thread.join(60)
        self.server.close()
        self.loop._epoll.close()
        self.wake.close()
        self.wakened.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    before = set(os.listdir("/proc/self/fd"))
    made = Served(tmp_path / "c.sock")
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def echo(path: Path, value: object) -> object:
    with Control.open(str(path)) as client:
        return client.ask("echo", value=value)


def test_the_socket_is_for_its_owner_alone(served: Served) -> None:
    """T45."""
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600


def test_a_request_is_answered_and_the_next_on_the_same_connection_too(served: Served) -> None:
    with Control.open(str(served.path)) as client:
        assert [client.ask("echo", value=n) for n in range(3)] == [0, 1, 2]


def test_an_error_keeps_its_code_and_its_hint(served: Served) -> None:
    with Control.open(str(served.path)) as client, pytest.raises(ControlError) as caught:
        client.ask("fail")
    assert (caught.value.code, caught.value.error, caught.value.hint) == (4, "no child 'x'", "look with: otpd tree")


def test_a_mistake_in_an_operation_is_the_requests_not_roots(served: Served) -> None:
    with Control.open(str(served.path)) as client, pytest.raises(ControlError) as caught:
        client.ask("bug")
    assert caught.value.code == 70
    assert echo(served.path, 1) == 1


def test_another_user_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """T45; the uid of the server is moved, because a test can't always be two users."""
    monkeypatch.setattr(control.os, "getuid", lambda: 4242)
    monkeypatch.setattr(control, "_CREDENTIALS", _OtherUser())
    with Control.open(str(served.path)) as client, pytest.raises(ControlError) as caught:
        client.ask("echo")
    assert caught.value.code == 5


class _OtherUser:
    size = struct.Struct("3i").size

    def unpack(self, _data: bytes) -> tuple[int, int, int]:
        return 1, 4243, 4243


def test_random_bytes_neither_kill_nor_slow_it(served: Served) -> None:
    """T48."""
    source = random.Random(7)
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.path))
            client.sendall(source.randbytes(source.randrange(1, 400)))
    assert echo(served.path, "alive") == "alive"


def test_a_length_of_a_gibibyte_is_refused_at_once(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.path))
        client.sendall((1 << 30).to_bytes(4, "big"))
        client.settimeout(60)
        answers = FrameReader(1 << 20).feed(client.recv(65536))
        assert answers[0]["ok"] is False
        assert "got a length of 1073741824" in answers[0]["error"]
        assert client.recv(1) == b""


def test_a_thousand_half_open_connections_leave_room_for_a_request(served: Served) -> None:
    clients = []
    for _ in range(1000):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(served.path))
        client.settimeout(60)
        client.send(b"\0\0")
        clients.append(client)
    assert echo(served.path, "alive") == "alive"
    for client in clients:
        client.close()


def test_a_slow_loris_is_cut_off_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_DEADLINE", 0.1)
    made = Served(tmp_path / "c.sock")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(made.path))
            client.send(b"\0")
            client.settimeout(60)
            assert client.recv(1) == b""
    finally:
        made.close()


def test_a_follower_that_never_reads_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FOLLOWER_LIMIT", 100_000)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.path))
        client.sendall(pack_frame({"op": "follow"}))
        follower = eventually(lambda: served.followers and served.followers[0])
        for _ in range(200):
            served.loop.after(0, lambda: follower.part({"event": "x" * 10_000}))
        echo(served.path, 1)
        eventually(lambda: not follower.open)


def test_one_client_too_many_is_told_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test 59: all the others are served, so none of them can make room."""
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 3)
    followers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in followers:
        client.connect(str(served.path))
        client.sendall(pack_frame({"op": "follow"}))
    eventually(lambda: len(served.followers) == 3)
    with Control.open(str(served.path)) as client, pytest.raises(ControlError) as caught:
        client.ask("echo", value=1)
    assert (caught.value.code, caught.value.error) == (1, "3 clients are being served already")
    followers.pop().close()
    eventually(lambda: not served.followers[-1].open)
    assert echo(served.path, 1) == 1
    for client in followers:
        client.close()


def test_two_requests_at_once_on_one_connection_are_refused(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.path))
        client.sendall(pack_frame({"op": "follow"}) + pack_frame({"op": "echo"}))
        client.settimeout(60)
        (answer,) = FrameReader(1 << 20).feed(client.recv(65536))
        assert "one request at a time" in answer["error"]


def test_of_a_thousand_requests_in_one_go_one_is_served(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_LINGER", 60.0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.path))
        client.sendall(pack_frame({"op": "echo", "value": 1}) * 1000)
        assert [each["ok"] for each in everything(client)] == [True, False]


def test_who_has_not_read_an_answer_gets_no_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_LINGER", 60.0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.path))
        client.sendall(pack_frame({"op": "echo", "value": "x" * 1_000_000}))
        eventually(lambda: any(each._out for each in list(served.server._connections)))
        client.sendall(pack_frame({"op": "echo", "value": 1}))
        eventually(lambda: all(each._closing for each in list(served.server._connections)))
        assert [each["ok"] for each in everything(client)] == [True, False]


def everything(client: socket.socket) -> list[Any]:
    """All answers until the server has no more to say."""
    client.settimeout(60)
    reader, answers = FrameReader(1 << 24), []
    while chunk := client.recv(1 << 16):
        answers += reader.feed(chunk)
    return answers


def served_at_once(path: Path, work: Callable[[], None]) -> list[str]:
    """In which order what three clients ask at once is done, and a timer that falls due with the first of it."""
    loop, served = Loop(), list[str]()

    def dispatch(_connection: Connection, _request: dict[str, Any]) -> None:
        if not served:
            loop.after(0.0, lambda: served.append("timer"))
        served.append("request")
        work()

    server = ControlServer(loop, path, dispatch)
    server.listen()
    with contextlib.ExitStack() as stack:
        stack.callback(loop._epoll.close)
        stack.callback(server.close)
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            client.sendall(pack_frame({"op": "x"}))
        while len(served) < 4:
            loop.step()
    return served


def test_between_requests_that_take_long_the_loop_does_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SHARE", 1e-9)
    assert served_at_once(tmp_path / "c.sock", lambda: None) == ["request", "timer", "request", "request"]


def test_a_root_that_had_to_wait_for_a_core_keeps_the_order_in_which_all_came(tmp_path: Path) -> None:
    def wait() -> None:
        time.sleep(2 * control.SHARE)

    assert served_at_once(tmp_path / "c.sock", wait) == ["request", "request", "request", "timer"]


def test_nobody_listening_is_exit_code_seven(tmp_path: Path) -> None:
    with pytest.raises(ControlError) as caught:
        Control.open(str(tmp_path / "none.sock"))
    assert caught.value.code == 7


def test_a_pause_that_a_new_listener_outlives_is_over(tmp_path: Path) -> None:
    """Out of descriptors, and meanwhile somebody removed the socket's file: the new listener has the old one's number."""
    loop = Loop()
    server = ControlServer(loop, tmp_path / "c.sock", lambda connection, _request: connection.answer("here"))
    server.listen()
    before = server._listener
    assert before is not None
    number = before.fileno()
    server._pause()
    server.relisten()
    assert server._listener is not None
    assert server._listener.fileno() == number
    server._resume(before)
    server._pause()
    server._resume(server._listener)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(tmp_path / "c.sock"))
    client.sendall(pack_frame({"op": "x"}))
    loop.step()
    loop.step()
    assert FrameReader(1 << 20).feed(client.recv(4096)) == [{"ok": True, "result": "here"}]
    client.close()
    server.close()
    loop._epoll.close()
