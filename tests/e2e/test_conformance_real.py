"""Root with real processes does what Erlang/OTP did: the recorded scenarios once more, through a running node."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.real import LINES, WORKER, Desk, drive, left_out_here
from tests.conformance.replay import Difference, load
from tests.e2e.node import node

CORPUS = Path(__file__).parents[1] / "conformance" / "public.jsonl"
LANES = 6
CONFIG = "".join(f"[supervisors.lane{n}]\n" for n in range(LANES)) + '[agents.idle]\nscript = "idle.py"\n'


@dataclass
class Outcome:
    """What became of each scenario."""

    driven: list[dict[str, Any]] = field(default_factory=list)
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """Every scenario that has a meaning for processes, a few side by side; the longest waits begin first."""
    found = Outcome()
    work: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    scenarios = load(CORPUS)
    for number, scenario in sorted(enumerate(scenarios), key=lambda each: -waits(each[1])):
        why = left_out_here(scenario)
        if why is None:
            found.driven.append(scenario)
            work.put((f"s{number}", scenario))
        else:
            found.left_out[scenario["name"]] = why
    with node(CONFIG, {"scripted.py": WORKER}) as n:
        desk = Desk(n.control, n.home)
        lanes = [threading.Thread(target=run_lane, args=(f"lane{k}", desk, work, found)) for k in range(LANES)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        desk.events.close()
        yield found


def run_lane(lane: str, desk: Desk, work: queue.SimpleQueue[tuple[str, dict[str, Any]]], found: Outcome) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(desk.line()) for _ in range(LINES)]
        for line in lines:
            line.ask("node")  # accepted: from now on requests reach root in the order in which they are sent
        while True:
            try:
                key, scenario = work.get_nowait()
            except queue.Empty:
                return
            found.differences[scenario["name"]] = drive(scenario, desk, lane, key, lines, "C")


def waits(scenario: dict[str, Any]) -> int:
    """Milliseconds in which nothing happens."""
    return sum(step["ms"] for step in scenario["steps"] if step["op"] == "advance_ms")


def test_real_processes_under_root_do_what_otp_did(outcome: Outcome) -> None:
    assert [str(each) for found in outcome.differences.values() for each in found] == []
    assert len(outcome.differences) == len(outcome.driven)
