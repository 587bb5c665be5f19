"""The resolved tree of a NodeSpec, for `otpd check --show`: what every default became. Not the state of a running node.

>>> from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, SupervisorSpec
>>> hello = ChildSpec(id="hello", start=Launch(kind="agent", script="/srv/hello.py"))
>>> node = NodeSpec(name="shop", state_dir="/srv/.otpd", config="/srv/otpd.toml", top=SupervisorSpec(children=(hello,)))
>>> print("\\n".join(lines(node)))
shop  config /srv/otpd.toml, state /srv/.otpd
log  16MiB per file, 5 kept, full = drop
top  one_for_one, 3 restarts in 5s
`- hello  agent /srv/hello.py, permanent, stop SIGTERM then 5s, spawn allow
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from otpd.supervisor.services import ENABLED
from otpd.supervisor.spec import (
    AutoShutdown,
    ChildSpec,
    ExecReady,
    Health,
    HttpReady,
    Launch,
    LogPolicy,
    NodeSpec,
    RestartWhen,
    SupervisorSpec,
    TcpReady,
)
from otpd.supervisor.specdata import plain
from otpd.supervisor.units import format_duration, format_size


def lines(node: NodeSpec) -> list[str]:
    """The tree as plain text, one line per child, in start order."""
    head = f"{node.name}  config {node.config}, state {node.state_dir}"
    own = (*_services(node), *_commands(node), *_pools(node))
    return [head, _log(node.log), *own, f"top  {', '.join(_supervisor(node.top))}", *_children(node.top, "")]


def to_dict(node: NodeSpec) -> dict[str, Any]:
    """For --json: every field of every spec, nested as the tree is."""
    return {"schema": "otpd/1", **plain(node)}


def _log(policy: LogPolicy) -> str:
    return f"log  {format_size(policy.max_bytes)} per file, {policy.keep} kept, full = {policy.full}"


def _services(node: NodeSpec) -> Iterator[str]:
    """One line for each that the configuration says something of."""
    for name, options in node.services.items():
        if not options.get(ENABLED, True):
            yield f"services.{name}  left out"
        elif words := _assigned({key: value for key, value in options.items() if key != ENABLED}):
            yield f"services.{name}  {', '.join(words)}"


def _pools(node: NodeSpec) -> Iterator[str]:
    for name, options in node.pools.items():
        yield f"pools.{name}  {', '.join(_assigned(options)) or 'as the default'}"


def _commands(node: NodeSpec) -> Iterator[str]:
    if node.commands is None:
        return
    options = {key: value for key, value in node.commands.items() if key != "profiles"}
    names = ", ".join({"default": None} | dict.fromkeys(node.commands.get("profiles", {})))
    yield "  ".join(["commands", ", ".join([*_assigned(options), f"profiles {names}"])])
    for name, profile in node.commands.get("profiles", {}).items():
        yield f"commands.profiles.{name}  {', '.join(_assigned(profile)) or 'as the default'}"


def _assigned(options: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in options.items()]


def _children(supervisor: SupervisorSpec, indent: str) -> Iterator[str]:
    for child in supervisor.children:
        last = child is supervisor.children[-1]
        yield f"{indent}{'`-' if last else '|-'} {child.id}  {', '.join(_words(child))}"
        if isinstance(child.start, SupervisorSpec):
            yield from _children(child.start, indent + ("   " if last else "|  "))


def _words(child: ChildSpec) -> Iterator[str]:
    if isinstance(child.start, SupervisorSpec):
        yield from _supervisor(child.start)
    elif isinstance(child.start, Launch):
        yield _what(child.start)
    yield str(child.restart)
    if child.significant:
        yield "significant"
    yield from _stop(child)
    if isinstance(child.start, Launch):
        yield from _launch(child.start)
    if child.backoff:
        first, most = format_duration(child.backoff.initial), format_duration(child.backoff.max)
        yield f"back-off {first} to {most}"


def _supervisor(spec: SupervisorSpec) -> Iterator[str]:
    yield str(spec.strategy)
    if spec.max_restarts is None:
        yield "no restart limit"
    else:
        yield f"{spec.max_restarts} restarts in {spec.max_seconds}s"
    if spec.isolate:
        yield "isolates"
    if spec.auto_shutdown is not AutoShutdown.NEVER:
        yield f"auto_shutdown {spec.auto_shutdown}"


def _what(launch: Launch) -> str:
    what = (launch.script or "", *launch.argv) if launch.script else launch.command or ()
    return f"{launch.kind} {' '.join(what)}"


def _stop(child: ChildSpec) -> Iterator[str]:
    match child.shutdown:
        case float() | int():
            then = f"then {format_duration(child.shutdown)}"
        case "infinity":
            then = "and wait"
        case _:
            yield "stop by SIGKILL"
            return
    if isinstance(child.start, Launch):
        yield f"stop {signal.Signals(child.start.stop_signal).name} {then}"
    elif child.shutdown != "infinity":
        yield f"stop {then}"


def _launch(launch: Launch) -> Iterator[str]:
    if launch.ready not in ("init", "spawned"):
        yield f"ready {launch.ready if isinstance(launch.ready, str) else plain(launch.ready)}"
    if launch.group:
        yield f"group {launch.group}"
    if launch.user:
        yield f"user {launch.user}"
    if launch.health:
        yield _health(launch.health)
    if launch.restart_when:
        yield f"restart when {' or '.join(_limits(launch.restart_when))}"
    if launch.kind == "agent":
        yield f"spawn {launch.spawn}"
    if launch.commands is not None:
        yield f"commands {', '.join(map(repr, launch.commands)) or 'none'}"
    if launch.watchdog:
        yield f"watchdog {format_duration(launch.watchdog)}"


def _health(health: Health) -> str:
    match health.check:
        case TcpReady(port=port, host=host):
            way = f"tcp {host}:{port}"
        case HttpReady(url=url):
            way = f"http {url}"
        case ExecReady(argv=argv):
            way = f"exec {' '.join(argv)}"
        case _:
            way = "call"
    return f"health {way} each {format_duration(health.interval)}, {health.action}"


def _limits(limits: RestartWhen) -> Iterator[str]:
    if limits.memory is not None:
        yield f"memory above {format_size(limits.memory)}"
    if limits.cpu is not None:
        yield f"cpu above {limits.cpu:g}% over {format_duration(limits.cpu_over)}"
    if limits.files is not None:
        yield f"files above {limits.files}"
    if limits.threads is not None:
        yield f"threads above {limits.threads}"
    if limits.age is not None:
        yield f"older than {format_duration(limits.age)}"
