"""The simulated kernel: processes with few pids that are soon reused, signals, deaths that their parents hear of.

A process is RUNNING, STOPPED (SIGSTOP) or STUCK (its loop does not turn, and SIGCONT does not help); what reaches it while
it does not run waits. Dead, it is a ZOMBIE until its parent reaps it, and only then its pid can be somebody else's.

`Program` is the door for everything that runs in a process: broker and agents now, store, scheduler and pools when they are
there. It touches the world through its process alone.
"""

from __future__ import annotations

import enum
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from otpd.supervisor.incarnation import Status
from tests.simulation.clock import MS, Clock

#: So few that a pid comes back within seconds.
PIDS: Final = range(2, 130)
#: Nanoseconds for which somebody who should be dead may still act.
ZOMBIE_TIME: Final = 500 * MS
_KILLED: Final = Status(code=None, signal=int(signal.SIGKILL))


class State(enum.Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    STUCK = "stuck"
    ZOMBIE = "zombie"
    GONE = "gone"


ALIVE: Final = frozenset({State.RUNNING, State.STOPPED, State.STUCK})


class Program(Protocol):
    """What runs in a process."""

    def begin(self) -> None:
        """The process exists."""

    def signalled(self, number: int) -> None:
        """A signal that it has a handler for; SIGKILL and SIGSTOP never get here."""


@dataclass(frozen=True, slots=True)
class Cookie:
    """Whose a process is, as its environment tells: every process of an incarnation inherits it."""

    name: str
    inc: int


@dataclass(eq=False, slots=True)
class Process:
    kernel: Kernel
    pid: int
    number: int  # never given twice
    cookie: Cookie
    parent: Process | None
    group: int  # the pid of the leader
    program: Program | None = None
    state: State = State.RUNNING
    since: int = 0  # of the state
    status: Status | None = None
    immortal_until: int = 0  # in state D: SIGKILL waits
    doomed: bool = False  # SIGKILL has come meanwhile
    dies_in: int = 0  # ns that it takes to die of SIGKILL: memory has to be given back
    watchers: list[Callable[[], None]] = field(default_factory=list)
    at_exit: list[Callable[[], None]] = field(default_factory=list)
    children: list[Process] = field(default_factory=list)
    waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=deque)

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def do(self, action: Callable[..., None], *arguments: Any) -> None:
        """In this process: now, or when it runs again, or never."""
        if self.state is State.RUNNING:
            action(*arguments)
        elif self.alive:
            self.waiting.append((action, arguments))

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> list[Any]:
        """An alarm of this process."""
        return self.kernel.clock.after(delay, self.do, action, *arguments)

    def exit(self, code: int) -> None:
        self.kernel.end(self, Status(code=code))

    def __str__(self) -> str:
        return f"{self.cookie.name}#{self.number}(pid {self.pid})"


class Kernel:
    """`on_end` hears of each process that dies, before its parent."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.clock, self._random = clock, random
        self.table: dict[int, Process] = {}
        self.born = 0
        self._freed = 0  # the pid that became free last
        self.on_start: Callable[[Process], None] = lambda process: None
        self.on_end: Callable[[Process], None] = lambda process: None
        self.on_kill: Callable[[Process | None, Process], None] = lambda killer, victim: None

    # --- coming ---

    def spawn(self, cookie: Cookie, parent: Process | None, *, leader: Process | None = None) -> Process:
        """A process under a pid that nobody has. `leader`: of the process group that it stays in."""
        pid = self._free_pid()
        self.born += 1
        group = pid if leader is None else leader.group
        process = Process(self, pid, self.born, cookie, parent, group, since=self.clock.now)
        self.table[pid] = process
        if parent is not None:
            parent.children.append(process)
        self.on_start(process)
        return process

    def _free_pid(self) -> int:
        """Mostly the one that was freed last: what is done to a pid too late hits somebody."""
        last, self._freed = self._freed, 0
        if last and last not in self.table and self._random.random() < 0.8:
            return last
        free = [pid for pid in PIDS if pid not in self.table]
        if not free:
            raise RuntimeError(f"{len(self.table)} processes: the world is too small for so many")
        return self._random.choice(free)

    def living(self) -> list[Process]:
        return [process for process in self.table.values() if process.alive]

    def of(self, cookie: Cookie) -> list[Process]:
        """What still lives of one incarnation."""
        return [process for process in self.table.values() if process.cookie == cookie and process.alive]

    # --- signals ---

    def signal(self, process: Process, number: int, sender: Process | None = None) -> None:
        """Through a pidfd: it is this process or nobody."""
        if not process.alive:
            return
        match number:
            case signal.SIGKILL:
                self._kill(process, sender)
            case signal.SIGSTOP:
                self._stop(process)
            case signal.SIGCONT:
                self.resume(process, State.STOPPED)
            case _ if process.program is not None:
                process.do(process.program.signalled, number)
            case _:
                self.end(process, Status(signal=number))

    def kill_group(self, pid: int, sender: Process) -> None:
        """By number, as killpg does: whoever is in that group now."""
        for process in list(self.table.values()):
            if process.group == pid and process.alive:
                self._kill(process, sender)

    def _kill(self, process: Process, sender: Process | None) -> None:
        self.on_kill(sender, process)
        if process.immortal_until > self.clock.now:
            process.doomed = True
        elif process.dies_in:
            self.clock.after(process.dies_in, self.end, process, _KILLED)
        else:
            self.end(process, _KILLED)

    def release(self, process: Process) -> None:
        """Out of state D. A kill that has waited takes effect: at once, or when it has run for a moment, which is worse."""
        process.immortal_until = min(process.immortal_until, self.clock.now)
        if process.doomed:
            self.clock.after(process.number % 2 * ZOMBIE_TIME, self.end, process, _KILLED)
        self.resume(process, State.STUCK)

    def _stop(self, process: Process) -> None:
        if process.state is State.RUNNING:
            process.state, process.since = State.STOPPED, self.clock.now

    def stick(self, process: Process) -> None:
        """Its loop turns no more: an endless computation, a lock."""
        if process.state is State.RUNNING:
            process.state, process.since = State.STUCK, self.clock.now

    def resume(self, process: Process, of: State) -> None:
        """What has waited happens now, in order; what it does may stop it again."""
        if process.state is not of:
            return
        process.state, process.since = State.RUNNING, self.clock.now
        while process.waiting and process.state is State.RUNNING:
            action, arguments = process.waiting.popleft()
            action(*arguments)

    # --- going ---

    def end(self, process: Process, status: Status) -> None:
        """It is dead. Its connections close, its children become its parent's, its parent is told a moment later."""
        if not process.alive:
            return
        process.state, process.since, process.status = State.ZOMBIE, self.clock.now, status
        process.waiting.clear()
        for close in process.at_exit:
            close()
        self._bequeath(process)
        self.on_end(process)
        if process.parent is None:
            self.reap(process)
            return
        delay = self._random.randrange(MS // 100, MS // 2)
        for watcher in process.watchers:
            process.parent.after(delay, watcher)

    def _bequeath(self, process: Process) -> None:
        """The next process above is the subreaper of what is left below."""
        heir = process.parent
        for child in process.children:
            child.parent = heir
            child.watchers.clear()  # they were the dead one's
            if heir is not None:
                heir.children.append(child)
        process.children.clear()

    def reap(self, process: Process) -> Status | None:
        """None when somebody else has."""
        if process.state is not State.ZOMBIE:
            return None
        process.state = State.GONE
        del self.table[process.pid]
        self._freed = process.pid
        if process.parent is not None:
            process.parent.children.remove(process)
        return process.status
