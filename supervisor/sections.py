"""Which keys the tables of a configuration have, and how each is checked: the whole format in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from otpd.supervisor import checks, commandtable, healthkeys, listening
from otpd.supervisor.checks import Check
from otpd.supervisor.problems import Invalid, nearest, show
from otpd.supervisor.spec import SPAWN_POLICIES, AutoShutdown, Restart, Strategy

_LOG: Final[Mapping[str, Check]] = {
    "max_size": checks.size(4096, "4KiB"),
    "keep": checks.integer(0, 10_000),
    "full": checks.word("drop", "block"),
}
_LIMITS: Final[Mapping[str, Check]] = {
    "memory": checks.size(2**20, "1MiB"),
    "files": checks.integer(8, 2**30),
    "cpu": checks.duration(1, "1s"),
    "processes": checks.integer(1, 2**22),
    "core": checks.size(0, "0B"),
}
_INBOX: Final[Mapping[str, Check]] = {
    "messages": checks.integer(1, 1_000_000),
    "bytes": checks.size(1024, "1KiB"),
    "policy": checks.word("reject", "drop_oldest", "drop_newest"),
}
_CHILD: Final[Mapping[str, Check]] = {
    "supervisor": checks.text,
    "restart": checks.word(*Restart),
    "shutdown": checks.shutdown,
    "significant": checks.boolean,
    "backoff": checks.backoff,
}
_WORKER: Final[Mapping[str, Check]] = {
    **_CHILD,
    "script": checks.path,
    "instances": checks.integer(1, 10_000),
    "start_timeout": checks.duration(0.001, "1ms"),
    "env": checks.environment,
    "env_file": checks.path,
    "cwd": checks.path,
    "user": checks.text,
    "umask": checks.umask,
    "stop_signal": checks.stop_signal,
    "limits": checks.table(_LIMITS),
    "restart_when": healthkeys.restart_when,
    "watchdog": checks.duration(0.01, "10ms"),
    "detach": checks.boolean,
}
#: [pools.NAME]: task pools. No size: one worker for each core (`io`: four).
POOL: Final[Mapping[str, Check]] = {
    "size": checks.integer(1, 1000),
    "queue": checks.integer(0, 1_000_000),
    "queue_bytes": checks.size(2**20, "1MiB"),
    "max_tasks_per_worker": checks.integer(1),
    "memory": checks.size(2**20, "1MiB"),
    "preload": checks.strings,
    "timeout": checks.duration(0.001, "1ms"),
    "grace": checks.duration(0, "0s"),
    "idle": checks.duration(0.01, "10ms"),
    "start_timeout": checks.duration(0.01, "10ms"),
    "pickle": checks.boolean,
    "spawn": checks.word(*SPAWN_POLICIES),
}
NODE: Final[Mapping[str, Check]] = {"name": checks.name, "state_dir": checks.path, "log": checks.table(_LOG)}
SECTIONS: Final[Mapping[str, Mapping[str, Check]]] = {
    "supervisors": {
        **_CHILD,
        "strategy": checks.word(*Strategy),
        "max_restarts": checks.integer(0),
        "max_seconds": checks.integer(1),
        "auto_shutdown": checks.word(*AutoShutdown),
    },
    "agents": {
        **_WORKER,
        "command": checks.command,
        "args": checks.arguments,
        "inbox": checks.table(_INBOX),
        "spawn": checks.word(*SPAWN_POLICIES),
        "commands": commandtable.patterns,
        "health": healthkeys.probe(is_agent=True),
    },
    "programs": {
        **_WORKER,
        "command": checks.command,
        "args": checks.strings,
        "ready": checks.ready,
        "health": healthkeys.probe(is_agent=False),
    },
}
#: The options of the node's services; `enabled = false` leaves one out.
SERVICES: Final[Mapping[str, Mapping[str, Check]]] = {
    "store": {
        "enabled": checks.boolean,
        "max_state": checks.size(1024, "1KiB", 8 * 2**20, "8MiB"),
        "ballast": checks.size(0, "0B"),
        "max_messages": checks.integer(1, 10_000_000),
        "max_message_bytes": checks.size(2**20, "1MiB"),
        "max_attempts": checks.integer(1, 1000),
        "max_letters": checks.integer(1, 1_000_000),
        "max_age": checks.duration(60, "1m"),
    },
    "scheduler": {"enabled": checks.boolean},
    "errors": {
        "enabled": checks.boolean,
        "max_records": checks.integer(1, 1_000_000),
        "max_age": checks.duration(1, "1s"),
    },
    "health": {"enabled": checks.boolean, "alerts": checks.table(healthkeys.ALERTS)},
    "telemetry": {"enabled": checks.boolean, "listen": listening.listen, "otlp": listening.otlp},
}
_OF_EACH_SERVICE: Final[Mapping[str, Check]] = {"spawn": checks.word(*SPAWN_POLICIES)}
#: What other supervisors of processes call these keys.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "cmd": "command", "exec": "command", "environment": "env", "environ": "env", "environment_file": "env_file",
    "replicas": "instances", "numprocs": "instances", "count": "instances", "directory": "cwd", "dir": "cwd",
    "working_directory": "cwd", "working_dir": "cwd", "stopsignal": "stop_signal", "signal": "stop_signal",
    "stopwaitsecs": "shutdown", "stop_timeout": "shutdown", "parent": "supervisor", "depends_on": "", "after": "",
    "requires": "", "priority": "",
}  # fmt: skip
#: What other pools call these keys.
_POOLS_ELSEWHERE: Final[Mapping[str, str]] = {
    "workers": "size", "max_workers": "size", "processes": "size", "instances": "size", "max_queue": "queue",
    "max_tasks_per_child": "max_tasks_per_worker", "maxtasksperchild": "max_tasks_per_worker", "imports": "preload",
    "max_queue_bytes": "queue_bytes",
}  # fmt: skip
_ORDER: Final = "unknown key; the order in the file is the start order, and rest_for_one restarts what comes later"


def unknown_key(section: str, key: str) -> Invalid:
    """The error for a key that a table of `section` does not have."""
    known = SECTIONS[section]
    if section == "agents" and key == "ready":
        return Invalid(what="an agent is ready when its init() has returned; remove this key")
    owners = [f"[{other}.NAME]" for other, keys in SECTIONS.items() if key in keys]
    if owners:
        return Invalid(what=f"not a key of [{section}.NAME], it belongs to {' and '.join(owners)}")
    if _ELSEWHERE.get(key) == "":
        return Invalid(what=_ORDER)
    guess = _ELSEWHERE.get(key, "")
    guess = guess if guess in known else nearest(key, known)
    what = "unknown key" if guess else f"unknown key; known here: {', '.join(sorted(known))}"
    return Invalid(what=what, nearest=guess)


def check_services(value: Any) -> tuple[dict[str, dict[str, Any]], list[Invalid]]:
    """The options of each [services.NAME] that are right, and what is wrong with the others."""
    if not isinstance(value, dict):
        return {}, [Invalid(expected="tables [services.NAME]", got=show(value))]
    found: dict[str, dict[str, Any]] = {}
    wrong: list[Invalid] = []
    for name, table in value.items():
        if name not in SERVICES:
            wrong.append(_unknown_service(name).under(name))
            continue
        found[name], errors = checks.each_field(table, {**SERVICES[name], **_OF_EACH_SERVICE})
        wrong += [error.under(name) for error in errors]
    return found, wrong


def _unknown_service(name: str) -> Invalid:
    known = f"those with options: {', '.join(SERVICES)}"
    if name == "broker":
        return Invalid(what=f"the broker is in every node and has no options; {known}")
    guess = nearest(name, SERVICES)
    return Invalid(what="unknown service" if guess else f"unknown service; {known}", nearest=guess)


def check_entry(section: str, value: Any) -> tuple[dict[str, Any], list[Invalid]]:
    """The values of one [section.NAME] that are right, and what is wrong with the others."""
    known = SECTIONS[section]
    if not isinstance(value, dict):
        return {}, [Invalid(expected=f"a table [{section}.NAME]", got=show(value))]
    found, wrong = checks.each_field({key: item for key, item in value.items() if key in known}, known)
    return found, wrong + [unknown_key(section, key).under(key) for key in value if key not in known]


def check_pool(value: Any) -> tuple[dict[str, Any], list[Invalid]]:
    """The values of one [pools.NAME] that are right, and what is wrong with the others."""
    if not isinstance(value, dict):
        return {}, [Invalid(expected="a table [pools.NAME]", got=show(value))]
    found, wrong = checks.each_field({key: item for key, item in value.items() if key in POOL}, POOL)
    if "preload" in found:
        found["preload"] = list(found["preload"])
    return found, wrong + [_unknown_of_pool(key).under(key) for key in value if key not in POOL]


def _unknown_of_pool(key: str) -> Invalid:
    guess = _POOLS_ELSEWHERE.get(key, "") or nearest(key, POOL)
    return Invalid(what="unknown key" if guess else f"unknown key; known here: {', '.join(sorted(POOL))}", nearest=guess)
