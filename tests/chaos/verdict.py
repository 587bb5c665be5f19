"""Judges what the actors of a chaos run wrote down: what must hold whatever was killed (messaging.md C2, D1, H1). Pure.

`timers` judges what they wrote of their timers.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import timers
from tests.chaos.actor import TIMEOUT

#: Seconds by which an outcome may be late, besides the time for which the actor itself stood still.
SLACK = 0.5
#: Seconds; an actor that runs writes more often.
_SILENCE = 0.1
#: What a sender may not hear of a message that was handled all the same.
NOT_EXECUTED = ("NoProcess", "Overloaded", "CircuitOpen")

Fact = dict[str, Any]
Kept = dict[str, list[str]]


@dataclass(frozen=True)
class Verdict:
    problems: list[str]
    outcomes: Counter[str]  # of calls
    facts: Counter[str]  # of each kind


@dataclass(frozen=True)
class Left:
    """What is there when all is calm. `kept`: of each actor, the durable messages that are in its state, under "" the dead
    letters. `schedules`: ids that the scheduler has, of which `declared` have to be there. `lost`: those of which it has
    told that a run is lost."""

    kept: Kept = field(default_factory=dict)
    schedules: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    lost: frozenset[str] = frozenset()


def judge(directory: Path, left: Left | None = None) -> Verdict:
    """All files of one run. Without `left` nothing is said of what is durable, and of timers."""
    lives = {path.name: list(_facts(path)) for path in sorted(directory.glob("*.jsonl"))}
    problems = [problem for name, life in lives.items() for problem in (*_calls(name, life), *_downs(name, life))]
    problems += _casts([fact for life in lives.values() for fact in life])
    everything = [fact for life in lives.values() for fact in life]
    facts = Counter(fact["what"] for fact in everything)
    if left is not None:
        problems += [*_durable(everything, left.kept), *timers.judge(lives, left.schedules, left.declared, left.lost)]
        facts["timer died with its agent"] = timers.excused(lives)
    outcomes = Counter(fact["outcome"] for fact in everything if fact["what"] == "called")
    return Verdict(problems, outcomes, facts)


def _facts(path: Path) -> Iterator[Fact]:
    """Each is one line and one write; but a kill may cut a write short where a page of the file ends: what has no end of its
    line was not said."""
    yield from map(json.loads, path.read_text().split("\n")[:-1])


def _calls(name: str, life: list[Fact]) -> Iterator[str]:
    """Every call has one outcome, by its deadline, while its caller lives and runs."""
    ended: dict[str, list[Fact]] = {}
    for fact in life:
        if fact["what"] == "called":
            ended.setdefault(fact["id"], []).append(fact)
    silences = _silences(life)
    for fact in life:
        if fact["what"] != "call":
            continue
        due = fact["at"] + TIMEOUT + SLACK + _stood_still(silences, fact["at"])
        found = ended.get(fact["id"], [])
        if not found and life[-1]["at"] > due:
            yield f"{name}: call {fact['id']} to {fact['peer']} has no outcome"
        elif len(found) > 1 or (found and found[0]["outcome"] == "wrong answer"):
            yield f"{name}: call {fact['id']}: {[each['outcome'] for each in found]}"
        elif found and found[0]["at"] > due:
            yield f"{name}: call {fact['id']} ended {found[0]['at'] - fact['at']:.2f} s after it began"


def _silences(life: list[Fact]) -> list[tuple[float, float]]:
    """When the actor wrote nothing for a while, and for how long: it was stopped, or the machine was."""
    times = [fact["at"] for fact in life]
    return [(earlier, later - earlier) for earlier, later in itertools.pairwise(times) if later - earlier > _SILENCE]


def _stood_still(silences: list[tuple[float, float]], since: float) -> float:
    return sum(length for at, length in silences if since <= at + length and at <= since + TIMEOUT + SLACK)


def _casts(everything: Iterable[Fact]) -> list[str]:
    """Each is handled at most once, and never when its sender was told that it was not."""
    sent: set[str] = set()
    refused: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for fact in everything:
        match fact["what"]:
            case "cast":
                sent.add(fact["id"])
            case "casted" if fact["outcome"] in NOT_EXECUTED:
                refused[fact["id"]] = fact["outcome"]
            case "took":
                taken[fact["id"]] += 1
    problems = [f"cast {number} was handled {times} times" for number, times in taken.items() if times > 1]
    problems += [f"cast {number} was handled and never sent" for number in taken.keys() - sent]
    return problems + [f"cast {n} was handled, its sender heard {refused[n]}" for n in taken.keys() & refused.keys()]


def _durable(everything: Iterable[Fact], kept: Kept) -> list[str]:
    """What was accepted has its effect, at its target, once; nothing has it twice (E1, E7)."""
    to: dict[str, str] = {}
    accepted: set[str] = set()
    for fact in everything:
        match fact["what"]:
            case "durable":
                to[fact["id"]] = fact["peer"]
            case "durabled" if fact["outcome"] == "accepted":
                accepted.add(fact["id"])
    times = Counter(number for name, numbers in kept.items() if name for number in numbers)
    problems = [f"durable cast {n} was accepted and is lost" for n in sorted(accepted) if n not in kept.get(to[n], [])]
    problems += [f"durable cast {number} has its effect {count} times" for number, count in times.items() if count > 1]
    return problems + [f"dead letter: {letter}" for letter in kept.get("", [])]


def _downs(name: str, life: list[Fact]) -> Iterator[str]:
    """One DOWN per incarnation that was watched; the watcher monitors again after each."""
    seen = Counter((fact["peer"], fact["generation"]) for fact in life if fact["what"] == "down" and fact["generation"])
    for (peer, generation), times in seen.items():
        if times > 1:
            yield f"{name}: DOWN of {peer} generation {generation} came {times} times"
