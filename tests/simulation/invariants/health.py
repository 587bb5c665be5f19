"""47, behind those of messaging.md: nobody is ended for another's sake, and in the end everybody's health is known.

`wellness.watch` has the rules, one for each life of root. The words of `health`: "asked" service, ask; "answered" service,
ask, verdict; "looked_at" name, generation, files; "said" item: the service reports it; "reported" item: it has come to root;
"connected": they talk anew; "ended" live, why: root does what it was asked; "told" event, name, generation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from otpd.agents.services.health.probes import Ask, Verdict
from otpd.ipc import limits
from otpd.ipc.wire import INNER, Kind
from otpd.supervisor.spec import Health as Plan
from otpd.supervisor.spec import Launch, RestartWhen
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import SECOND
from tests.simulation.kernel import Process, State
from tests.simulation.observe import Observer, Violation
from tests.simulation.root import SimulatedRoot
from tests.simulation.wellness.watch import Patient, Watch
from tests.simulation.workers import Live

if TYPE_CHECKING:
    from tests.simulation.messages import Message
    from tests.simulation.whole.health import SimulatedHealth

HEALTH: Final = 47


@dataclass(frozen=True, slots=True)
class Seen:
    """An incarnation, as the watch sees it."""

    live: Live
    ills: str
    files: int

    @property
    def name(self) -> str:
        return self.live.name

    @property
    def generation(self) -> int:
        return self.live.generation

    @property
    def ready_at(self) -> float:
        return self.live.ready_at

    @property
    def health(self) -> Plan | None:
        return self.live.launch.health

    @property
    def limits(self) -> RestartWhen | None:
        return self.live.launch.restart_when


@dataclass(frozen=True, slots=True)
class Put:
    """A question: when, to which process, and which broker was there."""

    at: int
    process: Process | None
    broker: SimulatedBroker | None


class Health(Observer):
    world: Any

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._watch = self._new_watch()
        self._put: dict[tuple[int, int], Put] = {}  # by the service's incarnation and the number of the question
        self._behind: set[str] = set()
        self._words: dict[str, Callable[..., None]] = {"asked": self._asked, "answered": self._answered}

    def _new_watch(self) -> Watch:
        return Watch(self, partial(Violation, HEALTH))

    def root_began(self, root: SimulatedRoot) -> None:
        self._watch = self._new_watch()

    def health(self, what: str, *arguments: Any) -> None:
        own = self._words.get(what)
        if own is not None:
            own(*arguments)
        elif what == "ended":
            live, why = arguments
            self._watch.ended(self._seen(live), why)
        else:
            getattr(self._watch, what)(*arguments)

    def incarnation_ended(self, root: SimulatedRoot, live: Live, reason: str) -> None:
        if live.process is not None:
            self._watch.died(self._seen(live))

    # --- who is to blame ---

    def _asked(self, service: SimulatedHealth, ask: Ask) -> None:
        live = self._live(ask.name)
        process = live.process if live is not None and live.generation == ask.generation else None
        self._put[service.inc, ask.number] = Put(self.world.clock.now, process, self._broker)
        self._watch.asked(ask)

    def _answered(self, service: SimulatedHealth, ask: Ask, verdict: Verdict) -> None:
        put = self._put.pop((service.inc, ask.number))
        self.sometimes["a child could not be asked"] += verdict.passed is None
        if verdict.passed is False:
            blamed = put.process is None or verdict.why == "ill" or _stood_still(put.process, put.at)
            blamed = blamed or ask.name in self._behind or self._is_late(put)
            self.check(blamed, HEALTH, f"{ask} is answered: {verdict.why}; the agent was well")
        self._behind.discard(ask.name)
        self._watch.answered(service, ask, verdict)

    def router_took(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, frame: bytes) -> None:
        """A question that has to wait: whoever is behind by more than his window is not well."""
        if message.kind is not Kind.CALL or who[0] != limits.HEALTH:
            return
        entry = broker.router._table.get(message.to)
        peer = entry.open if entry is not None else None
        if entry is not None and peer is not None and (entry.inbox or not peer.allowance.fits(1, INNER.size + message.size)):
            self.sometimes["a question waits behind more than the window of a child"] += 1
            self._behind.add(message.to)

    def _is_late(self, put: Put) -> bool:
        """The broker stood still when it was needed, and is back in time for the second question."""
        if put.broker is None or put.broker is not self._broker:
            return False
        late = _stood_still(put.broker.process, put.at)
        self.sometimes["a child is not well because the broker stood still"] += late
        return late

    @property
    def _broker(self) -> SimulatedBroker | None:
        return next(iter(self.world.brokers.values()), None)

    # --- the ward, as the watch sees it ---

    @property
    def seconds(self) -> float:
        return float(self.world.clock.now / SECOND)

    @property
    def alerts(self) -> Collection[str]:
        return self.world.root.health.alerts if self.world.root is not None else ()

    def patient(self, name: str) -> Patient | None:
        live = self._live(name)
        return None if live is None else self._seen(live)

    def patients(self) -> Sequence[Patient]:
        root = self.world.root
        return [] if root is None else [self._seen(live) for live in root.workers.running()]

    def shown(self, patient: Any) -> dict[str, Any] | None:
        what = patient.live.spec.start
        assert isinstance(what, Launch)
        found: dict[str, Any] | None = self.world.root.health.state_of(patient.live, what)
        return found

    def _live(self, name: str) -> Live | None:
        root = self.world.root
        return None if root is None else root.workers.of(name)

    def _seen(self, live: Live) -> Seen:
        traits = (lambda name: self.world.trait(live.process, name)) if live.process is not None else (lambda name: 0)
        return Seen(live, "ill" if traits("ill") else "", traits("files"))

    # --- the run ---

    def calmed(self) -> None:
        self._watch.calm()

    def finished(self) -> None:
        self._watch.looked()
        if self.world.scenario.mode == "liveness" and "health" in self.world.services:
            self._watch.finished()


def _stood_still(process: Process, since: int) -> bool:
    """At some time, or it is dead."""
    return process.state is not State.RUNNING or process.since > since
