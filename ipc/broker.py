"""The broker's process: the shell around `router`. One thread, two doors, the channel to root.

Run by root as a worker script: it reads its job, takes the lock, binds at `<runtime>/b<life>.<generation>-s` and `-d`, says
that it is ready, and from then on does in turn what has come: root's packets, the system lane, the data lane, what is due,
and then sends what the router says. It waits for nobody, so that the beat in each turn proves that it works (K3).
Root's death ends it at once.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import zmq

from otpd.ipc.doors import AddressError, Door, remove_others
from otpd.ipc.frames import unpack
from otpd.ipc.rootlink import RootGone, RootLink
from otpd.ipc.router import Router, Send
from otpd.ipc.wire import Lane

#: Frames of each lane in one turn. Those of the data lane are what a frame of the system lane may have to wait for: some
#: two milliseconds at most.
_BUDGETS: Final = {Lane.SYSTEM: 256, Lane.DATA: 64}
_BEATS_PER_WATCHDOG: Final = 4
_WATCHDOG: Final = 2.0
_NS: Final = 1_000_000_000
#: Objects that live as long as the broker are many; to look through them all is a pause that every message would feel.
_GC_THRESHOLD: Final = 50_000


@dataclass(frozen=True, slots=True)
class Job:
    """What the broker needs of the job document (docs/protocol.md, 1)."""

    life: int
    generation: int
    runtime: str
    abstract: bool
    watchdog: float

    @classmethod
    def read(cls, fd: int) -> Job:
        with open(fd, "rb") as file:
            told: dict[str, Any] = unpack(file.read())
        abstract = bool(told.get("args", {}).get("abstract"))
        return cls(told["life"], told["generation"], told["runtime"], abstract, told.get("watchdog") or _WATCHDOG)

    @property
    def epoch(self) -> str:
        return f"b{self.life}.{self.generation}"


class Broker:
    """One epoch."""

    def __init__(self, epoch: str, root: RootLink, beat: float) -> None:
        self.router = Router(epoch)
        self._root = root
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.doors = {lane: Door(self._context, lane) for lane in Lane}
        self._poll = select.epoll()
        for fd in (root.fileno(), *(door.fd for door in self.doors.values())):
            self._poll.register(fd, select.EPOLLIN)
        self._for_room = False
        self._between_beats = int(beat * _NS)
        self._next_beat = 0
        self._now = time.monotonic_ns()
        self._unsent = 0

    def bind(self, endpoint: str) -> None:
        for door in self.doors.values():
            door.bind(endpoint)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def run(self) -> NoReturn:
        """Until RootGone or a signal."""
        due: int | None = None
        while True:
            ready = self._wait(due)
            self._now = time.monotonic_ns()
            if self._root.fileno() in ready:
                self._hear_root()
            for lane, door in self.doors.items():
                if door.fd in ready:
                    door.receive(_BUDGETS[lane], self.router, self._now)
            due = self.router.tick(self._now)
            self._act()
            self._beat()

    def _wait(self, due: int | None) -> list[int]:
        """Sleep until something comes, the router has something to do, or the beat is due; the fds that have something."""
        ready = [door.fd for door in self.doors.values() if door.more]
        rest = 0.0
        if not ready:
            wake = self._next_beat if due is None else min(due, self._next_beat)
            rest = max(0, wake - time.monotonic_ns()) / _NS
        if self._root.blocked is not self._for_room:
            self._for_room = self._root.blocked
            self._poll.modify(self._root.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._for_room else 0))
        return ready + [fd for fd, _ in self._poll.poll(rest)]

    def _hear_root(self) -> None:
        self._root.flush()
        for packet in self._root.receive():
            if isinstance(packet, list) and packet:
                self.router.root(packet, self._now)

    def _act(self) -> None:
        for effect in self.router.flush():
            if isinstance(effect, Send):
                self.doors[effect.lane].send(effect.peer, effect.frame)
            else:
                self._root.send(effect.packet)

    def _beat(self) -> None:
        if self._now >= self._next_beat:
            self._next_beat = self._now + self._between_beats
            self._root.beat()
            self._report_unsent()

    def _report_unsent(self) -> None:
        """Frames for peers that were not there: how many since the last beat."""
        unsent = sum(door.unsent for door in self.doors.values())
        if unsent > self._unsent:
            self._root.send(["event", "unsent", "broker", {"frames": unsent - self._unsent}])
            self._unsent = unsent


def lock(directory: str) -> int:
    """The descriptor that holds the lock of the runtime directory; exits when another broker has it (T36)."""
    path = os.path.join(directory, "broker.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        sys.exit(f"another broker, pid {holder}, holds {path}: two would take each other's agents; it must end first")
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def raise_limits() -> None:
    """ZeroMQ aborts a process that has no descriptor left for a connection (T21)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    job = Job.read(int(os.environ["OTPD_JOB_FD"]))
    root = RootLink(socket.socket(fileno=int(os.environ["OTPD_CONTROL_FD"])))
    signal.signal(signal.SIGTERM, stop)
    raise_limits()
    held = lock(job.runtime)
    remove_others(job.runtime, job.epoch)
    broker = Broker(job.epoch, root, job.watchdog / _BEATS_PER_WATCHDOG)
    try:
        broker.bind(f"ipc://{job.runtime}/{job.epoch}")
        if job.abstract:
            broker.bind(f"ipc://@otpd-{os.environ['OTPD_NODE']}-{job.epoch}")
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        root.send(["ready"])
        broker.run()
    except AddressError as error:
        sys.exit(str(error))
    except RootGone:
        sys.exit(1)
    except SystemExit:  # asked to end: for root that is `shutdown`, and no end by itself
        with suppress(RootGone):
            root.send(["exit", "shutdown"])
        raise
    finally:
        broker.close()
        os.close(held)


if __name__ == "__main__":
    main()
