"""Programs that are no agents and yet speak to agents: operation `connect` of the control socket.

A client has a name that nobody chose, "@PID.N", and is gone when its connection closes. It is answered in parts, one at
once and one whenever there is another broker or none any more: {"name", "inc", "identity", "token", "broker"}, where
`broker` is [epoch, endpoint] or nil. What it says to agents goes through the broker, never through root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor import launch, sweep
from otpd.supervisor.addresses import Presence, Row
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.life import inc_of

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Clients at a time; the control socket has as many places again for operators.
MAX_CLIENTS: Final = 256


@dataclass(slots=True)
class Client:
    connection: Connection
    row: Row = field(repr=False)


class Clients:
    """By name."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._clients: dict[str, Client] = {}
        self._count = 0
        root.link.changes.append(self._broker_changed)
        root.link.packets.append(self._heard)

    def connect(self, connection: Connection, _request: dict[str, Any]) -> None:
        """The operation. It has no last answer: it ends with its connection."""
        if len(self._clients) >= MAX_CLIENTS:
            text = f"{MAX_CLIENTS} clients are connected, which is as many as a node takes"
            raise OperationError(3, text, "close those that are done, or make a frequent one an agent")
        self._count += 1
        identity, token = launch.fresh_secrets()
        row = Row(
            name=f"@{connection.pid}.{self._count}",
            kind="client",
            inc=inc_of(self._root.life.number, self._count),
            pid=connection.pid,
            identity=identity,
            token=token,
            state=Presence.READY,
            owners=self._owners(connection.pid),
        )
        self._clients[row.name] = Client(connection, row)
        connection.on_close = lambda: self._closed(row)
        self._root.link.client_came(row)
        self._tell(self._clients[row.name])

    def _owners(self, pid: int) -> tuple[str, ...]:
        """Of a client in a process of an agent, or in one that such a process has started: it is bound as that agent is."""
        cookie = sweep.cookie_of(pid)
        mine = cookie.get(launch.NODE) == self._root.node_id
        live = self._root.workers.named(cookie.get(launch.CHILD, "")) if mine else None
        return () if live is None else (live.name, *self._root.tree.owners(live.path))

    def _broker_changed(self) -> None:
        for client in list(self._clients.values()):
            self._tell(client)

    def _heard(self, packet: list[Any]) -> None:
        """A link of its broke: root can't end a program that is not its own, but the client is no more."""
        match packet:
            case ["terminate", str(name), int(inc), str(reason)] if name in self._clients:
                client = self._clients[name]
                if client.row.inc == inc:
                    why = OperationError(1, f"{name} is ended: {reason}", "trap exits to outlive those that it is linked to")
                    client.connection.refuse(why)

    def _tell(self, client: Client) -> None:
        row = client.row
        known = {"name": row.name, "inc": row.inc, "identity": row.identity, "token": row.token}
        client.connection.part({**known, "broker": self._root.link.endpoint()})

    def _closed(self, row: Row) -> None:
        del self._clients[row.name]
        self._root.link.client_went(row)

