"""Processes that measurements of messages are made of: `python -m scripts.benchmarks.peers ROLE ARGUMENTS`.

Each says on its output, as JSON, what it saw; times are nanoseconds of CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq

from otpd.ipc.endpoint import Address, Endpoint, Phase
from otpd.ipc.happenings import Delivered, Replied
from otpd.ipc.sockets import Lanes
from otpd.ipc.wire import Status

NOW = time.monotonic_ns
BODY = b"x" * 64
#: Calls that are made and not counted: caches and connections are warm then.
WARM = 200
#: A sender that never sleeps looks for what has come after so many flushes.
LOOK = 8


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


# --- bare pyzmq ---


def raw_socket(kind: int, address: str) -> zmq.Socket[bytes]:
    sock = zmq.Context.instance().socket(kind)
    sock.linger = 10_000
    sock.set_hwm(0)
    if kind == zmq.ROUTER:
        sock.bind(address)
    else:
        sock.connect(address)
    return sock


def raw_receive(address: str, count: str) -> None:
    sock = raw_socket(zmq.ROUTER, address)
    say(ready=True)
    for _ in range(int(count)):
        sock.recv_multipart()
    say(ended=NOW())


def raw_send(address: str, count: str) -> None:
    sock = raw_socket(zmq.DEALER, address)
    began = NOW()
    for _ in range(int(count)):
        sock.send(BODY)
    say(began=began)
    sock.close()
    zmq.Context.instance().term()


def raw_answer(address: str, count: str) -> None:
    sock = raw_socket(zmq.ROUTER, address)
    say(ready=True)
    for _ in range(int(count) + WARM):
        sock.send_multipart(sock.recv_multipart())
    sock.recv_multipart()


def raw_ask(address: str, count: str) -> None:
    sock = raw_socket(zmq.DEALER, address)
    took = []
    for _ in range(int(count) + WARM):
        began = NOW()
        sock.send(BODY)
        sock.recv()
        took.append(NOW() - began)
    say(took=took[WARM:])
    sock.send(b"bye")
    sock.close()
    zmq.Context.instance().term()


# --- agents, as the SDK drives an endpoint, without the SDK ---


class Bare:
    """An endpoint and its sockets, in a loop that sleeps only when there is nothing to do."""

    def __init__(self, place: str, name: str, inc: str, identity: str, token: str) -> None:
        address, epoch = place.split(",")
        self.end = Endpoint(name, int(inc), bytes.fromhex(token))
        self.lanes = Lanes(address, bytes.fromhex(identity))
        self.end.connected(epoch, NOW())
        while self.end.phase is not Phase.LIVE:
            self.flush()
            self.take(0.1)
        self.flush()
        self.end.happened.clear()
        say(ready=True)

    def flush(self) -> None:
        frames = self.end.outgoing()
        if frames:
            self.lanes.send(frames)

    def take(self, seconds: float | None) -> None:
        """What has come; sleeps for it when nothing has."""
        lanes = self.lanes
        for lane, frame in lanes.receive() if lanes.more else lanes.awake(lanes.wait(seconds)):
            self.end.received(lane, frame, 0)


def cast_send(place: str, name: str, inc: str, identity: str, token: str, to: str, count: str, burst: str) -> None:
    """With a burst of 1 each message leaves as a frame of its own: none is said before the last one has left."""
    bare, address, size = Bare(place, name, inc, identity, token), Address(to), int(burst)
    sys.stdin.readline()
    end, began = bare.end, NOW()
    for number in range(int(count) // size):
        for _ in range(size):
            end.cast(address, BODY)
        bare.flush()
        if number % LOOK == 0 and bare.lanes.more:
            bare.take(0)
        while end.unsent if size == 1 else not end.room:
            bare.take(None)
            bare.flush()
    say(began=began)
    while end.unsent:
        bare.take(None)
        bare.flush()
    sys.stdin.readline()


def cast_receive(place: str, name: str, inc: str, identity: str, token: str, count: str) -> None:
    bare = Bare(place, name, inc, identity, token)
    end, happened, left = bare.end, bare.end.happened, int(count)
    while left:
        bare.take(None)
        done = size = 0
        while happened:
            happening = happened.popleft()
            if isinstance(happening, Delivered):
                done += 1
                size += len(happening.body)
        end.handled(done, size)  # not one by one, as a mailbox does it
        left -= done
        bare.flush()
    say(ended=NOW())
    sys.stdin.readline()


def answer(place: str, name: str, inc: str, identity: str, token: str) -> None:
    bare = Bare(place, name, inc, identity, token)
    end, happened = bare.end, bare.end.happened
    while True:
        bare.take(None)
        while happened:
            happening = happened.popleft()
            if isinstance(happening, Delivered):
                if happening.call is not None:
                    end.reply(happening.call, Status.OK, happening.body)
                end.handled(1, len(happening.body))
        bare.flush()


def ask(place: str, name: str, inc: str, identity: str, token: str, to: str, count: str) -> None:
    bare, address, took = Bare(place, name, inc, identity, token), Address(to), []
    end, happened = bare.end, bare.end.happened
    sys.stdin.readline()
    for _ in range(int(count) + WARM):
        began = NOW()
        request = end.call(address, BODY, began + 10**10, began)
        bare.flush()
        while not happened:
            bare.take(None)
        reply = happened.popleft()
        assert isinstance(reply, Replied) and reply.request == request, reply
        took.append(NOW() - began)
    say(took=took[WARM:])
    sys.stdin.readline()


ROLES: dict[str, Callable[..., None]] = {
    each.__name__.replace("_", "-"): each
    for each in (raw_receive, raw_send, raw_answer, raw_ask, cast_send, cast_receive, answer, ask)
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
