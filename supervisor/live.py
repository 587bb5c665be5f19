"""One incarnation of a worker as root holds it: the machine that decides about it, and what the kernel gave for it.

A row of the table in `workers`. `starts` fills in its process, `endings` takes it away; who closes what is said here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from otpd.supervisor import cgroup, ladder
from otpd.supervisor.channel import Channel
from otpd.supervisor.incarnation import Due, Incarnation, Phase
from otpd.supervisor.launch import Credentials
from otpd.supervisor.loop import Loop, Timer
from otpd.supervisor.ownchildren import Requests
from otpd.supervisor.reaching import Asks
from otpd.supervisor.readiness import Prober
from otpd.supervisor.spec import ChildSpec, Launch

#: Characters of what a worker says of its own end.
REASON_LIMIT: Final = 500
#: Characters of a traceback that are kept: its end, where the error is.
TRACEBACK_LIMIT: Final = 4000
#: Share of its watchdog for which a worker may say nothing before that is shown. Agents beat twice as often, and more.
SHOWN_SILENCE: Final = 0.5


@dataclass(slots=True, eq=False)
class Live:
    """One incarnation with what the kernel gave for it. -1: no such descriptor now."""

    path: str
    spec: ChildSpec
    launch: Launch
    incarnation: Incarnation
    began: float
    pid: int = 0
    pidfd: int = -1
    channel: Channel | None = None
    credentials: Credentials | None = None  # of those that speak
    errors: int = -1  # how its exec went
    execed: bool = False  # exec has happened, and its incarnation is about to hear of it
    output: int = -1  # the write end of its pipe; see `close_output`
    ladder: ladder.Ladder | None = None
    tick: Timer | None = None
    timers: dict[Due, Timer] = field(default_factory=dict)
    prober: Prober | None = None
    leaf: cgroup.Leaf | None = None
    asked_by: str | None = None
    left: list[str] = field(default_factory=list)
    ready_at: float = 0.0
    tells_health: bool = False  # it has a method that says whether it is well
    counts: dict[str, int] | None = None  # what a pool says of its tasks, for the picture
    requests: Requests | None = None  # for children of its own, once it has asked
    asks: Asks | None = None  # for lines to services

    @property
    def name(self) -> str:
        return self.spec.id

    @property
    def cgroup(self) -> str | None:
        """Its directory."""
        return None if self.leaf is None else self.leaf.path

    @property
    def generation(self) -> int:
        return self.incarnation.generation

    def silence(self, now: float) -> str | None:
        """What is to be said of one that runs and has not beaten for a while: it may hang, and its watchdog counts."""
        if self.incarnation.phase is Phase.DUMPING:
            return self.incarnation.cause
        timer, watchdog = self.timers.get(Due.SILENT), self.launch.watchdog
        if timer is None or watchdog is None:
            return None
        silent = now - (timer.deadline - watchdog)
        return f"silent for {silent:.1f} s, its watchdog waits {watchdog:g} s" if silent > SHOWN_SILENCE * watchdog else None

    def close_output(self, loop: Loop) -> None:
        """Not before its end is done with, so that the logger sees the end of the pipe when root has started the next
        one: to be woken together with root it would take the core that root needs."""
        output, self.output = self.output, -1
        if output >= 0:
            loop.defer(lambda: os.close(output))

    def close_process(self, loop: Loop) -> None:
        """It is reaped, or never was: what led to it leads nowhere."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self.close_errors(loop)
        if self.pidfd >= 0:
            loop.close_later(self.pidfd)
            self.pidfd = -1

    def close_errors(self, loop: Loop) -> None:
        if self.errors >= 0:
            loop.remove(self.errors)
            os.close(self.errors)
            self.errors = -1

    def remove_cgroup(self, loop: Loop) -> None:
        leaf, self.leaf = self.leaf, None
        if leaf is not None:
            loop.defer(leaf.remove)
