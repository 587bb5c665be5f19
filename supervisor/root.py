"""root: the process that holds the supervision tree. One thread, one epoll loop, no blocking call, no ZeroMQ.

It wires the pure machines to the kernel: `tree` decides who runs, `workers` carries it out, `operations` answers the
control socket, `helpers` keep zygote and logger alive, `journal` remembers. Started by heart, never by a person.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from otpd.ipc.frames import pack, unpack
from otpd.supervisor import cgroup, heart, launch, life, linux, services, specdata, sweep
from otpd.supervisor.brokerlink import BrokerLink
from otpd.supervisor.control import ControlServer
from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    Boot,
    CancelTimer,
    Effect,
    EndWorker,
    Event,
    Notice,
    Op,
    Reply,
    Request,
    Spawn,
    Stop,
    StopTree,
    TimerFired,
    TreeEnded,
    TreeStarted,
    added_by,
)
from otpd.supervisor.farewell import Farewell
from otpd.supervisor.healthlink import HealthLink
from otpd.supervisor.heartlink import HeartLink, NoHeart
from otpd.supervisor.helpers import Logger, Zygote
from otpd.supervisor.intensity import Budget
from otpd.supervisor.journal import Journal
from otpd.supervisor.loop import Loop, Timer
from otpd.supervisor.names import Names
from otpd.supervisor.notices import NOTICES
from otpd.supervisor.notify import NotifySockets
from otpd.supervisor.oom import OomWatch
from otpd.supervisor.operations import Operations
from otpd.supervisor.ownchildren import OwnChildren
from otpd.supervisor.paths import NodePaths, PathError, make_runtime, remove_traces
from otpd.supervisor.reaching import Reaching
from otpd.supervisor.serviceevents import ServiceEvents
from otpd.supervisor.spawns import Spawns
from otpd.supervisor.spec import INFINITY, ChildSpec, ChildType, NodeSpec
from otpd.supervisor.tree import Tree
from otpd.supervisor.workers import Workers

TOP = "top"
#: Blocked before the loop reads them, so that a stop during the start waits for it.
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
#: Seconds between looks at the control socket's file and the like.
_HOUSEKEEPING = 5.0
_REPORTS = ("child_terminated", "start_error", "shutdown_error", "shutdown")
#: Notices of the tree -> events: reports, those named otherwise, and all the rest, where the first word gets a dot.
_EVENTS = {
    **{kind: kind.replace("_", ".", 1) for kind in NOTICES},
    **{kind: f"report.{kind}" for kind in _REPORTS},
    "gave_up": "supervisor.gave_up",
    "auto_shutdown": "supervisor.auto_shutdown",
}


class BrokenTreeError(BaseException):
    """Ends root, whoever's turn it was: no request may survive a table that may be wrong. heart starts root again."""


@dataclass(frozen=True, slots=True)
class Options:
    channel: int
    lock: int
    heart_pid: int
    paths: NodePaths


def main() -> None:
    parser = argparse.ArgumentParser(prog="otpd root")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--heart-pid", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--runtime-dir", type=Path, required=True)
    given = parser.parse_args()
    options = Options(given.channel, given.lock, given.heart_pid, NodePaths(given.state_dir, given.runtime_dir))
    sys.exit(Root(options, _node(options)).run())


def _node(options: Options) -> NodeSpec:
    """What is to run. Where nobody can tell, another root could not either, so heart is told to start none."""
    try:
        return specdata.from_data(unpack(options.paths.spec.read_bytes()))
    except (OSError, ValueError, TypeError, LookupError) as error:
        linux.complain(f"otpd: root: {options.paths.spec} can't be used: {error}; start the node again with: otpd start")
        os.write(options.channel, heart.GAVE_UP)
        raise SystemExit(heart.EXIT_GAVE_UP) from error


