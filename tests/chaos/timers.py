"""Judges what the actors of a chaos run wrote down of their timers: none early, doubled, lost or left over. Pure.

A timer that was set rings once, unless it was taken back, or the incarnation that had its name when it was due, or the first
one after that, died before it must have had it: a run ends with whom it was given to. When the next one was born does not
matter: a node whose root is killed over and over may be away for long. A word to the scheduler that ended in an error says
nothing: the timer may be there or not.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Fact = dict[str, Any]

#: Seconds in which a timer that is due has been given to whoever has the name, services that are down or not.
GIVEN: Final = 30.0
#: What an actor writes down when it is the turn of something that was given to it.
TURNS: Final = frozenset({"took", "heard", "down", "rejected", "ran", "rang"})
INTERVAL: Final = 300_000_000
#: Of INTERVAL, that a fixed delay may fall short by: schedulers that follow each other count from different moments.
SLACK: Final = INTERVAL // 2


@dataclass
class Timer:
    """One-shot: `due` in seconds of the monotonic clock; `wall`: in ns of the other one, if it goes by that."""

    name: str
    due: float
    wall: int | None
    accepted: bool = False
    schedule: str = ""  # its id at the scheduler
    taken_back: Any = None  # what `cancel` has answered
    rang: list[Fact] = field(default_factory=list)


def judge(
    lives: Mapping[str, Sequence[Fact]], left: Iterable[str], declared: Iterable[str], lost: Collection[str] = ()
) -> list[str]:
    """`lives`: by NAME.BIRTH; `left`: ids that the scheduler has when all is calm, of which `declared` have to be there;
    `lost`: those of which it has told that a run was given, and is lost with a broker or a scheduler that died over it."""
    timers = _timers(lives)
    lifetimes = _lifetimes(lives)
    problems = [problem for number, timer in timers.items() for problem in _one_shot(number, timer, lifetimes, lost)]
    facts = sorted((fact for life in lives.values() for fact in life), key=lambda fact: fact["at"])
    problems += _intervals(facts)
    problems += _delays(lives)
    found, wanted = set(left), set(declared)
    problems += [f"schedule {id_} is gone" for id_ in sorted(wanted - found)]
    return problems + [f"timer {id_} is leaked" for id_ in sorted(found - wanted)]


def excused(lives: Mapping[str, Sequence[Fact]]) -> int:
    """How many of the timers that were set did not ring because the incarnation that may have had them died."""
    lifetimes = _lifetimes(lives)
    silent = (timer for timer in _timers(lives).values() if timer.accepted and not timer.rang and timer.taken_back is None)
    return sum(_died(timer, lifetimes) for timer in silent)


def _timers(lives: Mapping[str, Sequence[Fact]]) -> dict[str, Timer]:
    timers: dict[str, Timer] = {}
    for fact, name in ((fact, _name(key)) for key, life in lives.items() for fact in life):
        if fact["what"] == "set":
            timers[fact["id"]] = Timer(name, fact["due"] / 1e9, fact["wall"])
    for fact in (fact for life in lives.values() for fact in life):
        match fact["what"]:
            case "was set":
                timers[fact["id"]].accepted = fact["outcome"] == "accepted"
                timers[fact["id"]].schedule = fact.get("schedule", "")
            case "cancel":  # until it is answered, and if its agent dies meanwhile, nobody can say
                timers[fact["id"]].taken_back = timers[fact["id"]].taken_back or "unknown"
            case "cancelled":
                timers[fact["id"]].taken_back = fact["outcome"]
            case "rang":
                timers.setdefault(fact["id"], Timer("", 0.0, None)).rang.append(fact)
    return timers


def _name(key: str) -> str:
    return key.split(".")[0]


def _lifetimes(lives: Mapping[str, Sequence[Fact]]) -> dict[str, list[tuple[float, float]]]:
    """Of each name, when its incarnations were born, one after the other, and when each had its last turn.

    What came afterwards waited behind a handler, as long as that waited: half a minute for a store that is killed again and
    again.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for fact, name in sorted(
        ((fact, _name(key)) for key, life in lives.items() for fact in life), key=lambda each: each[0]["at"]
    ):
        of_name = found.setdefault(name, [])
        if fact["what"] == "born":
            of_name.append((fact["at"], fact["at"]))
        elif of_name and fact["what"] in TURNS:
            of_name[-1] = of_name[-1][0], fact["at"]
    return found


def _died(timer: Timer, lifetimes: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    """Whether the one who was to have it died with it, as it may be."""
    for (born, last), (following, _) in itertools.pairwise(lifetimes.get(timer.name, [])):
        if following >= timer.due:
            return last - max(born, timer.due) <= GIVEN
    return False


def _one_shot(
    number: str, timer: Timer, lifetimes: Mapping[str, Sequence[tuple[float, float]]], lost: Collection[str]
) -> Iterator[str]:
    if not timer.name:
        yield f"timer {number} rang and was never set"
        return
    if len(timer.rang) > 1:
        yield f"timer {number} rang {len(timer.rang)} times"
    if timer.taken_back is True and timer.rang:
        yield f"timer {number} was taken back and rang"
    for fact in timer.rang:
        early = timer.due - fact["mono"] / 1e9 if timer.wall is None else (timer.wall - fact["wall"]) / 1e9
        if early > 0:
            yield f"timer {number} rang {early:.6f} s early"
    silent = timer.accepted and timer.taken_back is None and not timer.rang
    if silent and timer.schedule not in lost and not _died(timer, lifetimes):
        yield f"timer {number} of {timer.name} was set and never rang"


def _intervals(facts: Sequence[Fact]) -> Iterator[str]:
    """Each slot is run once, in order and not before its time; those of an interval are an interval apart."""
    last: dict[str, int] = {}
    times = Counter((fact["schedule"], fact["slot"]) for fact in facts if fact["what"] == "ran")
    for (schedule, slot), count in times.items():
        if count > 1:
            yield f"slot {slot} of {schedule} ran {count} times"
    for fact in (fact for fact in facts if fact["what"] == "ran"):
        schedule, slot = fact["schedule"], fact["slot"]
        if fact["now"] < slot:
            yield f"slot {slot} of {schedule} ran {(slot - fact['now']) / 1e9:.6f} s early"
        before = last.get(schedule)
        if schedule.endswith("/tick") and before is not None and 0 != slot - before < INTERVAL:
            yield f"slots {before} and {slot} of {schedule} are closer than its interval"
        last[schedule] = slot


def _delays(lives: Mapping[str, Sequence[Fact]]) -> Iterator[str]:
    """A fixed delay is kept between the runs of one incarnation."""
    for life in lives.values():
        runs = [fact for fact in life if fact["what"] == "ran" and fact["schedule"].endswith("/poll")]
        for before, after in itertools.pairwise(runs):
            if after["now"] - before["now"] < INTERVAL - SLACK:
                yield f"{after['schedule']} ran {(after['now'] - before['now']) / 1e9:.3f} s after it had run"
