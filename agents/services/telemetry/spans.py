"""What begins with one event and ends with another, as spans: a start, a life, the way back after a crash. Pure.

| span | begins | ends | did not end well |
|---|---|---|---|
| node.start | node.starting | node.started | - |
| supervisor.start | supervisor.init | supervisor.started | supervisor.start_failed, supervisor.killed, supervisor.stopped |
| supervisor.run | supervisor.started | supervisor.stopped, clean | supervisor.gave_up; supervisor.stopped, abnormal |
| child.start | its process is made | child.started | child.death before it was ready |
| child.run | child.started | child.death, clean | child.death, abnormal |
| child.recover | child.death, abnormal and unasked | child.started | - |
| breaker.open | broker.breaker.opened | broker.breaker.closed | - |
| inbox.high | broker.inbox.high | broker.inbox.low | - |
| child.unhealthy | health.unhealthy | health.healthy | - |
| alert | alert.raised | alert.cleared | - |
| schedule.run | a run is given to its agent | its handler has ended | any outcome but done, rejected, early |

Runs of schedules come from the scheduler by themselves (`of_run`), all others from root's journal. What root ended with does
not end: a new life forgets what the one before has begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.agents.services.journal import Event, crashed, is_clean

#: Spans that are open at a time; more are not begun.
MOST: Final = 20_000
SPANS: Final = (
    "node.start", "supervisor.start", "supervisor.run", "child.start", "child.run", "child.recover", "breaker.open",
    "inbox.high", "child.unhealthy", "alert", "schedule.run",
)  # fmt: skip
_BEGINS: Final[Mapping[str, str]] = {
    "node.starting": "node.start",
    "supervisor.init": "supervisor.start",
    "supervisor.started": "supervisor.run",
    "child.started": "child.run",
    "broker.breaker.opened": "breaker.open",
    "broker.inbox.high": "inbox.high",
    "health.unhealthy": "child.unhealthy",
    "alert.raised": "alert",
}
#: Outcomes of a run with which nothing is wrong: `early`, another had come before it.
_FINE: Final = frozenset({"done", "rejected", "early"})
_ENDS: Final[Mapping[str, tuple[str, bool]]] = {
    "node.started": ("node.start", True),
    "supervisor.started": ("supervisor.start", True),
    "supervisor.start_failed": ("supervisor.start", False),
    "supervisor.killed": ("supervisor.start", False),
    "supervisor.gave_up": ("supervisor.run", False),
    "child.started": ("child.recover", True),
    "broker.breaker.closed": ("breaker.open", True),
    "broker.inbox.low": ("inbox.high", True),
    "health.healthy": ("child.unhealthy", True),
    "alert.cleared": ("alert", True),
}


@dataclass(frozen=True, slots=True)
class Span:
    """`start` and `end`: unix times; the wall clock may have been set between the two, then `seconds` is 0."""

    name: str
    start: float
    end: float
    ok: bool
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


class Spans:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._open: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}

    def take(self, event: Event) -> list[Span]:
        """The spans that end with `event`."""
        what, at = str(event["event"]).removeprefix("otpd."), float(event.get("at") or 0.0)
        whom = str(event.get("path") or event.get("name") or "")
        if what == "node.starting":
            self._open.clear()
        ended = [*self._ended(what, whom, at, event)]
        if what in _BEGINS:
            self._begin(_BEGINS[what], whom, at, event)
        elif what == "child.removed":
            self._open.pop(("child.recover", whom), None)
        return ended

    def _ended(self, what: str, whom: str, at: float, event: Event) -> Iterator[Span]:
        if what == "child.death":
            yield from self._death(whom, at, event)
        elif what == "supervisor.stopped":
            reason = str(event.get("reason"))
            yield from self._end("supervisor.start", whom, at, False, {"reason": reason})
            yield from self._end("supervisor.run", whom, at, is_clean(reason), {"reason": reason})
        elif what in _ENDS:
            name, ok = _ENDS[what]
            yield from self._end(name, whom, at, ok, {"reason": str(event["reason"])} if event.get("reason") else {})
        if what == "child.started" and _is_number(event.get("seconds")):
            yield Span("child.start", at - event["seconds"], at, True, _about(event))

    def _death(self, whom: str, at: float, event: Event) -> Iterator[Span]:
        reason = str(event.get("reason"))
        if ("child.run", whom) not in self._open and len(self._open) < self._most and _is_number(event.get("uptime_s")):
            yield Span("child.start", at - event["uptime_s"], at, False, {**_about(event), "reason": reason})
        yield from self._end("child.run", whom, at, is_clean(reason), {"reason": reason})
        if crashed(event):
            self._begin("child.recover", whom, at, event)

    def _begin(self, name: str, whom: str, at: float, event: Event) -> None:
        """The first of several counts: a start that fails again and again is one way back."""
        if (name, whom) not in self._open and len(self._open) < self._most:
            self._open[name, whom] = at, _about(event)

    def _end(self, name: str, whom: str, at: float, ok: bool, more: dict[str, Any]) -> Iterator[Span]:
        begun = self._open.pop((name, whom), None)
        if begun is not None:
            yield Span(name, begun[0], at, ok, {**begun[1], **more})


def of_run(run: Mapping[str, Any]) -> Span:
    """A run of a schedule, as the scheduler tells of it."""
    start, name = float(run["start"]), str(run["id"]).partition("/")[0]
    about = {key: run[key] for key in ("schedule", "outcome", "late_s")}
    attributes = {"name": name, "path": "", "generation": run["generation"], **about}
    return Span("schedule.run", start, start + run["seconds"], run["outcome"] in _FINE, attributes)


def _about(event: Event) -> dict[str, Any]:
    return {"name": event.get("name") or "", "path": event.get("path") or "", "generation": event.get("generation") or 0}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