class Root:
    """The wiring. `phase` is one of starting, running, stopping, ending."""

    def __init__(self, options: Options, node: NodeSpec) -> None:
        self.paths = options.paths
        self.phase = "starting"
        self.started_at = time.time()
        self.version = metadata.version("otpd")  # once: an upgrade underneath changes the files, not this process
        self.exit_code = 0
        self.usual_files = _raise_file_limit()
        _prepare_process(options)
        self.loop = Loop()
        self.began = self.loop.now
        self.node = node
        self.node_id = self.paths.node_id.read_text().strip()
        self.heart_pid = options.heart_pid
        self._heart = self._watch_heart(options)
        self._swept = sweep.sweep_node(self.node_id)
        cgroup.remove_abandoned()
        self.life = life.begin(self.paths)
        self.runtime: dict[str, ChildSpec] = {}  # by path: added by hand, until a reload
        self.deleted: set[str] = set()  # paths of the config that were deleted by hand, until a reload
        self.extra_pids: set[int] = set()  # probes
        self._homes: dict[str, str] = {}  # by name: where it lived last; elsewhere it goes on counting its generations
        self._inbox: deque[Event] = deque()
        self._pumping = False
        self.journal = Journal(lambda event: self.logger.write_event(event), self.loop.defer, self.life.number)
        self.logger = Logger(
            self.loop, self._logger_command, self.environment(), self._on_tail, self._on_log_state, self._on_helper
        )
        self.cgroups = cgroup.open_node(self.node_id)
        own = self.cgroups.directory if self.cgroups is not None else None
        self.zygote = Zygote(self.loop, self.node_id, own, self.environment(), self._on_helper)
        self.oom = OomWatch.open()
        self.notify = NotifySockets(
            self.loop, self.paths, self.node_id, lambda *message: self.workers.notified(*message)
        )
        top = services.with_services(self.node)
        self.tree = Tree(ChildSpec(id=TOP, start=top, type=ChildType.SUPERVISOR, shutdown=INFINITY))
        self.link = BrokerLink(self)
        self.service_events = ServiceEvents(self)
        self.names = Names(self)
        self.own_children = OwnChildren(self)
        self.spawns = Spawns(self)
        self.reaching = Reaching(self)
        self.workers = Workers(self)
        self.health = HealthLink(self)
        self.operations = Operations(self)
        self.server = ControlServer(self.loop, self.paths.control, self.operations.dispatch)
        self._timers: dict[int, Timer] = {}
        self._replies: dict[int, Callable[[Any], None]] = {}
        self._requests = 0

    def run(self) -> int:
        self.loop.on_signals(_SIGNALS, self._on_signal)
        self.logger.start()
        self.zygote.start()
        self.server.listen()
        self.loop.after(_HOUSEKEEPING, self._housekeeping)
        ended, left = ([each.shown for each in found] for found in (self._swept.ended, self._swept.left))
        own: dict[str, Any] = {"pid": os.getpid(), "life": self.life.number}
        self.journal.event("node.starting", self.node.name, **own, swept=ended, not_swept=left)
        if self.life.problem is not None:
            self.journal.event("life.problem", self.node.name, detail=self.life.problem, life=self.life.number)
        self.feed(Boot())
        self.loop.run()
        return self.exit_code

    # --- the tree ---

    def feed(self, event: Event) -> None:
        """Give the tree an event and carry out what it says; an event that comes meanwhile waits its turn."""
        self._inbox.append(event)
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._inbox:
                for effect in self.tree.handle(self._inbox.popleft(), self.loop.now):
                    self._carry_out(effect)
        except Exception as error:
            raise BrokenTreeError("the tree and what root did of it may differ from here on") from error
        self._pumping = False
        self.operations.something_happened()

    def request(self, op: Op, then: Callable[[Any], None]) -> None:
        """A management request; `then(result)` when the supervisor has got to it."""
        for path in added_by(op):
            if self._homes.get(path.rpartition("/")[2], path) != path:
                self.tree.adopt_history(path)
        self._requests += 1
        self._replies[self._requests] = then
        self.feed(Request(self._requests, op))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn(path):
                self._homes[path.rpartition("/")[2]] = path
                self.workers.spawn(effect)
            case Stop():
                self.workers.stop(effect)
            case AbortStart():
                self.workers.abort(effect)
            case EndWorker():
                self.workers.end_worker(effect)
            case ArmTimer(token, delay, _):
                self._timers[token] = self.loop.after(delay, lambda: self._timer_fired(token))
            case CancelTimer(token):
                if token in self._timers:
                    self._timers.pop(token).cancel()
            case Reply(number, result):
                self._replies.pop(number, lambda _result: None)(result)
            case Notice(kind, path, generation, data):
                self._notice(kind, path, generation, data)
            case TreeStarted():
                self.phase = "running" if self.phase == "starting" else self.phase
                self.journal.event("node.started", self.node.name, seconds=round(self.loop.now - self.began, 3))
            case TreeEnded(reason, gave_up):
                self._tree_ended(reason, gave_up)

    def _notice(self, kind: str, path: str, generation: int, data: dict[str, Any]) -> None:
        if kind == "child_removed":
            self._forget(path)
        self.link.noticed(kind, path)
        name = path.rpartition("/")[2] if "/" in path else self.node.name
        if kind == "child_started" and (live := self.workers.live(path)) is not None:
            data = {**data, "pid": live.pid, "seconds": round(self.loop.now - live.began, 6)}
        self.journal.event(_EVENTS[kind], name, self.shown(path), generation, **data)

    def _timer_fired(self, token: int) -> None:
        if self._timers.pop(token, None) is not None:
            self.feed(TimerFired(token))

    def _forget(self, path: str) -> None:
        """Nothing is kept of a child that is no more, but what is on disk."""
        name = path.rpartition("/")[2]
        self.runtime.pop(path, None)
        death = self.journal.last_death(name)
        left = death.left if death is not None and not death.detached else []
        self.own_children.removed(path, left, "" if death is None else f"{death.reason}{_because(death.cause)}")
        self.journal.forget(name)
        self.spawns.forget(name)
        self.workers.forget(path)

    @staticmethod
    def shown(path: str) -> str:
        """A path as people see it: without the top."""
        return path.partition("/")[2]

    @staticmethod
    def path_below_top(shown: str) -> str:
        return f"{TOP}/{shown}" if shown else TOP

    def budget(self, path: str) -> Budget:
        """Of the supervisor of `path`, now."""
        return self.tree.budget(path.rpartition("/")[0], self.loop.now)

    @property
    def ladder_name(self) -> str:
        """The strongest way to own processes that is in force here."""
        return "cgroup" if self.cgroups is not None else "subreaper"

    def fresh_cgroup(self) -> cgroup.Leaf | None:
        """An empty cgroup for one incarnation; None where there are none, or none can be had any more."""
        if self.cgroups is None:
            return None
        self.loop.defer(self._prepare_cgroup)
        try:
            return self.cgroups.fresh()
        except OSError as error:
            self._on_helper("helper.problem", f"root: can't make a cgroup: {error.strerror}")
            return None

    def _prepare_cgroup(self) -> None:
        assert self.cgroups is not None
        with contextlib.suppress(OSError):  # whoever needs it hears of it
            self.cgroups.prepare()

    def helper_pids(self) -> set[int]:
        """0 for one that does not run: nobody's pid."""
        return {self.zygote.pid or 0, self.logger.pid or 0, *self.extra_pids}

    def set_log_policy(self) -> None:
        policy = self.node.log
        self.logger.send(["policy", policy.max_bytes, policy.keep, policy.full])

    # --- the end ---

    def stop(self, now: bool = False) -> None:
        """Stop the tree in order; `now`, or a second time: kill what is left."""
        if self.phase in ("starting", "running"):
            self.phase = "stopping"
            self._heart.tell(heart.ORDERED)
            self.journal.event("node.stopping", self.node.name)
            self.feed(StopTree(urgent=True))
        if now:
            self.workers.kill_all()

    def _tree_ended(self, reason: Any, gave_up: bool) -> None:
        ordered = self.phase == "stopping"
        self.phase = "ending"
        if gave_up and not ordered:
            self.exit_code = heart.EXIT_GAVE_UP
            self._heart.tell(heart.GAVE_UP)
            linux.complain(f"otpd: root gave up: the top supervisor ended: {reason}")
        self.journal.event("node.ended", self.node.name, reason=str(reason))
        Farewell(self).begin()

    def ended(self, left: list[str]) -> None:
        """Nothing is left but `left`, which could not be ended: the last word, and the exit code."""
        if left and self.exit_code == 0:
            self.exit_code = 1
        self.operations.stopped(left)

    # --- what comes in ---

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self.workers.endings.reap_later()
        else:
            self.stop()

    def _watch_heart(self, options: Options) -> HeartLink:
        def died() -> None:
            self.journal.event("heart.exited", "heart")

        try:
            return HeartLink(self.loop, options.channel, options.heart_pid, self.stop, died)
        except NoHeart as error:
            remove_traces(self.paths)
            raise SystemExit(f"otpd: root: {error}; start the node again with: otpd start") from error

    def _on_tail(self, name: str, generation: int, lines: list[str]) -> None:
        self.journal.tail(name, generation, lines)

    def _on_log_state(self, kind: str, data: dict[str, Any]) -> None:
        self.journal.event(kind, "logger", **data)

    def _on_helper(self, kind: str, text: str) -> None:
        self.journal.event(kind, text.partition(":")[0], detail=text)

    def _housekeeping(self) -> None:
        """Files that a cleaner removed are made again (test 52): the sockets, and the spec that the next root needs."""
        if self.phase in ("starting", "running"):
            with contextlib.suppress(OSError, PathError):
                self._recreate_files()
            if not self.life.saved:
                self._save_life()
        self.oom.refresh()
        self.loop.after(_HOUSEKEEPING, self._housekeeping)

    def _recreate_files(self) -> None:
        make_runtime(self.paths)
        if not self.paths.spec.exists():
            self.save_spec()
        self.notify.recreate()
        if not self.server.present():
            self.server.relisten()
            self.journal.event("control.recreated", self.node.name, str(self.paths.control))

    def _save_life(self) -> None:
        """The state directory could not be written when this root started; nobody may take its life again."""
        if life.save(self.paths, self.life.number) is None:
            self.life = life.Life(self.life.number)
            self.journal.event("life.saved", self.node.name, life=self.life.number)

    def keep_service(self, name: str) -> None:
        """It has come on demand, and belongs to the node from now on: another root starts it at once."""
        kept = services.keeping(self.node, frozenset({name}))
        if kept is not self.node:
            self.node = kept
            with contextlib.suppress(OSError):
                self.save_spec()

    def save_spec(self) -> None:
        """The spec that root starts with, should it have to start again: all of it or nothing."""
        draft = self.paths.spec.with_name("spec.new")
        with open(draft, "wb") as file:
            file.write(pack(specdata.to_data(self.node)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.paths.spec)

    # --- set-up ---

    def _logger_command(self, fd: int) -> list[str]:
        policy = self.node.log
        return [
            sys.executable, "-P", "-m", "otpd.supervisor.logger", "--channel", str(fd), "--life", str(self.life.number),
            "--dir", str(self.paths.logs), "--root", str(os.getpid()), "--runtime-dir", str(self.paths.runtime_dir),
            "--max-bytes", str(policy.max_bytes), "--keep", str(policy.keep), "--full", policy.full,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What every process of the node starts from."""
        return {**os.environ, launch.NODE: self.node_id, launch.CONTROL: str(self.paths.control)}


def _because(cause: str | None) -> str:
    return f": {cause}" if cause else ""


def _prepare_process(options: Options) -> None:
    """Signals as root wants them, strays to root, and the lock for root alone."""
    linux.require_linux()
    signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for fd in (options.channel, options.lock):
        os.set_inheritable(fd, False)
    linux.set_child_subreaper()
    linux.set_title("otpd: root")
    os.umask(0o022)


def _raise_file_limit() -> int:
    """Up to five descriptors per worker: the soft limit goes to the hard one. Gives the soft one, which workers get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


if __name__ == "__main__":
    main()
