"""Bugs that only the whole node can show: each sits in one room and is suffered in another, or in a shell between machines.

As in `planted_durable`; what a small world can find is planted there.
"""

from __future__ import annotations

from typing import Any, Final

from pytest import MonkeyPatch

from otpd.agents.services.health.calling import Calls
from otpd.agents.services.scheduler.timetable import Timetable
from otpd.agents.services.store.queue import Queue
from otpd.ipc import traffic
from otpd.ipc.lives import Lives
from otpd.supervisor.addresses import Addresses
from tests.simulation.planted_durable import Bug, Plant
from tests.simulation.scenario import Mode

BUGS: Final[list[Bug]] = []


def found_by(seed: int, mode: Mode, *numbers: int) -> Any:
    def note(plant: Plant) -> Plant:
        BUGS.append(Bug(plant, (seed, mode), frozenset(numbers)))
        return plant

    return note


@found_by(45, "liveness", 43)
def root_keeps_it_to_itself_that_a_name_is_no_more(patch: MonkeyPatch) -> None:
    """The timers of a child that its owner has stopped stay for ever."""
    real = Addresses._tell

    def tell(self: Addresses, packet: list[Any]) -> None:
        if packet[0] != "gone":
            real(self, packet)

    patch.setattr(Addresses, "_tell", tell)


@found_by(11, "liveness", 43)
def the_router_does_not_announce_who_is_ready(patch: MonkeyPatch) -> None:
    """What is set for an agent that has no schedules of its own waits for word of it."""
    real = Lives._announce

    def announce(self: Lives, entry: Any) -> None:
        if entry.row.state.value != "ready":
            real(self, entry)

    patch.setattr(Lives, "_announce", announce)


@found_by(32, "safety", 43)
def whoever_has_the_name_now_may_have_what_is_asked_for_again(patch: MonkeyPatch) -> None:
    """The timetable forgets to say which incarnation alone may know of the run."""
    real = Timetable._outcome
    patch.setattr(Timetable, "_outcome", lambda self, to, args: real(self, to, {**args, "only": None}))


@found_by(45, "liveness", 0)
def what_became_of_the_state_is_not_told_with_the_transaction(patch: MonkeyPatch) -> None:
    """The next save does not know which version it replaces."""
    real = Queue.committed
    patch.setattr(Queue, "committed", lambda self, unit, now, more=None: real(self, unit, now))


@found_by(11, "liveness", 47)
def whoever_does_not_answer_is_ill_whether_or_not_there_was_a_broker(patch: MonkeyPatch) -> None:
    """The silence of a broker that has died is charged to all whom it was asked for."""

    async def is_asked(self: Calls, ask: Any, epoch: Any) -> bool:
        return True

    patch.setattr(Calls, "_is_asked", is_asked)


@found_by(25, "safety", 47)
def questions_about_health_stop_at_a_breaker(patch: MonkeyPatch) -> None:
    """Who is spared calls for a while is restarted for it."""
    patch.setattr(traffic, "_asks_for_health", lambda sender: False)
