"""What holds for every tree and every sequence of events: random ones, always the same random ones.

A Shell plays the processes: it answers starts and stops, lets processes die, fires timers and asks, as a list of numbers
says. It knows nothing of supervision, only what the operating system would know, and checks every effect against that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import floor
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from otpd.supervisor import answers, supervision
from otpd.supervisor.backoff import next_delay
from otpd.supervisor.child import is_clean
from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    Boot,
    CancelTimer,
    ChangeSpec,
    CountChildren,
    DeleteChild,
    Effect,
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
from otpd.supervisor.intensity import Window
from otpd.supervisor.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    Dynamic,
    Restart,
    Strategy,
    SupervisorSpec,
)
from otpd.supervisor.tree import SupervisorView, Tree, View, walk
from tests.supervisor.rig import Rig, supervisor, worker

FIXED = settings(
    derandomize=True, database=None, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
#: Whole lives of trees: shrinking one takes minutes, so a failure shows the example as it was found.
LIVES = settings(FIXED, max_examples=80, phases=[Phase.explicit, Phase.generate])
REASONS = ["normal", "shutdown", "shutdown(x)", "error(1)", "killed", "signal(11)"]
NUMBERS = st.lists(st.integers(0, 10**6), min_size=50, max_size=120)

# --- random trees ---

restarts = st.sampled_from(list(Restart))
shutdowns = st.sampled_from([0.0, 1.0, 5.0, BRUTAL_KILL, INFINITY])
backoffs = st.sampled_from([None, None, Backoff(), Backoff(initial=0.5, jitter=0.0, reset_after=2.0)])


@st.composite
def specs(draw: st.DrawFn, depth: int, name: str, modes: AutoShutdown) -> ChildSpec:
    restart = draw(restarts)
    fields: dict[str, Any] = {
        "restart": restart,
        "shutdown": draw(shutdowns),
        "backoff": draw(backoffs),
        "significant": modes != AutoShutdown.NEVER and restart != Restart.PERMANENT and draw(st.booleans()),
    }
    if depth == 0 or draw(st.booleans()):
        return worker(name, **fields)
    own = draw(flags(depth - 1))
    return supervisor(name, *own.pop("children", ()), **fields, **own)


@st.composite
def flags(draw: st.DrawFn, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"max_restarts": draw(st.sampled_from([3, 9, None, 1, 0]))}
    dynamic = draw(st.sampled_from([None] * 8 + list(Dynamic))) if depth < 2 else None
    if dynamic is not None:
        template = draw(specs(0, "t", AutoShutdown.NEVER)) if dynamic is Dynamic.SIMPLE else None
        return {**found, "dynamic": dynamic, "template": template, "max_children": draw(st.sampled_from([None, 2]))}
    auto = draw(st.sampled_from([AutoShutdown.NEVER, AutoShutdown.NEVER, *AutoShutdown]))
    names = "abcd"[: draw(st.sampled_from([3, 4, 2, 1, 0] if depth < 2 else [4, 3, 2]))]
    children = tuple(draw(specs(depth, name, auto)) for name in names)
    return {**found, "strategy": draw(st.sampled_from(list(Strategy))), "auto_shutdown": auto, "children": children}


@st.composite
def tops(draw: st.DrawFn) -> ChildSpec:
    isolate = draw(st.booleans())
    spec = SupervisorSpec(**draw(flags(2)))
    if isolate and spec.dynamic is None:
        fields = {"strategy": Strategy.ONE_FOR_ONE, "isolate": True, "max_restarts": None}
        spec = SupervisorSpec(children=spec.children, auto_shutdown=spec.auto_shutdown, **fields)  # type: ignore[arg-type]
    top = supervisor("top")
    return ChildSpec(id="top", start=spec, type=top.type, shutdown=INFINITY)


# --- the shell ---


class Shell:
    """`starting`, `alive`: path -> generation. `asked`: processes whose stop or abort has not been answered."""

    def __init__(self, top: ChildSpec) -> None:
        self.tree = Tree(top)
        self.now = 0.0
        self.starting: dict[str, int] = {}
        self.alive: dict[str, int] = {}
        self.asked: set[str] = set()
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
                assert path not in self.alive and path not in self.starting, f"{path} lives and is started again"
                assert generation > self.generations.get(path, 0)  # supervisors count attempts too, without a Spawn
                self.generations[path] = self.starting[path] = generation
            case Stop(path, generation, shutdown):
                assert self.alive.get(path) == generation, f"stop of what is not alive: {effect}"
                assert path not in self.asked or shutdown == BRUTAL_KILL
                self.asked.add(path)
            case AbortStart(path, generation):
                assert self.starting.get(path) == generation and path not in self.asked
                self.asked.add(path)
            case ArmTimer(token, delay, _):
                assert token not in self.timers
                self.timers[token] = self.now + delay
            case CancelTimer(token):
                del self.timers[token]
            case Reply(number, _):
                self.open_requests.remove(number)
            case TreeEnded():
                assert self.ended is None
                self.ended = effect

    def check(self) -> None:
        """The tree's table and the operating system agree."""
        living = dict(self.tree.living())
        assert living == self.starting | self.alive
        for view in walk(self.tree.snapshot(self.now)):
            self.check_view(view)
        if not (self.starting or self.asked or self.ended or self.tree.stopping):
            assert not self.tree.busy, "waits for nothing"
        if self.tree.stopping and not self.ended:
            assert self.asked or self.starting, "stops, but waits for nothing"
        if self.ended:
            assert not (self.alive or self.starting or self.timers or self.open_requests)

    def check_view(self, view: View) -> None:
        assert (view.state == "backoff") == (view.next_attempt is not None)
        if isinstance(view, SupervisorView):
            if view.state in ("stopped", "failed", "backoff"):
                assert all(below.state != "running" for below in walk(view)), view
            assert view.max_restarts is None or view.restarts_in_window <= view.max_restarts or view.state == "stopping"
        elif view.state == "running":
            assert self.alive[view.path] == view.generation
        elif view.state in ("stopped", "failed", "backoff"):
            assert view.path not in self.alive and view.path not in self.starting

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
        return [*found, self.time_passes, self.asks, self.asks, self.supervisor_is_killed, self.stops_urgently, self.is_late]

    def play(self, numbers: list[int]) -> None:
        self.feed(Boot())
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
        self.asked.discard(path)
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
            assert self.feed(Exited(view.path, view.generation - 1, "killed")) == []

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
        self.asked.discard(path)
        self.feed(Exited(path, generation, reason))

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
            self.feed(Exited(view.path, view.generation, "killed"))

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


