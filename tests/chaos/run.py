"""One chaos run: stage, calm, storm, calm, verdict. What is left over after the storm is a problem, too."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from otpd.agents import OtpdError, connect
from tests.chaos.storm import AGENTS, Storm, stage
from tests.chaos.verdict import Verdict, judge
from tests.e2e.node import Node
from tests.helpers import eventually

#: Seconds after which a node must have found back from anything.
RECOVERY = 120.0
#: Of the broker, over what it had before the storm.
MORE_MEMORY, MORE_FILES = 40 * 2**20, 8


@dataclass
class Outcome:
    verdict: Verdict
    struck: Counter[str]
    problems: list[str] = field(default_factory=list)


def chaos(seconds: float, seed: int) -> Outcome:
    with stage(seed) as (node, facts):
        _all_answer(node)
        before = _footprint(node)
        storm = Storm(node, seed)
        storm.rage(seconds)
        _all_answer(node)
        _hush(node)
        kept = _kept(node)
        problems = [f"{what} grew from {before[what]} to {value}" for what, value in _calmed(node, before).items()]
        node.stop()
        return Outcome(judge(facts, kept), storm.done, problems)


def _all_answer(node: Node) -> None:
    """Every actor runs, is registered, and answers a call."""
    names = [f"actor{number}" for number in range(AGENTS)]

    def answer() -> bool:
        try:
            with connect(node.control) as client:
                return [client.call(name, "echo", text=name, timeout=10) for name in names] == names
        except (OtpdError, OSError):
            return False

    eventually(answer, RECOVERY, "every actor answers")


def _hush(node: Node) -> None:
    with connect(node.control) as client:
        for number in range(AGENTS):
            client.call(f"actor{number}", "hush", timeout=RECOVERY)


def _kept(node: Node) -> dict[str, list[str]]:
    """What the durable messages have left in the states of their targets, when none waits any more; and the dead letters."""

    def drained() -> dict[str, list[str]] | None:
        with suppress(OtpdError, OSError):
            with connect(node.control) as client:
                if not client.call("store", "waiting", timeout=5):
                    letters = [str(each) for each in client.call("store", "letters", timeout=5)]
                    names = [f"actor{number}" for number in range(AGENTS)]
                    return {"": letters} | {name: client.call(name, "kept", timeout=5) for name in names}
        return None

    found = eventually(drained, RECOVERY, "no durable message waits")
    assert found is not None
    return found


def _footprint(node: Node) -> dict[str, int]:
    broker = psutil.Process(node.pid("broker"))
    return {
        "descriptors of root": node.facts()["descriptors"],
        "descriptors of the broker": broker.num_fds(),
        "memory of the broker": broker.memory_info().rss,
    }


def _calmed(node: Node, before: dict[str, int]) -> dict[str, int]:
    """What stays above its bound."""
    allowed = {what: value + (MORE_MEMORY if "memory" in what else MORE_FILES) for what, value in before.items()}

    def excess() -> dict[str, int]:
        return {what: value for what, value in _footprint(node).items() if value > allowed[what]}

    try:
        eventually(lambda: not excess(), RECOVERY)
    except AssertionError:
        return excess()
    return {}
