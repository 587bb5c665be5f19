"""When children are asked, what their answers mean, and what holds for any course of events (T8, T55)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.services.health.probes import Ask, Drop, Effect, Mark, Plan, Probes, Replace, State, Verdict

GOOD, BAD, LOST = Verdict(True), Verdict(False, "no"), Verdict(None, "no broker")


def plan(**other: Any) -> Plan:
    known = {"check": ["call"], "interval": 10.0, "timeout": 2.0, "failures": 3, "successes": 2, "grace": 0.0}
    return Plan(**{**known, "action": "report", **other})


class Bench:
    """One child called "a", asked and answered by hand."""

    def __init__(self, generation: int = 1, **other: Any) -> None:
        self.probes, self.now, self.generation = Probes(), 100.0, generation
        assert self.probes.watch("a", generation, plan(**other), 100.0, self.now) == []

    def asked(self) -> Ask:
        """The next question, when it is due."""
        at = self.probes.next
        assert at is not None
        self.now = at
        (ask,) = self.probes.due(at)
        assert isinstance(ask, Ask)
        return ask

    def answer(self, *verdicts: Verdict) -> list[str]:
        """To one question each: what follows, in words."""
        said = []
        for verdict in verdicts:
            ask = self.asked()
            effects = self.probes.answered("a", ask.generation, ask.number, verdict, self.now)
            said += [words(each) for each in effects]
        return said

    @property
    def state(self) -> State:
        row = self.probes.row("a")
        assert row is not None
        return row.state


def words(effect: Effect) -> str:
    match effect:
        case Mark(state=state, why=why):
            return f"{state}{': ' + why if why else ''}"
        case Replace(generation=generation):
            return f"replace {generation}"
    return type(effect).__name__


# --- what answers mean ---


def test_the_first_success_makes_a_child_healthy() -> None:
    bench = Bench()
    assert bench.state is State.UNKNOWN
    assert bench.answer(GOOD, GOOD) == ["healthy"]


def test_so_many_failures_in_a_row_make_it_unhealthy_and_one_less_does_not() -> None:
    bench = Bench()
    assert bench.answer(GOOD, BAD, BAD, GOOD, BAD, BAD) == ["healthy"]
    assert bench.answer(BAD) == ["unhealthy: 3 checks in a row failed: no"]


def test_it_is_healthy_again_only_after_so_many_successes_in_a_row() -> None:
    bench = Bench(failures=1)
    assert bench.answer(BAD) == ["unhealthy: 1 check failed: no"]
    assert bench.answer(GOOD, BAD, GOOD) == []
    assert bench.answer(GOOD) == ["healthy"]


def test_failures_within_the_grace_count_for_nothing_until_the_first_success() -> None:
    bench = Bench(grace=25.0, failures=1)
    assert bench.answer(BAD, BAD) == []
    assert bench.now < 125.0
    assert bench.answer(GOOD, BAD) == ["healthy", "unhealthy: 1 check failed: no"]
    late = Bench(grace=25.0, failures=1)
    late.probes.watch("a", 1, plan(grace=25.0, failures=1), 70.0, 100.0)
    assert late.answer(BAD) == ["unhealthy: 1 check failed: no"], "the grace is counted from when it was ready"


def test_a_question_that_could_not_be_put_neither_counts_nor_breaks_a_row() -> None:
    bench = Bench()
    assert bench.answer(LOST, LOST, LOST, LOST) == []
    assert bench.answer(BAD, BAD, LOST, BAD) == ["unhealthy: 3 checks in a row failed: no"]


def test_with_restart_the_incarnation_is_named_and_said_again_while_it_fails_on() -> None:
    bench = Bench(generation=7, failures=2, action="restart")
    assert bench.answer(BAD, BAD) == ["unhealthy: 2 checks in a row failed: no", "replace 7"]
    assert bench.answer(BAD, LOST, GOOD, BAD) == ["replace 7", "replace 7"]


# --- who is asked ---


def test_an_answer_to_the_incarnation_before_says_nothing_about_the_next_one() -> None:
    bench = Bench(failures=1, action="restart")
    old = bench.asked()
    assert bench.probes.watch("a", 2, plan(failures=1, action="restart"), 100.0, bench.now) == [Drop(old.number)]
    assert bench.probes.answered("a", 1, old.number, BAD, bench.now) == []
    assert bench.state is State.UNKNOWN
    assert bench.probes.forget("a", 1) == []
    assert bench.answer(BAD) == ["unhealthy: 1 check failed: no", "replace 2"]


def test_an_end_drops_the_question_that_is_out_and_nothing_is_due_any_more() -> None:
    bench = Bench()
    ask = bench.asked()
    assert bench.probes.forget("a", 1) == [Drop(ask.number)]
    assert (bench.probes.next, bench.probes.names, bench.probes.due(1e9)) == (None, [], [])


def test_a_plan_that_a_reload_changes_keeps_the_health_unless_it_asks_in_another_way() -> None:
    bench = Bench(failures=1)
    bench.answer(BAD)
    bench.probes.watch("a", 1, plan(failures=5, interval=1.0), 100.0, bench.now)
    assert bench.state is State.UNHEALTHY
    assert bench.probes.next is not None and bench.probes.next <= bench.now + 1.0
    bench.probes.watch("a", 1, plan(check=["tcp", "127.0.0.1", 80]), 100.0, bench.now)
    assert bench.state is State.UNKNOWN


def test_asked_now_it_is_asked_once_and_then_in_its_interval() -> None:
    bench = Bench()
    (ask,) = bench.probes.ask_now("a", bench.now)
    assert bench.probes.ask_now("a", bench.now) == [] == bench.probes.ask_now("nobody", bench.now)
    assert isinstance(ask, Ask)
    bench.probes.answered("a", 1, ask.number, GOOD, bench.now)
    assert bench.probes.next is not None and bench.now + 5.0 <= bench.probes.next <= bench.now + 10.0


def test_a_slow_answer_delays_nobody_but_its_own_child() -> None:
    probes = Probes()
    for name in ("slow", "quick"):
        probes.watch(name, 1, plan(), 0.0, 0.0)
    number = {ask.name: ask.number for ask in probes.due(1.0) if isinstance(ask, Ask)}
    assert sorted(number) == ["quick", "slow"]
    asked = 0
    for second in range(1, 101):
        probes.answered("quick", 1, number["quick"], GOOD, float(second))
        for ask in probes.due(float(second)):
            assert isinstance(ask, Ask) and ask.name == "quick"
            number["quick"], asked = ask.number, asked + 1
    assert asked in (9, 10)


def test_children_that_start_together_are_asked_together_neither_at_first_nor_later() -> None:
    probes = Probes()
    for index in range(100):
        probes.watch(f"feed-{index}", 1, plan(), 0.0, 0.0)
    first, second = [], []
    while len(second) < 100:
        at = probes.next
        assert at is not None
        for ask in probes.due(at):
            assert isinstance(ask, Ask)
            (first if len(first) < 100 else second).append(at)
            probes.answered(ask.name, 1, ask.number, GOOD, at)
    assert 0.8 < max(first) - min(first) <= 1.0
    assert 4.0 < max(second) - min(second) <= 7.0


# --- any course of events ---

_events = st.one_of(
    st.tuples(st.just("watch"), st.sampled_from("ab"), st.integers(1, 3), st.sampled_from(["report", "restart"])),
    st.tuples(st.just("forget"), st.sampled_from("ab"), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([True, False, None])),
    st.tuples(st.just("now"), st.sampled_from("ab")),
    st.tuples(st.just("time"), st.floats(0.0, 20.0)),
)


@given(st.lists(_events, max_size=60))
def test_whatever_happens_one_question_is_out_per_child_and_only_the_current_one_is_judged(events: list[Any]) -> None:
    probes, now = Probes(), 0.0
    current: dict[str, int] = {}
    out: dict[int, Ask] = {}
    failed: dict[tuple[str, int], int] = {}
    for kind, *rest in events:
        effects: list[Effect] = []
        verdict, answered = None, None
        match kind, rest:
            case "watch", [name, generation, action]:
                current[name] = generation
                effects = probes.watch(name, generation, plan(action=action), now, now)
            case "forget", [name, generation]:
                effects = probes.forget(name, generation)
                if current.get(name) == generation:
                    del current[name]
            case "now", [name]:
                effects = probes.ask_now(name, now)
            case "time", [seconds]:
                now += seconds
                effects = probes.due(now)
            case "answer", [index, verdict] if out:
                answered = out.pop(sorted(out)[index % len(out)])
                effects = probes.answered(answered.name, answered.generation, answered.number, Verdict(verdict, "x"), now)
                key = (answered.name, answered.generation)
                failed[key] = failed.get(key, 0) + 1 if verdict is False else 0 if verdict else failed.get(key, 0)
        for effect in effects:
            match effect:
                case Ask(name, generation, number):
                    assert current[name] == generation
                    assert all(other.name != name for other in out.values())
                    out[number] = effect
                    failed = {key: count for key, count in failed.items() if key == (name, generation) or key[0] != name}
                case Drop(number):
                    dropped = out.pop(number)
                    assert current.get(dropped.name) != dropped.generation or kind == "watch"
                case Mark(name, generation, state) | Replace(name, generation, state):
                    assert answered is not None and current[name] == generation
                    if isinstance(effect, Replace):
                        assert verdict is False and answered.plan.action == "restart"
                    elif state is State.UNHEALTHY:
                        assert failed[name, generation] >= 3
                    else:
                        assert verdict is True
        assert set(current) == set(probes.names)
        waiting = [name for name in current if all(ask.name != name for ask in out.values())]
        assert (probes.next is not None) == bool(waiting), "whoever is not being asked will be"
