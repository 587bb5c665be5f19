"""A Shell plays the processes of a tree: it answers starts and stops, lets processes die, fires timers and asks, as a list
of numbers says. It knows nothing of supervision, only what the operating system would know, and checks every effect
against that: one process per path, no start before the end of all that was there, every stop meant for a living process,
no timer without a reason, nobody who outlives the one who started him.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    Boot,
    CancelTimer,
    ChangeSpec,
    CountChildren,
    DeleteChild,
    Effect,
    EndWorker,
    Event,
    Exited,
    GetChildSpec,
    Op,
    Reply,
    Request,
    RestartChild,
    Spawn,
    StartChild,
    Started,
    StartFailed,
    StartIgnored,
    Stop,
    StopTree,
    TerminateChild,
    TimerFired,
    TreeEnded,
    WhichChildren,
)
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Backoff, ChildSpec, Restart
from otpd.supervisor.tree import SupervisorView, Tree, View, WorkerView, walk
from tests.supervisor.rig import supervisor, worker

REASONS = ["normal", "shutdown", "shutdown(x)", "error(1)", "killed", "signal(11)"]



class Shell:
    """`starting`, `alive`: path -> generation. `asked`: processes whose stop or abort has not been answered, `hard` those of
    them that get no time; `condemned`: to end for their children. `owners`: of processes, and who asked for them."""

    def __init__(self, top: ChildSpec) -> None:
        self.tree = Tree(top)
        self.now = 0.0
        self.starting: dict[str, int] = {}
        self.alive: dict[str, int] = {}
        self.asked: set[str] = set()
        self.hard: set[str] = set()
        self.condemned: set[str] = set()
        self.owners: dict[str, tuple[str, int]] = {}
        self.generations: dict[str, int] = {}
        self.timers: dict[int, float] = {}
        self.open_requests: set[int] = set()
        self.requests = 0
        self.ended: TreeEnded | None = None
        self.log: list[Effect] = []

    def feed(self, event: Event) -> list[Effect]:
        over = self.ended is not None
        effects = self.tree.handle(event, self.now)
        self.log += effects
        for effect in effects:
            assert not over or isinstance(effect, Reply), f"after the end: {effect}"
            self.carry_out(effect)
        self.check()
        return effects

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn(path, generation, _):
                below = [other for other in self.processes if f"{other}/".startswith(f"{path}/")]
                assert not below, f"{path} is started while {below} live"
                # Supervisors count attempts too, without a Spawn.
                assert generation > self.generations.get(path, 0), f"counts back: {effect}"
                self.generations[path] = self.starting[path] = generation
                owner = path.rpartition("/")[0]
                if owner in self.processes:
                    self.owners[path] = (owner, self.processes[owner])
            case Stop(path, generation, shutdown):
                assert self.alive.get(path) == generation, f"stop of what is not alive: {effect}"
                assert path not in self.asked or shutdown == BRUTAL_KILL, f"asked twice: {effect}"
                self.asked.add(path)
                if shutdown == BRUTAL_KILL:
                    self.hard.add(path)
            case AbortStart(path, generation):
                assert self.starting.get(path) == generation and path not in self.asked, f"no start to give up: {effect}"
                self.asked.add(path)
                self.hard.add(path)
            case EndWorker(path, generation, _):
                assert self.processes.get(path) == generation and path not in self.condemned, f"nobody to end: {effect}"
                self.condemned.add(path)
            case ArmTimer(token, delay, _):
                assert token not in self.timers, f"armed twice: {effect}"
                self.timers[token] = self.now + delay
            case CancelTimer(token):
                del self.timers[token]
            case Reply(number, _):
                self.open_requests.remove(number)
            case TreeEnded():
                assert self.ended is None, f"a second end: {effect}"
                self.ended = effect

    @property
    def processes(self) -> dict[str, int]:
        return self.starting | self.alive

    def check(self) -> None:
        """The tree's table and the operating system agree, and nobody lives on whose owner is gone."""
        living = dict(self.tree.living())
        assert living == self.processes, f"living as the tree has it: {living}, as it is: {self.processes}"
        for path, (owner, generation) in self.owners.items():
            assert self.processes.get(owner) == generation or path in self.asked, f"{path} outlives {owner}"
        for view in walk(self.tree.snapshot(self.now)):
            self.check_view(view)
        if not (self.starting or self.asked or self.condemned or self.ended or self.tree.stopping):
            assert not self.tree.busy, "waits for nothing"
        if self.tree.stopping and not self.ended:
            assert self.asked or self.starting, "stops, but waits for nothing"
        if self.ended:
            left = (self.alive, self.starting, self.timers, self.open_requests)
            assert not any(left), f"after the end there are {left}"

    def check_view(self, view: View) -> None:
        assert (view.state == "backoff") == (view.next_attempt is not None), f"{view}"
        if isinstance(view, SupervisorView):
            if view.state in ("stopped", "failed", "backoff"):
                assert all(below.state != "running" for below in walk(view)), f"{view}"
            within = view.max_restarts is None or view.restarts_in_window <= view.max_restarts
            assert within or view.state == "stopping", f"{view}"
        elif view.state == "running":
            assert self.alive.get(view.path) == view.generation, f"does not run: {view}"
            gave_up = view.own is not None and view.own.doing == "ended"
            assert not gave_up or view.path in self.condemned, f"{view.path} lives on without its children"
        elif view.state in ("stopped", "failed", "backoff"):
            assert view.path not in self.processes, f"has a process: {view}"

    # --- what can happen next ---

    def choices(self) -> list[Callable[[int], object]]:
        found: list[Callable[[int], object]] = []
        if self.starting:
            found += [self.starts] * 12 + [self.start_fails]
        if self.asked:
            found += [self.asked_ends] * 6
        if self.alive:
            found += [self.dies] * 3
        if self.timers:
            found.append(self.timer_fires)
        return [
            *found, self.time_passes, self.asks, self.asks, self.owner_asks, self.supervisor_is_killed,
            self.stops_urgently, self.is_late,
        ]  # fmt: skip

    def play(self, numbers: list[int]) -> None:
        self.feed(Boot())
        self.live(numbers)

    def live(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.ended:
                return
            choices = self.choices()
            choices[number % len(choices)](number // len(choices))

    def starts(self, number: int) -> None:
        path = pick(self.starting, number)
        if path in self.asked:
            self.asked_ends(number)
            return
        generation = self.alive[path] = self.starting.pop(path)
        self.feed(Started(path, generation))

    def start_fails(self, number: int) -> None:
        self.start_ends(pick(self.starting, number), number // 7)

    def start_ends(self, path: str, number: int) -> None:
        generation = self.starting.pop(path)
        self.is_gone(path)
        kinds: list[Event] = [
            StartFailed(path, generation, "boom"),
            Exited(path, generation, "error(1)"),
            StartIgnored(path, generation),
        ]
        self.feed(pick(kinds, number))

    def is_late(self, number: int) -> None:
        """News of an incarnation that is over change nothing."""
        view = pick(list(walk(self.tree.snapshot())), number)
        if view.generation > 0:
            said = self.feed(Exited(view.path, view.generation - 1, "killed"))
            assert said == [], f"late, but heard: {said}"

    def stops_urgently(self, number: int) -> None:
        if number % 40 == 0:
            self.feed(StopTree(urgent=True))

    def asked_ends(self, number: int) -> None:
        path = pick(sorted(self.asked), number)
        if path in self.starting:
            self.start_ends(path, number // 5)
        else:
            self.end(path, pick(REASONS, number // 5))

    def dies(self, number: int) -> None:
        self.end(pick(self.alive, number), pick(REASONS, number // 5))

    def end(self, path: str, reason: str) -> None:
        generation = self.alive.pop(path)
        self.is_gone(path)
        self.feed(Exited(path, generation, reason))

    def is_gone(self, path: str) -> None:
        for some in (self.asked, self.hard, self.condemned):
            some.discard(path)
        self.owners.pop(path, None)

    def timer_fires(self, _number: int) -> None:
        token = min(self.timers, key=lambda token: (self.timers[token], token))
        self.now = max(self.now, self.timers.pop(token))
        self.feed(TimerFired(token))

    def time_passes(self, number: int) -> None:
        self.now += (number % 100) / 20

    def supervisor_is_killed(self, number: int) -> None:
        views = [view for view in walk(self.tree.snapshot()) if isinstance(view, SupervisorView) and "/" in view.path]
        if views and number % 4 == 0:
            view = pick(views, number)
            before = {process for process in self.processes.items() if process[0].startswith(f"{view.path}/")}
            self.feed(Exited(view.path, view.generation, "killed"))
            late = {path for path, _ in before & self.processes.items()} - self.hard
            assert not late, f"{view.path} was killed, but {late} have time"

    def asks(self, number: int) -> None:
        views = [view for view in walk(self.tree.snapshot()) if isinstance(view, SupervisorView)]
        view = pick(views, number)
        name = pick([child.name for child in view.children] + ["n"], number // 3)
        generation = None if view.flags.dynamic is None else self.generations.get(f"{view.path}/{name}", 1)
        ops: list[Op] = [
            StartChild(view.path, worker(name, backoff=Backoff())),
            StartChild(view.path, supervisor(name, worker("x"), worker("y"), shutdown=1.0)),
            TerminateChild(view.path, name, generation),
            RestartChild(view.path, name),
            DeleteChild(view.path, name),
            WhichChildren(view.path),
            CountChildren(view.path),
            GetChildSpec(view.path, name, generation),
            ChangeSpec(view.path, view.flags),
        ]
        self.requests += 1
        self.open_requests.add(self.requests)
        self.feed(Request(self.requests, pick(ops, number // 11)))

    def owner_asks(self, number: int) -> None:
        """A worker starts and stops children of its own; some of them belong to an incarnation that is over."""
        workers = [view for view in walk(self.tree.snapshot()) if isinstance(view, WorkerView)]
        if not workers:
            return
        view = pick(workers, number)
        name, generation = pick("xyz", number // 3), view.generation - (number % 13 == 0)
        shutdown = pick([0.0, 5.0, BRUTAL_KILL, INFINITY], number // 7)
        spec = worker(name, restart=pick(Restart, number // 5), shutdown=shutdown)
        start = StartChild(view.path, spec, owner=generation)
        ops: list[Op] = [start, start, start, TerminateChild(view.path, name), WhichChildren(view.path)]
        self.requests += 1
        self.open_requests.add(self.requests)
        self.feed(Request(self.requests, pick(ops, number // 11)))

    def finish(self, number: int) -> None:
        """Answer only what was asked to end, late timers included, never a start."""
        while self.asked:
            self.asked_ends(number)

    def answer_all(self, number: int) -> None:
        for _ in range(10_000):
            if self.ended:
                return
            if self.starting and not self.starting.keys() <= self.asked:
                self.starts(sorted(self.starting.keys()).index(min(self.starting.keys() - self.asked)))
            elif self.asked:
                self.asked_ends(number)
            else:
                return


def pick(things: Any, number: int) -> Any:
    ordered = sorted(things) if isinstance(things, dict) else list(things)
    return ordered[number % len(ordered)]
