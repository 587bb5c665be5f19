"""The shell around incarnations: turns the tree's effects into processes, and what processes do into the tree's events.

It decides nothing: `incarnation` says what happens next, `ladder` how a process is ended. Here are only the descriptors
and timers of each worker, in one table, keyed by path; pids are looked up, never trusted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from otpd.ipc.frames import close_all
from otpd.supervisor import cgroup, execspawn, ladder, launch, linux, spares, sweep
from otpd.supervisor.channel import Channel
from otpd.supervisor.events import AbortStart, EndWorker, Event, Exited, Spawn, StartFailed, StartIgnored, Stop
from otpd.supervisor.helpers import Blank
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
from otpd.supervisor.journal import Death
from otpd.supervisor.launch import Credentials
from otpd.supervisor.loop import LATE, ONCE, READ, Timer
from otpd.supervisor.nativespawn import NativeSpawner, Plan
from otpd.supervisor.notify import Sender
from otpd.supervisor.ownchildren import Requests
from otpd.supervisor.readiness import Prober
from otpd.supervisor.spec import BRUTAL_KILL, ChildSpec, Launch

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Characters of what a worker says of its own end.
_REASON_LIMIT = 500
#: Phases in which a pid is worth showing.
_SHOWN = (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING, Phase.DUMPING, Phase.STOPPING)


@dataclass(slots=True, eq=False)
class Live:
    """One incarnation with what the kernel gave for it. -1: no such descriptor now."""

    path: str
    spec: ChildSpec
    launch: Launch
    incarnation: Incarnation
    began: float
    pid: int = 0
    pidfd: int = -1
    channel: Channel | None = None
    credentials: Credentials | None = None  # of those that speak
    errors: int = -1  # how its exec went
    execed: bool = False  # exec has happened, and its incarnation is about to hear of it
    output: int = -1  # the write end of its pipe; see `_close_output`
    ladder: ladder.Ladder | None = None
    tick: Timer | None = None
    timers: dict[Due, Timer] = field(default_factory=dict)
    prober: Prober | None = None
    leaf: cgroup.Leaf | None = None
    asked_by: str | None = None
    left: list[str] = field(default_factory=list)
    requests: Requests | None = None  # for children of its own, once it has asked

    @property
    def name(self) -> str:
        return self.spec.id

    @property
    def cgroup(self) -> str | None:
        """Its directory."""
        return None if self.leaf is None else self.leaf.path

    @property
    def generation(self) -> int:
        return self.incarnation.generation


class Workers:
    """The table. At most one incarnation per path: the tree starts the next one only after the last one's end."""

    def __init__(self, root: Root) -> None:
        self._root, self._loop = root, root.loop
        self._table: dict[str, Live] = {}
        self._by_pid: dict[int, Live] = {}
        self._asked: dict[str, str] = {}
        self._sweeper = sweep.Sweeper()
        self._reaping = False
        self._pid = os.getpid()
        self._base = root.environment()
        self.native = NativeSpawner(self._base)
        self._plans: dict[str, tuple[Launch, Plan | None]] = {}

    # --- what the tree wants ---

    def spawn(self, effect: Spawn) -> None:
        """Begin a start attempt."""
        what = effect.spec.start
        assert isinstance(what, Launch)
        what = self._root.link.launch(effect.spec.id, what)
        incarnation = Incarnation(effect.path, effect.generation, what, effect.spec.shutdown)
        live = Live(effect.path, effect.spec, what, incarnation, self._loop.now)
        self._table[effect.path] = live
        self._act(live, incarnation.begin())
        try:
            live.output = self._root.logger.open(live.name, live.generation)
        except OSError as error:
            self._act(live, incarnation.launch_failed(f"no pipe for its output: {error.strerror}"))
            return
        # To look up a user may ask a directory service: a blank does that, root never waits for one.
        is_program = what.command is not None and what.kind == "program" and what.user is None
        try:
            plan = self._plan(live) if is_program else None
        except launch.LaunchError as error:
            self._act(live, incarnation.launch_failed(str(error)))
            return
        if plan is not None or (is_program and not self._root.zygote.blanks):
            self._exec(live, plan)
        else:
            self._root.zygote.take(live, lambda blank: self._assign(live, blank))

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
        self._plans.pop(path, None)
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

    def over_limit(self, name: str, generation: int, why: str) -> None:
        """It uses more than `restart_when` allows."""
        for live in self._table.values():
            if live.name == name and live.generation == generation:
                self._act(live, live.incarnation.over_limit(why))
                return

    def end(self, live: Live, why: str) -> None:
        """Root's own wish: it must be another incarnation that goes on."""
        self._act(live, live.incarnation.over_limit(why))

    def terminate(self, live: Live, reason: str) -> None:
        """A link of its broke."""
        live.asked_by = live.asked_by or "a link"
        self._act(live, live.incarnation.terminate(reason))

    def watch_memory(self) -> None:
        """After a reload: what is allowed may have changed for those that run on."""
        for live in self._table.values():
            view = self._root.tree.view(live.path)
            if live.incarnation.phase is Phase.RUNNING and view is not None and isinstance(view.spec.start, Launch):
                self._root.memory.watch(live.name, live.generation, live.pid, view.spec.start.restart_memory)

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

    # --- processes come ---

    def job(self, live: Live) -> launch.Job:
        """LaunchError when there can be no socket for its notifications."""
        what = live.launch
        if what.limits.files is None:
            what = replace(what, limits=replace(what.limits, files_soft=self._root.usual_files))
        notify = self._notify_address(live) if what.ready == "notify" or _beats_by_notify(what) else None
        if notify is not None and what.watchdog is not None:
            what = replace(what, env={**what.env, "WATCHDOG_USEC": str(int(what.watchdog * 1e6))})
        node_id, credentials = self._root.node_id, live.credentials
        return launch.job_of(what, live.name, live.generation, node_id, self._pid, live.cgroup, notify, credentials)

    def _notify_address(self, live: Live) -> str:
        try:
            return self._root.notify.address(live.path, live.launch.user is not None)
        except OSError as error:
            raise launch.LaunchError(f"no socket for sd_notify: {error.strerror}") from error

    def _plan(self, live: Live) -> Plan | None:
        """How root execs it at once; made again when the launch is another one. None: a blank or a fork shall do it."""
        what, plan = self._plans.get(live.path, (None, None))
        if what is not live.launch:
            plan = self.native.plan(self.job(live))
            if live.launch.user is None:
                self._plans[live.path] = live.launch, plan
        return plan if plan is not None and self.native.takes(plan) else None

    def _exec(self, live: Live, plan: Plan | None) -> None:
        """The tree hears of it in a turn of its own, so that a thousand starts, or failures, can't hold the loop up."""
        live.leaf = self._root.fresh_cgroup()
        try:
            if plan is None:
                spawned = execspawn.spawn(self.job(live), live.output, self._base)
            else:
                spawned = self.native.spawn(plan, live.generation, live.output, live.leaf)
        except (execspawn.SpawnError, launch.LaunchError) as error:
            why = str(error)[:_REASON_LIMIT]
            self._remove_cgroup(live)
            self._loop.after(0.0, lambda: self._act(live, live.incarnation.launch_failed(why)))
            return
        if live.leaf is not None:
            self._loop.defer(live.leaf.born)
        self._adopt(live, spawned.pid, spawned.pidfd)
        live.errors, live.execed = spawned.error_fd, spawned.error_fd < 0
        if live.execed:
            self._loop.after(0.0, lambda: self._has_execed(live))
        else:
            self._loop.add(live.errors, READ, lambda _mask: self._exec_went(live))

    def _has_execed(self, live: Live) -> None:
        if live.execed:
            live.execed = False
            self._act(live, live.incarnation.set_up())

    def _exec_went(self, live: Live) -> None:
        """End of file: exec has happened. Else the one line that says why not."""
        text = os.read(live.errors, 4096)
        self._loop.remove(live.errors)
        os.close(live.errors)
        live.errors = -1
        incarnation = live.incarnation
        self._act(live, incarnation.failed(text.decode(errors="replace")) if text else incarnation.set_up())

    def _assign(self, live: Live, blank: Blank) -> None:
        live.credentials = self._root.link.credentials(live)
        try:
            spares.assign(blank.channel, self.job(live), live.output)
        except launch.LaunchError as error:
            sweep.ask(blank.pidfd, signal.SIGKILL)
            if isinstance(error.__cause__, ConnectionError):  # somebody killed the blank: no fault of the child's
                blank.close()
                self._root.zygote.take(live, lambda other: self._assign(live, other))
                return
            live.incarnation.failed(str(error)[:_REASON_LIMIT])
        live.channel = Channel(
            self._loop, blank.channel, lambda value, fds: self._heard(live, value, fds), lambda: self._hung_up(live)
        )
        live.leaf = None if blank.cgroup is None else cgroup.Leaf(blank.cgroup)
        self._adopt(live, blank.pid, blank.pidfd)

    def _adopt(self, live: Live, pid: int, pidfd: int) -> None:
        live.pid, live.pidfd, live.began = pid, pidfd, self._loop.now
        self._by_pid[pid] = live
        self._loop.add(pidfd, READ | ONCE, lambda _mask: self._died(live))
        self._root.link.born(live)
        self._act(live, live.incarnation.launched())

    def _heard(self, live: Live, value: Any, fds: list[int]) -> None:
        """A packet of a worker; descriptors that it sends are closed."""
        close_all(fds)
        self._act(live, _understood(live.incarnation, value))
        if self._root.link.is_broker(live):
            self._root.link.heard(value)
        self._root.own_children.heard(live, value)

    def _hung_up(self, live: Live) -> None:
        """A program's channel closes at exec; an agent's, when it ends or closes what it should not."""
        if live.launch.kind == "program" and live.launch.command is not None and live.incarnation.cause is None:
            self._act(live, live.incarnation.set_up())

    # --- processes go ---

    def reap_later(self) -> None:
        """On SIGCHLD: nobody waits for these."""
        if not self._reaping:
            self._reaping = True
            self._loop.defer(self.reap)

    def reap(self) -> None:
        """Strays that ended, and blanks that somebody killed. Workers are seen by their pidfd."""
        self._reaping = False
        for blank in self._root.zygote.blanks:
            found = linux.stat(blank)
            if (found is None or found.state in "ZX") and self._root.zygote.died(blank):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(blank, os.WNOHANG)
        self._sweeper.reap_dead(self.known())

    def strays(self, known: set[int]) -> tuple[ladder.Process, ...]:
        """Live children of root but `known`, for its end."""
        return self._sweeper.strays(known)

    def kill_strays(self, strays: tuple[ladder.Process, ...]) -> None:
        """They are our own children and not reaped: their pids are theirs."""
        for each in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each.pid, signal.SIGKILL)

    def known(self) -> set[int]:
        """Children of root that are no strays."""
        return {*self._by_pid, *self._root.zygote.blanks, *self._root.helper_pids()}

    def _died(self, live: Live) -> None:
        """Its last words first, then the ladder: it reaps, sweeps, and says when all is gone."""
        if live.errors >= 0:
            self._exec_went(live)
        self._has_execed(live)
        if live.channel is not None:
            live.channel.drain()
        self._root.notify.drain(live.path)
        current = live.ladder or self._new_ladder(live, ladder.Process(live.pid, 0))
        self._climb(live, current, ladder.Died())

    def _new_ladder(self, live: Live, main: ladder.Process | None = None) -> ladder.Ladder:
        main = main or sweep.identify(live.pid) or ladder.Process(live.pid, 0)
        return ladder.Ladder(main, live.launch.stop_signal, live.launch.detach)

    def _end(self, live: Live, end: End) -> None:
        """Ended by itself: the ladder is under way already. Else: begin it, or make it harder."""
        if live.incarnation.status is None:
            self._climb(live, live.ladder or self._new_ladder(live), ladder.Stop(end.shutdown))

    def _climb(self, live: Live, current: ladder.Ladder, event: ladder.Event) -> None:
        live.ladder, effects = ladder.handle(current, event, self._loop.now)
        for effect in effects:
            self._do(live, effect)
        self._rearm(live)

    def _do(self, live: Live, effect: ladder.Effect) -> None:
        match effect:
            case ladder.Ask(number):
                self._announce_stop(live)
                sweep.ask(live.pidfd, number)
            case ladder.Kill(group):
                sweep.kill(live.pid, live.pidfd, group)
            case ladder.Reap(group):
                self._reaped(live, sweep.reap(live.pid, live.pidfd, group) or Status())
            case ladder.Sweep(kill):
                left = self._sweeper.sweep(self._owner(live), self.known(), kill)
                assert live.ladder is not None
                self._climb(live, live.ladder, ladder.Swept(left))
            case ladder.Done(left, detached):
                self._cleared(live, left, detached)

    def _announce_stop(self, live: Live) -> None:
        """Why, before the signal comes; and the broker hears of all deaths until then."""
        if self._root.link.is_broker(live):
            self._root.link.flush()
        if live.credentials is not None and live.channel is not None:
            live.channel.send(["stopping", live.incarnation.stop_reason])

    def _owner(self, live: Live) -> sweep.Owner:
        return sweep.Owner(
            self._root.node_id, live.name, live.generation, live.pid, live.cgroup, live.leaf.events if live.leaf else -1
        )

    def _reaped(self, live: Live, status: Status) -> None:
        self._by_pid.pop(live.pid, None)
        self._close_process(live)
        actions = live.incarnation.died(status)
        self._root.link.died(live, live.incarnation.last_reason)
        self._act(live, actions)

    def _cleared(self, live: Live, left: tuple[ladder.Process, ...], detached: bool) -> None:
        live.left = [f"{each.title or 'process'} (pid {each.pid})" for each in left]
        if live.left:
            kind = "child.detached" if detached else "child.stuck"
            self._root.journal.event(kind, live.name, self._root.shown(live.path), live.generation, left=live.left)
        self._by_pid.pop(live.pid, None)  # one that could not be ended is a stray from now on, reaped when it goes
        self._remove_cgroup(live)
        self._act(live, live.incarnation.cleared())

    def _remove_cgroup(self, live: Live) -> None:
        leaf, live.leaf = live.leaf, None
        if leaf is not None:
            self._loop.defer(leaf.remove)

    def _rearm(self, live: Live) -> None:
        if live.tick is not None:
            live.tick.cancel()
            live.tick = None
        current = live.ladder
        if current is not None and current.deadline is not None:
            live.tick = self._loop.after(
                max(0.0, current.deadline - self._loop.now), lambda: self._ticked(live)
            )

    def _ticked(self, live: Live) -> None:
        if live.ladder is not None:
            self._climb(live, live.ladder, ladder.Tick())

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
                case End():
                    self._end(live, action)

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
            if live.launch.restart_memory is not None:
                self._root.memory.watch(live.name, live.generation, live.pid, live.launch.restart_memory)
        self._root.feed(event)

    def _forget(self, live: Live, event: Exited | StartFailed | StartIgnored) -> None:
        self._root.zygote.withdraw(live)
        self._root.memory.forget(live.name, live.generation)
        self._root.link.died(live, live.incarnation.last_reason)
        self._close_process(live)
        self._close_output(live)
        self._root.notify.drain(live.path)
        if live.prober is not None:
            live.prober.close()
        if self._table.get(live.path) is live:
            del self._table[live.path]
        self._root.logger.exited(live.name, live.generation)
        if not isinstance(event, StartIgnored):
            self._record(live, str(event.reason))

    def _record(self, live: Live, reason: str) -> None:
        at, lived, used = time.time(), self._loop.now - live.began, self._root.restarts_in_window(live.path)
        self._root.journal.death(live.name, lambda: self._death_of(live, reason, at, lived, used))

    def _death_of(self, live: Live, reason: str, at: float, lived: float, used: int) -> Death:
        incarnation, status = live.incarnation, live.incarnation.status or Status()
        return Death(
            generation=live.generation,
            reason=reason,
            status=status.code,
            signal=status.signal,
            at=at,
            uptime_s=round(lived, 3),
            asked_by=live.asked_by,
            cause=self._out_of_memory(live) if incarnation.killed_by_others else incarnation.cause,
            restarts_in_window=used,
            left=live.left,
            detached=live.launch.detach,
        )

    def _out_of_memory(self, live: Live) -> str | None:
        cause = self._root.oom.cause(live.pid)
        if cause is not None:
            self._root.journal.event("child.oom", live.name, self._root.shown(live.path), live.generation, reason=cause)
        return cause

    # --- descriptors ---

    def _close_output(self, live: Live) -> None:
        """Not before its end is done with, so that the logger sees the end of the pipe when root has started the next
        one: to be woken together with root it would take the core that root needs."""
        output, live.output = live.output, -1
        if output >= 0:
            self._loop.defer(lambda: os.close(output))

    def _close_process(self, live: Live) -> None:
        if live.channel is not None:
            live.channel.close()
            live.channel = None
        if live.errors >= 0:
            self._loop.remove(live.errors)
            os.close(live.errors)
            live.errors = -1
        if live.pidfd >= 0:
            self._loop.close_later(live.pidfd)
            live.pidfd = -1


def _understood(incarnation: Incarnation, packet: Any) -> list[Action]:
    """What a worker says on its channel; anything else is ignored."""
    match packet:
        case ["spawned"]:
            return incarnation.set_up()
        case ["failed", str(why)]:
            return incarnation.failed(why[:_REASON_LIMIT])
        case ["ready"]:
            return incarnation.ready()
        case ["ignore"]:
            return incarnation.ignored()
        case ["beat"]:
            return incarnation.beat()
        case ["exit", str(reason)]:
            return incarnation.announce(reason[:_REASON_LIMIT])
    return []


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _beats_by_notify(what: Launch) -> bool:
    return what.watchdog is not None and what.kind == "program"
