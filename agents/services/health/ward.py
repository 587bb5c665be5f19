"""All that the health service knows and decides: who is watched, what was found, what root must hear. Pure.

It joins `probes`, `limits` and `alerts` by name and takes root's packets (supervisor/healthlink.py); `service` puts the
questions, measures, and reports. Every method gives effects: an `Ask` or `Drop` of `probes`, or a `Report` for root.

Guarantees: what is said of a child is said of (name, generation), of one that root has named and not taken back; what root
has forgotten, because one of the two began anew, it hears again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from otpd.agents.services.health import probes
from otpd.agents.services.health.alerts import Alerts, Threshold
from otpd.agents.services.health.limits import Allowed, Limits, Over, Usage
from otpd.agents.services.health.probes import Ask, Drop, Mark, Plan, Probes, Replace, State, Verdict

#: Seconds by which a deadline may be late and still be the child's.
_STILL: Final = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """For root: an item of `report_health`."""

    item: list[Any]


@dataclass(frozen=True, slots=True)
class Target:
    """An incarnation whose processes are to be looked at."""

    name: str
    generation: int
    pid: int
    allowed: Allowed


Effect: TypeAlias = Ask | Drop | Report


class Ward:
    def __init__(self, thresholds: Mapping[str, Threshold]) -> None:
        self.probes, self.limits = Probes(), Limits()
        self._thresholds, self._alerts = thresholds, Alerts(thresholds)
        self._known: dict[str, tuple[int, int]] = {}  # name -> generation, pid
        self._tabled: set[str] = set()  # names that root has said since it is heard

    # --- what root says ---

    def heard(self, packet: list[Any], now: float) -> list[Effect]:
        match packet:
            case ["watch", str(name), int(generation), int(pid), float(ready_at), probe, limits]:
                return self._watch(name, generation, pid, ready_at, probe, limits, now)
            case ["forget", str(name), int(generation)]:
                return self._forget(name, generation)
            case ["table", list(raised)]:
                return self._begin(raised)
        return []

    def deaf(self) -> None:
        """Root is not heard any more. Children are asked on meanwhile: most are the same when it is."""
        self._tabled.clear()

    def _watch(
        self, name: str, generation: int, pid: int, ready_at: float, probe: Any, limits: Any, now: float
    ) -> list[Effect]:
        self._tabled.add(name)
        before = self._known.get(name)
        effects = self._forget(name, before[0]) if before is not None and before[0] != generation else []
        self._known[name] = (generation, pid)
        if probe is None:
            effects += self._told(self.probes.forget(name, generation))
        else:
            effects += self._told(self.probes.watch(name, generation, Plan(**probe), ready_at, now))
        if limits is None:
            self.limits.forget(name, generation)
        else:
            self.limits.watch(name, generation, Allowed(**limits), ready_at)
        return effects

    def _forget(self, name: str, generation: int) -> list[Effect]:
        if name in self._known and self._known[name][0] == generation:
            del self._known[name]
        self.limits.forget(name, generation)
        return self._told(self.probes.forget(name, generation))

    def _begin(self, raised: Iterable[str]) -> list[Effect]:
        """The whole table has been said: who is not in it is no more, and what is known of the others root hears again."""
        self._alerts = Alerts(self._thresholds, raised)
        gone = [(name, generation) for name, (generation, _) in self._known.items() if name not in self._tabled]
        effects = [effect for each in gone for effect in self._forget(*each)]
        for row in filter(None, map(self.probes.row, self.probes.names)):
            if row.state is not State.UNKNOWN:
                effects.append(Report(["mark", row.name, row.generation, row.state.value, row.why]))
        return effects

    # --- what time brings, and what children answer ---

    @property
    def next(self) -> float | None:
        """When something is due."""
        return min((each for each in (self.probes.next, self.limits.next_age) if each is not None), default=None)

    def due(self, now: float) -> list[Effect]:
        return [*_over(self.limits.aged(now)), *self._told(self.probes.due(now))]

    def ask_now(self, names: Iterable[str] | None, now: float) -> list[Effect]:
        """All who are asked at times, or those of `names`, whether it is time or not."""
        chosen = self.probes.names if names is None else names
        return [effect for name in chosen for effect in self._told(self.probes.ask_now(name, now))]

    def answered(self, ask: Ask, verdict: Verdict, now: float) -> list[Effect]:
        return self._told(self.probes.answered(ask.name, ask.generation, ask.number, verdict, now))

    def late(self, ask: Ask, now: float) -> Verdict:
        """No answer by the deadline; unless it was this process that stood still, and perhaps so did the whole machine."""
        row = self.probes.row(ask.name)
        if row is not None and now - row.began > ask.plan.timeout + _STILL:
            return Verdict(None, "could not ask: the health service itself stood still")
        return Verdict(False, f"no answer within {ask.plan.timeout:g}s")

    def _told(self, effects: list[probes.Effect]) -> list[Effect]:
        found: list[Effect] = []
        for effect in effects:
            match effect:
                case Mark(name, generation, state, why):
                    found.append(Report(["mark", name, generation, state.value, why]))
                case Replace(name, generation, why):
                    found.append(Report(["replace", name, generation, why]))
                case Ask() | Drop():
                    found.append(effect)
        return found

    # --- what is measured ---

    def targets(self) -> list[Target]:
        """Whose processes are to be looked at."""
        return [
            Target(name, generation, self._known[name][1], allowed)
            for name, (generation, allowed) in self.limits.measured.items()
            if name in self._known
        ]

    def sampled(self, name: str, generation: int, usage: Usage, now: float) -> list[Effect]:
        return _over(self.limits.sampled(name, generation, usage, now))

    def host(self, readings: Mapping[str, float], now: float) -> list[Effect]:
        found = self._alerts.read(readings, now)
        return [Report(["alert", each.condition, each.raised, each.value, each.threshold]) for each in found]

    # --- what is shown ---

    @property
    def raised(self) -> list[str]:
        """Conditions of the host."""
        return sorted(self._alerts.raised)

    def rows(self, names: Iterable[str] | None, now: float) -> list[dict[str, Any]]:
        """All that is known, of all or of `names`."""
        chosen = None if names is None else set(names)
        return [self._row(name, now) for name in self._known if chosen is None or name in chosen]

    def _row(self, name: str, now: float) -> dict[str, Any]:
        generation, pid = self._known[name]
        row = self.probes.row(name)
        found: dict[str, Any] = {"name": name, "generation": generation, "pid": pid, "state": None}
        if row is not None:
            found |= {
                "state": row.state.value, "why": row.why or None, "since_s": round(now - row.since, 3),
                "check": row.plan.check[0], "interval": row.plan.interval, "action": row.plan.action,
                "checks": row.checks, "failed": row.failed, "passed": row.passed,
                "last": {"passed": row.last.passed, "why": row.last.why or None} if row.checks else None,
            }  # fmt: skip
        return found | {"used": self.limits.used(name), "allowed": self.limits.allowed(name)}


def _over(found: list[Over]) -> list[Effect]:
    return [Report(["over", each.name, each.generation, each.measure, each.used]) for each in found]
