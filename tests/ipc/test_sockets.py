"""An agent's sockets: edges of the fds, ends, forks, and the pitfalls T10, T12, T13 of messaging.md 1.2."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from otpd.ipc import lowlevel
from otpd.ipc.sockets import DRAIN_MS, Lanes
from otpd.ipc.wire import Lane
from tests.helpers import eventually

IDENTITY = b"\x01" * 16
DEADLINE = 60_000


class Router:
    """The other end of one lane."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.sock = context.socket(zmq.ROUTER)
        self.sock.linger = 0
        self.sock.bind(address)

    def heard(self) -> tuple[bytes, bytes]:
        assert self.sock.poll(DEADLINE), "nothing came"
        identity, frame = self.sock.recv_multipart()
        return identity, frame

    def say(self, *frames: bytes) -> None:
        for frame in frames:
            self.sock.send_multipart([IDENTITY, frame])


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/b"


@pytest.fixture
def routers(endpoint: str) -> Iterator[dict[Lane, Router]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield {lane: Router(context, f"{endpoint}-{lane.value}") for lane in Lane}
    context.destroy(linger=0)


@pytest.fixture
def lanes(endpoint: str, routers: dict[Lane, Router]) -> Iterator[Lanes]:
    """Connected: both routers have heard a frame."""
    lanes = Lanes(endpoint, IDENTITY)
    lanes.send([(lane, lane.value.encode()) for lane in Lane])
    assert [router.heard() for router in routers.values()] == [(IDENTITY, b"s"), (IDENTITY, b"d")]
    lanes.receive()
    yield lanes
    lanes.close()


def receive_all(lanes: Lanes, count: int) -> list[tuple[Lane, bytes]]:
    """As a runtime does it: sleep on the fds only while there is no more."""
    found: list[tuple[Lane, bytes]] = []
    poll = select.poll()
    for fd in lanes.fds:
        poll.register(fd, select.POLLIN)
    while len(found) < count:
        if lanes.more:
            found += lanes.receive(budget=2)
        else:
            readable = [fd for fd, _ in poll.poll(DEADLINE)]
            assert readable, f"slept on an edge that had been swallowed, with {len(found)} frames"
            found += lanes.awake(readable)
    return found


def test_the_system_lane_is_read_first(lanes: Lanes, routers: dict[Lane, Router]) -> None:
    routers[Lane.DATA].say(b"1", b"2", b"3")
    routers[Lane.SYSTEM].say(b"down")
    data, system = (lanes._sockets[lane] for lane in (Lane.DATA, Lane.SYSTEM))
    assert data.poll(DEADLINE) and system.poll(DEADLINE)
    assert lanes.receive(budget=2) == [(Lane.SYSTEM, b"down"), (Lane.DATA, b"1")]
    assert lanes.more
    assert lanes.receive() == [(Lane.DATA, b"2"), (Lane.DATA, b"3")]
    assert (lanes.receive(), lanes.more) == ([], False)


def test_a_send_that_swallows_the_edge_says_that_there_is_more(lanes: Lanes, routers: dict[Lane, Router]) -> None:
    """The frame arrives before the send, so that no fd will tell of it after that."""
    for _ in range(200):
        routers[Lane.DATA].say(b"reply")
        assert select.select(lanes.fds, [], [], 5)[0], "the frame did not come"
        lanes.send([(Lane.DATA, b"next")])
        assert receive_all(lanes, 1) == [(Lane.DATA, b"reply")]


def test_no_frame_is_overslept_whatever_the_order_of_sends_and_receives(lanes: Lanes, routers: dict[Lane, Router]) -> None:
    for turn in range(100):
        routers[Lane.DATA].say(*[b"x"] * (turn % 5))
        lanes.send([(Lane.SYSTEM, b"a"), (Lane.DATA, b"b")])
        routers[Lane.SYSTEM].say(b"y")
        lanes.send([(Lane.SYSTEM, b"c")])
        assert sorted(frame for _, frame in receive_all(lanes, turn % 5 + 1)) == [b"x"] * (turn % 5) + [b"y"]


def test_after_a_sleep_one_frame_of_each_lane_is_taken_and_the_others_are_more(
    lanes: Lanes, routers: dict[Lane, Router]
) -> None:
    routers[Lane.DATA].say(b"1", b"2", b"3")
    routers[Lane.SYSTEM].say(b"down")
    system, data = (lanes._sockets[lane] for lane in Lane)
    assert data.poll(DEADLINE) and system.poll(DEADLINE)
    assert lanes.awake(lanes.fds[1:]) == [(Lane.DATA, b"1")]
    assert lanes.awake(lanes.fds) == [(Lane.SYSTEM, b"down"), (Lane.DATA, b"2")]
    assert lanes.more
    assert lanes.receive() == [(Lane.DATA, b"3")]
    assert (lanes.awake(lanes.fds), lanes.more) == ([], False)


def test_wait_returns_what_is_readable(lanes: Lanes, routers: dict[Lane, Router]) -> None:
    reader, writer = os.pipe()
    assert (lanes.wait(0, reader), lanes.more) == ([], False)
    os.write(writer, b"x")
    assert (lanes.wait(5, reader), lanes.more) == ([reader], False)
    routers[Lane.DATA].say(b"x")
    assert lanes.wait(5) == [lanes.fds[1]]
    assert receive_all(lanes, 1) == [(Lane.DATA, b"x")]
    os.close(reader)
    os.close(writer)


def test_frames_said_before_the_broker_is_there_arrive_in_order(endpoint: str) -> None:
    lanes = Lanes(endpoint, IDENTITY)
    lanes.send([(Lane.DATA, b"1"), (Lane.DATA, b"2")])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = Router(context, f"{endpoint}-d")
    assert [router.heard()[1], router.heard()[1]] == [b"1", b"2"]
    lanes.close()
    context.destroy(linger=0)


def test_t10_a_forked_process_is_refused_and_its_parent_is_not_disturbed(endpoint: str, routers: dict[Lane, Router]) -> None:
    assert python(
        """
        lanes = Lanes(endpoint, b"\\1" * 16)
        lanes.send([(Lane.DATA, b"before")])
        pid = os.fork()
        if pid == 0:
            refused = 0
            send, awake, wait = lambda: lanes.send([(Lane.DATA, b"x")]), lambda: lanes.awake(()), lambda: lanes.wait(0)
            for use in (send, lanes.receive, awake, wait):
                try:
                    use()
                except ForkedError:
                    refused += 1
            lanes.close()
            os._exit(refused)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        lanes.send([(Lane.DATA, b"after")])
        lanes.close(drain=True)
        """,
        endpoint,
    ) == ("4\n", 0)
    assert [routers[Lane.DATA].heard()[1] for _ in range(2)] == [b"before", b"after"]


def python(code: str, endpoint: str) -> tuple[str, int]:
    """Output and status of a process of its own; it must end within 20 s."""
    head = "import os, sys\nfrom otpd.ipc.errors import ForkedError\nfrom otpd.ipc.sockets import Lanes\n"
    head += "from otpd.ipc.wire import Lane\nendpoint = sys.argv[1]\n"
    command = [sys.executable, "-W", "ignore", "-c", head + textwrap.dedent(code), endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr, done.returncode


@pytest.mark.parametrize("identity", [b"", b"\0abc", b"x" * 256])
def test_t12_a_routing_id_that_zeromq_would_misread_is_refused(endpoint: str, identity: bytes) -> None:
    with pytest.raises(ValueError, match="expected a routing id of 1 to 255 bytes that does not begin with 0"):
        Lanes(endpoint, identity)


@pytest.mark.parametrize("drain", ["False", "True"])
def test_t13_closing_never_hangs_on_a_broker_that_is_not_there(endpoint: str, drain: str) -> None:
    """With ZeroMQ's own LINGER it would never end."""
    code = f"""
        lanes = Lanes(endpoint, b"\\1" * 16)
        lanes.send([(Lane.DATA, b"x" * 1000)] * 100)
        lanes.close({drain})
        lanes.close()
        print("closed")
    """
    assert python(code, endpoint) == ("closed\n", 0)


def test_a_drain_waits_until_all_that_was_said_is_with_the_broker(endpoint: str, routers: dict[Lane, Router]) -> None:
    lanes = Lanes(endpoint, IDENTITY)
    lanes.send([(Lane.DATA, b"x" * 10_000)] * 500)
    lanes.close(drain=True)
    for _ in range(500):
        routers[Lane.DATA].heard()


def test_lanes_are_drained_when_the_last_word_has_had_its_time(
    endpoint: str, routers: dict[Lane, Router], monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = Lanes(endpoint, IDENTITY)
    lanes.send([(Lane.DATA, b"x")])
    assert not lanes.is_drained
    at = time.monotonic() + DRAIN_MS / 1000 + 1
    monkeypatch.setattr("otpd.ipc.sockets.time", SimpleNamespace(monotonic=lambda: at))
    assert lanes.is_drained
    lanes.send([(Lane.DATA, b"y")])
    assert not lanes.is_drained
    lanes.close()


def test_lanes_that_are_left_end_with_their_process(endpoint: str, routers: dict[Lane, Router]) -> None:
    code = """
        lanes = Lanes(endpoint, b"i")
        lanes.leave()
        del lanes
        gc.collect()
        print(len([t for t in os.listdir("/proc/self/task")]), flush=True)
        os._exit(0)
    """
    assert python("import gc, os\n" + textwrap.dedent(code), endpoint) == ("3\n", 0)


def test_closing_leaves_no_descriptor(endpoint: str, routers: dict[Lane, Router]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for number in range(3):  # a router ignores a second peer of one identity until it has seen the end of the first
        lanes = Lanes(endpoint, IDENTITY + bytes([number]))
        lanes.send([(Lane.DATA, b"x")])
        routers[Lane.DATA].heard()
        lanes.close()
    eventually(lambda: sorted(os.listdir("/proc/self/fd")) == before)


def test_the_low_level_calls_are_those_of_the_backend_here() -> None:
    assert [lowlevel.choose(name) is getattr(zmq.backend.Socket, name) for name in ("send", "recv", "get")] == [True] * 3


def test_without_that_backend_the_public_calls_do_the_same(
    monkeypatch: pytest.MonkeyPatch, lanes: Lanes, routers: dict[Lane, Router]
) -> None:
    class Other:
        """A release of pyzmq whose backend is another one."""

    for name, here in (("send", "_send"), ("recv", "recv"), ("get", "_get")):
        found = lowlevel.choose(name, Other)
        assert found is getattr(zmq.Socket, name)
        monkeypatch.setattr(lowlevel, here, found)
    lanes.send([(Lane.DATA, b"x")])
    assert routers[Lane.DATA].heard() == (IDENTITY, b"x")
    routers[Lane.DATA].say(b"y")
    assert receive_all(lanes, 1) == [(Lane.DATA, b"y")]
