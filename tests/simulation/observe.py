"""What can be seen in the simulated world, as one method per kind of observation.

An invariant is an Observer that overrides what it needs to see, keeps its own books, and raises Violation with the number
that the invariant has in messaging.md 5.3. `fan_out` makes one observer of many; what nobody overrides costs one call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otpd.ipc.happenings import Happening
    from otpd.ipc.wire import Lane
    from otpd.supervisor.events import Effect, Event, Op
    from otpd.supervisor.ladder import Ladder
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.broker import SimulatedBroker
    from tests.simulation.kernel import Process
    from tests.simulation.messages import Message
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.scenario import Fault
    from tests.simulation.workers import Live
    from tests.simulation.world import World

    Incarnation = tuple[str, int]


class Violation(AssertionError):
    """An invariant does not hold. `number` as in messaging.md 5.3; 0: something that never may happen did."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"invariant {number}: {text}")
        self.number, self.text = number, text


class Observer:
    """`sometimes` counts what is worth having happened: a world that never gets there proves nothing about it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sometimes: Counter[str] = world.sometimes

    def check(self, holds: object, number: int, text: str) -> None:
        if not holds:
            raise Violation(number, text)

    # --- processes and the tree ---

    def process_started(self, process: Process) -> None: ...
    def process_ended(self, process: Process) -> None: ...
    def killed(self, killer: Process | None, victim: Process) -> None: ...
    def root_began(self, root: SimulatedRoot) -> None: ...
    def tree_handling(self, root: SimulatedRoot, event: Event) -> None: ...
    def tree_handled(self, root: SimulatedRoot, event: Event, effects: list[Effect]) -> None: ...
    def climbed(self, live: Live, before: Ladder, after: Ladder, effects: list[Any]) -> None: ...
    def operated(self, root: SimulatedRoot, op: Op) -> None: ...
    def answered(self, root: SimulatedRoot, op: Op, result: Any) -> None: ...
    def incarnation_ended(self, root: SimulatedRoot, live: Live, reason: str) -> None: ...

    # --- around the router ---

    def broker_began(self, broker: SimulatedBroker) -> None: ...
    def broker_ended(self, broker: SimulatedBroker) -> None: ...
    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None: ...
    def router_heard(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        """It is about to read this word; `who` is the owner of the routing id, ("", 0): nobody's."""

    def router_took(self, broker: SimulatedBroker, who: Incarnation, message: Message, frame: bytes) -> None:
        """It is about to read this message."""

    def router_said(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None: ...
    def router_gave(self, broker: SimulatedBroker, who: Incarnation, frame: bytes) -> None:
        """A frame of casts, calls or events."""

    def router_passed(self, broker: SimulatedBroker, who: Incarnation, message: Message, mark: int) -> None: ...
    def router_asked(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        """To root."""

    def router_rested(self, broker: SimulatedBroker) -> None:
        """All that was due is done, all is sent."""

    # --- in agents ---

    def agent_began(self, agent: SimulatedAgent) -> None: ...
    def said(self, agent: SimulatedAgent, message: Message) -> None: ...
    def gave(self, agent: SimulatedAgent, lane: Lane, frame: bytes) -> None: ...
    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None: ...
    def happened(self, agent: SimulatedAgent, happening: Happening, message: Message | None) -> None: ...
    def handled(self, agent: SimulatedAgent, message: Message) -> None: ...
    def shed(self, agent: SimulatedAgent, message: Message) -> None: ...
    def durable(self, what: str, *arguments: Any) -> None:
        """Of durable messages; `invariants.durable` says which words there are."""

    def timed(self, what: str, *arguments: Any) -> None:
        """Of timers; `invariants.timers` says which words there are."""

    def stated(self, what: str, *arguments: Any) -> None:
        """Of states of agents; `invariants.states` says which words there are."""

    def health(self, what: str, *arguments: Any) -> None:
        """Of health; `invariants.health` says which words there are."""

    # --- the run ---

    def struck(self, fault: Fault) -> None: ...

    def calmed(self) -> None:
        """All faults are over; from now on things must get well."""

    def finished(self) -> None:
        """The run is over (liveness: everything must be well now)."""

    def stopped(self) -> None:
        """And so is the node, after it was asked to stop."""


OBSERVATIONS = tuple(name for name in vars(Observer) if not name.startswith("_") and name != "check")


def fan_out(world: World, observers: Iterable[Observer]) -> Observer:
    """An observer that tells all of them, in order."""
    together = Observer(world)
    for name in OBSERVATIONS:
        own = [getattr(each, name) for each in observers if getattr(type(each), name) is not getattr(Observer, name)]
        setattr(together, name, _all(own))
    return together


def _all(methods: list[Callable[..., None]]) -> Callable[..., None]:
    if len(methods) == 1:
        return methods[0]

    def tell(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return tell if methods else lambda *_: None
