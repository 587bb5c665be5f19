"""Events in, numbers out: what telemetry counts of root's journal and of what agents emit. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from otpd.agents.services.journal import Event
from otpd.agents.services.telemetry.catalogue import CODES, told
from otpd.agents.services.telemetry.metrics import Table
from otpd.agents.services.telemetry.spans import Span, Spans, of_run

#: The classes of exit reasons that a label may say.
_REASONS: Final = frozenset({"normal", "shutdown", "killed", "signal", "error", "linked"})
_WORD: Final = re.compile(r"[a-z]+")
_CPU: Final = {"user": "cpu_user_s", "system": "cpu_system_s"}


class Counting:
    """`table` has the numbers; they begin with the life of root whose events are taken."""

    def __init__(self, table: Table) -> None:
        self.table, self._spans = table, Spans()
        self._pools = set[str]()

    def take(self, event: Event) -> list[Span]:
        """Count one event; gives the spans that ended with it."""
        name, what = str(event["event"]), str(event["event"]).removeprefix("otpd.")
        self.table.add("otpd_events_total", (name if told(name) is not None else "other",))
        match what.split("."):
            case ["child", "death"]:
                self._death(event)
            case ["broker", "breaker", state]:
                self.table.add("otpd_breaker_changes_total", (str(event.get("name")), state))
            case ["broker", "dead_letters"]:
                self._letters(event)
            case ["store", "letter", "dead"]:
                self.table.add("otpd_dead_letters_total", ("store", str(event.get("reason") or "unknown")[:40]))
        return [self._observed(span) for span in self._spans.take(event)]

    def ran(self, told: Mapping[str, Any]) -> list[Span]:
        """What the scheduler tells of runs each second; gives their spans."""
        for row in told["counts"]:
            labels = (str(row["schedule"]), str(row["outcome"]))
            self.table.add("otpd_schedule_runs_total", labels, row["count"])
            self.table.add("otpd_schedule_seconds_total", labels, row["seconds"])
        for run in told["runs"]:
            self.table.set("otpd_schedule_late_seconds", (str(run["schedule"]),), run["late_s"])
        return [self._observed(of_run(run)) for run in told["runs"]]

    def pool(self, told: Mapping[str, Any]) -> None:
        """What a task pool tells of itself while something happens: its counters since it was started."""
        pool = (str(told["pool"]),)
        for outcome, count in told["ended"].items():
            self.table.set("otpd_tasks_total", (*pool, str(outcome)), count)
        self.table.set("otpd_tasks_queued", pool, told["queued"])
        self.table.set("otpd_tasks_running", pool, told["running"])
        self.table.put("otpd_task_wait_seconds", pool, told["wait"]["counts"], told["wait"]["sum"])
        self.table.put("otpd_task_run_seconds", pool, told["run"]["counts"], told["run"]["sum"])
        self._pools.add(pool[0])

    def _observed(self, span: Span) -> Span:
        self.table.observe("otpd_span_seconds", (span.name,), span.seconds)
        return span

    def emitted(self, name: str, event: str, measurements: Mapping[str, Any], missed: int = 0) -> None:
        """What an agent told with `emit`; measurements that are no finite numbers are passed over. `missed`: events that
        were dropped before it."""
        if missed:
            self.table.add("otpd_emits_missed_total", (), missed)
        self.table.add("otpd_emits_total", (name, event))
        for measurement, value in measurements.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                labels = (name, event, str(measurement))
                self.table.set("otpd_emit_value", labels, float(value))
                self.table.add("otpd_emit_sum", labels, float(value))

    def _death(self, event: Event) -> None:
        name, word = str(event.get("name")), _WORD.match(str(event.get("reason")))
        reason = word[0] if word is not None and word[0] in _REASONS else "other"
        self.table.add("otpd_child_deaths_total", (name, str(event.get("kind")), reason))
        if (pool := name.removeprefix("tasks-")) in self._pools and event.get("kind") == "service":
            self.table.set("otpd_tasks_queued", (pool,), 0)
            self.table.set("otpd_tasks_running", (pool,), 0)
        used = event.get("resources") or {}
        for mode, key in _CPU.items():
            if key in used:
                self.table.add("otpd_child_cpu_seconds_total", (name, mode), used[key])

    def _letters(self, event: Event) -> None:
        for code, count in event.items():
            if code in CODES and isinstance(count, int):
                self.table.add("otpd_dead_letters_total", ("broker", code), count)
