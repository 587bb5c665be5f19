"""The services that a node has: a supervisor that root itself puts before everything the user wrote.

Root's tree is the user's with `services` as its first child, so that it starts before all others and stops after them.
Each service is a row of `ROWS`: an ordinary worker of otpd's own, started with what of the node concerns it and with its
table [services.NAME] of the configuration (`sections.SERVICES` says what may stand there). A service that can't start
delays the others by its start timeout once; it backs off by itself and is never given up.

>>> from otpd.supervisor.spec import NodeSpec
>>> node = NodeSpec(name="n", state_dir="/s", config="/c", top=SupervisorSpec(), services={"store": {"enabled": False}})
>>> [child.id for child in with_services(node).children], [row.name for row in rows_of(node) if row.name in (BROKER, STORE)]
(['services', 'tasks'], ['broker'])
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from otpd.supervisor.pools import TASKS, TASKS_SPEC
from otpd.supervisor.spec import (
    INFINITY,
    Backoff,
    ChildSpec,
    ChildType,
    Inbox,
    Launch,
    NodeSpec,
    SpawnPolicy,
    SupervisorSpec,
)

SERVICES: Final = "services"
BROKER: Final = "broker"
STORE: Final = "store"
COMMANDS: Final = "commands"
SCHEDULER: Final = "scheduler"
ERRORS: Final = "errors"
HEALTH: Final = "health"
TELEMETRY: Final = "telemetry"
#: Names in the tree that are the node's own, now or when it gets the service of that name.
OWN_NAMES: Final = frozenset(
    {SERVICES, BROKER, STORE, SCHEDULER, ERRORS, HEALTH, TELEMETRY, "tasks", COMMANDS}
)
#: Seconds of silence after which the broker counts as frozen (K3): every message waits for it.
WATCHDOG: Final = 2.0
_BACKOFF: Final = Backoff(initial=0.1, max=5.0)
#: The keys of [services.NAME] that are no arguments: what leaves an optional one out, and what its own processes are.
ENABLED: Final = "enabled"
SPAWN: Final = "spawn"


def _nothing(_node: NodeSpec) -> dict[str, Any]:
    return {}


def state_dir(node: NodeSpec) -> dict[str, Any]:
    """For a service that keeps files: `init(state_dir, ...)`."""
    return {"state_dir": node.state_dir}


def _always(_node: NodeSpec) -> bool:
    return True


def _commands(node: NodeSpec) -> dict[str, Any]:
    """The table as it was written, what its paths are relative to, and who may order only some commands."""
    return {"table": node.commands or {}, "base": os.path.dirname(node.config), "allowed": _allowed(node)}


def _allowed(node: NodeSpec) -> dict[str, list[str] | None]:
    """By name, and by group for instances that come later. None: a free agent whose name looks like one of such a group."""
    workers = list(launches(node.top))
    bound = [(name, launch) for name, launch in workers if launch.commands is not None]
    found = {key: list(launch.commands or ()) for name, launch in bound for key in (name, launch.group) if key is not None}
    free = {name: None for name, launch in workers if launch.commands is None and name.rpartition("-")[0] in found}
    return {**found, **free}


def launches(spec: SupervisorSpec) -> Iterator[tuple[str, Launch]]:
    """Every worker below a supervisor, with its name."""
    for child in spec.children:
        if isinstance(child.start, SupervisorSpec):
            yield from launches(child.start)
        elif isinstance(child.start, Launch):
            yield child.id, child.start


#: Seconds for the start of one that reads what it keeps. A start that is cut off begins anew, and on a busy machine with
#: much to read would never come to its end: 100,000 waiting messages took 12 s at a load of 15 on two cores.
_READS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One row. `args` says what of the node reaches its init(), beside the options of its table. Times are seconds.

    `spawn`: services make no processes either, but for those whose work it is.
    `watchdog` is longer than a disk or a machine under load may keep its loop from turning; then it is restarted.
    """

    name: str
    module: str
    args: Callable[[NodeSpec], dict[str, Any]] = _nothing
    optional: bool = True
    there: Callable[[NodeSpec], bool] = _always  # else it comes when somebody needs it
    watchdog: float = 10.0
    start_timeout: float = 5.0
    shutdown: float = 5.0
    spawn: SpawnPolicy = "warn"
    inbox: Inbox = field(default_factory=Inbox)


