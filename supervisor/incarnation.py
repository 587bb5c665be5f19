"""The life of one incarnation of a worker, from the start attempt to the moment when nothing of it is left. Pure.

`ladder` ends processes; this machine decides when it runs and what the tree is told. One table:

| phase     | launched  | set_up            | ready   | died     | ask/abort | start_timeout | silent  | cleared |
|-----------|-----------|-------------------|---------|----------|-----------|---------------|---------|---------|
| WAITING   | LAUNCHING | -                 | -       | -        | GONE      | GONE          | -       | -       |
| LAUNCHING | -         | STARTING/RUNNING  | RUNNING | CLEARING | STOPPING  | STOPPING      | -       | -       |
| STARTING  | -         | -                 | RUNNING | CLEARING | STOPPING  | STOPPING      | -       | -       |
| RUNNING   | -         | -                 | -       | CLEARING | STOPPING  | -             | DUMPING | -       |
| DUMPING   | -         | -                 | -       | CLEARING | STOPPING  | -             | -       | -       |
| STOPPING  | -         | -                 | -       | (kept)   | harder    | -             | -       | GONE    |
| CLEARING  | -         | -                 | -       | -        | (comes)   | -             | -       | GONE    |

The tree hears exactly one of Started/StartFailed/StartIgnored/Exited per attempt before GONE, and Exited once after
Started; always after `cleared`, so that the next incarnation never meets what the last one left (T1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from otpd.supervisor.events import Exited, Started, StartFailed, StartIgnored
from otpd.supervisor.spec import BRUTAL_KILL, Launch, Shutdown

#: Seconds between the request for stack dumps and the kill (T50).
DUMP_TIME = 1.0


class Phase(enum.StrEnum):
    WAITING = "waiting"
    LAUNCHING = "launching"
    STARTING = "starting"
    RUNNING = "running"
    DUMPING = "dumping"
    STOPPING = "stopping"
    CLEARING = "clearing"
    GONE = "gone"


class Due(enum.StrEnum):
    """The timers of an incarnation; at most one of each is armed."""

    START = "start"  # it must be ready by then
    SILENT = "silent"  # it must have beaten by then
    DUMPED = "dumped"  # its stacks must be out by then


@dataclass(frozen=True, slots=True)
class Tell:
    """For the tree."""

    event: Started | StartFailed | StartIgnored | Exited


@dataclass(frozen=True, slots=True)
class Arm:
    due: Due
    delay: float


@dataclass(frozen=True, slots=True)
class Disarm:
    due: Due


@dataclass(frozen=True, slots=True)
class Probe:
    """Begin to ask whether it is ready."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Ask it for the stacks of all its threads."""


@dataclass(frozen=True, slots=True)
class End:
    """Run the stop ladder with `shutdown`; with a process that is dead already it only clears."""

    shutdown: Shutdown


Action: TypeAlias = Tell | Arm | Disarm | Probe | Dump | End


@dataclass(frozen=True, slots=True)
class Status:
    """How a process ended: exit code or signal; both None when nobody could tell."""

    code: int | None = None
    signal: int | None = None
    core: bool = False
    resources: dict[str, float] | None = field(default=None, compare=False)  # what it used in all; see `sweep.used`


def reason_of(status: Status, announced: str | None, stop_signal: int | None) -> str:
    """The exit reason. `stop_signal`: the one that it was asked with, None when nobody asked.

    What a worker announced before it exited by itself says more than its status; a signal says more than either. Ended
    by SIGTERM is `shutdown` whoever sent it, as OTP has it for exit(Pid, shutdown).

    >>> reason_of(Status(code=0), None, None), reason_of(Status(signal=15), None, None), reason_of(Status(code=3), None, 15)
    ('normal', 'shutdown', 'error(3)')
    """
    if status.signal is not None:
        return _signal_reason(status.signal, stop_signal)
    if announced is not None:
        return announced
    if status.code is None:
        return "error(unknown)"
    return "normal" if status.code == 0 else f"error({status.code})"


def _signal_reason(number: int, stop_signal: int | None) -> str:
    if number in (15, stop_signal):
        return "shutdown"
    return "killed" if number == 9 else f"signal({number})"


