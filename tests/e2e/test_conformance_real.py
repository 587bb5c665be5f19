"""Root with real processes does what Erlang/OTP did: the recorded scenarios once more, through a running node."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.desk import Desk
from tests.conformance.lanes import CONFIG, drive_all
from tests.conformance.replay import Difference, load
from tests.conformance.scripted import WORKER, left_out_here
from tests.e2e.node import node

CORPUS = Path(__file__).parents[1] / "conformance" / "public.jsonl"
SCENARIOS = load(CORPUS)
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Outcome:
    """By name of the scenario."""

    differences: dict[str, list[Difference]]
    left_out: dict[str, str]
    spoilt: dict[str, list[Difference]]


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """Every scenario that has a meaning for processes, some side by side under one root; one of them spoilt, too."""
    left_out = {each["name"]: why for each in SCENARIOS if (why := left_out_here(each)) is not None}
    driven = [each for each in SCENARIOS if each["name"] not in left_out]
    with node(CONFIG, {"scripted.py": WORKER}) as n, Desk(n.control, n.home) as desk:
        differences = drive_all(driven, desk, "C")
        yield Outcome(differences, left_out, drive_all([spoilt()], desk, "C"))


def spoilt() -> dict[str, Any]:
    """A scenario none of whose outcomes is as recorded."""
    wrong = json.loads(json.dumps(next(each for each in SCENARIOS if each["name"] == "one_for_one_middle_child")))
    for expect in wrong["expect"]:
        expect |= {"result": "nonsense", "snapshot": [["nobody"]], "events": [["nothing"]]}
    return {**wrong, "name": "spoilt"}


def test_real_processes_under_root_do_what_otp_did(outcome: Outcome) -> None:
    """Results, snapshots, events and log reports (level C), step by step: crashes by real signals, requests over the
    control socket, batches with root frozen by SIGSTOP, starts and stops held up by the process itself."""
    assert [str(each) for found in outcome.differences.values() for each in found] == []


def test_a_wrong_outcome_would_be_noticed_at_every_step(outcome: Outcome) -> None:
    found = Counter((each.step, each.what) for each in outcome.spoilt["spoilt"])
    steps = len(spoilt()["expect"])
    assert found == {(step, what): 1 for step in range(steps) for what in ("result", "snapshot", "events")}


def test_every_tag_is_driven_and_what_is_left_out_is_counted(outcome: Outcome) -> None:
    driven = Counter(tag for each in SCENARIOS if each["name"] in outcome.differences for tag in each["tags"])
    left = Counter(tag for each in SCENARIOS if each["name"] in outcome.left_out for tag in each["tags"])
    print(f"\n{len(outcome.differences)} scenarios driven, {len(outcome.left_out)} left out")
    for tag in sorted(driven | left):
        print(f"{tag:16}{driven[tag]:4} driven {left[tag]:3} left out")
    for name, why in outcome.left_out.items():
        print(f"left out: {name}: {why}")
    assert set(driven) == {tag for each in SCENARIOS for tag in each["tags"]}
    assert set(outcome.left_out) == {
        "flags_bad_strategy",
        "child_spec_validation_errors",
        "check_specs_standalone",
        "root_ignores",
        "supervisor_killed_is_restarted",
        "change_bad_spec_is_refused",
    }
