"""Many scenarios at once on one node: each lane is a supervisor of it that takes one scenario after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Any

from otpd.ipc.control import ControlError
from tests.conformance.desk import Desk
from tests.conformance.real import RealReplay
from tests.conformance.replay import Difference
from tests.conformance.scripted import slower_clock

LANES = tuple(f"lane{n}" for n in range(8))
#: The node's otpd.toml; a node must have a worker of its own.
CONFIG = "".join(f"[supervisors.{lane}]\n" for lane in LANES) + '[agents.idle]\nscript = "idle.py"\n'
#: Connections per lane, for requests that wait.
LINES = 16


def drive_all(
    scenarios: Iterable[dict[str, Any]], desk: Desk, level: str, replay: type[RealReplay] = RealReplay
) -> dict[str, list[Difference]]:
    """By name all differences of each scenario; one lane does one at a time, and the longest waits begin first."""
    found: dict[str, list[Difference]] = {}
    work: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
    for scenario in sorted(scenarios, key=lambda each: -_waits(each)):
        work.put((desk.new_key(), scenario))

    def run(lane: str) -> None:
        with ExitStack() as stack:
            lines = [stack.enter_context(desk.line()) for _ in range(LINES)]
            for line in lines:
                line.ask("node")  # accepted: from now on requests reach root in the order in which they are sent
            while (job := _next(work)) is not None:
                key, scenario = job
                found[scenario["name"]] = _drive(replay(scenario, desk, lane, key, lines), level)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in LANES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _next(work: SimpleQueue[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]] | None:
    try:
        return work.get_nowait()
    except Empty:
        return None


def _drive(replay: RealReplay, level: str) -> list[Difference]:
    """What can't be driven counts as a difference."""
    try:
        found = list(replay.differences(level))
        replay.clear_away()
    except (AssertionError, LookupError, RuntimeError, OSError, ControlError) as error:
        return [Difference(replay.scenario["name"], -1, "not driven", None, f"{type(error).__name__}: {error}")]
    return found


def _waits(scenario: dict[str, Any]) -> int:
    """Milliseconds in which nothing happens."""
    return sum(step["ms"] for step in scenario["steps"] if step["op"] == "advance_ms") * slower_clock(scenario)
