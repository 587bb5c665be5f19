"""What may befall the simulated world, one function per kind of fault; `scenario.KINDS` says when and whom.

A fault whose victim is not there (any more) does nothing. `heal` ends all that lasts.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor.events import DeleteChild, Op, RestartChild, StartChild, TerminateChild
from otpd.supervisor.incarnation import Status
from otpd.supervisor.spec import ChildSpec, SupervisorSpec
from otpd.supervisor.tree import walk
from tests.simulation import script
from tests.simulation.clock import MS, SECOND
from tests.simulation.ghost import Ghost
from tests.simulation.kernel import Process, State
from tests.simulation.program import Helper
from tests.simulation.scenario import Fault

if TYPE_CHECKING:
    from tests.simulation.root import SimulatedRoot
    from tests.simulation.world import World

#: Signals that end a process, but SIGKILL and SIGTERM.
_DEADLY: Final = (signal.SIGSEGV, signal.SIGABRT, signal.SIGINT, signal.SIGBUS)


def strike(world: World, fault: Fault) -> None:
    if world.over:
        return
    root = world.root
    if root is None:
        return
    world.watch.struck(fault)
    world.sometimes[f"fault: {fault.kind}"] += 1
    if fault.kind in _OF_ROOT:
        _OF_ROOT[fault.kind](world, root, fault)
        return
    name = fault.name
    live = root.workers.of(name)
    if fault.kind in _OF_STARTS:
        world.ail(name, fault.kind, fault.amount)
    elif live is not None and live.process is not None and live.process.alive:
        _OF_PROCESSES[fault.kind](world, live.process, fault)


def heal(world: World) -> None:
    """Faults are over: what stands still goes on, what is sick is well."""
    world.heal_all()
    for process in world.kernel.living():
        world.kernel.resume(process, State.STOPPED)
        world.kernel.release(process)
    for agent in world.agents():
        agent.hurry()
    if world.root is not None:
        for name in world.scenario.agents:
            _force(world.root, name, "auto")


def stop_time(top: SupervisorSpec) -> int:
    """Nanoseconds that an ordered stop may take because of what its children are allowed."""
    return sum(_stop_time(child) for child in top.children)


def _stop_time(child: ChildSpec) -> int:
    if isinstance(child.start, SupervisorSpec):
        return stop_time(child.start)
    return round(child.shutdown * SECOND) if not isinstance(child.shutdown, str) else 0


# --- processes ---


def _kill(world: World, process: Process, _fault: Fault) -> None:
    world.kernel.signal(process, signal.SIGKILL)


def _exit(_world: World, process: Process, fault: Fault) -> None:
    process.do(process.exit, fault.amount)


def _signal(world: World, process: Process, fault: Fault) -> None:
    world.kernel.end(process, Status(signal=int(_DEADLY[fault.at % len(_DEADLY)])))


def _stop(world: World, process: Process, fault: Fault) -> None:
    world.kernel.signal(process, signal.SIGSTOP)
    world.clock.after(fault.amount * MS, world.kernel.signal, process, signal.SIGCONT)


def _stick(world: World, process: Process, fault: Fault) -> None:
    """Long ones end only with the process."""
    world.kernel.stick(process)
    if fault.amount < 3000:
        world.clock.after(fault.amount * MS, world.kernel.resume, process, State.STUCK)


def _busy(world: World, process: Process, fault: Fault) -> None:
    """Its next handler takes that long, and nothing else is handled meanwhile: no credit comes back."""
    world.mark(process, "busy", fault.amount * MS)


def _slow(world: World, process: Process, fault: Fault) -> None:
    world.mark(process, "slow", fault.amount)


def _ill(world: World, process: Process, fault: Fault) -> None:
    """For so long it says that it is not well."""
    world.mark(process, "ill", 1)
    world.clock.after(fault.amount * MS, world.mark, process, "ill", 0)


def _greedy(world: World, process: Process, fault: Fault) -> None:
    """It has so many descriptors open."""
    world.mark(process, "files", fault.amount)


def _deaf(world: World, process: Process, _fault: Fault) -> None:
    world.mark(process, "deaf", 1)


def _helper(world: World, process: Process, fault: Fault) -> None:
    """It starts somebody, in its own group or not, who outlives it."""
    process.do(_leave_behind, world, process, fault)


def _leave_behind(world: World, process: Process, fault: Fault) -> None:
    if process.doomed:
        return  # a kernel that is late with its kill lets nobody fork
    leader = process if fault.at % 2 else None
    helper = world.kernel.spawn(process.cookie, process, leader=leader)
    helper.program, helper.dies_in = Helper(), fault.at % 3 * 400 * MS
    world.sometimes["a worker leaves a helper behind"] += 1


def _immortal(world: World, process: Process, fault: Fault) -> None:
    """In state D: SIGKILL has to wait. Whoever is in it does nothing else either."""
    process.immortal_until = world.clock.now + fault.amount * MS
    world.kernel.stick(process)
    world.clock.at(process.immortal_until, world.kernel.release, process)


# --- agents ---


def _ghost(world: World, process: Process, fault: Fault) -> None:
    Ghost(world, process, fault.at).appear()


def _garbage(world: World, process: Process, fault: Fault) -> None:
    Ghost(world, process, fault.at).throw()


# --- root ---


def _power(world: Any, root: SimulatedRoot, _fault: Fault) -> None:
    """Everybody is gone at once, and so is what the disk has not been told to keep. The machine starts again."""
    world.power_cut()
    for process in world.kernel.living():
        if process is not world.heart.process and process is not root.process:
            world.kernel.signal(process, signal.SIGKILL)
    world.kernel.signal(root.process, signal.SIGKILL)


def _disk_full(world: Any, _root: SimulatedRoot, fault: Fault) -> None:
    world.disk.full = True
    world.clock.after(fault.amount * MS, setattr, world.disk, "full", False)


def _jump(world: Any, _root: SimulatedRoot, fault: Fault) -> None:
    """Somebody, or a time server, sets the clock on the wall."""
    world.jump((fault.at % 2 * 2 - 1) * fault.amount * SECOND)


def _script(world: World, root: SimulatedRoot, fault: Fault) -> None:
    """Somebody runs `otpd call`, or a program of his own, and it ends well or not."""
    script.start(world, root, fault.amount * MS, in_order=fault.at % 2 == 0)


def _root_kill(world: World, root: SimulatedRoot, _fault: Fault) -> None:
    world.kernel.signal(root.process, signal.SIGKILL)


def _root_stop(world: World, root: SimulatedRoot, fault: Fault) -> None:
    _stop(world, root.process, fault)


def _root_slow(world: World, _root: SimulatedRoot, fault: Fault) -> None:
    """For a second, what root says or hears takes this long."""
    latency = world.root_latency
    least, latency.least = latency.least, fault.amount * MS // 4
    world.clock.after(SECOND, setattr, latency, "least", min(least, 20_000))


def _resnapshot(world: World, root: SimulatedRoot, _fault: Fault) -> None:
    """The whole table once more, as when too much news has gathered."""
    root.process.do(root.link.tell_all)


def _repeat(world: World, root: SimulatedRoot, fault: Fault) -> None:
    """What the broker has been told already."""
    root.process.do(root.link.repeat, fault.amount)


def _breaker(_world: World, root: SimulatedRoot, fault: Fault) -> None:
    root.process.do(_force, root, fault.name, ("open", "close", "auto")[fault.amount])


def _force(root: SimulatedRoot, name: str, mode: str) -> None:
    root.link.send(["breaker", 0, name, mode])


def _operator(world: World, root: SimulatedRoot, fault: Fault) -> None:
    root.process.do(_ask, world, root, fault)


def _ask(world: World, root: SimulatedRoot, fault: Fault) -> None:
    view = next((view for view in walk(root.tree.snapshot()) if view.name == fault.name), None)
    if view is None or "/" not in view.path:
        return
    sup, _, name = view.path.rpartition("/")
    ops: dict[str, Op] = {
        "operator_stop": TerminateChild(sup, name),
        "operator_restart": RestartChild(sup, name),
        "operator_start": StartChild(sup, view.spec),
        "operator_delete": DeleteChild(sup, name),
    }
    world.watch.operated(root, ops[fault.kind])
    root.request(ops[fault.kind], lambda result: world.watch.answered(root, ops[fault.kind], result))


_OF_PROCESSES: Final[dict[str, Callable[[World, Process, Fault], None]]] = {
    "kill": _kill,
    "exit": _exit,
    "signal": _signal,
    "stop": _stop,
    "stick": _stick,
    "busy": _busy,
    "slow": _slow,
    "deaf": _deaf,
    "helper": _helper,
    "immortal": _immortal,
    "ghost": _ghost,
    "garbage": _garbage,
    "broker_kill": _kill,
    "broker_stop": _stop,
    "broker_stick": _stick,
    "store_kill": _kill,
    "store_stop": _stop,
    "scheduler_kill": _kill,
    "scheduler_stop": _stop,
    "health_kill": _kill,
    "health_stop": _stop,
    "ill": _ill,
    "greedy": _greedy,
}
_OF_ROOT: Final[dict[str, Callable[[World, SimulatedRoot, Fault], None]]] = {
    "root_kill": _root_kill,
    "script": _script,
    "root_stop": _root_stop,
    "power": _power,
    "jump": _jump,
    "disk_full": _disk_full,
    "root_slow": _root_slow,
    "resnapshot": _resnapshot,
    "repeat": _repeat,
    "breaker": _breaker,
    "operator_stop": _operator,
    "operator_restart": _operator,
    "operator_start": _operator,
    "operator_delete": _operator,
}
_OF_STARTS: Final = frozenset({"no_process", "init_slow", "init_fails", "init_never", "ignores"})
