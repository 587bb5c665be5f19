"""What must hold of health: nobody is ended for another's sake, or for less than his plan says; what is shown was found.

One for each life of root, in the small world of health and in the whole node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from otpd.agents.services.health.probes import Ask, Verdict
from otpd.supervisor.spec import Health, RestartWhen
from tests.simulation.scenario import FILES

Key = tuple[str, int]
#: Seconds in which root's word arrives, and after which whoever is ready is known to be well or not.
_SLOWEST: Final = 5.0
_KNOWN: Final = 60.0


class Patient(Protocol):
    """An incarnation as it is. `ills`: "" for well."""

    @property
    def name(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def ready_at(self) -> float: ...
    @property
    def health(self) -> Health | None: ...
    @property
    def limits(self) -> RestartWhen | None: ...
    @property
    def ills(self) -> str: ...
    @property
    def files(self) -> int: ...


class Ward(Protocol):
    """Where they are. `shown`: what root says of one's health."""

    sometimes: Counter[str]

    @property
    def seconds(self) -> float: ...
    @property
    def alerts(self) -> Collection[str]: ...
    def patient(self, name: str) -> Patient | None: ...
    def patients(self) -> Sequence[Patient]: ...
    def shown(self, patient: Patient) -> dict[str, Any] | None: ...


class Broken(AssertionError):
    """An invariant does not hold."""


class Watch:
    """Its own books, from what children were really asked and have really answered."""

    def __init__(self, world: Ward, broken: Callable[[str], Exception] = Broken) -> None:
        self.world, self._broken = world, broken
        self._row: dict[Key, int] = {}  # failures in a row that count, as this incarnation of the service has heard them
        self._passed: set[Key] = set()  # who has passed a check of this incarnation of the service
        self._service: object = None
        self._ill: set[Key] = set()  # whom it has called unhealthy, with reason
        self._wished: set[Key] = set()  # whom any has wanted to be replaced, with reason
        self._died: dict[Key, float] = {}
        self._marked: dict[Key, str] = {}  # since root and service are connected
        self._last: dict[Any, str] = {}  # of events, by whom they are about
        self._files: dict[Key, int] = {}  # the most that was used
        self._questions: dict[str, int] = {}
        self._calm_at = 0.0

    def check(self, holds: object, text: str) -> None:
        if not holds:
            raise self._broken(f"at {self.world.seconds:.3f} s: {text}")

    # --- what is asked and answered ---

    def asked(self, ask: Ask) -> None:
        """Of one that is dead root has told, however slowly."""
        died = self._died.get((ask.name, ask.generation))
        late = died is not None and self._calm_at > 0 and self.world.seconds - max(died, self._calm_at) > _SLOWEST
        self.check(not late, f"{ask.name} {ask.generation} died at {died} and is asked")
        self._questions[ask.name] = self._questions.get(ask.name, 0) + 1

    def answered(self, service: object, ask: Ask, verdict: Verdict) -> None:
        if service is not self._service:
            self._service = service
            self._row.clear()
            self._passed.clear()
            self._ill.clear()
        key = (ask.name, ask.generation)
        child = self.world.patient(ask.name)
        if verdict.passed:
            self._row[key] = 0
            self._passed.add(key)
        elif verdict.passed is False:
            in_grace = child is not None and key not in self._passed and not self._row.get(key)
            in_grace = in_grace and child is not None and self.world.seconds < child.ready_at + ask.plan.grace
            self._row[key] = self._row.get(key, 0) + (not in_grace)

    def looked_at(self, name: str, generation: int, files: int) -> None:
        """Somebody has seen how much it uses."""
        key = (name, generation)
        self._files[key] = max(self._files.get(key, 0), files)

    def reloaded(self, child: Patient) -> None:
        """Who is not asked any more is forgotten, and news when he is asked again."""
        if child.health is None:
            self._last.pop((child.name, child.generation), None)

    # --- what root does and shows ---

    def connected(self) -> None:
        self._marked.clear()

    def died(self, child: Patient) -> None:
        self._died[child.name, child.generation] = self.world.seconds

    def said(self, item: list[Any]) -> None:
        """By the service, at this moment."""
        match item:
            case ["mark", name, generation, "unhealthy", why]:
                key = (name, generation)
                self.check(key in self._ill or self._row.get(key, 0) >= int(why.split()[0]), f"{key} is unhealthy: {why}")
                self._ill.add(key)
            case ["mark", name, generation, "healthy", _]:
                self.check((name, generation) in self._passed, f"{name} {generation} is healthy and has never passed")
                self._ill.discard((name, generation))
            case ["replace", name, generation, why]:
                self._wished.add((name, generation))
                failed = self._row.get((name, generation), 0)
                self.check(failed >= int(why.split()[0]), f"{name} {generation} has failed {failed} times in a row: {why}")

    def reported(self, item: list[Any]) -> None:
        """To root, when it has come there."""
        match item:
            case ["mark", name, generation, state, _]:
                self._marked[name, generation] = state

    def ended(self, child: Patient, why: str) -> None:
        """Its row is told before it is taken away."""
        key = (child.name, child.generation)
        kind = why.partition(":")[0]
        self.world.sometimes[f"ended: {kind}"] += 1
        match kind:
            case "health":
                self.check(child.health is not None and child.health.action == "restart", f"{key} is ended: {why}")
                self.check(key in self._wished, f"{key} is ended for another's sake: {why}")
            case "files":
                self.check(self._files.get(key, 0) > FILES, f"{key} is ended and has used little: {why}")
            case "age":
                lived, age = self.world.seconds - child.ready_at, child.limits.age if child.limits is not None else None
                self.check(age is not None and lived >= age, f"{key} is ended at {lived}: {why}")

    def told(self, kind: str, name: str, generation: int) -> None:
        """An event is news."""
        whom = name if kind.startswith("alert") else (name, generation)
        self.check(self._last.get(whom) != kind, f"{kind} of {whom} is told twice")
        self._last[whom] = kind
        self.world.sometimes[f"told: {kind}"] += 1

    def looked(self) -> None:
        """What is shown was said by who is there, of who is there."""
        for child in self.world.patients():
            found = self.world.shown(child)
            if found is not None and found["state"] != "unknown":
                key = (child.name, child.generation)
                said = self._marked.get(key)
                self.check(said == found["state"], f"{key} is shown as {found}, was said {said}")

    # --- the calm ---

    def calm(self) -> None:
        self._calm_at = self.world.seconds
        self._questions.clear()

    def finished(self) -> None:
        for child in self.world.patients():
            if child.limits is not None:
                self.check(child.files <= FILES, f"{child.name} uses {child.files}, and nobody minds")
            if child.health is None or self.world.seconds - max(child.ready_at, self._calm_at) < _KNOWN:
                continue
            found = self.world.shown(child)
            wanted = "unhealthy" if child.ills else "healthy"
            self.check(found is not None and found["state"] == wanted, f"{child.name} is shown as {found}, is {wanted}")
            self.check(not child.ills or child.health.action == "report", f"{child.name} is ill, and nobody minds")
            self._check_questions(child, child.health)
        left = set(self.world.alerts)
        self.check(not left, f"alerts are left: {left}")

    def _check_questions(self, child: Patient, plan: Health) -> None:
        """Of one that was there all the time."""
        passed, asked = self.world.seconds - self._calm_at, self._questions.get(child.name, 0)
        enough = passed / (plan.interval * 1.1) - 2 if child.ready_at < self._calm_at else 0
        self.check(asked >= enough, f"{child.name} was asked {asked} times in {passed} s: {plan}")
