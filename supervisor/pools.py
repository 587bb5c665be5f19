"""The supervisor of the task pools, and the child spec of each: a service that comes with the first task that it is given.

A node has the pools that its configuration names and `general`, `cpu` and `io`. Until somebody wants one there is nothing
but a row of the tree without children, which no picture shows.

>>> [child for child in TASKS_SPEC.start.children]
[]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from otpd.supervisor.spec import INFINITY, Backoff, ChildSpec, ChildType, Launch, NodeSpec, SupervisorSpec

TASKS: Final = "tasks"
DEFAULTS: Final = ("general", "cpu", "io")
_BACKOFF: Final = Backoff(initial=0.1, max=5.0)
#: Seconds of silence that count as frozen (as of most services), for its start, and until it is killed when it is to stop.
_WATCHDOG, _START, _SHUTDOWN = 10.0, 10.0, 2.0

TASKS_SPEC: Final = ChildSpec(
    id=TASKS,
    start=SupervisorSpec(max_restarts=None, isolate=True),
    shutdown=INFINITY,
    type=ChildType.SUPERVISOR,
    backoff=_BACKOFF,
)


def pools_of(node: NodeSpec) -> dict[str, dict[str, Any]]:
    """Name -> its options, of every pool that the node has."""
    return {**{name: {} for name in DEFAULTS}, **node.pools}


def child_name(pool: str) -> str:
    """The name of a pool's process, which is unique in the node; its workers are NAME-1, NAME-2 and so on."""
    return f"{TASKS}-{pool}"


def pool_spec(pool: str, options: Mapping[str, Any], node: NodeSpec, script: str) -> ChildSpec:
    """`script`: of the dispatcher. Its functions are looked for from the directory of the configuration."""
    start = Launch(
        kind="service",
        script=script,
        args={"pool": pool, "options": dict(options)},
        ready="init",
        start_timeout=_START,
        watchdog=_WATCHDOG,
        cwd=os.path.dirname(node.config) or "/",
    )
    return ChildSpec(id=child_name(pool), start=start, shutdown=_SHUTDOWN, backoff=_BACKOFF)