class Incarnation:
    """One start attempt of `path`; every method is an event and gives back the actions in order."""

    def __init__(self, path: str, generation: int, launch: Launch, shutdown: Shutdown) -> None:
        self.path, self.generation = path, generation
        self._launch, self._shutdown = launch, shutdown
        self.phase = Phase.WAITING
        self.status: Status | None = None  # how the main process ended
        self.announced: str | None = None
        self.traceback: str | None = None  # of the exception that ends it
        self.asked = False  # its supervisor asked for its end
        self.was_ready = False
        self.cause: str | None = None  # why root ends it unasked, or why its start failed, in words
        self.decreed: str | None = None  # its exit reason, whatever its status: root ended it for that
        self._ignored = False
        self._armed: list[Due] = []

    def begin(self) -> list[Action]:
        return [self._arm(Due.START, self._launch.start_timeout)]

    def launched(self) -> list[Action]:
        """A process exists."""
        if self.phase is Phase.WAITING:
            self.phase = Phase.LAUNCHING
        return []

    def launch_failed(self, why: str) -> list[Action]:
        """No process could be made."""
        return self._gone(StartFailed(self.path, self.generation, why)) if self.phase is Phase.WAITING else []

    def set_up(self) -> list[Action]:
        """Its set-up is done (exec has happened, or user code begins)."""
        if self.phase is not Phase.LAUNCHING:
            return []
        self.phase = Phase.STARTING
        match self._launch.ready:
            case "spawned":
                return self.ready()
            case "init" | "notify":
                return []
        return [Probe()]

    def failed(self, why: str) -> list[Action]:
        """Its set-up went wrong; the process ends by itself."""
        self.cause = self.cause or why
        return []

    def ready(self) -> list[Action]:
        if self.phase not in (Phase.LAUNCHING, Phase.STARTING):
            return []
        self.phase, self.was_ready = Phase.RUNNING, True
        return [*self._disarm_all(), *self._watch(), Tell(Started(self.path, self.generation))]

    def ignored(self) -> list[Action]:
        """It says that there is nothing to run."""
        if self.phase not in (Phase.LAUNCHING, Phase.STARTING):
            return []
        self._ignored = True
        return self._end(self._shutdown)

    def announce(self, reason: str) -> list[Action]:
        self.announced = reason
        return []

    def beat(self) -> list[Action]:
        return self._watch() if self.phase is Phase.RUNNING else []

    def died(self, status: Status) -> list[Action]:
        self.status = status
        match self.phase:
            case Phase.LAUNCHING | Phase.STARTING | Phase.RUNNING | Phase.DUMPING:
                self.phase = Phase.CLEARING
                return [*self._disarm_all(), End(BRUTAL_KILL)]
        return []

    def raised(self, traceback: str) -> list[Action]:
        self.traceback = traceback
        return []

    def ask(self, shutdown: Shutdown, cause: str | None = None) -> list[Action]:
        """Its supervisor asks it to stop, or wants an answer sooner than before. Of one that is dead it says nothing: the
        reason has been told (rule 61)."""
        if self.phase is Phase.GONE:
            return []
        if self.status is None:
            self.asked = True
            self.cause = self.cause or cause
        return self._end(shutdown)

    def abort(self, cause: str) -> list[Action]:
        """Give up the start."""
        return self.ask(self._shutdown, cause)

    def due(self, due: Due) -> list[Action]:
        match due, self.phase:
            case Due.START, Phase.WAITING | Phase.LAUNCHING | Phase.STARTING:
                self.cause = self.cause or f"not ready within {self._launch.start_timeout:g} s"
                return self._end(self._shutdown)
            case Due.SILENT, Phase.RUNNING:
                self.phase, self.cause = Phase.DUMPING, f"watchdog: silent for {self._launch.watchdog:g} s"
                return [Dump(), self._arm(Due.DUMPED, DUMP_TIME)]
            case Due.DUMPED, Phase.DUMPING:
                return self._end(BRUTAL_KILL)
        return []

    def over_limit(self, cause: str) -> list[Action]:
        """A limit that only a restart mends (memory): end it as its spec says; the restart counts like any (T8)."""
        if self.phase is not Phase.RUNNING:
            return []
        self.cause = cause
        return self._end(self._shutdown)

    def terminate(self, reason: str) -> list[Action]:
        """A link of its broke: it ends as its spec says, and whatever its status, `reason` is why (H5)."""
        if self.phase not in (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING):
            return []
        self.cause = self.decreed = reason
        return self._end(self._shutdown)

    def cleared(self) -> list[Action]:
        """The ladder is done: nothing of it is left that could be ended."""
        if self.phase not in (Phase.STOPPING, Phase.CLEARING):
            return []
        return self._gone(self._outcome())

    @property
    def stop_reason(self) -> str:
        """What it is told right before the signal that asks it to stop."""
        return self.decreed or "shutdown"

    @property
    def reason(self) -> str:
        """What its status says, once it has died."""
        if self.status is None:
            return "killed"
        asked_with = self._launch.stop_signal if self.asked or self.cause else None
        return reason_of(self.status, self.announced, asked_with)

    @property
    def last_reason(self) -> str:
        """Its exit reason, once it has died; what `cleared` will tell."""
        outcome = self._outcome()
        return self.reason if isinstance(outcome, StartIgnored) else outcome.reason

    @property
    def killed_by_others(self) -> bool:
        """A SIGKILL ended it that root did not send."""
        return self.status is not None and self.status.signal == 9 and not self.asked and self.cause is None

    def _outcome(self) -> StartFailed | StartIgnored | Exited:
        if self.was_ready:
            return Exited(self.path, self.generation, self._exit_reason())
        if self._ignored:
            return StartIgnored(self.path, self.generation)
        return StartFailed(self.path, self.generation, self.cause or self.reason)

    def _exit_reason(self) -> str:
        """What root ended by itself (watchdog, memory) is abnormal, however politely it went."""
        if self.decreed is not None and not self.asked:
            return self.decreed
        if self.cause is not None and not self.asked and self.reason in ("normal", "shutdown"):
            return f"error({self.cause})"
        return self.reason

    def _end(self, shutdown: Shutdown) -> list[Action]:
        match self.phase:
            case Phase.WAITING:
                return self._gone(StartFailed(self.path, self.generation, self.cause or "shutdown"))
            case Phase.CLEARING | Phase.GONE:
                return []
        self.phase = Phase.STOPPING
        return [*self._disarm_all(), End(shutdown)]

    def _gone(self, event: StartFailed | StartIgnored | Exited) -> list[Action]:
        self.phase = Phase.GONE
        return [*self._disarm_all(), Tell(event)]

    def _watch(self) -> list[Action]:
        return [] if self._launch.watchdog is None else [self._arm(Due.SILENT, self._launch.watchdog)]

    def _arm(self, due: Due, delay: float) -> Arm:
        if due not in self._armed:
            self._armed.append(due)
        return Arm(due, delay)

    def _disarm_all(self) -> list[Action]:
        armed, self._armed = self._armed, []
        return [*map(Disarm, armed)]
