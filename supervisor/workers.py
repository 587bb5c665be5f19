"""The shell around incarnations: turns the tree's effects into processes, and what processes do into the tree's events.

It decides nothing: `incarnation` says what happens next. Here is the table of all incarnations (`live`), keyed by path, and
the timers of each; how their processes come is in `starts`, how they go in `endings`.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from otpd.ipc.frames import close_all
from otpd.supervisor import launch, linux, sweep
from otpd.supervisor.endings import Endings
from otpd.supervisor.events import AbortStart, EndWorker, Event, Exited, Spawn, StartFailed, StartIgnored, Stop
from otpd.supervisor.incarnation import (
    Action,
    Arm,
    Disarm,
    Due,
    Dump,
    End,
    Incarnation,
    Phase,
    Probe,
    Status,
    Tell,
)
from otpd.supervisor.intensity import Budget
from otpd.supervisor.journal import Death, as_specified
from otpd.supervisor.live import REASON_LIMIT, TRACEBACK_LIMIT, Live
from otpd.supervisor.loop import LATE
from otpd.supervisor.notify import Sender
from otpd.supervisor.readiness import Prober
from otpd.supervisor.spec import BRUTAL_KILL, Launch
from otpd.supervisor.starts import Starts

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Phases in which a pid is worth showing.
_SHOWN = (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING, Phase.DUMPING, Phase.STOPPING)


class Workers:
    """The table. At most one incarnation per path: the tree starts the next one only after the last one's end."""

    def __init__(self, root: Root) -> None:
        self._root, self._loop = root, root.loop
        self._table: dict[str, Live] = {}
        self._paths: dict[str, str] = {}  # by name, of those in the table
        self._asked: dict[str, str] = {}
        self.starts = Starts(root, self._act, self._born, self._heard)
        self.endings = Endings(root, self._act, self._last_words)

    # --- what the tree wants ---

    def spawn(self, effect: Spawn) -> None:
        """Begin a start attempt."""
        what = effect.spec.start
        assert isinstance(what, Launch)
        what = self._root.link.launch(effect.spec.id, what)
        incarnation = Incarnation(effect.path, effect.generation, what, effect.spec.shutdown)
        live = Live(effect.path, effect.spec, what, incarnation, self._loop.now)
        self._table[effect.path] = live
        self._paths[live.name] = live.path
        self._root.journal.belongs(live.name, what.group)
        self._act(live, incarnation.begin())
        self.starts.begin(live)

    def stop(self, effect: Stop) -> None:
        live = self._table.get(effect.path)
        if live is None or live.generation != effect.generation:
            return
        live.asked_by = live.asked_by or self._asked.pop(effect.path, None) or "its supervisor"
        self._act(live, live.incarnation.ask(effect.shutdown))

    def abort(self, effect: AbortStart) -> None:
        live = self._table.get(effect.path)
        if live is not None and live.generation == effect.generation:
            stopping = self._root.phase == "stopping"
            live.asked_by = "operator" if stopping else "its supervisor"
            self._act(live, live.incarnation.abort(f"{'the node' if stopping else 'its supervisor'} is stopping"))

    def end_worker(self, effect: EndWorker) -> None:
        """It can't go on without its own children."""
        live = self._table.get(effect.path)
        if live is not None and live.generation == effect.generation:
            live.asked_by = live.asked_by or "its children"
            self._act(live, live.incarnation.terminate(f"error({effect.why})"))

    def asked(self, path: str, by: str) -> None:
        """The next stop of `path` is somebody's wish; kept for its death record, if there is anything to stop."""
        if path in self._table:
            self._asked[path] = by

    def forget(self, path: str) -> None:
        """The child was deleted."""
        self._root.notify.forget(path)
        self.starts.forget(path)
        self._asked.pop(path, None)

    def kill_all(self) -> None:
        """Second ^C: no more waiting."""
        for live in list(self._table.values()):
            self._act(live, live.incarnation.ask(BRUTAL_KILL))

    # --- what others want to know ---

    def live(self, path: str) -> Live | None:
        """The incarnation that has a process now."""
        found = self._table.get(path)
        return found if found is not None and found.pid and found.incarnation.phase in _SHOWN else None

    def named(self, name: str) -> Live | None:
        """The incarnation of `name` that has a process now."""
        path = self._paths.get(name)
        return None if path is None else self.live(path)

    def running(self) -> list[Live]:
        """Those that are ready."""
        return [live for live in self._table.values() if live.incarnation.phase is Phase.RUNNING]

    def alive_names(self) -> list[str]:
        """Who is still there: the services, whose turn to stop comes last, only when nobody else is."""
        everybody = list(self._table.values())
        return [live.name for live in everybody if live.launch.kind != "service"] or [live.name for live in everybody]

    def send_signal(self, path: str, number: int) -> int | None:
        """The pid that got it, or None when there is no process."""
        live = self.live(path)
        if live is None or live.pidfd < 0:
            return None
        try:
            signal.pidfd_send_signal(live.pidfd, number)
        except (ProcessLookupError, PermissionError):
            return None
        return live.pid

    def notified(self, path: str, sender: Sender, message: dict[str, str]) -> None:
        """sd_notify on the socket of the child at `path`."""
        live = self._table.get(path)
        if live is None or not self._speaks_for(live, sender):
            return
        if message.get("READY") == "1" and live.launch.ready == "notify":
            self._act(live, live.incarnation.ready())
        if message.get("WATCHDOG") == "1":
            self._act(live, live.incarnation.beat())

    def end(self, live: Live, why: str) -> None:
        """Root's own wish: it must be another incarnation that goes on."""
        self._act(live, live.incarnation.over_limit(why))

    def terminate(self, live: Live, reason: str) -> None:
        """A link of its broke."""
        live.asked_by = live.asked_by or "a link"
        self._act(live, live.incarnation.terminate(reason))

    def _speaks_for(self, live: Live, sender: Sender) -> bool:
        """Its main process, or one with its cookie. Who has exited before it was heard can't be asked; then it counts that
        it came on the child's own socket, from the child's user."""
        if sender.pid == live.pid:
            return True
        found = linux.stat(sender.pid)
        if found is None or found.exiting:
            return sender.uid == _uid_of(live.pid)
        cookie = sweep.cookie_of(sender.pid)
        mine = {launch.NODE: self._root.node_id, launch.CHILD: live.name, launch.GENERATION: str(live.generation)}
        return all(cookie.get(key) == value for key, value in mine.items())

    # --- what its processes do ---

    def _born(self, live: Live) -> None:
        self.endings.watch(live)
        self._root.link.born(live)

    def _heard(self, live: Live, value: Any, fds: list[int]) -> None:
        """A packet of a worker; descriptors that it sends are closed."""
        close_all(fds)
        live.tells_health |= value == ["health"]
        self._act(live, _understood(live.incarnation, value))
        if self._root.link.is_broker(live):
            self._root.link.heard(value)
        self._root.own_children.heard(live, value)
        self._root.reaching.heard(live, value)
        self._root.service_events.heard(live, value)
        self._root.spawns.heard(live, value)

    def _last_words(self, live: Live) -> None:
        """It is dead: what it has said until then counts."""
        self.starts.settle(live)
        if live.channel is not None:
            live.channel.drain()
        self._root.notify.drain(live.path)

    # --- actions of the incarnation ---

    def _act(self, live: Live, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Tell(event):
                    self._tell(live, event)
                case Arm(due, delay):
                    self._disarm(live, due)
                    live.timers[due] = self._loop.after(delay, lambda due=due: self._due(live, due))  # type: ignore[misc]
                case Disarm(due):
                    self._disarm(live, due)
                case Probe():
                    live.prober = Prober(self._root, live, lambda: self._act(live, live.incarnation.ready()))
                case Dump():
                    shown, cause = self._root.shown(live.path), live.incarnation.cause
                    self._root.journal.event("child.frozen", live.name, shown, live.generation, reason=cause)
                    sweep.ask(live.pidfd, signal.SIGQUIT)
                case End(shutdown):
                    self.endings.end(live, shutdown)

    def _due(self, live: Live, due: Due) -> None:
        live.timers.pop(due, None)
        if due is Due.SILENT and self._loop.lag > LATE:
            self._act(live, live.incarnation.beat())  # root itself stood still, and perhaps so did the whole machine
        else:
            self._act(live, live.incarnation.due(due))

    def _disarm(self, live: Live, due: Due) -> None:
        timer = live.timers.pop(due, None)
        if timer is not None:
            timer.cancel()

    def _tell(self, live: Live, event: Event) -> None:
        """The tree hears of an end only when the row is out of the table: it may start the next one at once."""
        if isinstance(event, Exited | StartFailed | StartIgnored):
            self._forget(live, event)
        else:
            self._root.link.ready(live)
            live.ready_at = self._loop.now
            self._root.health.tell(live)
        self._root.feed(event)
        if not isinstance(event, Exited | StartFailed | StartIgnored):
            self._root.reaching.ready(live)

    def _forget(self, live: Live, event: Exited | StartFailed | StartIgnored) -> None:
        self._root.zygote.withdraw(live)
        self._root.health.died(live)
        self._root.link.died(live, live.incarnation.last_reason)
        live.close_process(self._loop)
        live.close_output(self._loop)
        self._root.notify.drain(live.path)
        if live.prober is not None:
            live.prober.close()
        if self._table.get(live.path) is live:
            del self._table[live.path]
            if self._paths.get(live.name) == live.path:
                del self._paths[live.name]
        self._root.logger.exited(live.name, live.generation)
        if not isinstance(event, StartIgnored):
            self._record(live, str(event.reason))

    def _record(self, live: Live, reason: str) -> None:
        at, lived, budget = time.time(), self._loop.now - live.began, self._root.budget(live.path)
        self._root.journal.death(live.name, lambda: self._death_of(live, reason, at, lived, budget))

    def _death_of(self, live: Live, reason: str, at: float, lived: float, budget: Budget) -> Death:
        incarnation, status = live.incarnation, live.incarnation.status or Status()
        specified = as_specified(live.spec.shutdown, reason, live.asked_by)
        return Death(
            generation=live.generation,
            reason=reason,
            status=status.code,
            signal=status.signal,
            at=at,
            uptime_s=round(lived, 3),
            asked_by=live.asked_by,
            cause=self._out_of_memory(live) if incarnation.killed_by_others else incarnation.cause or specified,
            restarts_in_window=budget.used,
            left=live.left,
            detached=live.launch.detach,
            path=self._root.shown(live.path),
            kind=live.launch.kind,
            max_restarts=budget.max_restarts,
            max_seconds=budget.max_seconds,
            traceback=incarnation.traceback,
            resources=status.resources,
        )

    def _out_of_memory(self, live: Live) -> str | None:
        cause = self._root.oom.cause(live.pid)
        if cause is not None:
            self._root.journal.event("child.oom", live.name, self._root.shown(live.path), live.generation, reason=cause)
        return cause


def _understood(incarnation: Incarnation, packet: Any) -> list[Action]:
    """What a worker says on its channel; anything else is ignored."""
    match packet:
        case ["spawned"]:
            return incarnation.set_up()
        case ["failed", str(why)]:
            return incarnation.failed(why[:REASON_LIMIT])
        case ["ready"]:
            return incarnation.ready()
        case ["ignore"]:
            return incarnation.ignored()
        case ["beat"]:
            return incarnation.beat()
        case ["exit", str(reason)]:
            return incarnation.announce(reason[:REASON_LIMIT])
        case ["traceback", str(trace)]:
            return incarnation.raised(trace[-TRACEBACK_LIMIT:])
    return []


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
