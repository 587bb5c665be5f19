"""The short form of scripts/chaos, and that its judge can convict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.run import chaos
from tests.chaos.verdict import Left, Verdict, judge


@pytest.mark.timeout(600)
def test_whatever_is_killed_every_call_ends_no_cast_is_doubled_and_nothing_is_left() -> None:
    outcome = chaos(seconds=9.0, seed=7)
    assert (outcome.verdict.problems, outcome.problems) == ([], [])
    struck = [outcome.struck[f"{what} killed"] for what in ("agent", "broker", "store", "scheduler")]
    assert all(struck) and outcome.verdict.outcomes["ok"] > 1000 and outcome.verdict.facts["durabled"] > 50


def fact(what: str, at: float, **more: Any) -> dict[str, Any]:
    return {"what": what, "at": at, **more}


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (
            [fact("call", 1.0, id="a", peer="x"), *(fact("born", 1.0 + n / 20) for n in range(60))],
            "a.1: call a to x has no outcome",
        ),
        (
            [fact("call", 1.0, id="a", peer="x"), *(fact("called", 1.1, id="a", outcome="ok") for _ in range(2))],
            "a.1: call a: ['ok', 'ok']",
        ),
        (
            [
                fact("call", 1.0, id="a", peer="x"),
                *(fact("born", 1.0 + n / 20) for n in range(60)),
                fact("called", 4.0, id="a", outcome="ok"),
            ],
            "a.1: call a ended 3.00 s after it began",
        ),
        ([fact("cast", 1.0, id="c"), fact("took", 1.1, id="c"), fact("took", 1.1, id="c")], "cast c was handled 2 times"),
        ([fact("took", 1.1, id="c")], "cast c was handled and never sent"),
        (
            [fact("cast", 1.0, id="c"), fact("casted", 1.1, id="c", outcome="NoProcess"), fact("took", 1.1, id="c")],
            "cast c was handled, its sender heard NoProcess",
        ),
        (
            [fact("down", 1.0, peer="x", generation=3, reason="killed") for _ in range(2)],
            "a.1: DOWN of x generation 3 came 2 times",
        ),
    ],
)
def test_the_judge_convicts(tmp_path: Path, facts: list[dict[str, Any]], problem: str) -> None:
    (tmp_path / "a.1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in facts))
    verdict = judge(tmp_path)
    assert [found.replace("a.1.jsonl", "a.1") for found in verdict.problems] == [problem]


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ({"x": []}, "durable cast d was accepted and is lost"),
        ({"x": ["d", "d"]}, "durable cast d has its effect 2 times"),
        ({"y": ["d"], "x": []}, "durable cast d was accepted and is lost"),
        ({"": ["7"], "x": ["d"]}, "dead letter: 7"),
    ],
)
def test_the_judge_convicts_who_loses_or_doubles_what_is_durable(
    tmp_path: Path, kept: dict[str, list[str]], problem: str
) -> None:
    facts = [fact("durable", 1.0, id="d", peer="x"), fact("durabled", 1.1, id="d", outcome="accepted")]
    (tmp_path / "a.1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in facts))
    assert judge(tmp_path, Left(kept)).problems == [problem]
    assert judge(tmp_path, Left({"x": ["d"]})).problems == []


SECOND = 1_000_000_000
SET = [
    fact("born", 1.0),
    fact("set", 2.0, id="t", due=3 * SECOND, wall=None),
    fact("was set", 2.1, id="t", outcome="accepted"),
]
ON_THE_WALL = [fact("set", 2.0, id="t", due=3 * SECOND, wall=90 * SECOND)]
TAKEN_BACK = [fact("cancel", 2.2, id="t"), fact("cancelled", 2.3, id="t", outcome=True)]


def rang(mono: float, wall: float = 0.0) -> dict[str, Any]:
    return fact("rang", mono, id="t", mono=int(mono * SECOND), wall=int(wall * SECOND))


def ran(schedule: str, slot: float, now: float) -> dict[str, Any]:
    return fact("ran", now, schedule=f"x/{schedule}", slot=int(slot * SECOND), now=int(now * SECOND))


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ([*SET, rang(2.999)], "timer t rang 0.001000 s early"),
        ([*ON_THE_WALL, rang(3.5, 89.5)], "timer t rang 0.500000 s early"),
        ([*SET, rang(3.0), rang(3.1)], "timer t rang 2 times"),
        ([*SET, *TAKEN_BACK, rang(3.0)], "timer t was taken back and rang"),
        ([rang(3.0)], "timer t rang and was never set"),
        ([*SET], "timer t of x was set and never rang"),
        ([*SET, fact("born", 2.9)], "timer t of x was set and never rang"),
        ([*SET, fact("heard", 33.1, id="e"), fact("born", 33.2)], "timer t of x was set and never rang"),
        ([*SET, fact("heard", 33.1, id="e"), fact("born", 33.2), fact("born", 33.3)], "timer t of x was set and never rang"),
        ([ran("tick", 1.0, 0.9)], "slot 1000000000 of x/tick ran 0.100000 s early"),
        ([ran("second", 1.0, 1.1), ran("second", 1.0, 1.2)], "slot 1000000000 of x/second ran 2 times"),
        (
            [ran("tick", 1.0, 1.0), ran("tick", 1.2, 1.2)],
            "slots 1000000000 and 1200000000 of x/tick are closer than its interval",
        ),
        ([ran("poll", 1.0, 1.0), ran("poll", 1.1, 1.1)], "x/poll ran 0.100 s after it had run"),
    ],
)
def test_the_judge_convicts_timers(tmp_path: Path, facts: list[dict[str, Any]], problem: str) -> None:
    assert judged(tmp_path, facts).problems == [problem]


@pytest.mark.parametrize(
    "facts",
    [
        [*SET, rang(3.0)],
        [*ON_THE_WALL, rang(2.9, 90.0)],  # somebody has set the clock
        [*SET, *TAKEN_BACK],
        [*SET, fact("cancel", 2.2, id="t"), fact("cancelled", 2.3, id="t", outcome="CallTimeout")],
        [ran("tick", 1.0, 1.4), ran("tick", 1.3, 1.4)],  # the first was late
        [ran("second", 1.0, 1.0), ran("poll", 1.0, 1.0), ran("poll", 1.3, 1.3)],
    ],
)
def test_the_judge_lets_go_timers_that_come_once_and_in_time(tmp_path: Path, facts: list[dict[str, Any]]) -> None:
    assert judged(tmp_path, facts).problems == []


@pytest.mark.parametrize(
    "facts",
    [
        [fact("born", 3.2)],
        [fact("heard", 3.2, id="e"), fact("born", 60.0)],  # the node was away for long
        [fact("heard", 32.9, id="e"), fact("born", 33.1)],
        [fact("heard", 2.9, id="e"), fact("cast", 40.0, id="c", peer="y"), fact("born", 40.1)],  # it waited behind a handler
    ],
)
def test_a_timer_that_may_have_died_with_its_agent_is_counted_and_no_problem(
    tmp_path: Path, facts: list[dict[str, Any]]
) -> None:
    verdict = judged(tmp_path, [*SET, *facts])
    assert (verdict.problems, verdict.facts["timer died with its agent"]) == ([], 1)


def test_a_timer_that_its_scheduler_has_told_as_lost_is_no_problem(tmp_path: Path) -> None:
    facts = [*SET[:-1], fact("was set", 2.1, id="t", outcome="accepted", schedule="x/ring/1")]
    assert judged(tmp_path, facts, Left(lost=frozenset({"x/ring/1"}))).problems == []
    assert judged(tmp_path, facts, Left(lost=frozenset({"x/ring/2"}))).problems == ["timer t of x was set and never rang"]


def test_the_judge_convicts_schedules_that_are_left_or_gone(tmp_path: Path) -> None:
    left = Left(schedules=["x/tick", "gone/tick"], declared=["x/poll", "x/tick"])
    assert judged(tmp_path, [], left).problems == ["schedule x/poll is gone", "timer gone/tick is leaked"]


def judged(directory: Path, facts: list[dict[str, Any]], left: Left | None = None) -> Verdict:
    (directory / "x.1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in facts))
    return judge(directory, left or Left())


def test_a_call_whose_caller_died_needs_no_outcome(tmp_path: Path) -> None:
    facts = [fact("call", 1.0, id="a", peer="x"), fact("born", 1.4)]
    (tmp_path / "a.1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in facts))
    assert judge(tmp_path).problems == []


def test_what_a_kill_cut_short_was_not_said(tmp_path: Path) -> None:
    written = json.dumps(fact("born", 1.0)) + "\n" + json.dumps(fact("down", 1.0, peer="x", generation=3, reason="killed"))
    (tmp_path / "a.1.jsonl").write_text(written[:-9])
    assert judge(tmp_path).facts == {"born": 1}
