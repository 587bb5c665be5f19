"""A broker that only listens and says what it is told: root's side of the protocol, without messages.

It takes the place of `otpd.ipc.broker` in a node by a sitecustomize of the node's own interpreters: where
`supervisor.services` looks for the room of the broker, it finds another one. What root says to it
is appended to a file; what comes on its socket goes to root.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack

from tests.e2e.node import Node, node
from tests.helpers import eventually

#: Not `importlib.util` itself: what is imported here is imported in every interpreter of the node.
INSTEAD = """
import importlib.util, types
find = importlib.util.find_spec

def find_spec(name, package=None):
    return types.SimpleNamespace(submodule_search_locations=[{room!r}]) if name == "otpd.ipc" else find(name, package)

importlib.util.find_spec = find_spec
"""
SCRIPT = """
import os, pathlib, select, signal, socket, sys, msgpack

home = pathlib.Path({home!r})
job = msgpack.unpackb(open(int(os.environ["OTPD_JOB_FD"]), "rb").read())
channel = socket.socket(fileno=int(os.environ["OTPD_CONTROL_FD"]))
orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
(home / "fake.sock").unlink(missing_ok=True)
orders.bind(str(home / "fake.sock"))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
(home / f"job.{{job['generation']}}").write_bytes(msgpack.packb(job))
heard = open(home / f"heard.{{job['generation']}}", "ab", buffering=0)
say = lambda packet: channel.send(msgpack.packb(packet))
say(["ready"])
deaf = False
while True:
    say(["beat"])
    ready, _, _ = select.select([orders] if deaf else [channel, orders], [], [], 0 if stopped else 0.2)
    if stopped and not ready:
        sys.exit(0)
    if channel in ready:
        data = channel.recv(1 << 20)
        if not data:
            sys.exit(0)
        heard.write(len(data).to_bytes(4, "big") + data)
    if orders in ready:
        order = orders.recv(1 << 20)
        if order in (b"deaf", b"hear"):
            deaf = order == b"deaf"
        elif order == b"exit":
            sys.exit(3)
        else:
            channel.send(order)
"""


class FakeBroker:
    """`heard(generation)`: the packets of root, in order."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def heard(self, generation: int = 1) -> list[list[Any]]:
        try:
            data = (self._home / f"heard.{generation}").read_bytes()
        except FileNotFoundError:
            return []
        packets = []
        while len(data) >= 4 and len(data) >= 4 + (length := int.from_bytes(data[:4], "big")):
            packets.append(msgpack.unpackb(data[4 : 4 + length]))
            data = data[4 + length :]
        return packets

    def job(self, generation: int = 1) -> dict[str, Any]:
        """The document that it was given."""
        found: dict[str, Any] = msgpack.unpackb((self._home / f"job.{generation}").read_bytes())
        return found

    def say(self, *packet: Any) -> None:
        """To root."""
        self.order(msgpack.packb(list(packet)))

    def order(self, word: bytes) -> None:
        """deaf, hear or exit."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.sendto(word, str(self._home / "fake.sock"))

    def copy(self, generation: int = 1) -> dict[str, dict[str, Any]]:
        """The rows as a broker would hold them after all that it heard."""
        rows: dict[str, dict[str, Any]] = {}
        for packet in self.heard(generation):
            match packet:
                case ["snapshot", _]:
                    rows = {}
                case ["row", row]:
                    rows[row["name"]] = row
                case ["gone", name]:
                    rows.pop(name, None)
        return rows

    def states(self, generation: int = 1) -> dict[str, str]:
        return {name: row["state"] for name, row in self.copy(generation).items()}

    def row(self, name: str, generation: int = 1, **wanted: Any) -> dict[str, Any]:
        """The row of `name` once each key has the wanted value."""

        def found() -> dict[str, Any] | None:
            row = self.copy(generation).get(name, {})
            return row if row and all(row[key] == value for key, value in wanted.items()) else None

        return eventually(found, 10, f"the row of {name} with {wanted}")  # type: ignore[return-value]


@contextmanager
def node_with_fake(
    config: str, files: dict[str, str] | None = None, start: bool = True
) -> Iterator[tuple[Node, FakeBroker]]:
    with node(config, files, start=False) as n:
        n.write("fake/broker.py", SCRIPT.format(home=str(n.home)))
        n.write("lib/sitecustomize.py", INSTEAD.format(room=str(n.home / "fake")))
        n.env["PYTHONPATH"] = str(n.home / "lib")
        if start:
            n.start()
        yield n, FakeBroker(n.home)
