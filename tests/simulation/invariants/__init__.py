"""The invariants of messaging.md 5.3 that concern this world, and what must hold of health, as observers of it."""

from __future__ import annotations

from tests.simulation.coverage import Seen
from tests.simulation.invariants.bounds import Credit, Gaps, Inside
from tests.simulation.invariants.breakers import Breakers
from tests.simulation.invariants.deaths import Links, Monitors, Released
from tests.simulation.invariants.durable import Durable
from tests.simulation.invariants.health import Health
from tests.simulation.invariants.mail import Conservation, Fencing, Order, Outcomes
from tests.simulation.invariants.names import Choices, Holders, Listeners, Registered
from tests.simulation.invariants.processes import Processes
from tests.simulation.invariants.states import States
from tests.simulation.invariants.timers import Timers
from tests.simulation.invariants.tree import Delays, Recovered, Restarts
from tests.simulation.observe import Observer

INVARIANTS: tuple[type[Observer], ...] = (
    Processes,
    Restarts,
    Delays,
    Recovered,
    Order,
    Fencing,
    Outcomes,
    Conservation,
    Inside,
    Credit,
    Gaps,
    Breakers,
    Monitors,
    Released,
    Links,
    Holders,
    Choices,
    Listeners,
    Registered,
    Durable,
    States,
    Timers,
    Health,
    Seen,
)
