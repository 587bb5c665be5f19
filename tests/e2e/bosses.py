"""An agent that keeps children of its own as a test tells it to, by the bare protocol; and how a test tells it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.e2e.node import Node
from tests.helpers import eventually

#: Listens at NAME.sock: a line with a JSON list of requests, answered by a line with a list of [ref, ok, value] in the order
#: in which they came. When it is asked to stop it does what FAREWELL (JSON, in its environment) says, prints how that
#: went, and ends. At its start it prints which of the pids in NAME.below still live.
BOSS = """
import contextlib, json, os, signal, socket
from otpd.ipc.frames import receive_packet, send_packet

NAME = os.environ["OTPD_CHILD"]
channel = socket.socket(fileno=int(os.environ["OTPD_CONTROL_FD"]))


def ask(requests):
    for ref, request in enumerate(requests):
        send_packet(channel, ["child", ref, *request])
    answers = []
    while len(answers) < len(requests):
        packet = receive_packet(channel)
        if packet is None:
            os._exit(1)
        if packet[0][0] == "child":
            answers.append(packet[0][1:])
    return answers


def stop(_number, _frame):
    farewell = json.loads(os.environ.get("FAREWELL", "[]"))
    print("farewell", json.dumps(ask(farewell)), flush=True)
    os._exit(0)


def survivors():
    try:
        with open(f"{NAME}.below") as file:
            return [int(pid) for pid in file if os.path.exists(f"/proc/{int(pid)}")]
    except FileNotFoundError:
        return []


signal.signal(signal.SIGTERM, stop)
print(f"survivors {survivors()}\\n", end="", flush=True)  # in one piece, whenever it is killed
if "EARLY" in os.environ:
    print("early", json.dumps(ask(json.loads(os.environ["EARLY"]))), flush=True)
door = socket.socket(socket.AF_UNIX)
try:
    os.unlink(f"{NAME}.sock")
except FileNotFoundError:
    pass
door.bind(f"{NAME}.sock")
door.listen()
send_packet(channel, ["ready"])
while True:
    visitor, _ = door.accept()
    with visitor:
        requests = json.loads(visitor.makefile().readline())
        if requests == "flood":
            for number in range(20_000):
                send_packet(channel, ["child", number, "start", {"name": "x" * 50}])
            requests = []
        answers = json.dumps(ask(requests)) + "\\n"
        with contextlib.suppress(OSError):  # who does not wait for the answer does not want it
            visitor.sendall(answers.encode())
"""

#: A child that notes its pid for its owner, and is ready at once.
CHILD = """
import os
from otpd.agents import Agent, Ignore, run

class Child(Agent):
    async def init(self, how="well", owner="boss"):
        with open(f"{owner}.below", "a") as file:
            file.write(f"{os.getpid()}\\n")
        if how == "crash":
            raise ValueError("boom")
        if how == "ignore":
            raise Ignore
        print("init", flush=True)

    async def terminate(self, reason):
        print("terminate", reason, flush=True)

run(Child)
"""

#: Notes its pid and is never ready.
NEVER = """
import os, time
with open("boss.below", "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    time.sleep(60)
"""

FILES = {"boss.py": BOSS, "child.py": CHILD, "never.py": NEVER}
CONFIG = '[agents.boss]\nscript = "boss.py"\n'


@contextmanager
def asking(n: Node, boss: str, requests: Any) -> Iterator[Any]:
    """The requests are on their way; the answers are lines of the file that this gives."""
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.settimeout(30)
        eventually(lambda: _connected(visitor, str(n.home / f"{boss}.sock")), 10, f"{boss} listens")
        with visitor.makefile("rw") as lines:
            lines.write(json.dumps(requests) + "\n")
            lines.flush()
            yield lines


def _connected(visitor: socket.socket, path: str) -> bool:
    try:
        visitor.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def ask(n: Node, *requests: Any, boss: str = "boss") -> list[tuple[bool, Any]]:
    """(ok, value) of each request, which must be answered in their order."""
    with asking(n, boss, requests) as lines:
        answers = json.loads(lines.readline())
    assert [ref for ref, _, _ in answers] == list(range(len(requests)))
    return [(ok, value) for _, ok, value in answers]


def start(n: Node, name: str, boss: str = "boss", **table: Any) -> dict[str, Any]:
    """A child of `boss` that runs; its row in `status`."""
    what = {} if "command" in table else {"script": "child.py"}
    answers = ask(n, ["start", {"name": name, **what, **table}], boss=boss)
    assert answers[0][0], answers
    return n.worker(name)
