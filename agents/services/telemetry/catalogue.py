"""Every event of a node: whom it is about, what it measures and what else it says. Names are never changed.

docs/telemetry.md is made from this (`reference`), and a test compares it with what the code says. The name of an event is
"otpd." and the key here. Services note theirs below their own name; `SUPPRESSED` may come from each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Told:
    """`measurements`: numbers, with their units in the text; `metadata`: everything else that it may carry."""

    about: str
    what: str
    measurements: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


_NODE, _CHILD, _SUPERVISOR = "node", "child", "supervisor"
#: Why a cast reached nobody, as the broker counts it.
CODES: Final = ("noproc", "overloaded", "dropped", "expired", "circuit_open", "too_large", "refused")
_LETTER: Final = ("letter", "method", "sender", "reason", "error")
_SCHEDULE: Final = ("schedule", "why")
_TASK: Final = ("task", "owner", "why")
_COMMAND: Final = ("id", "argv", "profile", "caller_generation", "status", "killed_by", "exit_code", "why")
_SPAWN: Final = ("call", "program", "place", "instead")
_OFFENDER: Final = ("child", "reason", "offender")

EVENTS: Final[Mapping[str, Told]] = {
    # --- the node ---
    "node.starting": Told(_NODE, "root has begun", (), ("pid", "swept", "not_swept")),
    "node.started": Told(_NODE, "the tree is up", ("seconds",)),
    "node.stopping": Told(_NODE, "an ordered stop has begun"),
    "node.ended": Told(_NODE, "the tree has ended", (), ("reason",)),
    "life.problem": Told(_NODE, "the number of root's life could not be kept as usual", (), ("detail",)),
    "life.saved": Told(_NODE, "it is kept again"),
    "heart.exited": Told(_NODE, "heart has ended; root stops the tree"),
    "control.recreated": Told(_NODE, "somebody had removed the control socket; it is there again"),
    "helper.started": Told("helper", "zygote or logger runs", (), ("detail",)),
    "helper.exited": Told("helper", "it has ended and is started again", (), ("detail",)),
    "helper.failed": Told("helper", "it could not be started; tried again", (), ("detail",)),
    "helper.problem": Told("helper", "it can't do something at the moment", (), ("detail",)),
    "log.full": Told("logger", "output can't be stored", (), ("reason",)),
    "log.recovered": Told("logger", "output is stored again", ("bytes_dropped",)),
    "log.events_lost": Told("logger", "so many events could not be stored", ("count",)),
    # --- children ---
    "child.started": Told(
        _CHILD, "it is ready, so long after its process was made", ("seconds",), ("restart", "pid", "offender")
    ),
    "child.start_failed": Told(_CHILD, "an attempt to start it has failed", (), ("reason", "asked")),
    "child.ignored": Told(_CHILD, "it says that there is nothing to run"),
    "child.exited": Told(_CHILD, "an incarnation that was ready has ended", ("uptime",), ("reason", "asked")),
    "child.death": Told(
        _CHILD,
        "the whole record of an end, or of a failed start",
        ("uptime_s", "restarts_in_window", "max_restarts", "max_seconds", "resources"),
        ("reason", "status", "signal", "asked_by", "cause", "left", "detached", "kind", "traceback"),
    ),
    "child.last_lines": Told(_CHILD, "what it printed last; not of an end that went as asked", (), ("lines", "stacks")),
    "child.frozen": Told(_CHILD, "its watchdog heard nothing; its stacks are dumped, then it is killed", (), ("reason",)),
    "child.oom": Told(_CHILD, "the kernel killed it for want of memory", (), ("reason",)),
    "child.stuck": Told(_CHILD, "processes of it could not be ended", (), ("left",)),
    "child.detached": Told(_CHILD, "processes of it live on, as it says (`detach`)", (), ("left",)),
    "child.removed": Told(_CHILD, "it is no longer in the tree"),
    "child.spawned": Told(_CHILD, "it has made a process by itself", ("suppressed",), _SPAWN),
    "child.spawn_refused": Told(_CHILD, "it was kept from making one", ("suppressed",), _SPAWN),
    "child.unguarded": Told(_CHILD, "what it does of that can't be seen here", (), ("detail",)),
    "children.ended": Told(_CHILD, "its own children have ended"),
    "restart.scheduled": Told(_CHILD, "it waits for its back-off", ("delay", "next_attempt"), ("reason",)),
    # --- supervisors ---
    "supervisor.init": Told(_SUPERVISOR, "it starts its children"),
    "supervisor.started": Told(_SUPERVISOR, "all its children are up", (), ("restart",)),
    "supervisor.ignored": Told(_SUPERVISOR, "its start was declined"),
    "supervisor.start_failed": Told(_SUPERVISOR, "a child did not start", (), ("reason", "text")),
    "supervisor.killed": Told(_SUPERVISOR, "it was killed with all below it"),
    "supervisor.stopped": Told(_SUPERVISOR, "it has ended", (), ("reason", "asked")),
    "supervisor.gave_up": Told(
        _SUPERVISOR, "one restart more than its budget", ("max_restarts", "max_seconds"), ("child",)
    ),
    "supervisor.auto_shutdown": Told(_SUPERVISOR, "a significant child has ended", (), ("child",)),
    "report.child_terminated": Told(_SUPERVISOR, "OTP's report of a child's end", (), _OFFENDER),
    "report.start_error": Told(_SUPERVISOR, "OTP's report of a failed start", (), _OFFENDER),
    "report.shutdown_error": Told(_SUPERVISOR, "OTP's report of a child that did not stop as asked", (), _OFFENDER),
    "report.shutdown": Told(_SUPERVISOR, "OTP's report of giving up", (), _OFFENDER),
    # --- health ---
    "health.healthy": Told(_CHILD, "its probes succeed"),
    "health.unhealthy": Told(_CHILD, "they fail", (), ("reason",)),
    "health.problem": Told("health", "what can't be looked at here", (), ("detail",)),
    "alert.raised": Told("condition", "cpu, memory, disk or load of the machine is over its limit", ("value", "limit")),
    "alert.cleared": Told("condition", "it is under it again", ("value", "limit")),
    # --- the broker ---
    "broker.breaker.opened": Told(_CHILD, "calls to it fail at once from now on", ("failures",), ("mode",)),
    "broker.breaker.half_open": Told(_CHILD, "one call may try it", ("failures",), ("mode",)),
    "broker.breaker.closed": Told(_CHILD, "calls to it pass again", ("failures",), ("mode",)),
    "broker.inbox.high": Told(_CHILD, "80 % of its inbox are full", ("messages", "bytes")),
    "broker.inbox.low": Told(_CHILD, "less than half of its inbox is full", ("messages", "bytes")),
    "broker.dead_letters": Told(_CHILD, "casts to it that reached nobody: a number for each code", CODES),
    "broker.strike": Told(_CHILD, "it broke the protocol; the third within a minute ends it", ("count",), ("why",)),
    "broker.key_lost": Told(_CHILD, "a key that it held before the broker's restart is another's", (), ("key", "why")),
    "broker.unsent": Told("broker", "frames that nobody took", ("frames",)),
    # --- store, scheduler, pools, commands, error store, telemetry ---
    "store.problem": Told("store", "what was wrong with its files when it started", (), ("detail",)),
    "store.full": Told("store", "the disk is full: nothing new is stored"),
    "store.room": Told("store", "there is room again"),
    "store.stalled": Told("store", "the disk does not answer: what is to be stored waits", (), ("why",)),
    "store.resumed": Told("store", "it answers again"),
    "store.letter.dead": Told(_CHILD, "a durable message for it is given up", ("attempts",), _LETTER),
    "store.letter.dropped": Told("store", "a dead letter had to make room", (), ("letter", "why")),
    "scheduler.skipped": Told(_CHILD, "runs of a schedule that did not take place", ("count",), _SCHEDULE),
    "scheduler.lost": Told(_CHILD, "runs that were under way when somebody died", ("count",), _SCHEDULE),
    "scheduler.overrun": Told(_CHILD, "runs that took longer than they may", ("count",), _SCHEDULE),
    "scheduler.ended": Told(_CHILD, "runs that raised", ("count",), _SCHEDULE),
    "scheduler.gone": Told(_CHILD, "its schedules are gone with its name", ("count",), _SCHEDULE),
    "scheduler.unkept": Told("scheduler", "schedules can't be kept on disk", (), ("why",)),
    "scheduler.damaged": Told("scheduler", "what was wrong with its files when it started", (), ("what",)),
    "tasks.failed": Told("pool", "a task failed, and nobody else hears of it", (), _TASK),
    "tasks.timeout": Told("pool", "a task took longer than it may", (), _TASK),
    "tasks.killed": Told("pool", "a task was killed", (), _TASK),
    "tasks.spawned": Told("pool", "a task has made a process by itself: once for each place", (), _TASK),
    "tasks.spawn_refused": Told("pool", "a task was kept from making one", (), _TASK),
    "tasks.unguarded": Told("pool", "spawn = \"deny\" is without its kernel filter", (), _TASK),
    "commands.ended": Told(_CHILD, "a command that it ordered has ended", ("wall_s", "cpu_s"), _COMMAND),
    "commands.refused": Told(_CHILD, "a command that it ordered was refused", ("wall_s", "cpu_s"), _COMMAND),
    "commands.late": Told("commands", "workers were not ready in time, and are tried again", ("count",), ("why",)),
    "errors.stalled": Told("errors", "errors.db can't be written; tried again each second", (), ("why",)),
    "errors.resumed": Told("errors", "it can be written again"),
    "errors.quarantined": Told("errors", "errors.db could not be used and was set aside", (), ("file", "why", "moved_to")),
    "errors.damaged": Told("errors", "rows of errors.db were not as written, and are forgotten", ("count",), ("file",)),
    "errors.missed": Told("errors", "events of the journal that never came", ("count",)),
    "telemetry.subscriber.failed": Told("telemetry", "it raised; attached again after a while", ("failures",), ("why",)),
    "telemetry.listen_failed": Told("telemetry", "its address can't be had; tried again", (), ("why", "address")),
    "telemetry.subscriber.attached": Told("telemetry", "it is attached again, and has missed so many events", ("missed",)),
}  # fmt: skip
#: What services publish by themselves and root's journal does not have: there may be thousands a second.
PUBLISHED: Final[Mapping[str, Told]] = {
    "scheduler.ran": Told(
        "schedules",
        "once a second: how often each has run or was skipped (`counts`: `schedule`, `outcome`, `count`, `seconds`), and "
        "up to 500 of the runs (`runs`: `id`, `schedule`, `outcome`, `generation`, `start`, `seconds`, `late_s`)",
        ("left_out",),
        ("counts", "runs"),
    ),
    "tasks.counted": Told(
        "pool",
        "once a second while something happens: the counters of the `pool` since it was started: how tasks ended (`ended`), "
        "and `wait` and `run` as `counts` by bucket and `sum` in seconds",
        ("queued", "running"),
        ("pool", "ended", "wait", "run"),
    ),
}
#: Of any service, below its own name.
SUPPRESSED: Final = Told("service", "so many of its events were left out of a storm", ("count",))
_OWN: Final = frozenset({"at", "event", "name", "path", "generation", "group", "life", "seq"})


def told(event: str) -> Told | None:
    """What the catalogue says of an event by its whole name; None when it is not in it.

    >>> told("otpd.child.started").about, told("otpd.store.suppressed").measurements, told("otpd.x")
    ('child', ('count',), None)
    """
    key = event.removeprefix("otpd.")
    return EVENTS.get(key) or (SUPPRESSED if key.count(".") == 1 and key.endswith(".suppressed") else None)


def divided(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of root's journal as telemetry publishes it: who and when, measurements, metadata."""
    known = told(str(event["event"]))
    numbers = known.measurements if known is not None else ()
    said = {key: value for key, value in event.items() if key not in _OWN}
    return {
        "at": event.get("at"),
        "name": event.get("name"),
        "path": event.get("path"),
        "generation": event.get("generation"),
        "measurements": {key: value for key, value in said.items() if key in numbers},
        "metadata": {key: value for key, value in said.items() if key not in numbers},
    }
