"""A stage for a real broker process: a root that a test speaks for, and agents with real sockets in the test's process."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import otpd.ipc.broker
from otpd.ipc.endpoint import Address, Endpoint, Phase
from otpd.ipc.frames import channel_pair, pack, receive_packet, send_packet
from otpd.ipc.happenings import CallFailed, Delivered, Happening, Replied
from otpd.ipc.sockets import Lanes
from otpd.ipc.wire import Lane, Status

T = TypeVar("T")
LIFE = 7
DEADLINE = 60.0
SECOND = 1_000_000_000
SCRIPT = otpd.ipc.broker.__file__


def inc(generation: int) -> int:
    return LIFE << 32 | generation


class Broker:
    """One broker process. The test is its root."""

    def __init__(self, runtime: Path, generation: int = 1, *, prefix: str = "", **job: Any) -> None:
        """`prefix`: shell commands before it, as "ulimit -n 64"."""
        self.runtime, self.epoch = runtime, f"b{LIFE}.{generation}"
        self.channel, theirs = channel_pair()
        document = os.memfd_create("job")
        told = {
            "name": "broker",
            "generation": generation,
            "life": LIFE,
            "runtime": str(runtime),
            "args": {},
            "watchdog": 2.0,
        }
        os.write(document, pack({**told, **job}))
        os.lseek(document, 0, os.SEEK_SET)
        env = {**os.environ, "OTPD_CONTROL_FD": str(theirs.fileno()), "OTPD_JOB_FD": str(document), "OTPD_NODE": "0123"}
        command = [sys.executable, SCRIPT]
        if prefix:
            command = ["sh", "-c", f'{prefix}; exec "$@"', "sh", *command]
        fds = (theirs.fileno(), document)
        self.process = subprocess.Popen(command, env=env, pass_fds=fds, stderr=subprocess.PIPE, text=True)
        theirs.close()
        os.close(document)
        self.heard: list[list[Any]] = []

    @classmethod
    def started(cls, runtime: Path, generation: int = 1, **options: Any) -> Broker:
        """Ready, with an empty snapshot."""
        broker = cls(runtime, generation, **options)
        broker.await_packet("ready")
        broker.snapshot()
        return broker

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.runtime}/{self.epoch}"

    @property
    def pid(self) -> int:
        return self.process.pid

    # --- what root says ---

    def say(self, *packet: Any) -> None:
        send_packet(self.channel, list(packet))

    def snapshot(self, *agents: Agent) -> None:
        self.say("snapshot", self.epoch)
        for agent in agents:
            self.row(agent)
        self.say("snapshot_end")

    def row(self, agent: Agent, state: str = "ready", **other: Any) -> None:
        known = {"name": agent.name, "kind": "agent", "inc": agent.inc, "pid": agent.pid, "state": state}
        self.say("row", {**known, "identity": agent.identity, "token": agent.token, **other})

    def death(self, agent: Agent, reason: str = "killed") -> None:
        self.say("death", agent.name, agent.inc, reason)

    # --- what it says ---

    def hear(self, wait: float = 0.0) -> list[list[Any]]:
        """All packets so far; those that come within `wait` seconds."""
        while select.select([self.channel], [], [], wait)[0]:
            packet = receive_packet(self.channel)
            if packet is None:
                break
            self.heard.append(packet[0])
            wait = 0.0
        return self.heard

    def await_packet(self, verb: str, *, since: int = 0) -> list[Any]:
        """The first packet that begins with `verb`, of those after the first `since`."""
        end = time.monotonic() + DEADLINE
        while True:
            for packet in self.hear(0.01)[since:]:
                if packet[0] == verb:
                    return packet
            assert self.process.poll() is None, f"the broker ended with {self.process.returncode}: {self.errors()}"
            assert time.monotonic() < end, f"no {verb}; heard {self.heard}"

    # --- its end ---

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def ended(self) -> tuple[int, str]:
        """Status and what it wrote to stderr, when it has ended by itself."""
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors

    def close(self) -> None:
        self.resume()
        self.kill()
        self.channel.close()
        if self.process.stderr is not None:
            self.process.stderr.close()


class Agent:
    """An incarnation in the test's own process: an endpoint with real sockets, moved by `turn`."""

    def __init__(self, name: str, generation: int = 1) -> None:
        self.name, self.generation, self.inc, self.pid = name, generation, inc(generation), os.getpid()
        self.identity, self.token = b"\x01" + secrets.token_bytes(15), secrets.token_bytes(32)
        self.end = Endpoint(name, self.inc, self.token)
        self.heard: list[Happening] = []
        self.lanes: Lanes | None = None

    @classmethod
    def joined(cls, broker: Broker, name: str, generation: int = 1, **row: Any) -> Agent:
        """Announced by root, connected and welcomed."""
        agent = cls(name, generation)
        broker.row(agent, **row)
        agent.connect(broker)
        agent.until(lambda: agent.end.phase is Phase.LIVE)
        agent.heard.clear()
        return agent

    def connect(self, broker: Broker) -> None:
        self.close()
        self.lanes = Lanes(broker.endpoint, self.identity)
        self.end.connected(broker.epoch, time.monotonic_ns())

    def lose(self) -> None:
        """root has said that the broker is gone."""
        self.turn()
        self.close()
        self.end.lost(time.monotonic_ns())
        self.turn()

    def close(self, drain: bool = False) -> None:
        if self.lanes is not None:
            self.lanes.close(drain)
            self.lanes = None

    def turn(self, read: bool = True) -> None:
        """Send and receive what can be; what happened is in `heard`, deliveries count as handled."""
        now = time.monotonic_ns()
        if self.lanes is not None:
            self.lanes.send(self.end.outgoing())
            for lane, frame in self.lanes.receive() if read else ():
                self.end.received(lane, frame, now)
        self.end.expire(now)
        while self.end.happened:
            happening = self.end.happened.popleft()
            self.heard.append(happening)
            if isinstance(happening, Delivered):
                self.end.handled(1, len(happening.body))
                self.on_delivered(happening)
        if self.lanes is not None:
            self.lanes.send(self.end.outgoing())

    def on_delivered(self, message: Delivered) -> None:
        """Calls are answered with their own body."""
        if message.call is not None:
            self.end.reply(message.call, Status.OK, message.body)

    def until(self, condition: Callable[[], T], *others: Agent, deadline: float = DEADLINE) -> T:
        """Turn, and let the others turn, until `condition` holds; its value."""
        end = time.monotonic() + deadline
        while True:
            for agent in (self, *others):
                agent.turn()
            value = condition()
            if value:
                return value
            assert time.monotonic() < end, f"{self.name} has heard {self.heard[-20:]}"
            time.sleep(0.0005)

    def hears(self, kind: type[T], *others: Agent, count: int = 1) -> list[T]:
        """The first `count` happenings of that type."""

        def found() -> list[T]:
            hits = [each for each in self.heard if isinstance(each, kind)]
            return hits if len(hits) >= count else []

        return self.until(found, *others)

    def ask(self, name: str, body: bytes, *others: Agent, seconds: float = 5.0) -> Replied | CallFailed:
        """A call and its outcome."""
        now = time.monotonic_ns()
        request = self.end.call(Address(name), body, now + int(seconds * SECOND), now)

        def outcome() -> Replied | CallFailed | None:
            ends = (each for each in self.heard if isinstance(each, Replied | CallFailed) and each.request == request)
            return next(ends, None)

        found = self.until(outcome, *others)
        assert found is not None
        return found


