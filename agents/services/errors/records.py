"""What of root's journal is an error, and what is kept of it: events in, records and last lines out. Pure.

| kind | from | what happened |
|---|---|---|
| crash | child.death | it ended abnormally, and nobody had asked; or its start failed |
| unclean_stop | child.death | it was asked to end and did not end well: killed after its time, an error on the way out |
| end | child.death | a clean end: by itself, or as asked |
| gave_up | supervisor.gave_up | one restart more than its budget |
| root_died | node.starting | the root before had not ended in order; all its children ended with it |
| helper | helper.exited, helper.failed | zygote or logger |
| dead_letter | SERVICE.dead_letters, .letter.dead, .letter.dropped | messages that reached nobody |
| breaker | broker.breaker.opened | calls to it fail at once for a while |
| skipped | scheduler.skipped, .lost, .overrun | a run of a schedule that did not take place, or was not finished |
| task | tasks.failed, .timeout, .killed | a task of a pool that failed unheard, took too long, or was killed |
| alert | health.unhealthy, health.problem, alert.raised | a condition of a child or of the machine |
| strike | broker.strike | a peer broke the protocol |
| violation | child.spawned, child.spawn_refused, child.unguarded | an agent made a process by itself |
| storage | log.full, log.events_lost, store.{problem,full}, SERVICE.{damaged,quarantined,stalled,missed} | files that fail |
| suppressed | SERVICE.suppressed | so many events of it were left out |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.agents.services.errors.fingerprint import fingerprint, raised
from otpd.agents.services.journal import Cursor, Event, crashed, is_clean, place

#: In the order of `otpd errors --help`.
KINDS: Final = (
    "crash", "unclean_stop", "end", "gave_up", "root_died", "helper", "dead_letter", "breaker", "skipped", "task", "alert",
    "strike", "violation", "storage", "suppressed",
)  # fmt: skip
#: Kinds that nobody has to look at.
HARMLESS: Final = frozenset({"end"})
_SUMMARY: Final = 300
#: Events that stand for several; their numbers say how many.
_SUMS: Final = (".dead_letters", ".suppressed")
#: The cause of an end by SIGKILL that is what the spec of the child says.
_BRUTALLY: Final = 'shutdown = "brutal_kill"'
#: The reason of a program that has exited by itself.
_STATUS: Final = re.compile(r"error\(\d+\)")
_KNOWN: Final = frozenset({"at", "event", "name", "path", "generation", "life", "seq", "group"})
#: Events that are records as they are, by their last words after "otpd." and the service's name.
_PLAIN: Final[Mapping[str, str]] = {
    "supervisor.gave_up": "gave_up",
    "helper.exited": "helper",
    "helper.failed": "helper",
    "broker.breaker.opened": "breaker",
    "broker.strike": "strike",
    "child.spawned": "violation",
    "child.spawn_refused": "violation",
    "child.unguarded": "violation",
    "store.problem": "storage",
    "store.full": "storage",
    "scheduler.skipped": "skipped",
    "scheduler.lost": "skipped",
    "scheduler.overrun": "skipped",
    "scheduler.unkept": "storage",
    "tasks.failed": "task",
    "tasks.timeout": "task",
    "tasks.killed": "task",
    "health.unhealthy": "alert",
    "health.problem": "alert",
    "alert.raised": "alert",
    "log.full": "storage",
    "log.events_lost": "storage",
}
#: The same for events that any service may note.
_OF_SERVICES: Final[Mapping[str, str]] = {
    "dead_letters": "dead_letter",
    "letter.dead": "dead_letter",
    "letter.dropped": "dead_letter",
    "damaged": "storage",
    "quarantined": "storage",
    "stalled": "storage",
    "missed": "storage",
    "suppressed": "suppressed",
}


@dataclass(frozen=True, slots=True)
class Record:
    """`detail`: what the event told. `weight`: how many of its kind it stands for. `instance_of`: a group of the config;
    what happens to any instance of it is one error."""

    kind: str
    at: float
    name: str
    path: str
    generation: int
    life: int
    seq: int
    summary: str
    fingerprint: str
    weight: int = 1
    instance_of: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lines:
    """The last lines of one incarnation, for the record of its death."""

    name: str
    generation: int
    life: int
    lines: tuple[str, ...]


class Machine:
    """`take` says what is to be kept of one event. Its state is one number, kept with the cursor: `alive`, the life of root
    whose end has not been told."""

    def __init__(self, alive: int = 0) -> None:
        self.alive = alive

    def take(self, event: Event) -> Record | Lines | None:
        what = str(event["event"]).removeprefix("otpd.")
        match what:
            case "child.death":
                return _death(event)
            case "child.last_lines":
                at = place(event) or Cursor()
                lines = tuple(str(line) for line in event.get("lines") or ())
                return Lines(str(event.get("name")), _number(event, "generation"), at.life, lines)
            case "node.starting":
                return self._started(event)
            case "node.ended":
                self.alive = 0
                return None
        kind = _kind(what)
        return None if kind is None else _plain(kind, what, event)

    def _started(self, event: Event) -> Record | None:
        before, self.alive = self.alive, (place(event) or Cursor()).life
        if not before or before == self.alive:
            return None
        return _record("root_died", event, f"root ended without an order (life {before}); every child ended with it", "")


def _kind(what: str) -> str | None:
    """
    >>> _kind("store.dead_letters"), _kind("alert.raised"), _kind("alert.cleared"), _kind("child.started")
    ('dead_letter', 'alert', None, None)
    """
    if what in _PLAIN:
        return _PLAIN[what]
    return _OF_SERVICES.get(what.partition(".")[2])


def _death(event: Event) -> Record:
    reason = str(event.get("reason"))
    kind = "crash" if crashed(event) else "end" if is_clean(reason) or event.get("cause") == _BRUTALLY else "unclean_stop"
    cause = f" ({event['cause']})" if event.get("cause") and str(event["cause"]) not in reason else ""
    return _record(kind, event, f"{reason}{cause}", f"{reason}{cause}", event.get("traceback"))


def _plain(kind: str, what: str, event: Event) -> Record:
    """Its details in words; what differs each time does not make it another error."""
    said = {key: value for key, value in event.items() if key not in _KNOWN and value not in (None, "", [], {})}
    counts = [value for value in said.values() if isinstance(value, int) and not isinstance(value, bool)]
    words = " ".join(f"{key}={value}" for key, value in said.items())
    basis = " ".join(f"{key}={value}" if isinstance(value, str) else key for key, value in said.items())
    weight = max(1, sum(counts)) if what.endswith(_SUMS) else 1
    return _record(kind, event, f"{what}{': ' if words else ''}{words}", f"{what} {basis}", weight=weight)


def _record(kind: str, event: Event, summary: str, basis: str, traceback: str | None = None, weight: int = 1) -> Record:
    at = place(event) or Cursor()
    name, group = str(event.get("name") or ""), str(event.get("group") or "")
    detail = {key: value for key, value in event.items() if key not in _KNOWN}
    detail |= exception(traceback or "")
    return Record(
        kind=kind,
        at=float(event.get("at") or 0.0),
        name=name,
        path=str(event.get("path") or ""),
        generation=_number(event, "generation"),
        life=at.life,
        seq=at.seq,
        summary=" ".join(summary.split())[:_SUMMARY],
        fingerprint=fingerprint(kind, group or name, basis, traceback),
        weight=weight,
        instance_of=group,
        detail=detail,
    )


def exception(text: str) -> dict[str, str]:
    """Its type and place, if there is a traceback in `text`."""
    found = raised(text)
    if found is None:
        return {}
    innermost = found.frames[-1]
    return {"exception": found.type, "where": f"{innermost.file}:{innermost.line} in {innermost.function}"}


def printed(detail: Mapping[str, Any], lines: Sequence[str]) -> str:
    """The traceback among its last lines that is the reason of its end; "" for none. A program can only print it, and
    ends with a status then; what stands there of any other end is something that it has survived."""
    told = "exception" in detail or not _STATUS.fullmatch(str(detail.get("reason")))
    return "" if told else "\n".join(lines)


def regrouped(kind: str, name: str, detail: Mapping[str, Any], lines: Sequence[str]) -> tuple[str, str] | None:
    """Fingerprint and summary of a death whose last lines tell more than its reason."""
    trace = printed(detail, lines)
    found = raised(trace)
    if found is None or kind == "end":
        return None
    reason = str(detail.get("reason"))
    summary = " ".join(f"{reason}: {found.type}: {found.text}".split())[:_SUMMARY]
    return fingerprint(kind, name, reason, trace), summary


def _number(event: Event, key: str) -> int:
    found = event.get(key)
    return int(found) if isinstance(found, int) else 0
