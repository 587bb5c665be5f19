"""What happened, as root remembers it: a ring of events, the last deaths of each child, and who follows along.

In memory and bounded; the logger appends each event to events.jsonl, so that they outlive root. `otpd events` and
`otpd why` are answered from here while every service is down. To write down what has happened can wait for what has to
be done about it: an entry is only noted, with its time, and made when somebody reads, or a moment later.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.supervisor.child import is_clean
from otpd.supervisor.spec import BRUTAL_KILL, Shutdown

EVENTS_KEPT = 1000
DEATHS_KEPT = 10
EARLY_KEPT = 1000
_NOT_IN_RECORD: Final = frozenset({"at", "path", "generation", "tail", "stacks"})


#: The cause of an end by SIGKILL that was asked for and is what the spec says; the error store knows it, too.
BRUTALLY: Final = 'shutdown = "brutal_kill"'


def as_specified(shutdown: Shutdown, reason: str, asked_by: str | None) -> str | None:
    """
    >>> as_specified("brutal_kill", "killed", "operator"), as_specified(5.0, "killed", "operator")
    ('shutdown = "brutal_kill"', None)
    >>> as_specified("brutal_kill", "killed", None), as_specified("brutal_kill", "error(1)", "operator")
    (None, None)
    """
    return BRUTALLY if shutdown == BRUTAL_KILL and reason == "killed" and asked_by is not None else None


@dataclass(slots=True)
class Death:
    """One death; `tail` comes when the logger has stored the last bytes."""

    generation: int
    reason: str
    status: int | None
    signal: int | None
    at: float  # wall clock, seconds
    uptime_s: float
    asked_by: str | None
    cause: str | None
    restarts_in_window: int
    tail: list[str] = field(default_factory=list)
    stacks: bool = False
    left: list[str] = field(default_factory=list)
    detached: bool = False  # what is left may stay
    path: str = ""
    kind: str = "program"
    max_restarts: int | None = None  # of its supervisor, in `max_seconds`; None: no limit
    max_seconds: int = 0
    traceback: str | None = None
    resources: dict[str, float] | None = None  # see `sweep.used`

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def record(self) -> dict[str, Any]:
        """For the event of it; its last lines follow in one of their own."""
        return {name: value for name, value in self.to_dict().items() if name not in _NOT_IN_RECORD}

    @property
    def expected(self) -> bool:
        """Somebody had asked for it, and it went as it should."""
        return self.asked_by is not None and (is_clean(self.reason) or self.cause == BRUTALLY)

    def summary(self) -> dict[str, Any]:
        """`last_exit` of the contract."""
        return {"reason": self.reason, "status": self.status, "signal": self.signal, "at": self.at, "cause": self.cause}


class Journal:
    """`write(event)` gets each event once, for the disk; `later(action)` calls back soon. Events are numbered: `life` of
    root, and `seq` in it, without gaps, so that whoever reads them later knows where it was."""

    def __init__(
        self, write: Callable[[dict[str, Any]], None], later: Callable[[Callable[[], None]], None], life: int = 0
    ) -> None:
        self._write, self._later, self._life = write, later, life
        self._numbers = itertools.count(1)
        self._noted: list[Callable[[], None]] = []
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._deaths: dict[str, deque[Death]] = {}  # by name: unique in the node
        self._groups: dict[str, str] = {}  # of those that are one of several instances
        self._early: dict[str, tuple[int, list[str]]] = {}  # tails of incarnations whose death is not recorded yet
        self._silent: dict[tuple[str, int], Death] = {}  # whose last lines have not come, also of those that are forgotten
        self._followers: dict[Callable[[dict[str, Any]], None], None] = {}

    @staticmethod
    def clock() -> float:
        """Wall clock, seconds: the time of what is recorded."""
        return time.time()

    def event(self, kind: str, name: str = "", path: str = "", generation: int = 0, /, **data: Any) -> None:
        """Record `otpd.<kind>` with the time of this call. `data` may have any keys: a service chooses them."""
        at = time.time()
        self._note(lambda: self._event(at, kind, name, path, generation, data))

    def belongs(self, name: str, group: str | None) -> None:
        """From now on each event of `name` says of which group it is an instance; None: of none."""
        if group is None:
            self._groups.pop(name, None)
        else:
            self._groups[name] = group

    def death(self, name: str, made: Callable[[], Death]) -> None:
        self._note(lambda: self._death(name, made()))

    def settle(self) -> None:
        """Write down all that is noted, in order, and what comes of it."""
        while self._noted:
            noted, self._noted = self._noted, []
            for entry in noted:
                entry()

    def _note(self, entry: Callable[[], None]) -> None:
        self._noted.append(entry)
        if len(self._noted) == 1:
            self._later(self.settle)

    def _event(self, at: float, kind: str, name: str, path: str, generation: int, data: dict[str, Any]) -> None:
        found = {"at": at, "event": f"otpd.{kind}", "name": name, "path": path, "generation": generation, **data}
        if name in self._groups:
            found["group"] = self._groups[name]
        found |= {"life": self._life, "seq": next(self._numbers)}
        self._events.append(found)
        self._write(found)
        for follower in list(self._followers):
            follower(found)

    def last(self, n: int) -> list[dict[str, Any]]:
        self.settle()
        return list(self._events)[-n:] if n > 0 else []

    def follow(self, follower: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `follower` with each event from now on; gives back what ends it."""
        self.settle()
        self._followers[follower] = None
        return lambda: self._followers.pop(follower, None)

    def _death(self, name: str, death: Death) -> None:
        """Its last lines may have come before: the logger is often sooner than the proof that nothing is left."""
        self._deaths.setdefault(name, deque(maxlen=DEATHS_KEPT)).append(death)
        self._event(death.at, "child.death", name, death.path, death.generation, death.record())
        self._silent[name, death.generation] = death
        if len(self._silent) > EARLY_KEPT:
            del self._silent[next(iter(self._silent))]
        generation, lines = self._early.pop(name, (0, []))
        if generation == death.generation:
            self._tail(name, generation, lines)

    def deaths(self, name: str) -> list[Death]:
        """Newest first."""
        self.settle()
        return list(reversed(self._deaths.get(name, ())))

    def last_death(self, name: str) -> Death | None:
        self.settle()
        found = self._deaths.get(name)
        return found[-1] if found else None

    def tail(self, name: str, generation: int, lines: list[str]) -> None:
        """The last lines of an incarnation have arrived."""
        self.settle()
        self._tail(name, generation, lines)

    def _tail(self, name: str, generation: int, lines: list[str]) -> None:
        silent = self._silent.pop((name, generation), None)
        for death in (silent,) if silent else self._deaths.get(name, ()):
            if death.generation == generation:
                death.tail = lines
                death.stacks = death.stacks or any(_is_stack(line) for line in lines)
                if silent:
                    self._tell_lines(name, death)
                return
        self._early[name] = (generation, lines)
        if len(self._early) > EARLY_KEPT:
            del self._early[next(iter(self._early))]

    def _tell_lines(self, name: str, death: Death) -> None:
        """Always after its death. Of an end that went as it should nobody needs them, and a node that stops has many."""
        if death.tail and not death.expected:
            data: dict[str, Any] = {"lines": death.tail, "stacks": death.stacks}
            self._event(time.time(), "child.last_lines", name, death.path, death.generation, data)

    def forget(self, name: str) -> None:
        """The child was deleted."""
        self.settle()
        self._deaths.pop(name, None)
        self._early.pop(name, None)
        self._groups.pop(name, None)


def _is_stack(line: str) -> bool:
    """The first line of what faulthandler writes per thread."""
    return line.startswith(("Thread 0x", "Current thread 0x"))