class Child:
    """An incarnation in a process of its own: writes what happens to it to its output, ends when it is fenced.

    It does what it is told on its input: `cast NAME`.
    """

    CODE = """
        import os, sys, time
        from otpd.ipc.endpoint import Address, Endpoint
        from otpd.ipc.happenings import Delivered, Fenced
        from otpd.ipc.sockets import Lanes
        endpoint, epoch, name, inc, identity, token = sys.argv[1:]
        end = Endpoint(name, int(inc), bytes.fromhex(token))
        lanes = Lanes(endpoint, bytes.fromhex(identity))
        end.connected(epoch, time.monotonic_ns())
        os.set_blocking(0, False)
        while True:
            lanes.send(end.outgoing())
            if 0 in lanes.wait(5, 0):
                for line in (os.read(0, 4096) or os._exit(0)).decode().splitlines():
                    end.cast(Address(line.split()[1]), b"from a child")
            for lane, frame in lanes.receive():
                end.received(lane, frame, time.monotonic_ns())
            while end.happened:
                happening = end.happened.popleft()
                print(happening, flush=True)
                if isinstance(happening, Delivered):
                    end.handled(1, len(happening.body))
                if isinstance(happening, Fenced):
                    os._exit(0)
    """

    def __init__(self, broker: Broker, agent: Agent) -> None:
        words = [broker.endpoint, broker.epoch, agent.name, str(agent.inc), agent.identity.hex(), agent.token.hex()]
        command = [sys.executable, "-c", textwrap.dedent(self.CODE), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


class Raw:
    """Bytes on the broker's socket, without ZeroMQ."""

    def __init__(self, broker: Broker, lane: Lane = Lane.DATA) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(f"{broker.runtime}/{broker.epoch}-{lane.value}")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def handshake(self, identity: bytes) -> None:
        """ZMTP 3.0, mechanism NULL, as a DEALER."""
        self.say(b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48)
        ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity" + len(identity).to_bytes(4, "big") + identity
        self.say(b"\x04" + bytes([len(ready)]) + ready)
        self.receive(64)

    def receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            chunk = self.socket.recv(size - len(found))
            assert chunk, "the broker closed the connection"
            found += chunk
        return found

    def closed(self) -> bool:
        """Whether the broker closes the connection within the deadline."""
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.socket.close()