@LIVES
@given(tops(), NUMBERS)
def test_the_tree_and_the_operating_system_always_agree(top: ChildSpec, numbers: list[int]) -> None:
    """One process per path, no start before the end, every stop meant for a living one, no timer without a reason."""
    Shell(top).play(numbers)


@LIVES
@given(tops(), NUMBERS, st.integers(0, 1000))
def test_everything_ends_when_the_tree_is_stopped(top: ChildSpec, numbers: list[int], number: int) -> None:
    shell = Shell(top)
    shell.play(numbers)
    shell.feed(StopTree())
    shell.answer_all(number)
    assert shell.ended is not None


@LIVES
@given(tops(), NUMBERS, st.integers(0, 1000), st.booleans())
def test_an_urgent_stop_needs_no_start_to_finish(top: ChildSpec, numbers: list[int], number: int, twice: bool) -> None:
    shell = Shell(top)
    shell.play(numbers)
    shell.feed(StopTree(urgent=True))
    before = len(shell.log)
    if twice:
        shell.feed(StopTree(urgent=True))
    shell.finish(number)
    assert shell.ended is not None
    assert [effect for effect in shell.log[before:] if isinstance(effect, Spawn)] == []


def test_the_random_lives_reach_every_cell_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property of trees that are too small or too short would prove little."""
    reached: Counter[str] = Counter()

    def counted(cell: str, step: Callable[..., None]) -> Callable[..., None]:
        def count_and_step(*arguments: Any) -> None:
            reached[cell] += 1
            step(*arguments)

        return count_and_step

    cells = {key: f"{key[0].name} {key[1].__name__}" for key in answers._TABLE}
    table = {key: counted(cells[key], step) for key, step in answers._TABLE.items()}
    conclusions = {key: counted(key.name, step) for key, step in supervision._CONCLUSIONS.items()}
    monkeypatch.setattr(answers, "_TABLE", table)
    monkeypatch.setattr(supervision, "_CONCLUSIONS", conclusions)
    test_everything_ends_when_the_tree_is_stopped()
    test_an_urgent_stop_needs_no_start_to_finish()
    assert {*cells.values(), *(key.name for key in conclusions)} == {*reached}


@FIXED
@given(st.lists(st.tuples(restarts, st.booleans()), min_size=1, max_size=6), st.sampled_from(list(Strategy)), st.data())
def test_exactly_the_set_of_the_strategy_restarts(
    kinds: list[tuple[Restart, bool]], strategy: Strategy, data: st.DataObject
) -> None:
    """Rules 15, 23-26, 31-33 against a model of one paragraph."""
    children = [worker(f"c{number}", restart=restart) for number, (restart, _) in enumerate(kinds)]
    rig = Rig(*children, strategy=strategy, max_restarts=None).boot()
    for child, (_, stopped) in zip(children, kinds, strict=True):
        if stopped:
            rig.request(TerminateChild("top", child.id))
    running = list(rig.alive)
    if not running:
        return
    victim, reason = data.draw(st.sampled_from(running)), data.draw(st.sampled_from(REASONS))
    known = list(rig.states())
    said = rig.crash(victim, reason)

    position = known.index(victim)
    restart = next(child.restart for child in children if child.id == victim)
    wanted = restart == "permanent" or (restart == "transient" and not is_clean(reason))
    group = {"one_for_one": [victim], "one_for_all": known, "rest_for_one": known[position:]}[strategy] if wanted else []
    stops = [name for name in reversed(group) if name in running and name != victim]
    starts = [name for name in group if next(c.restart for c in children if c.id == name) != "temporary"]
    assert [line.split()[1] for line in said if line.startswith("stop")] == stops
    assert [line.split()[1] for line in said if line.startswith("spawn")] == starts
    assert [line.split()[0] for line in said] == ["stop"] * len(stops) + ["spawn"] * len(starts)


@st.composite
def static_trees(draw: st.DrawFn, depth: int, name: str) -> ChildSpec:
    if depth == 0 or draw(st.booleans()):
        return worker(name, shutdown=draw(shutdowns))
    children = [draw(static_trees(depth - 1, letter)) for letter in "abcd"[: draw(st.integers(0, 4))]]
    return supervisor(name, *children)


@FIXED
@given(st.lists(st.integers(0, 3), max_size=5), st.booleans(), st.data())
def test_the_order_of_stops_is_the_reverse_of_the_order_of_starts(
    depths: list[int], urgent: bool, data: st.DataObject
) -> None:
    """Rule 52, through all levels."""
    rig = Rig(*(data.draw(static_trees(depth, f"c{number}")) for number, depth in enumerate(depths)))
    rig.feed(Boot())
    started = [line.split()[1] for line in rig.settle() if line.startswith("spawn")]
    said = rig.run(StopTree(urgent))
    assert [line.split()[1] for line in said if line.startswith("stop")] == started[::-1]
    assert said[-1] == "ended shutdown"


@FIXED
@given(st.lists(st.floats(0, 20), max_size=40), st.integers(0, 6), st.integers(1, 12))
def test_the_window_is_a_count_of_the_restarts_within_the_period(steps: list[float], limit: int, period: int) -> None:
    """Rules 43-45 against a model that keeps everything."""
    window, now, times = Window(limit, period), 0.0, []
    for step in steps:
        now += step
        times.append(now)
        together = [time for time in times if floor(now) - floor(time) <= period]
        assert window.count(now) == len(together) - 1
        assert window.admit(now) is (len(together) <= limit)
        assert window.count(now) == len(together)


@FIXED
@given(st.floats(0.01, 10), st.floats(1, 10), st.floats(0.01, 100), st.integers(0, 50))
def test_delays_grow_from_nothing_over_initial_to_max(initial: float, factor: float, most: float, count: int) -> None:
    policy = Backoff(initial=initial, factor=factor, max=most)
    delay = None
    for number in range(count):
        delay = next_delay(policy, delay)
        expected = 0.0 if number == 0 else min(initial * factor ** (number - 1), most)
        assert abs(delay - expected) <= 1e-9 * max(1.0, expected)
