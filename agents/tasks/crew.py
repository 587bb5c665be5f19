"""The workers of a pool: own children of its dispatcher, each with a line.

Root starts and ends them. That one is gone is only said when root has proved that nothing of it is left, so that whoever
is told of a task's end may rely on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from otpd.agents.errors import OtpdError
from otpd.agents.tasks.lines import Hub, Line
from otpd.ipc.frames import close_all

SCRIPT: Final = os.path.join(os.path.dirname(__file__), "worker.py")
_ADDRESS: Final = "OTPD_POOL"
#: Who has connected and not said who it is: so many more than there are workers, and for so many seconds. A worker says it
#: at once; the seconds are for a machine that stands still.
_STRANGERS, _PATIENCE = 8, 30.0
#: Seconds without a free descriptor until the next look at who has connected.
_PAUSE: Final = 0.2
#: The reason of who ended because it was told to; and of who was told to because nothing could be heard of it any more.
_STOPPED: Final = "shutdown"
_HUNG_UP: Final = "it has closed its line to the pool, as a task does that closes descriptors which are not its own"
_CREDENTIALS: Final = struct.Struct("3i")


class Parent(Protocol):
    """Root, as an agent asks it for children."""

    async def start_child(self, spec: Mapping[str, Any]) -> Any: ...

    async def stop_child(self, name: str) -> None: ...


class Listener(Protocol):
    def ready(self, worker: int) -> None: ...

    def done(self, worker: int, ok: bool, memory: int, answer: Sequence[Any], fds: list[int]) -> None: ...

    def ending(self, worker: int) -> None: ...

    def lost(self, worker: int, why: str) -> None: ...

    def spawned(self, worker: int, told: Mapping[str, Any], seen: int, refused: int) -> None: ...

    def unguarded(self, why: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Worker:
    """`leaving`: it is told to stop, or its line has ended, which may be its own doing (`hung_up`). `why`: what is known of
    its end."""

    name: str
    secret: str
    line: Line | None = None
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What each worker is started with. `grace`: seconds between the request to end and the kill."""

    preload: Sequence[str] = ()
    grace: float = 0.5
    measures: bool = False  # tell how much memory it has after each task
    spawn: str = "warn"  # what becomes of processes that a task makes: allow, warn, deny


