"""The short form of scripts/chaos, and that its judge can convict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.run import chaos
from tests.chaos.verdict import judge


@pytest.mark.timeout(600)
def test_whatever_is_killed_every_call_ends_no_cast_is_doubled_and_nothing_is_left() -> None:
    outcome = chaos(seconds=12.0, seed=7)
    assert (outcome.verdict.problems, outcome.problems) == ([], [])
    struck = [outcome.struck[f"{what} killed"] for what in ("agent", "broker", "store")]
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
    assert judge(tmp_path, kept).problems == [problem]
    assert judge(tmp_path, {"x": ["d"]}).problems == []


def test_a_call_whose_caller_died_needs_no_outcome(tmp_path: Path) -> None:
    facts = [fact("call", 1.0, id="a", peer="x"), fact("born", 1.4)]
    (tmp_path / "a.1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in facts))
    assert judge(tmp_path).problems == []
