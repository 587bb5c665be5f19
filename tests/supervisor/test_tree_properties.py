"""What holds for every tree and every sequence of events: random ones, always the same random ones.

A Shell (see `shell`) plays the processes. `test_tree_own_properties` is about the own children of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import floor
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from otpd.supervisor import answers, supervision
from otpd.supervisor.backoff import next_delay
from otpd.supervisor.child import is_clean
from otpd.supervisor.events import (
    Boot,
    Spawn,
    StopTree,
    TerminateChild,
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
from tests.supervisor.rig import Rig, supervisor, worker
from tests.supervisor.shell import REASONS, Shell

FIXED = settings(max_examples=150)
#: Whole lives of trees: shrinking one takes minutes, so a failure shows the example as it was found.
LIVES = settings(FIXED, max_examples=80, phases=[Phase.explicit, Phase.generate])
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
