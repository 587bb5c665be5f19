"""One chaos run: stage, calm, storm, calm, verdict. What is left over after the storm is a problem, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import psutil

from otpd.agents import OtpdError, connect
from tests.chaos.storm import ACTORS, MAYFLIES, Storm, stage
from tests.chaos.verdict import Left, Verdict, judge
from tests.e2e.node import Node
from tests.e2e.test_observers import journal
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
        all_answer(node)
        before = _footprint(node)
        storm = Storm(node, seed)
        storm.rage(seconds)
        _end_mayflies(node)
        all_answer(node)
        hush(node)
        left = Left(kept(node), schedules(node), declared(), lost(node))
        problems = [f"{what} grew from {before[what]} to {value}" for what, value in _calmed(node, before).items()]
        node.stop()
        return Outcome(judge(facts, left), storm.done, problems)


def all_answer(node: Node, names: Sequence[str] = ACTORS) -> None:
    """Every actor runs, is registered, and answers a call; one after the other, because on a busy machine there may always
    be one whose breaker the impatience of its peers has opened."""

    def answers(name: str) -> bool:
        with suppress(OtpdError, OSError), connect(node.control) as client:
            return bool(client.call(name, "echo", text=name, timeout=10) == name)
        return False

    for name in names:
        eventually(partial(answers, name), RECOVERY, f"{name} answers")


def hush(node: Node, names: Sequence[str] = ACTORS) -> None:
    """Also one whose breaker the impatience of its peers has opened."""

    def hushed(name: str) -> bool:
        with suppress(OtpdError, OSError), connect(node.control) as client:
            client.call(name, "hush", timeout=10)
            return True
        return False

    for name in names:
        eventually(partial(hushed, name), RECOVERY, f"{name} is silent")


def kept(node: Node, names: Sequence[str] = ACTORS) -> dict[str, list[str]]:
    """What the durable messages have left in the states of their targets, when none waits any more; and the dead letters."""

    def drained() -> dict[str, list[str]] | None:
        with suppress(OtpdError, OSError):
            with connect(node.control) as client:
                if not client.call("store", "waiting", timeout=5):
                    letters = [str(each) for each in client.call("store", "letters", timeout=5)]
                    return {"": letters} | {name: client.call(name, "kept", timeout=5) for name in names}
        return None

    found = eventually(drained, RECOVERY, "no durable message waits")
    assert found is not None
    return found


def _end_mayflies(node: Node) -> None:
    """Their names end while there is nobody who could hear of it."""
    all_answer(node)
    node.kill(node.pid("scheduler"))
    for action in ("stop", "delete"):
        node.ask("child", timeout=RECOVERY, action=action, names=list(MAYFLIES))


def declared(names: Sequence[str] = ACTORS) -> list[str]:
    return sorted(f"{name}/{schedule}" for name in names for schedule in ("tick", "poll", "second"))


def schedules(node: Node, names: Sequence[str] = ACTORS) -> list[str]:
    """Ids that the scheduler has: as soon as it has those that are declared and no others, or at last."""

    def found() -> list[str]:
        with connect(node.control) as client:
            return sorted(row["id"] for row in client.call("scheduler", "schedules", timeout=10)["rows"])

    def calm() -> bool:
        with suppress(OtpdError, OSError):
            return found() == declared(names)
        return False

    with suppress(AssertionError):  # what is left over is judged
        eventually(calm, RECOVERY)
    return found()


def lost(node: Node) -> frozenset[str]:
    """Ids of schedules of which the scheduler has told that a run is lost."""
    return frozenset(event["schedule"] for event in journal(node) if event["event"] == "otpd.scheduler.lost")


def _footprint(node: Node) -> dict[str, int]:
    broker = psutil.Process(node.pid("broker"))
    return {
        "descriptors of root": node.facts()["descriptors"],
        "descriptors of the broker": broker.num_fds(),
        "descriptors of the scheduler": psutil.Process(node.pid("scheduler")).num_fds(),
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
