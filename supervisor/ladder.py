"""How one worker is ended: ask, wait, kill, kill what it left behind, and prove that nothing is left. Pure.

`incarnation` decides when; `sweep` carries out the effects. The same machine clears up after a worker that died by
itself, so that the next incarnation never meets what the last one left. One table (a dash: nothing happens):

| state    | Stop                    | Died     | Tick (deadline passed) | Swept            |
|----------|-------------------------|----------|------------------------|------------------|
| RUNNING  | ASKED, or KILLED if brutal | SWEEPING | -                   | -                |
| ASKED    | the earlier deadline    | SWEEPING | KILLED                 | -                |
| KILLED   | -                       | SWEEPING | STUCK                  | -                |
| SWEEPING | -                       | -        | sweeps again           | DONE, or later   |
| STUCK    | -                       | reaps    | -                      | -                |
| DONE     | -                       | -        | -                      | -                |

Guarantees: Done comes exactly once; from the first Stop that is not `infinity`, or from Died, within its `shutdown` plus
KILL_PATIENCE plus SWEEP_PATIENCE seconds, whatever the processes do. No effect follows a Done without `left`.

>>> ladder, effects = handle(Ladder(Process(7, 1, "feed")), Stop(5.0), now=0.0)
>>> ladder.state.value, ladder.deadline, effects
('asked', 5.0, [Ask(signal=15)])
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Shutdown

#: Seconds after SIGKILL in which a process in state D may still come back; then it is reported.
KILL_PATIENCE: Final = 5.0
#: Seconds for what a worker left behind.
SWEEP_PATIENCE: Final = 5.0
_FIRST_RETRY: Final = 0.002
_LAST_RETRY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """Identity of a process: a pid alone may be somebody else tomorrow. `started` is in clock ticks after boot."""

    pid: int
    started: int
    title: str = ""

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.title or 'process'} (pid {self.pid})"


class State(enum.StrEnum):
    RUNNING = "running"
    ASKED = "asked"
    KILLED = "killed"
    SWEEPING = "sweeping"
    STUCK = "stuck"  # done, but the main process survived SIGKILL
    DONE = "done"


# --- events ---


@dataclass(frozen=True, slots=True)
class Stop:
    """End it. May come again, with a harder value."""

    shutdown: Shutdown


@dataclass(frozen=True, slots=True)
class Died:
    """The main process is dead and not reaped yet."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at `Ladder.deadline`, harmless at any other moment."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a Sweep found alive."""

    left: tuple[Process, ...] = ()


Event: TypeAlias = Stop | Died | Tick | Swept

# --- effects, in the order in which they must happen ---


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `signal` to the main process, then SIGCONT."""

    signal: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the main process, with `group` to all of its process group."""

    group: bool


@dataclass(frozen=True, slots=True)
class Reap:
    """Collect the dead main process; with `group` kill the rest of its group before that, while its pid is still its own."""

    group: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """Find what it left behind, kill it if `kill`, answer with Swept."""

    kill: bool


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left but `left`: what can't be ended, or (`detached`) may stay."""

    left: tuple[Process, ...] = ()
    detached: bool = False


Effect: TypeAlias = Ask | Kill | Reap | Sweep | Done


class Ladder(NamedTuple):
    """`deadline`: when Tick is due (monotonic seconds), None for never."""

    main: Process
    stop_signal: int = 15
    detach: bool = False  # helpers that it leaves behind may stay
    state: State = State.RUNNING
    deadline: float | None = None
    retry: float = _FIRST_RETRY
    give_up: float = 0.0


Result: TypeAlias = tuple[Ladder, list[Effect]]


def handle(ladder: Ladder, event: Event, now: float) -> Result:
    """The ladder after `event`, and what to do."""
    step = _TABLE.get((ladder.state, type(event)))
    return (ladder, []) if step is None else step(ladder, event, now)


def _ask(ladder: Ladder, event: Event, now: float) -> Result:
    assert isinstance(event, Stop)
    if event.shutdown == BRUTAL_KILL:
        return _kill(ladder, event, now)
    asked = ladder._replace(state=State.ASKED, deadline=_deadline(event.shutdown, now))
    return asked, [Ask(ladder.stop_signal)]


def _hurry(ladder: Ladder, event: Event, now: float) -> Result:
    assert isinstance(event, Stop)
    if event.shutdown == BRUTAL_KILL:
        return _kill(ladder, event, now)
    deadlines = [d for d in (ladder.deadline, _deadline(event.shutdown, now)) if d is not None]
    return ladder._replace(deadline=min(deadlines, default=None)), []


def _deadline(shutdown: Shutdown, now: float) -> float | None:
    return None if shutdown == INFINITY else now + float(shutdown)


def _late(ladder: Ladder, event: Event, now: float) -> Result:
    if ladder.deadline is None or now < ladder.deadline:
        return ladder, []
    return _kill(ladder, event, now)


def _kill(ladder: Ladder, event: Event, now: float) -> Result:
    return ladder._replace(state=State.KILLED, deadline=now + KILL_PATIENCE), [Kill(group=not ladder.detach)]


def _died(ladder: Ladder, event: Event, now: float) -> Result:
    swept = ladder._replace(state=State.SWEEPING, deadline=None, give_up=now + SWEEP_PATIENCE)
    return swept, [Reap(group=not ladder.detach), Sweep(kill=not ladder.detach)]


def _stuck(ladder: Ladder, event: Event, now: float) -> Result:
    if ladder.deadline is None or now < ladder.deadline:
        return ladder, []
    return ladder._replace(state=State.STUCK, deadline=None), [Done((ladder.main,))]


def _died_late(ladder: Ladder, event: Event, now: float) -> Result:
    return ladder._replace(state=State.DONE), [Reap(group=not ladder.detach)]


def _swept(ladder: Ladder, event: Event, now: float) -> Result:
    assert isinstance(event, Swept)
    if ladder.deadline is not None and now < ladder.deadline and event.left:
        return ladder, []
    if not event.left or ladder.detach or now >= ladder.give_up:
        detached = ladder.detach and bool(event.left)
        return ladder._replace(state=State.DONE, deadline=None), [Done(event.left, detached)]
    return ladder._replace(deadline=now + ladder.retry, retry=min(_LAST_RETRY, 2 * ladder.retry)), []


def _sweep_again(ladder: Ladder, event: Event, now: float) -> Result:
    if ladder.deadline is None or now < ladder.deadline:
        return ladder, []
    return ladder._replace(deadline=None), [Sweep(kill=True)]


_TABLE: Final[dict[tuple[State, type], Callable[[Ladder, Event, float], Result]]] = {
    (State.RUNNING, Stop): _ask,
    (State.RUNNING, Died): _died,
    (State.ASKED, Stop): _hurry,
    (State.ASKED, Died): _died,
    (State.ASKED, Tick): _late,
    (State.KILLED, Died): _died,
    (State.KILLED, Tick): _stuck,
    (State.SWEEPING, Tick): _sweep_again,
    (State.SWEEPING, Swept): _swept,
    (State.STUCK, Died): _died_late,
}
