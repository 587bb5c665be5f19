"""Root's hands in the simulated world: makes simulated processes of what the tree wants, as `otpd.supervisor.workers` does.

The machines are the real ones: `incarnation` decides what happens to a process, `ladder` ends it. Only what they say to the
kernel is simulated, and what processes say to root travels on a pipe and takes its time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from otpd.supervisor import ladder
from otpd.supervisor.events import AbortStart, EndWorker, Exited, Spawn, StartFailed, StartIgnored, Stop
from otpd.supervisor.incarnation import Action, Arm, Disarm, Due, Dump, End, Incarnation, Phase, Status, Tell
from otpd.supervisor.launch import Credentials
from otpd.supervisor.spec import ChildSpec, Launch
from tests.simulation import own
from tests.simulation.clock import MS, SECOND, Clock, Entry
from tests.simulation.kernel import Cookie, Process, Program
from tests.simulation.links import Pipe

if TYPE_CHECKING:
    from tests.simulation.root import SimulatedRoot

#: Beats of a process with a watchdog (docs/protocol.md, 1).
BEATS = 4


class Worker(Program, Protocol):
    """A program with a channel to root."""

    def told(self, packet: list[Any]) -> None:
        """A packet of root's."""

    def orphaned(self) -> None:
        """The channel has closed: root is gone."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an incarnation knows when it begins."""

    name: str
    generation: int
    life: int
    launch: Launch
    identity: bytes
    token: bytes
    broker: str | None  # the epoch of the broker that is ready
    say: Callable[[list[Any]], None]  # to root; does nothing without a channel

    @property
    def inc(self) -> int:
        return self.life << 32 | self.generation


class Channel:
    """Root's end of the channel to a process. `full` when the process does not read: then nothing is to be sent."""

    _ROOM = 100

    def __init__(self, root: SimulatedRoot, process: Process, told: Callable[[list[Any]], None]) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._root, self._process, self._told = root.process, process, told
        self._pipe = Pipe(root.world.clock, root.world.root_latency, lambda packet: process.do(self._read, packet))
        self._unread = 0

    @property
    def full(self) -> bool:
        return self._unread >= self._ROOM

    def send(self, packet: list[Any]) -> None:
        self._unread += 1
        self._pipe.send(packet)

    def end(self, close: Callable[[], None]) -> None:
        """Root is gone: the process hears of it behind all that was said."""
        self._pipe.end(lambda: self._process.do(close))

    def _read(self, packet: list[Any]) -> None:
        was_full = self.full
        self._unread -= 1
        if was_full and not self.full:
            self._root.after(0, self.on_room)
        self._told(packet)


@dataclass(eq=False, slots=True)
class Live:
    """One incarnation and its process."""

    path: str
    spec: ChildSpec
    launch: Launch
    incarnation: Incarnation
    inc: int
    credentials: Credentials | None = None
    process: Process | None = None
    channel: Channel | None = None
    said: Pipe | None = None  # what comes from the process
    ladder: ladder.Ladder | None = None
    tick: Entry | None = None
    timers: dict[Due, Entry] = field(default_factory=dict)
    ready_since: int | None = None  # ns
    asked_at: int | None = None
    asked_by: str | None = None
    tells_health: bool = False

    @property
    def ready_at(self) -> float:
        """Seconds, as root counts them."""
        return (self.ready_since or 0) / SECOND

    @property
    def name(self) -> str:
        return self.spec.id

    @property
    def generation(self) -> int:
        return self.incarnation.generation

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid


