"""root's side of the broker: what incarnations prove themselves with, who has which name, and where the broker is.

`addresses` holds the table and says what the broker must hear; this feeds it from root's workers, and moves packets as the
broker's channel takes them. The broker is a child like any other: it comes and goes under its supervisor, and root waits
for nothing that it does. What it may ask of root: to end an incarnation whose link broke, and to note an event.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor.addresses import Addresses, Presence, Row
from otpd.supervisor.launch import Credentials, fresh_secrets
from otpd.supervisor.life import inc_of
from otpd.supervisor.services import BROKER
from otpd.supervisor.spec import SPEAKING, Launch
from otpd.supervisor.tree import View, WorkerView, walk

if TYPE_CHECKING:
    from otpd.supervisor.live import Live
    from otpd.supervisor.root import Root

#: Packets that are given to the broker's channel, or agents that are told of a broker, in one turn of the loop.
PER_TURN: Final = 200
#: Characters of what the broker says of an end.
REASON_LIMIT: Final = 500
#: Seconds between a change of supervisors and the look at every name.
LOOK: Final = 0.05
#: Notices that may concern more names than their own path says, and those that say nothing new of any.
_OF_SUPERVISORS: Final = frozenset(
    {"gave_up", "auto_shutdown"}
    | {f"supervisor_{what}" for what in ("init", "started", "ignored", "start_failed", "killed", "stopped")}
)
_REPORTS: Final = frozenset({"child_terminated", "start_error", "shutdown", "shutdown_error", "child_started"})
_ABSTRACT: Final = "an agent runs as another user, who needs an abstract endpoint"
#: What becomes of a name whose process is gone; in the states that are missing here that is not known yet.
_PRESENCE: Final = {
    "starting": Presence.STARTING,
    "restarting": Presence.RESTARTING,
    "backoff": Presence.RESTARTING,
    "stopped": Presence.STOPPED,
    "failed": Presence.STOPPED,
}


class BrokerLink:
    """`epoch` is that of the broker that is ready, None while there is none."""

    def __init__(self, root: Root) -> None:
        self._root, self._loop = root, root.loop
        self.table = Addresses()
        self.epoch: str | None = None
        self.changes: list[Callable[[], None]] = []  # whom to call when there is another broker, or none any more
        self.packets: list[Callable[[list[Any]], None]] = []  # who hears what the broker says
        self._broker: Live | None = None  # while it is ready
        self._lives: dict[str, Live] = {}  # by name: who has it
        self._abstract = any(_is_foreign(view.spec.start) for view in self._views())
        self._paths: dict[str, str] = {}  # by name: where in the tree it was last seen
        self._noted: list[Callable[[], None]] = []  # what has happened to incarnations and is not in the table yet
        self._touched: set[str] = set()  # paths of which the tree has said something since
        self._to_tell: deque[Live] = deque()
        self._looking = self._pumping = False
        for path in root.paths.endpoints():  # of a broker of an earlier life, which is dead
            _unlink(str(path))

    # --- what an incarnation is given ---

    def launch(self, name: str, what: Launch) -> Launch:
        """How it is started in fact: the broker is told whether it must open to other users."""
        return replace(what, args={**what.args, "abstract": True}) if name == BROKER and self._abstract else what

    def credentials(self, live: Live) -> Credentials | None:
        """Fresh ones, which nobody else has had; None for what does not speak."""
        if live.launch.kind not in SPEAKING:
            return None
        foreign = _is_foreign(live.launch)
        if foreign and not self._abstract:
            self._open_to_others()
        identity, token = fresh_secrets()
        return Credentials(
            life=self._root.life.number,
            identity=identity,
            token=token,
            broker=self.endpoint(foreign) if live.name != BROKER else None,
            runtime=str(self._root.paths.runtime_dir),
        )

    def endpoint(self, foreign: bool = False) -> tuple[str, str] | None:
        """(epoch, endpoint) of the broker for a process of this user, or of another one; None while there is none."""
        if self._broker is None or self.epoch is None:
            return None
        if not foreign:
            return self.epoch, f"ipc://{self._root.paths.endpoint(self.epoch)}"
        opened = self._broker.launch.args.get("abstract")
        return (self.epoch, f"ipc://@otpd-{self._root.node_id}-{self.epoch}") if opened else None

    def _open_to_others(self) -> None:
        """The broker that runs can't be reached by other users; its next incarnation can."""
        self._abstract = True
        if self._broker is not None:
            self._root.workers.end(self._broker, _ABSTRACT)

    # --- what happens to incarnations ---

    def born(self, live: Live) -> None:
        """Its process exists."""
        own = live.credentials
        if own is None or live.name == BROKER:
            return
        self._lives[live.name] = live
        self._paths[live.name] = live.path  # nobody has looked at one that an agent or a request has just added
        self._note(lambda: self.table.born(self._row(live, own)))

    def _row(self, live: Live, own: Credentials) -> Row:
        return Row(
            name=live.name,
            kind=live.launch.kind,
            inc=self._inc(live),
            pid=live.pid,
            identity=own.identity,
            token=own.token,
            group=live.launch.group,
            inbox=live.launch.inbox,
            owners=self._root.tree.owners(live.path),
        )

    def ready(self, live: Live) -> None:
        if live.credentials is None:
            return
        if live.name == BROKER:
            self._up(live)
        else:
            self._note(lambda: self.table.ready(live.name, self._inc(live)))

    def died(self, live: Live, reason: str) -> None:
        """Its main process is gone; to be said as soon as that is known, and harmless to say again."""
        if live.credentials is None:
            return
        if live.name == BROKER:
            self._down(live)
        elif self._lives.get(live.name) is live:
            del self._lives[live.name]
            self._touched.add(live.path)
            self._note(lambda: self.table.died(live.name, self._inc(live), reason))

    def _inc(self, live: Live) -> int:
        return inc_of(self._root.life.number, live.generation)

    def client_came(self, row: Row) -> None:
        """A program that root did not start."""
        self.table.born(row)
        self._pump_later()

    def client_went(self, row: Row) -> None:
        self.table.died(row.name, row.inc, "normal")
        self.table.remove(row.name)
        self._pump_later()

    # --- what becomes of names ---

    def noticed(self, kind: str, path: str) -> None:
        """The tree has said something of `path`: what it means for names is seen when it is done with its event."""
        if kind in _OF_SUPERVISORS:
            self.look_soon()
        elif kind not in _REPORTS:
            self._touched.add(path)
            self._pump_later()

    def look_soon(self) -> None:
        """More than one name may be concerned."""
        if not self._looking:
            self._looking = True
            self._loop.after(LOOK, self.look)

    def _settle_touched(self) -> None:
        touched, self._touched = self._touched, set()
        for path in touched:
            view = self._root.tree.view(path)
            if view is None:
                self._removed(path)
            elif _speaks(view):
                self._settle(view)

    def look(self) -> None:
        """At every name of the tree."""
        self._looking = False
        self._work_off()
        views = self._views()
        for view in views:
            self._settle(view)
        for name in self._paths.keys() - {view.name for view in views}:
            self._remove(name)
        self._pump_later()

    def _views(self) -> list[WorkerView]:
        found = (view for view in walk(self._root.tree.snapshot()) if isinstance(view, WorkerView))
        return [view for view in found if _speaks(view)]

    def _settle(self, view: View) -> None:
        start = view.spec.start
        assert isinstance(start, Launch)
        self._paths[view.name] = view.path
        self.table.expect(view.name, start.kind, start.group, start.inbox)
        if view.state in _PRESENCE:
            self.table.settle(view.name, _PRESENCE[view.state])

    def _removed(self, path: str) -> None:
        """A worker that was deleted, or a supervisor with all that it had."""
        name = path.rpartition("/")[2]
        if self._paths.get(name) == path:
            self._remove(name)
        elif any(known.startswith(path + "/") for known in self._paths.values()):
            self.look_soon()

    def _remove(self, name: str) -> None:
        row = self.table.row(name)
        if row is not None and not row.alive:
            del self._paths[name]
            self.table.remove(name)

    # --- the broker ---

    def is_broker(self, live: Live) -> bool:
        return live.name == BROKER and live.launch.kind == "service"

    def heard(self, packet: Any) -> None:
        """What the broker says on its channel, beyond what every worker says of its life."""
        match packet:
            case ["terminate", str(name), int(inc), str(reason)]:
                self._terminate(name, inc, reason[:REASON_LIMIT])
        if isinstance(packet, list):
            for hear in self.packets:
                hear(packet)

    def send(self, packet: list[Any]) -> bool:
        """A packet beside the table's; False when there is no broker, or it does not read."""
        channel = self._broker.channel if self._broker is not None else None
        if channel is None or channel.full:
            return False
        channel.send(packet)
        return True

    def _terminate(self, name: str, inc: int, reason: str) -> None:
        live = self._lives.get(name)
        if live is not None and self._inc(live) == inc:
            self._root.workers.terminate(live, reason)

    def _up(self, live: Live) -> None:
        assert live.channel is not None
        self._broker, self.epoch = live, self._epoch_of(live)
        live.channel.on_room = self._pump
        self.look()
        self.table.up(self.epoch)
        self._pump()
        self._announce()

    def _down(self, live: Live) -> None:
        for lane in ("s", "d"):
            _unlink(f"{self._root.paths.endpoint(self._epoch_of(live))}-{lane}")
        if self._broker is live:
            self._broker = self.epoch = None
            self.table.down()
            self._announce()

    def _epoch_of(self, live: Live) -> str:
        return f"b{self._root.life.number}.{live.generation}"

    def _announce(self) -> None:
        """Everybody is told where the broker is: what is true when its turn comes."""
        self._to_tell = deque(self._lives.values())
        self._tell_some()
        for changed in self.changes:
            changed()

    def _tell_some(self) -> None:
        for _ in range(min(PER_TURN, len(self._to_tell))):
            live = self._to_tell.popleft()
            if live.channel is not None:
                live.channel.send(["broker", *(self.endpoint(_is_foreign(live.launch)) or (None, None))])
        if self._to_tell:
            self._loop.after(0.0, self._tell_some)

    def _note(self, what: Callable[[], None]) -> None:
        """Something has happened to an incarnation; the table hears of it a moment later, in order."""
        self._noted.append(what)
        self._pump_later()

    def _work_off(self) -> None:
        noted, self._noted = self._noted, []
        for what in noted:
            what()
        self._settle_touched()

    def _pump_later(self) -> None:
        """To wake the broker costs more than all that root computes: the next start of who has died goes first."""
        if not self._pumping:
            self._pumping = True
            self._loop.defer(self._pump)

    def flush(self) -> None:
        """Tell the broker now what it would hear in a moment."""
        self._pump()

    def _pump(self) -> None:
        """Give the broker news for as long as it takes them; its channel calls again when it has room."""
        self._pumping = False
        self._work_off()
        channel = self._broker.channel if self._broker is not None else None
        if channel is None:
            return
        for _ in range(PER_TURN):
            packet = self.table.next() if not channel.full else None
            if packet is None:
                return
            channel.send(packet)
        self._pumping = True
        self._loop.after(0.0, self._pump)


def _speaks(view: View) -> bool:
    """Has an address: the broker itself has none."""
    start = view.spec.start
    return isinstance(start, Launch) and start.kind in SPEAKING and view.name != BROKER


def _is_foreign(start: object) -> bool:
    """Runs as another user. Who that is, root does not look up: the abstract endpoint serves its own user as well."""
    return isinstance(start, Launch) and start.kind == "agent" and start.user is not None


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
