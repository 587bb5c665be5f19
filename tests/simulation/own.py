"""Agents' own children in the simulated world: what an agent asks root on its channel, and what root makes of it.

The real shell around this (`otpd.supervisor.ownchildren`) guards root against what an agent may send; here agents are
decent, so that what is left are the tree's own answers.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor.events import StartChild, TerminateChild
from otpd.supervisor.incarnation import Phase
from otpd.supervisor.spec import ChildSpec
from tests.simulation.scenario import PER_AGENT, own_child

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.workers import Live

#: How many of them may be below each other.
_DEPTH: Final = 2


class OwnChildren:
    """An agent's side: it starts and stops them, and may forget that it has them."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent
        self._ref = 0

    def start(self, random: Random) -> None:
        if self._agent.name.count("-") < _DEPTH:
            name = f"{self._agent.name}-{random.randrange(PER_AGENT)}"
            self._ask("start", own_child(random, name))

    def stop(self, random: Random) -> None:
        self._ask("stop", f"{self._agent.name}-{random.randrange(PER_AGENT)}")

    def _ask(self, *what: Any) -> None:
        self._ref += 1
        self._agent.job.say(["child", self._ref, *what])


def heard(root: SimulatedRoot, live: Live, packet: list[Any]) -> None:
    """Root's side. Who is being stopped starts nobody any more."""
    match packet:
        case ["child", ref, "start", ChildSpec() as spec]:
            refused = live.incarnation.phase is Phase.STOPPING or root.stopping or root.tree.holder(spec.id) is not None
            if refused or live.process is None or not live.process.alive:
                _answer(live, ref, "refused")
            else:
                root.world.sometimes["an agent starts a child of its own"] += 1
                request = StartChild(live.path, spec, owner=live.generation)
                root.request(request, lambda result: _answer(live, ref, result))
        case ["child", ref, "stop", str(name)]:
            root.request(TerminateChild(live.path, name), lambda result: _answer(live, ref, result))


def _answer(live: Live, ref: int, result: Any) -> None:
    if live.channel is not None:
        live.channel.send(["child", ref, result != "refused", result])