class Workers:
    """`prefix`: of their names. `after()` when something has happened that may leave messages to be sent."""

    def __init__(
        self, prefix: str, parent: Parent, equipment: Equipment, after: Callable[[], None], hub: Hub
    ) -> None:
        self.listener: Listener
        self._prefix, self._parent, self._equipment, self._after = prefix, parent, equipment, after
        self._rows: dict[int, _Worker] = {}
        self._loop, self._hub = asyncio.get_running_loop(), hub
        self._numbers: dict[Line, int] = {}
        self._strangers: dict[Line, None] = {}  # in the order in which they came
        self._lives: set[asyncio.Task[None]] = set()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._address = b"otpd-" + secrets.token_hex(16).encode()
        self._server.bind(b"\0" + self._address)
        self._server.listen(128)
        self._loop.add_reader(self._server.fileno(), self._accept)

    # --- what the machine wants ---

    def start(self, worker: int) -> None:
        self._rows[worker] = row = _Worker(f"{self._prefix}-{worker}", secrets.token_hex(16))
        life = self._loop.create_task(self._live(worker, row))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    def send(self, worker: int, message: list[Any], fds: Sequence[int]) -> None:
        line = self._rows[worker].line
        assert line is not None
        line.put(message, fds)

    def stop(self, worker: int) -> None:
        self._rows[worker].leaving.set()

    def ended(self, name: str, why: str) -> None:
        """Root says why one of them has ended."""
        for row in self._rows.values():
            if row.name == name:
                row.why = row.why or (_HUNG_UP if row.hung_up and why == _STOPPED else why)
                if row.line is None:  # and never will have one
                    row.leaving.set()

    def close(self) -> None:
        self._loop.remove_reader(self._server.fileno())
        self._server.close()
        for line in [*self._strangers]:
            self._dismiss(line)
        for row in self._rows.values():
            if row.line is not None:
                row.line.close()

    # --- one worker ---

    async def _live(self, worker: int, row: _Worker) -> None:
        try:
            await self._parent.start_child(self._table(row))
            await row.leaving.wait()
        except OtpdError as error:
            row.why = row.why or str(error)
        finally:
            with contextlib.suppress(OtpdError):  # it was gone already
                await self._parent.stop_child(row.name)
        if row.line is not None:
            self._numbers.pop(row.line, None)
            row.line.close()
        del self._rows[worker]
        self.listener.lost(worker, row.why)
        self._after()

    def _table(self, row: _Worker) -> dict[str, Any]:
        grace = self._equipment.grace
        return {
            "name": row.name,
            "kind": "program",
            "script": SCRIPT,
            "restart": "temporary",
            "shutdown": f"{max(1, int(grace * 1000))}ms" if grace else "brutal_kill",
            "env": {_ADDRESS: f"{self._address.hex()} {row.secret}"},
        }

    # --- lines ---

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._server.accept()
                self._greet(sock)
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free: it stays readable, and would be looked at without end
            self._loop.remove_reader(self._server.fileno())
            self._loop.call_later(_PAUSE, self._accept_again)

    def _accept_again(self) -> None:
        if self._server.fileno() >= 0:
            self._loop.add_reader(self._server.fileno(), self._accept)

    def _greet(self, sock: socket.socket) -> None:
        """A stranger until it has said the secret of one that is expected."""
        if _uid_of(sock) != os.getuid():
            sock.close()
            return
        line: Line

        def hear(message: list[Any], fds: list[int]) -> None:
            match message:
                case ["hello", str(secret)] if line in self._strangers:
                    close_all(fds)
                    self._introduced(line, secret)
                case _ if line in self._strangers:
                    close_all(fds)
                    self._dismiss(line)
                case _:
                    self._hear(line, message, fds)

        def gone() -> None:
            self._strangers.pop(line, None)
            self._numbers.pop(line, None)
            for number, row in self._rows.items():
                if row.line is line:
                    row.hung_up = not row.leaving.is_set()
                    row.leaving.set()
                    self.listener.ending(number)

        line = Line(sock, hear, gone, _nothing, hub=self._hub)
        self._strangers[line] = None
        self._loop.call_later(_PATIENCE, self._dismiss, line)
        if len(self._strangers) > len(self._rows) + _STRANGERS:
            self._dismiss(next(iter(self._strangers)))

    def _dismiss(self, line: Line) -> None:
        """Unless it is a stranger no more."""
        if line in self._strangers:
            del self._strangers[line]
            line.close()

    def _introduced(self, line: Line, secret: str) -> None:
        said = secret.encode(errors="surrogateescape")
        for number, row in self._rows.items():
            if row.line is None and secrets.compare_digest(row.secret.encode(), said):
                del self._strangers[line]
                self._known(number, line)
                return
        self._dismiss(line)

    def _known(self, worker: int, line: Line) -> None:
        self._rows[worker].line = line
        self._numbers[line] = worker
        equipment = self._equipment
        settings = {"measures": equipment.measures, "spawn": equipment.spawn, "preload": list(equipment.preload)}
        line.put(["settings", settings])

    def _hear(self, line: Line, message: list[Any], fds: list[int]) -> None:
        worker = self._numbers.get(line)
        match message:
            case ["done", int(), bool(ok), int(memory), codec, body, sizes] if worker is not None:
                self.listener.done(worker, ok, memory, (codec, body, sizes), fds)
                return
            case ["ready"] if worker is not None:
                self.listener.ready(worker)
            case ["failed", str(why)] if worker is not None:
                self._rows[worker].why = why
            case ["spawn", dict(told), int(seen), int(refused)] if worker is not None:
                self.listener.spawned(worker, told, seen, refused)
            case ["spawns", int(seen), int(refused)] if worker is not None:
                self.listener.spawned(worker, {}, seen, refused)
            case ["guard", list(), str(why)] if worker is not None and why:
                self.listener.unguarded(why)
        close_all(fds)


def _nothing() -> None:
    """The hub of all lines says when it is time to send."""


def _uid_of(sock: socket.socket) -> int:
    """Of who has connected."""
    uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return uid
