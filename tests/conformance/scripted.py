"""Scenarios for real processes: the worker that does what a scenario scripts, its name in a node, its specs.

`real` drives them. Here is also what can't be driven, and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from otpd.supervisor.spec import ChildSpec, Launch, SupervisorSpec
from otpd.supervisor.specdata import SpecDataError, child_from_data, supervisor_from_data, to_data
from tests.conformance.desk import PATIENCE
from tests.conformance.replay import child_spec, left_out, supervisor_spec
from tests.conformance.world import Behaviour

#: A worker that does what FORMAT 1.4 scripts, and ends by itself when the runner says how. A fifo `PHASE.NAME` in the
#: directory of the gates holds it up in that phase until the fifo is closed.
WORKER = """
import json, os, signal, sys, time

HOW = {signal.SIGUSR1: 1, signal.SIGUSR2: 0}
signals = {signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, *HOW}
behaviour, gates = json.loads(sys.argv[1]), sys.argv[2]
name, attempt = os.environ["OTPD_CHILD"], os.environ["OTPD_GENERATION"]

def say(*words):
    os.write(int(os.environ["OTPD_CONTROL_FD"]), bytes([0x90 + len(words)]) + b"".join(
        bytes([0xA0 + len(word)]) + word.encode() for word in words))

def gate(phase):
    try:
        fd = os.open(os.path.join(gates, phase + "." + name), os.O_RDONLY)
    except FileNotFoundError:
        return
    os.read(fd, 1)
    os.close(fd)

def die():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

def stop(how):
    gate("stop")
    if how == "clean":
        die()
    elif how in ("exit0", "error"):
        os._exit(how == "error")
    elif how != "ignore":
        time.sleep(how["slow_ms"] / 1000)
        die()

signal.pthread_sigmask(signal.SIG_BLOCK, signals)
gate("start")
match behaviour["start"].get(attempt, behaviour["start"].get("*", "ok")):
    case "fail":
        os._exit(1)
    case "ignore":
        say("ignore")
        os._exit(0)
say("ready")
while True:
    match signal.sigwait(signals):
        case signal.SIGTERM:
            stop(behaviour["stop"])
        case signal.SIGHUP:
            die()
        case signal.SIGALRM:
            say("exit", "shutdown(term)")
            os._exit(0)
        case number:
            os._exit(HOW[number])
"""

#: Times that a process needs to stop are longer here than in the recordings: two cores, many processes.
SLOWER = 3


@dataclass(frozen=True)
class Names:
    """Scenario `key` is the child of that name; its `root/s/x` is KEY.s.x, below KEY.s, below KEY."""

    key: str
    script: str
    gates: str
    clock: int = 1  # periods and waits are so many times longer

    def of(self, path: str) -> str:
        return ".".join([self.key, *path.split("/")[1:]])

    def path(self, lane: str, path: str) -> str:
        """As the node shows it."""
        parts = path.split("/")
        return "/".join([lane, *(self.of("/".join(parts[: n + 1])) for n in range(len(parts)))])

    def back(self, value: Any) -> Any:
        """Whatever the node says, in the scenario's names."""
        match value:
            case str() if value == self.key:
                return "root"
            case str() if value.startswith(self.key + "."):
                return value.rpartition(".")[2]
            case list() | tuple():
                return [self.back(item) for item in value]
            case dict():
                return {key: self.back(item) for key, item in value.items()}
        return value

    def path_back(self, path: str) -> str:
        """A path without its lane."""
        return "/".join(self.back(part) for part in path.split("/")[1:])

    def child(self, spec: ChildSpec, path: str) -> ChildSpec:
        """The spec of a child that is `path` in the scenario."""
        start: object = spec.start
        if isinstance(start, SupervisorSpec):
            start = self.supervisor(start, path)
        elif isinstance(start, Behaviour):
            start = self.launch(start)
        shutdown = spec.shutdown if isinstance(spec.shutdown, str) else spec.shutdown * SLOWER
        return replace(spec, id=self.of(path), start=start, shutdown=shutdown)

    def supervisor(self, spec: SupervisorSpec, path: str) -> SupervisorSpec:
        fields = {name: getattr(spec, name) for name in SupervisorSpec.__dataclass_fields__}
        children = tuple(self.child(child, f"{path}/{child.id}") for child in spec.children)
        template = spec.template and self.child(spec.template, f"{path}/{spec.template.id}")
        period = spec.max_seconds * self.clock
        return SupervisorSpec(**{**fields, "children": children, "template": template, "max_seconds": period})

    def launch(self, behaviour: Behaviour) -> Launch:
        stop = behaviour.stop
        if isinstance(stop, dict):
            stop = {"slow_ms": stop["slow_ms"] * SLOWER}
        script = json.dumps({"start": behaviour.start, "stop": stop})
        return Launch(kind="agent", script=self.script, argv=(script, self.gates), ready="init", start_timeout=PATIENCE)


# --- which scenarios ---


def left_out_here(scenario: dict[str, Any]) -> str | None:
    """Why this scenario has no meaning for processes; None when it is driven."""
    if (why := left_out(scenario)) is not None:
        return why
    steps = scenario["steps"]
    if any(step["op"] == "check_specs" for step in steps):
        return "checks specs without a supervisor: no process takes part"
    workers = {event[1] for outcome in scenario["expect"] for event in outcome["events"] if event[0] == "init"}
    if any(step["op"] == "crash" and step["path"] in workers for step in steps):
        return "kills a supervisor: it is no process of its own"
    return _not_written(scenario)


def slower_clock(scenario: dict[str, Any]) -> int:
    """How many times longer periods and waits must be, so that a busy machine is late for none of them."""
    waits = [step["ms"] for step in scenario["steps"] if step["op"] == "advance_ms"]
    periods = [node["period"] * 1000 for node in all_nodes(scenario) if "period" in node]
    if not waits:
        return 12
    return 4 if any(wait < period < 60_000 for wait in waits for period in periods) else 2


def _not_written(scenario: dict[str, Any]) -> str | None:
    """Specs that otpd has no words for, so that none can ever reach a supervisor."""
    names = Names("s", "", "")
    for node in all_nodes(scenario):
        if node.get("kind") in ("supervisor", "dynamic") and node.get("behaviour"):
            return "a supervisor that declines: only workers can"
        try:
            if "id" in node:
                child_from_data(to_data(names.child(child_spec(node), "root")))
            else:
                supervisor_from_data(to_data(names.supervisor(supervisor_spec(node), "root")))
        except (SpecDataError, TypeError, KeyError) as error:
            return f"a spec that can't be written: {error}"
    return None


def all_nodes(scenario: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _nodes(scenario["tree"])
    for step in scenario["steps"]:
        for action in (step, *step.get("actions", ()), step.get("trigger", {}), *step.get("during", ())):
            if "spec" in action:
                yield from _nodes(action["spec"])
            if action.get("op") == "change_spec":
                yield from _nodes({key: value for key, value in action.items() if key not in ("op", "sup")})


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("children") or ():
        yield from _nodes(child)
    if isinstance(node.get("template"), dict):
        yield from _nodes(node["template"])
