"""What must hold of health: nobody is ended for another's sake, or for less than his plan says; what is shown was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otpd.agents.services.health.probes import Ask, Verdict

if TYPE_CHECKING:
    from tests.simulation.wellness.root import Child
    from tests.simulation.wellness.world import Service, World

Key = tuple[str, int]
#: Seconds in which root's word arrives.
_SLOWEST = 5.0


class Broken(AssertionError):
    """An invariant does not hold."""


class Watch:
    """Its own books, from what children were really asked and have really answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._row: dict[Key, int] = {}  # failures in a row that count, as this incarnation of the service has heard them
        self._passed: set[Key] = set()  # who has passed a check of this incarnation of the service
        self._service: Service | None = None
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
            raise Broken(f"at {self.world.seconds:.3f} s: {text}")

    # --- what is asked and answered ---

    def asked(self, ask: Ask) -> None:
        """Of one that is dead root has told, however slowly."""
        died = self._died.get((ask.name, ask.generation))
        late = died is not None and self._calm_at > 0 and self.world.seconds - max(died, self._calm_at) > _SLOWEST
        self.check(not late, f"{ask.name} {ask.generation} died at {died} and is asked")
        self._questions[ask.name] = self._questions.get(ask.name, 0) + 1

    def answered(self, service: Service, ask: Ask, verdict: Verdict) -> None:
        if service is not self._service:
            self._service = service
            self._row.clear()
            self._passed.clear()
            self._ill.clear()
        key = (ask.name, ask.generation)
        child = self.world.root.children.get(ask.name)
        if verdict.passed:
            self._row[key] = 0
            self._passed.add(key)
        elif verdict.passed is False:
            in_grace = child is not None and key not in self._passed and not self._row.get(key)
            in_grace = in_grace and child is not None and self.world.seconds < child.ready_at + ask.plan.grace
            self._row[key] = self._row.get(key, 0) + (not in_grace)

    def changed(self, child: Child) -> None:
        key = (child.name, child.generation)
        self._files[key] = max(self._files.get(key, 0), child.files)

    def reloaded(self, child: Child) -> None:
        """Who is not asked any more is forgotten, and news when he is asked again."""
        if child.health is None:
            self._last.pop((child.name, child.generation), None)

    # --- what root does and shows ---

    def connected(self) -> None:
        self._marked.clear()

    def died(self, child: Child) -> None:
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

    def ended(self, child: Child, why: str) -> None:
        """Its row is told before it is taken away."""
        key = (child.name, child.generation)
        kind = why.partition(":")[0]
        self.world.sometimes[f"ended: {kind}"] += 1
        match kind:
            case "health":
                self.check(child.health is not None and child.health.action == "restart", f"{key} is ended: {why}")
                self.check(key in self._wished, f"{key} is ended for another's sake: {why}")
            case "files":
                self.check(self._files.get(key, 0) > 100, f"{key} is ended and has used little: {why}")
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
        for child in self.world.root.running():
            found = self.world.root.shown_of(child)
            if found is not None and found["state"] != "unknown":
                key = (child.name, child.generation)
                said = self._marked.get(key)
                self.check(said == found["state"], f"{key} is shown as {found}, was said {said}")

    # --- the calm ---

    def calm(self) -> None:
        self._calm_at = self.world.seconds
        self._questions.clear()

    def finished(self) -> None:
        passed = self.world.seconds - self._calm_at
        for child in self.world.root.running():
            if child.limits is not None:
                self.check(child.files <= 100, f"{child.name} uses {child.files}, and nobody minds")
            if child.health is None or self.world.seconds - child.ready_at < passed:
                continue
            found = self.world.root.shown_of(child)
            wanted = "unhealthy" if child.ills else "healthy"
            self.check(found is not None and found["state"] == wanted, f"{child.name} is shown as {found}, is {wanted}")
            self.check(not child.ills or child.health.action == "report", f"{child.name} is ill, and nobody minds")
            enough = passed / (child.health.interval * 1.1) - 2
            asked = self._questions.get(child.name, 0)
            self.check(asked >= enough, f"{child.name} was asked {asked} times in {passed} s: {child.health}")
        left = set(self.world.root.link.alerts)
        self.check(not left, f"alerts are left: {left}")