class Workers:
    """The table: at most one incarnation per path."""

    def __init__(self, root: SimulatedRoot) -> None:
        self._root, self._world = root, root.world
        self._clock: Clock = root.world.clock
        self._process = root.process
        self.table: dict[str, Live] = {}

    # --- what the tree wants ---

    def spawn(self, effect: Spawn) -> None:
        what = effect.spec.start
        assert isinstance(what, Launch)
        what = self._root.link.launch(effect.spec.id, what)
        incarnation = Incarnation(effect.path, effect.generation, what, effect.spec.shutdown)
        inc = self._root.life.number << 32 | effect.generation
        live = Live(effect.path, effect.spec, what, incarnation, inc)
        self.table[effect.path] = live
        self._act(live, incarnation.begin())
        self._process.after(self._world.latency.draw(), self._fork, live)

    def stop(self, effect: Stop) -> None:
        live = self.table.get(effect.path)
        if live is not None and live.incarnation.generation == effect.generation:
            live.asked_at = self._clock.now
            self._act(live, live.incarnation.ask(effect.shutdown))

    def abort(self, effect: AbortStart) -> None:
        live = self.table.get(effect.path)
        if live is not None and live.incarnation.generation == effect.generation:
            live.asked_at = self._clock.now
            self._act(live, live.incarnation.abort("its supervisor is stopping"))

    def end_worker(self, effect: EndWorker) -> None:
        """It can't go on without its own children."""
        live = self.table.get(effect.path)
        if live is not None and live.incarnation.generation == effect.generation:
            self._world.sometimes["a worker ends because of its own children"] += 1
            self._act(live, live.incarnation.terminate(f"error({effect.why})"))

    def end(self, live: Live, why: str) -> None:
        """Root's own wish."""
        if live.incarnation.phase is Phase.RUNNING:
            self._world.watch.health("ended", live, why)
        self._act(live, live.incarnation.over_limit(why))

    def terminate(self, live: Live, reason: str) -> None:
        """A link of its broke."""
        self._world.sometimes["a broken link ends a worker"] += 1
        self._act(live, live.incarnation.terminate(reason))

    def of(self, name: str) -> Live | None:
        return next((live for live in self.table.values() if live.name == name), None)

    def named(self, name: str) -> Live | None:
        """The incarnation that has a process now."""
        live = self.of(name)
        return live if live is not None and live.process is not None else None

    def running(self) -> list[Live]:
        """Those that are ready."""
        return [live for live in self.table.values() if live.incarnation.phase is Phase.RUNNING]

    # --- processes come ---

    def _fork(self, live: Live) -> None:
        if live.incarnation.phase is not Phase.WAITING:
            return
        if self._world.ailing(live.name, "no_process"):
            self._act(live, live.incarnation.launch_failed("no process could be made"))
            return
        process = self._world.kernel.spawn(Cookie(live.name, live.inc), self._process)
        live.process = process
        process.watchers.append(lambda: self._died(live))
        self._connect(live, process)
        self._root.link.born(live)
        self._act(live, live.incarnation.launched())
        assert process.program is not None
        process.program.begin()

    def _connect(self, live: Live, process: Process) -> None:
        """Both ends of the channel. What the process has said arrives also when it is dead."""
        to_root = Pipe(self._clock, self._world.root_latency, lambda packet: self._process.do(self._heard, live, packet))
        live.credentials = own = self._root.link.credentials(live)
        identity, token, broker = (own.identity, own.token, own.broker) if own is not None else (b"", b"", None)
        epoch = None if broker is None else broker[0]
        job = Job(live.name, live.generation, self._root.life.number, live.launch, identity, token, epoch, to_root.send)
        program = self._world.program(live.launch, process, job)
        process.program = program
        live.said = to_root
        live.channel = channel = Channel(self._root, process, program.told)
        self._process.at_exit.append(lambda: channel.end(program.orphaned))

    def _heard(self, live: Live, packet: list[Any]) -> None:
        incarnation = live.incarnation
        match packet:
            case ["spawned"]:
                self._act(live, incarnation.set_up())
            case ["failed", str(why)]:
                self._act(live, incarnation.failed(why))
            case ["ready"]:
                self._act(live, incarnation.ready())
            case ["ignore"]:
                self._act(live, incarnation.ignored())
            case ["exit", str(reason)]:
                self._act(live, incarnation.announce(reason))
        if self._root.link.is_broker(live):
            self._root.link.heard(packet)
        own.heard(self._root, live, packet)

    # --- processes go ---

    def _died(self, live: Live) -> None:
        """Its last words first."""
        if live.said is not None:
            live.said.drain()
        self._climb(live, live.ladder or self._new_ladder(live), ladder.Died())

    def _new_ladder(self, live: Live) -> ladder.Ladder:
        assert live.process is not None
        main = ladder.Process(live.process.pid, live.process.number)
        return ladder.Ladder(main, live.launch.stop_signal, live.launch.detach)

    def _climb(self, live: Live, current: ladder.Ladder, event: ladder.Event) -> None:
        live.ladder, effects = ladder.handle(current, event, self._root.now)
        self._world.watch.climbed(live, current, live.ladder, effects)
        for effect in effects:
            self._do(live, effect)
        self._rearm(live)

    def _do(self, live: Live, effect: ladder.Effect) -> None:
        kernel, process = self._world.kernel, live.process
        assert process is not None
        match effect:
            case ladder.Ask(number):
                if live.credentials is not None and live.channel is not None:
                    live.channel.send(["stopping", live.incarnation.stop_reason])
                kernel.signal(process, number)
                kernel.signal(process, signal.SIGCONT)
            case ladder.Kill(group):
                if group:
                    kernel.kill_group(process.pid, self._process)
                kernel.signal(process, signal.SIGKILL, self._process)
            case ladder.Reap(group):
                if group:
                    kernel.kill_group(process.pid, self._process)
                status = kernel.reap(process) or Status()
                actions = live.incarnation.died(status)
                self._root.link.died(live, live.incarnation.last_reason)
                self._act(live, actions)
            case ladder.Sweep(kill):
                self._sweep(live, kill)
            case ladder.Done():
                self._act(live, live.incarnation.cleared())

    def _sweep(self, live: Live, kill: bool) -> None:
        kernel = self._world.kernel
        left = kernel.of(Cookie(live.name, live.inc))
        if kill:
            for process in left:
                kernel.signal(process, signal.SIGKILL, self._process)
        self._reap_strays()
        alive = tuple(ladder.Process(each.pid, each.number) for each in left if each.alive)
        assert live.ladder is not None
        self._climb(live, live.ladder, ladder.Swept(alive))

    def _reap_strays(self) -> None:
        """Nobody waits for these."""
        own = {id(live.process) for live in self.table.values()}
        for child in list(self._process.children):
            if id(child) not in own:
                self._world.kernel.reap(child)

    def _rearm(self, live: Live) -> None:
        self._clock.cancel(live.tick)
        live.tick = None
        if live.ladder is not None and live.ladder.deadline is not None:
            at = int(live.ladder.deadline * SECOND) + 2  # behind it, however the float was rounded
            live.tick = self._clock.at(at, self._process.do, self._ticked, live)

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
                    self._arm(live, due, self._clock.now + round(delay * SECOND))
                case Disarm(due):
                    self._clock.cancel(live.timers.pop(due, None))
                case Dump():
                    self._world.sometimes["a frozen worker is found by its silence"] += 1
                case End(shutdown):
                    self._end(live, shutdown)

    def _end(self, live: Live, shutdown: Any) -> None:
        """One that has ended by itself is on the ladder already."""
        if live.incarnation.status is None:
            self._climb(live, live.ladder or self._new_ladder(live), ladder.Stop(shutdown))

    def _arm(self, live: Live, due: Due, at: int) -> None:
        self._clock.cancel(live.timers.pop(due, None))
        live.timers[due] = self._clock.at(at, self._process.do, self._due, live, due, self._clock.now)

    def _due(self, live: Live, due: Due, since: int) -> None:
        """Beats cost no events: whether there was one since the timer was armed is asked when it matters."""
        live.timers.pop(due, None)
        beat = self._last_beat(live) if due is Due.SILENT else None
        if beat is None or beat <= since:
            self._act(live, live.incarnation.due(due))
        elif live.incarnation.beat():
            assert live.launch.watchdog is not None
            self._arm(live, due, max(self._clock.now + MS, beat + round(live.launch.watchdog * SECOND)))

    def _last_beat(self, live: Live) -> int | None:
        assert live.launch.watchdog is not None
        process, began = live.process, live.ready_since
        if process is None or began is None or not process.alive:
            return None
        step = round(live.launch.watchdog * SECOND) // BEATS
        until = self._clock.now if process.state.name == "RUNNING" else process.since
        return began + (until - began) // step * step

    def _tell(self, live: Live, event: Any) -> None:
        """The tree hears of an end only when the row is out of the table: it may start the next one at once."""
        if isinstance(event, Exited | StartFailed | StartIgnored):
            self._forget(live, event)
        else:
            live.ready_since = self._clock.now
            self._root.link.ready(live)
            self._root.health.tell(live)  # type: ignore[arg-type]
        self._root.feed(event)

    def _forget(self, live: Live, event: Exited | StartFailed | StartIgnored) -> None:
        if self.table.get(live.path) is live:
            del self.table[live.path]
        self._root.health.died(live)  # type: ignore[arg-type]
        self._root.link.died(live, live.incarnation.last_reason)
        self._world.watch.incarnation_ended(self._root, live, live.incarnation.last_reason)
