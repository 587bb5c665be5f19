"""Writes what happens in a simulated world, one line each, for people who look for the cause of a violation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otpd.supervisor.events import Effect, Event, Notice
from tests.simulation.clock import SECOND
from tests.simulation.kernel import Process
from tests.simulation.messages import Message, short
from tests.simulation.observe import Observer

if TYPE_CHECKING:
    from otpd.ipc.happenings import Happening
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.broker import SimulatedBroker
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.scenario import Fault

_WIDTH = 200


class Trace(Observer):
    def _line(self, who: str, text: object) -> None:
        print(f"{self.world.clock.now / SECOND:11.6f}  {who:12} {str(text)[:_WIDTH]}")

    def struck(self, fault: Fault) -> None:
        self._line("FAULT", f"{fault.kind} {fault.name} {fault.amount or ''}")

    def process_started(self, process: Process) -> None:
        self._line("kernel", f"{process} starts")

    def process_ended(self, process: Process) -> None:
        self._line("kernel", f"{process} ends: {process.status}")

    def tree_handled(self, root: SimulatedRoot, event: Event, effects: list[Effect]) -> None:
        self._line("tree", event)
        for effect in effects:
            if not isinstance(effect, Notice):
                self._line("tree", f"    {type(effect).__name__} {getattr(effect, 'path', effect)}")

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        row = packet[1] if packet[0] == "row" else None
        said = packet if row is None else ["row", row["name"], short(row["inc"]), row["state"], row["pid"]]
        self._line(broker.epoch, f"root says {said}")

    def router_heard(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        self._line(broker.epoch, f"{_named(who)} says {command}")

    def router_took(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, frame: bytes) -> None:
        self._line(broker.epoch, f"{_named(who)} sends {message}")

    def router_said(self, broker: SimulatedBroker, who: tuple[str, int], command: list[Any]) -> None:
        self._line(broker.epoch, f"    to {_named(who)}: {command}")

    def router_passed(self, broker: SimulatedBroker, who: tuple[str, int], message: Message, mark: int) -> None:
        self._line(broker.epoch, f"    to {_named(who)}: {message}")

    def router_asked(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        self._line(broker.epoch, f"    to root: {packet}")

    def happened(self, agent: SimulatedAgent, happening: Happening, message: Message | None) -> None:
        self._line(agent.name, f"hears {type(happening).__name__} {message or happening}")

    def handled(self, agent: SimulatedAgent, message: Message) -> None:
        self._line(agent.name, f"handles {message}")

    def said(self, agent: SimulatedAgent, message: Message) -> None:
        self._line(agent.name, f"says {message}")

    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None:
        self._line(agent.name, f"{name} {' '.join(map(str, arguments))}")

    def calmed(self) -> None:
        self._line("world", "the faults are over")

    def finished(self) -> None:
        self._line("world", "the run is over")


def _named(who: tuple[str, int]) -> str:
    return f"{who[0]}#{short(who[1])}" if who[0] else "a stranger"