#: In the order of their start. Observers come last, so that what they observe is there.
ROWS: Final[tuple[Service, ...]] = (
    Service(name=BROKER, module="otpd.ipc.broker", optional=False, watchdog=WATCHDOG, shutdown=2.0, spawn="allow"),
    # Its start may read the whole database (quick_check, up to 512 MiB), its stop writes the whole log back. While it is
    # started again a whole fleet waits for it with its saves.
    Service(
        name=STORE,
        module="otpd.agents.services.store.service",
        args=state_dir,
        start_timeout=_READS,
        shutdown=10.0,
        inbox=Inbox(messages=10_000, bytes=16 * 2**20),
    ),
    Service(name=SCHEDULER, module="otpd.agents.services.scheduler.service", args=state_dir, start_timeout=_READS),
    # It comes when somebody has a command to run, or [commands] says something.
    Service(
        name=COMMANDS,
        module="otpd.agents.services.commands.service",
        args=_commands,
        optional=False,
        there=lambda node: node.commands is not None,
        spawn="allow",
    ),
    # Its start reads its database and catches up with the journal.
    Service(name=ERRORS, module="otpd.agents.services.errors.service", args=state_dir, start_timeout=_READS),
    Service(name=HEALTH, module="otpd.agents.services.health.service", args=state_dir, spawn="allow"),
    Service(name=TELEMETRY, module="otpd.agents.services.telemetry.service", args=state_dir),
)


def rows_of(node: NodeSpec, rows: tuple[Service, ...] = ROWS) -> Iterator[Service]:
    """Those that the node has."""
    enabled = (row for row in rows if not row.optional or node.services.get(row.name, {}).get(ENABLED, True))
    return (row for row in enabled if row.there(node))


def with_services(node: NodeSpec, rows: tuple[Service, ...] = ROWS) -> SupervisorSpec:
    """The user's top supervisor with the node's services before its children."""
    # It isolates, so that a service that can't start keeps this supervisor busy and not the top.
    own = SupervisorSpec(max_restarts=None, isolate=True, children=tuple(_child(row, node) for row in rows_of(node, rows)))
    services = ChildSpec(id=SERVICES, start=own, shutdown=INFINITY, type=ChildType.SUPERVISOR, backoff=_BACKOFF)
    return replace(node.top, children=(services, TASKS_SPEC, *node.top.children))


def on_demand(node: NodeSpec, rows: tuple[Service, ...] = ROWS) -> dict[str, ChildSpec]:
    """Children of `services` that come when somebody needs them, by name; also those that are there already."""
    needed = keeping(node, frozenset({COMMANDS}))
    return {row.name: _child(row, needed) for row in rows if row.there is not _always}


def keeping(node: NodeSpec, there: frozenset[str]) -> NodeSpec:
    """`node`, but that it has the services in `there`, which have come on demand: they stay until it ends."""
    return replace(node, commands={}) if COMMANDS in there and node.commands is None else node


def is_own(path: str) -> bool:
    """Whether the tree's `path` is that of the services or the task pools, or of one of them."""
    return path.split("/")[1:2] in ([SERVICES], [TASKS])


def _child(row: Service, node: NodeSpec) -> ChildSpec:
    table = node.services.get(row.name, {})
    options = {key: value for key, value in table.items() if key not in (ENABLED, SPAWN)}
    start = Launch(
        kind="service",
        script=script_of(row.module),
        args={**row.args(node), **options},
        ready="init",
        start_timeout=row.start_timeout,
        watchdog=row.watchdog,
        inbox=row.inbox,
        spawn=table.get(SPAWN, row.spawn),
    )
    return ChildSpec(id=row.name, start=start, shutdown=row.shutdown, backoff=_BACKOFF)


def script_of(module: str) -> str:
    """The file of a module of otpd. The room that it is in is not imported: root never loads what an agent needs."""
    room, *rest = module.removeprefix("otpd.").split(".")
    found = importlib.util.find_spec(f"otpd.{room}")
    assert found is not None and found.submodule_search_locations is not None, module
    return os.path.join(next(iter(found.submodule_search_locations)), *rest) + ".py"
