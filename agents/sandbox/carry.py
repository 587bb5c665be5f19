"""Carries one run from its start to its end: reads what it says, watches what it uses, ends it when it must.

The decisions are those of `course`; here are the descriptors and the clock.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from otpd.agents.sandbox import watch
from otpd.agents.sandbox.course import Course, Means, State
from otpd.agents.sandbox.disk import PAUSE, DiskWatch
from otpd.agents.sandbox.line import Line
from otpd.agents.sandbox.output import Capped
from otpd.agents.sandbox.records import Report
from otpd.agents.sandbox.slot import Slot

_CHUNK: Final = 65536
#: Seconds that a slot whose init was killed may take to be gone.
_LAST_PATIENCE: Final = 5.0


class SlotStuck(Exception):
    """SIGKILL to an init, and it is still there: the worker can only go itself."""


@dataclass(slots=True)
class Stream:
    """One of the command's outputs. `fd` is the reading end, -1 after its end."""

    name: str
    fd: int
    kept: Capped

    def read(self) -> bytes:
        """What is there; b"" when nothing is, and `fd` is then -1 if nothing will be."""
        try:
            chunk = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return b""
        if not chunk:
            self.close()
        self.kept.feed(chunk)
        return chunk

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True)
class Clock:
    """When to look next at what a run uses. math.inf where nothing is to be looked at."""

    usage: float
    disk: float


@dataclass(slots=True)
class Carry:
    """`measure`: what the slot uses now, given the limit of memory. `prepare_next`: called once the run is no short one."""

    run: int
    slot: Slot
    course: Course
    streams: tuple[Stream, ...]
    line: Line
    stream: bool  # whether the pool wants output as it comes
    measure: Callable[[Slot, int], watch.Usage]
    prepare_next: Callable[[], None]
    disk: DiskWatch | None
    last: watch.Usage = field(default_factory=watch.Usage)
    finished: float = 0.0

    def finish(self) -> Report | None:
        """Returns when the run is over: what its init said, or None when it was killed before it could."""
        clock = Clock(self.course.began + watch.SOONEST, self.course.began + PAUSE if self.disk else float("inf"))
        while True:
            for event in self._wait(clock):
                if event == self.slot.fileno():
                    return self._over()
                self._handle(event)
            self._look(clock)

    def _wait(self, clock: Clock) -> list[int]:
        """Descriptors with news, at the latest when something is due."""
        poll = select.poll()
        poll.register(self.slot.fileno(), select.POLLIN)
        poll.register(self.line.fileno(), select.POLLIN | (select.POLLOUT if self.line.full else 0))
        for stream in self.streams:
            if stream.fd >= 0 and not self.line.full:
                poll.register(stream.fd, select.POLLIN)
        due = min(self.course.until, clock.usage, clock.disk)
        if self.course.state is State.FORCED:
            due = time.monotonic() + _LAST_PATIENCE
        found = [fd for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000)]
        if not found and self.course.state is State.FORCED:
            raise SlotStuck
        return sorted(found, key=lambda fd: fd == self.slot.fileno())

    def _handle(self, fd: int) -> None:
        now = time.monotonic()
        if fd == self.line.fileno():
            self.line.flush()
            reason = self.line.hear(self.run)
            if reason is not None:
                self._do(self.course.end(reason, now))
        for stream in self.streams:
            if stream.fd == fd:
                self._read(stream, now)

    def _read(self, stream: Stream, now: float) -> None:
        self._take(stream)
        self._do(self.course.wrote(stream.kept.total, now))

    def _take(self, stream: Stream) -> bytes:
        """What is there; the pool gets it too, up to the limit."""
        left = self.course.limits.output - stream.kept.total
        chunk = stream.read()
        if chunk and left > 0 and self.stream:
            self.line.say("output", self.run, stream.name, chunk[:left])
        return chunk

    def _look(self, clock: Clock) -> None:
        now = time.monotonic()
        self._do(self.course.tick(now))
        if now >= clock.usage:
            self.prepare_next()
            with contextlib.suppress(OSError):
                self.last = self.measure(self.slot, self.course.limits.memory)
                self._do(self.course.used(self.last, now))
            now = time.monotonic()
            clock.usage = now + watch.next_look(self.last.memory, self.course.limits.memory, now - self.course.began)
        if self.disk is not None and now >= clock.disk:
            self._do(self.course.stored(self.disk.look(), now))
            clock.disk = time.monotonic() + self.disk.pause()

    def _do(self, means: Means | None) -> None:
        match means:
            case Means.TERM:
                self.slot.signal(signal.SIGTERM)
            case Means.KILL:
                self.slot.signal(signal.SIGKILL)
            case Means.FORCE:
                self.slot.kill()

    def _over(self) -> Report | None:
        """Everything in the slot is dead, or about to be: its init is. What is in the pipes is all there will be."""
        self.finished = time.monotonic()
        report = self.slot.report()
        if report is None:
            self.slot.kill()
            if not self.slot.wait(_LAST_PATIENCE):
                raise SlotStuck
        for stream in self.streams:
            while stream.fd >= 0:
                if not self._take(stream):
                    stream.close()
        return report
