"""The owner's side of one pool: which of its tasks are open, what it says, and what every one of them ends as. Pure.

It fills `out` with messages for the pool and is told what the pool says. Every task gets exactly one outcome, also when the
pool is lost. A task that the pool has no room for is kept here until there is.

A task is withdrawn while the pool grants it room:
1. `stop N` (or `unqueue N`) and `go N` are under way, each to the other side.
2. Whoever gets `go N` for what it has withdrawn is silent: `over N` is to come.
3. What answers a `go` says so (`again`, not `run`): a pool that has ended the task in between drops it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from otpd.agents.errors import CallTimeout, Exited, NotData, OtpdError, Overloaded, Refused, RemoteError
from otpd.agents.tasks.payload import PICKLE, Payload, decode
from otpd.agents.tasks.values import Exit, Ok, Outcome
from otpd.ipc.frames import close_all

Packed: TypeAlias = tuple[Any, Payload]
_NO_PICKLE: Final = (
    "only a function that can be imported can be sent to this pool: define it at the top of a module or script. Lambdas, "
    "closures and bound methods travel by pickle, in a pool of your own with [pools.NAME] pickle = true"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pool has said of itself."""

    pickle: bool
    size: int
    queue: int


@dataclass(slots=True, eq=False)
class Entry:
    """A task that is open. `pack` is called again when it had to wait."""

    name: str
    pack: Callable[[], Packed]
    done: Callable[[Outcome], None]
    timeout: float | None = None
    patient: bool = False
    detached: bool = False
    function: Any = None  # itself, where it is at hand


@dataclass(slots=True)
class Desk:
    """Of one owner at one pool. `original`: exceptions of a pool that pickles are given as they were raised."""

    pool: str
    out: list[tuple[list[Any], Sequence[int]]] = field(default_factory=list)
    facts: Facts | None = None
    original: bool = False
    _open: dict[int, Entry] = field(default_factory=dict)
    _withdrawn: set[int] = field(default_factory=set)  # of those that are open
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def count(self) -> int:
        """Tasks that are open."""
        return len(self._open)

    def submit(self, entry: Entry) -> int:
        """NotData when it can't be sent; then nothing has happened."""
        task: int = next(self._ids)
        self._send("run", task, entry)
        self._open[task] = entry
        return task

    def _send(self, verb: str, task: int, entry: Entry) -> None:
        function, sent = entry.pack()
        how = [entry.timeout, entry.patient, entry.detached]
        self.out.append(([verb, task, how, function, sent.codec, sent.body, list(sent.sizes)], sent.fds))

    def withdraw(self, task: int) -> None:
        """It is to end; its outcome comes as that of any other."""
        if task in self._open:
            self._withdrawn.add(task)
            self.out.append((["stop", task], ()))

    def forget(self, task: int) -> None:
        """It is to end, and nobody wants to hear of it."""
        if self._close(task) is not None:
            self.out.append((["stop", task], ()))

    def unqueue_all(self) -> None:
        """Those that have not begun are to end."""
        self._withdrawn.update(self._open)
        self.out.extend((["unqueue", task], ()) for task in self._open)

    def _close(self, task: int) -> Entry | None:
        self._withdrawn.discard(task)
        return self._open.pop(task, None)

    # --- what the pool says ---

    def hear(self, message: list[Any], fds: list[int]) -> None:
        match message:
            case ["done", int(task), bool(ok), codec, body, sizes]:
                self._done(task, ok, Payload(codec, body, sizes, fds))
                if sizes:
                    self.out.append((["read", task], ()))
                return
            case ["over", int(task), str(end), str(why)]:
                self._over(task, end, why)
            case ["go", int(task)] if task in self._open and task not in self._withdrawn:
                self._again(task, self._open[task])
            case ["accepted", int(task)] if task in self._open and self._open[task].detached:
                self._finish(task, Ok(None))
            case ["hello", dict(facts)]:
                self.facts = Facts(bool(facts["pickle"]), facts["size"], facts["queue"])
        close_all(fds)

    def _finish(self, task: int, outcome: Outcome) -> None:
        entry = self._close(task)
        if entry is not None:
            entry.done(outcome)

    def _again(self, task: int, entry: Entry) -> None:
        try:
            self._send("again", task, entry)
        except NotData as error:  # it has been changed since
            self._finish(task, Exit("error", error))
            self.out.append((["stop", task], ()))

    def _done(self, task: int, ok: bool, sent: Payload) -> None:
        entry = self._close(task)
        if entry is None or (sent.codec == PICKLE and not (self.facts is not None and self.facts.pickle)):
            close_all(sent.fds)
            return
        try:
            value = decode(sent, f"the result of {entry.name}")
            outcome = Ok(value) if ok else Exit("error", self._raised(entry, value))
        except Exception as error:  # unpickling runs code of the value's own
            text = f"task {entry.name}: its result can't be read here: {type(error).__name__}: {error}"
            outcome = Exit("error", RemoteError(text, type=type(error).__name__, text=str(error)))
        entry.done(outcome)

    def _raised(self, entry: Entry, value: Any) -> Any:
        kind, text, trace, original = value
        if self.original and isinstance(original, BaseException):
            original.__cause__ = RemoteError(trace, type=kind, text=text, traceback=trace)
            return original
        return RemoteError(f"task {entry.name} raised {kind}: {text}", type=kind, text=text, traceback=trace)

    def _over(self, task: int, end: str, why: str) -> None:
        entry = self._close(task)
        if entry is not None:
            entry.done(over(entry.name, self.pool, end, why))

    def lost(self, why: str) -> None:
        """The line is gone, and all tasks with it."""
        entries, self._open = list(self._open.values()), {}
        self._withdrawn.clear()
        for message, fds in self.out:
            close_all(fds)
            message.clear()
        self.out.clear()
        for entry in entries:
            text = f"task {entry.name}: the pool {self.pool} is gone ({why}); its tasks have ended; look with: otpd tasks"
            entry.done(Exit("killed", Exited(text, reason=why)))


def over(name: str, pool: str, end: str, why: str) -> Exit:
    """The outcome of a task that has not come to its own end.

    >>> print(over("work:parse", "cpu", "killed", "signal(11)").error)
    task work:parse: its worker ended under it (signal(11)); what it printed: otpd logs; its pool goes on
    """
    task = f"task {name}"
    match end:
        case "timeout":
            text = f"{task}: it ran longer than its timeout, and was ended with its worker; give it more time, or look: "
            return Exit("timeout", CallTimeout(f"{text}otpd tasks {pool}", "maybe"))
        case "killed":
            why = why or "gone"
            text = f"{task}: its worker ended under it ({why}); what it printed: otpd logs; its pool goes on"
            return Exit("killed", Exited(text, reason=why))
        case "cancelled":
            return Exit("cancelled", Exited(f"{task}: it was taken back", reason="shutdown"))
        case "full":
            text = f"{task}: the queue of pool {pool} is full; wait for room with wait=True, or give it a larger queue"
            if why:
                text = f"{text}_bytes: of its arguments {why}"
            return Exit("overloaded", Overloaded(text))
        case "draining":
            text = f"{task}: pool {pool} is drained and takes nothing until that is over; wait for it with wait=True"
            return Exit("overloaded", Overloaded(text))
        case "refused":
            return Exit("refused", Refused(f"{task}: {why}"))
    return Exit(end, OtpdError(f"{task}: {end}: {why}"))


def no_pickle(name: str) -> NotData:
    return NotData(f"task {name}: {_NO_PICKLE}")
