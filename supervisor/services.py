"""The services that a node always has: a supervisor that root itself puts before everything the user wrote.

Root's tree is the user's with `services` as its first child, so that it starts before all others and stops after them.
The configuration, a reload's plan and `otpd check --show` are about the user's tree alone. A service that can't start
delays the others by its start timeout once; it backs off by itself and is never given up.

>>> [child.id for child in with_services(SupervisorSpec()).children]
['services']
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Final

from otpd.supervisor.spec import INFINITY, Backoff, ChildSpec, ChildType, Launch, SupervisorSpec

SERVICES: Final = "services"
BROKER: Final = "broker"
#: Names in the tree that are the node's own, now or when it gets the service of that name.
OWN_NAMES: Final = frozenset(
    {SERVICES, BROKER, "store", "scheduler", "errors", "health", "telemetry", "tasks", "commands"}
)
#: Seconds of silence that count as frozen (K3), for its start, and until it is killed when it is asked to stop.
WATCHDOG, _START, _SHUTDOWN = 2.0, 5.0, 2.0
_BACKOFF: Final = Backoff(initial=0.1, max=5.0)


def with_services(top: SupervisorSpec) -> SupervisorSpec:
    """The user's top supervisor with the node's services before its children."""
    return replace(top, children=(_SERVICES, *top.children))


def is_own(path: str) -> bool:
    """Whether the tree's `path` is that of the services or of one of them."""
    return path.split("/")[1:2] == [SERVICES]


def _service(name: str, module: str) -> ChildSpec:
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    start = Launch(kind="service", script=found.origin, ready="init", start_timeout=_START, watchdog=WATCHDOG)
    return ChildSpec(id=name, start=start, shutdown=_SHUTDOWN, backoff=_BACKOFF)


_SERVICES: Final = ChildSpec(
    id=SERVICES,
    # It isolates, so that a service that can't start keeps this supervisor busy and not the top.
    start=SupervisorSpec(max_restarts=None, isolate=True, children=(_service(BROKER, "otpd.ipc.broker"),)),
    shutdown=INFINITY,
    type=ChildType.SUPERVISOR,
    backoff=_BACKOFF,
)
