"""Watches over the process of an agent or task worker: that it makes none of its own, by whatever way Python has.

An audit hook, which sees what a library does as well as what the script does. It reports (`warn`) or refuses (`deny`,
then with `noexec` as a second layer for what does not go through Python); `spawning` knows what an event means. Each place
is spoken of once, on stderr and to root; all attempts are counted, and root is told the counts a few times a second at
most. A process that was forked in spite of it is no agent: it is refused alike, but nothing is reported of it.

A hook can't be taken away again and outlives every module, so the guard of a process is found by an event of its own.
"""

from __future__ import annotations

import _posixsubprocess
import asyncio
import atexit
import contextlib
import os
import socket
import subprocess  # noqa: F401  it must have its own reference to fork_exec before `_listen_to_fork_exec`
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from otpd.agents.errors import SpawnRefused
from otpd.agents.spawning import EVENTS, FORK_EXEC, Attempt, Code, Tally, attempt
from otpd.ipc.frames import pack

_FIND: Final = "otpd.guard"
#: Seconds between two words to root about the counts.
PAUSE: Final = 0.25
#: Frames that are looked at for the line that is to blame.
_DEPTH: Final = 100


@dataclass(frozen=True, slots=True)
class Whose:
    """Who is guarded, in words; and how what is told becomes one packet of the channel."""

    who: str = "agents"
    instead: str = ""  # before the call to use
    packet: Callable[[list[Any]], bytes] = pack


AGENT: Final = Whose()


def stand(policy: str, channel: int, whose: Whose = AGENT) -> Guard | None:
    """Guard this process from now on, by `policy` of otpd.toml; None where all is allowed. Once is enough.

    `channel`: the descriptor of a packet socket to root (of a task worker: to its pool), which stays the caller's.
    """
    found: list[Guard] = []
    sys.audit(_FIND, found)
    if found or policy == "allow":
        return found[0] if found else None
    guard = Guard(policy == "deny", channel, whose)
    guard.begin()
    return guard


def rehearse() -> None:
    """For nothing, in a process that may soon need one: memory that it shares with others is copied by then."""
    sys.audit(_FIND, [])
    Guard(False, -1)._hook()


class Guard:
    """Of this process, to its end. Where it only reports, root hears of it with the first report: a start is to be short."""

    def __init__(self, deny: bool, channel: int, whose: Whose = AGENT) -> None:
        self._deny, self._channel, self._pid, self._whose = deny, channel, os.getpid(), whose
        self._lock = threading.RLock()  # a signal handler may come while its own thread is in here
        self._tally: Tally | None = None
        self._told, self._due, self._promised = 0, 0.0, False
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        _listen_to_fork_exec()
        sys.addaudithook(self._hook())
        if self._deny:
            self._say("guard", *_layers())

    def _hook(self) -> Callable[[str, tuple[Any, ...]], None]:
        """It is called for every import, every open file, every id(): one look into a set, and gone."""
        events, happened = EVENTS | {_FIND}, self._happened

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in events:
                happened(event, args)

        return hook

    def _happened(self, event: str, args: tuple[Any, ...]) -> None:
        if event == _FIND:
            args[0].append(self)
            return
        found = attempt(event, args, _stack(sys._getframe(2)))
        if found is None:
            return
        if os.getpid() == self._pid:
            with self._lock:
                self._report(found)
        if self._deny:
            raise SpawnRefused(f"{found}: refused, because otpd.toml says spawn = \"deny\"; {self._instead(found)}")

    def _instead(self, found: Attempt) -> str:
        return self._whose.instead + found.instead

    def _report(self, found: Attempt) -> None:
        tally = self._tally = self._tally or self._begin()
        tally.count(self._deny)
        if tally.is_new(found):
            what = "refused" if self._deny else f"{self._whose.who} make no processes of their own"
            with contextlib.suppress(OSError, ValueError, AttributeError):  # it may have closed stderr
                print(f"otpd: {found}: {what}; {self._instead(found)}", file=sys.stderr, flush=True)
            told = {"call": found.call, "program": found.program, "place": found.place, "instead": found.instead}
            self._told = tally.seen
            self._say("spawn", told, tally.seen, tally.refused)
        if time.monotonic() >= self._due:
            self.tell_counts()
        elif not self._promised:
            self._promise()

    def _begin(self) -> Tally:
        """The first attempt."""
        atexit.register(self.tell_counts)
        if not self._deny:
            self._say("guard", ["audit"], "")
        return Tally()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on root is told of the last attempts even if none follows."""
        self._loop = loop
        self.tell_counts()

    def _promise(self) -> None:
        """Whichever thread this is."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: the process is about to end, and will tell
                self._loop.call_soon_threadsafe(self._loop.call_later, PAUSE, self.tell_counts)
                self._promised = True

    def tell_counts(self) -> None:
        """What root has not heard yet of how many there were."""
        with self._lock:
            self._due, self._promised = time.monotonic() + PAUSE, False
            tally = self._tally
            if tally is not None and self._told != tally.seen:
                self._told = tally.seen
                self._say("spawns", tally.seen, tally.refused)

    def _say(self, *packet: Any) -> None:
        """Never waits; a root that is gone or stands still misses it."""
        if os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._channel)) as channel:
            channel.send(self._whose.packet(list(packet)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _layers() -> tuple[list[str], str]:
    """What is in force where processes are refused, and why not more."""
    from otpd.agents import noexec

    try:
        noexec.install()
    except (OSError, noexec.Unsupported) as error:
        return ["audit"], f"no seccomp: {error}"
    return ["audit", "seccomp"], ""


def _stack(frame: FrameType | None) -> Iterator[Code]:
    """Innermost first."""
    for _ in range(_DEPTH):
        if frame is None:
            return
        code = frame.f_code
        yield Code(str(frame.f_globals.get("__name__", "")), code.co_qualname, code.co_filename, frame.f_lineno)
        frame = frame.f_back


def _listen_to_fork_exec() -> None:
    """multiprocessing's `spawn` and `forkserver` start processes with a function of C that raises no audit event."""
    start = _posixsubprocess.fork_exec

    def fork_exec(args: Any, *rest: Any) -> Any:
        sys.audit(FORK_EXEC, args[0] if args else None)
        return start(args, *rest)

    _posixsubprocess.fork_exec = fork_exec
