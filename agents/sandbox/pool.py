"""A pool of command workers for any Python program.

>>> with Pool() as pool:                                              # doctest: +SKIP
...     pool.run(["sh", "-c", "echo hello; id -un"]).text
'hello\\nsandbox\\n'

Calls wait, threads may share a pool; a program with an event loop watches `fileno()` and calls `step()`. Every run gets
exactly one result, also when its worker, or all of them, are killed. Closing the pool ends everything in it; so does
the end of this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from otpd.agents.sandbox import backends, cgroup, dispatch, locked, orders
from otpd.agents.sandbox.capability import Capability
from otpd.agents.sandbox.choice import Choice, Refusal
from otpd.agents.sandbox.counters import Counters
from otpd.agents.sandbox.dispatch import Dispatch
from otpd.agents.sandbox.errors import (
    CommandRefused,
    NotInTime,
    PoolClosed,
    ProfileError,
    SandboxBusy,
    SandboxError,
    SandboxUnavailable,
)
from otpd.agents.sandbox.handle import ChildProcess, Handle, Spawn
from otpd.agents.sandbox.nesting import interpreter
from otpd.agents.sandbox.orders import Text
from otpd.agents.sandbox.plans import Order
from otpd.agents.sandbox.profile import PoolSettings, Profile, Settings, settings
from otpd.agents.sandbox.reading import nearest
from otpd.agents.sandbox.result import Result, failure
from otpd.agents.sandbox.runs import Run
from otpd.ipc.frames import close_all, pack, receive_packet

#: Seconds that a worker gets beyond a run's own time before it is killed as a whole: it is stopped, or worse.
_TRUST: Final = 3.0
#: Seconds that a run may be given.
_LONGEST: Final = 366 * 86400.0
#: Seconds in which a worker must have ended when it is told to.
_STOP: Final = 2.0
#: Seconds in which a worker must have built its sandbox.
_START: Final = 30.0


class Pool:
    """See the module. `launcher`: None for the compiled nest if there is one, "" for the one in Python.

    `spawn` starts the processes of workers.
    """

    def __init__(
        self, pool_settings: PoolSettings | None = None, *, launcher: str | None = None, spawn: Spawn = ChildProcess
    ) -> None:
        self.settings = pool_settings or PoolSettings()
        self.counters = Counters()
        given = self.settings
        self._dispatch = Dispatch(
            given.workers, given.max_queue, given.max_per_caller, given.queue_timeout, given.recycle_after
        )  # fmt: skip
        self._launcher, self._spawn = launcher, spawn
        self._choice = Choice(backends.ORDER if given.backend == "auto" else (given.backend,))
        self._handles: dict[int, Handle] = {}
        self._runs: dict[int, Run] = {}
        self._capabilities: dict[Settings, Capability] = {}
        self._packed: dict[int, tuple[Profile, bytes]] = {}
        self._numbers = itertools.count(1)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._owners: dict[int, Handle] = {}  # by channel and by pidfd
        self._lock = threading.RLock()
        self._turn = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._closed = False
        self._polling = False
        cgroup.sweep()
        locked.sweep()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- running commands ---

    def run(self, argv: Sequence[Text], **options: Any) -> Result:
        """Run a command to its end; see `start`. Whatever becomes of it is in the result, nothing is raised."""
        return self.start(argv, **options).result()

    def run_python(self, code: str, argv: Sequence[Text] = ("-c",), **options: Any) -> Result:
        """Run Python source in a warm interpreter, which has run nothing before and is thrown away after."""
        return self.start(argv, code=code, **options).result()

    def start(
        self,
        argv: Sequence[Text],
        *,
        profile: str | Profile = "default",
        timeout: float | None = None,
        stdin: bytes | object | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        files: Mapping[str, bytes | str] | None = None,
        stream: bool = False,
        code: str | None = None,
        caller: str = "",
        tenant: str = "",
        allowed: Mapping[str, Sequence[str]] | None = None,
    ) -> Run:
        """Begin a run. PoolClosed, ProfileError (no such profile); anything else that is wrong is in the run's result.

        `timeout`: seconds instead of the profile's `limits.wall`. `stdin`: bytes, or PIPE. `files`: written beneath the
        working directory before the command starts. `caller`: callers share the queue fairly. `tenant`: its workers are
        used by nobody else.
        """
        found = self._profile(profile, timeout)
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed.", fix="make a new one")
            number = next(self._numbers)
            try:
                order = orders.order(found, argv, env=env, cwd=cwd, files=files, code=code, allowed=allowed)
            except CommandRefused as error:
                return self._refused(number, found, "refused", error)
            run = Run(self, number, found, order, -1, stream)
            self._runs[number] = run
            key = settings(found, python=_python(found) if code is not None else ""), tenant
            try:
                effects = self._dispatch.submit(number, key, caller, run.submitted)
            except dispatch.Full as full:
                del self._runs[number]
                return self._refused(number, found, "busy", _busy(full, self.settings))
            run.give_stdin(stdin)
            self._apply(effects)
            return run

    def _profile(self, profile: str | Profile, timeout: float | None) -> Profile:
        if isinstance(profile, str):
            if profile not in self.settings.profiles:
                raise ProfileError("profile", f"there is no profile {profile!r}{nearest(profile, self.settings.profiles)}")
            profile = self.settings.profiles[profile]
        if timeout is None:
            return profile
        if not 0 < timeout <= _LONGEST:
            raise ProfileError("timeout", f"expected seconds, more than 0 and at most a year, got {timeout!r}")
        return dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, wall=float(timeout)))

    def _refused(self, number: int, profile: Profile, status: str, error: SandboxError) -> Run:
        run = Run(self, number, profile, Order(()), -1, False)
        self._finish(run, failure(run.id, status, error))
        return run

    def cancel(self, run: Run, reason: str) -> None:
        """See `Run.cancel`."""
        with self._lock:
            if run.done() or run.cancelled:
                return
            run.cancelled = reason
            if self._dispatch.withdraw(run.number):
                error = SandboxError("cancelled before it was its turn.", code="cancelled")
                self._finish(run, failure(run.id, "cancelled", error, queue_s=time.monotonic() - run.submitted))
                return
            for handle in self._handles.values():
                if handle.run == run.number:
                    self._resume(handle)
                    handle.say("cancel", run.number, reason)
                    handle.deadline = min(handle.deadline, time.monotonic() + run.profile.grace + _TRUST)
            self._wake_leader()

    # --- waiting ---

    def fileno(self) -> int:
        """Readable when `step` has something to do. For an event loop, which calls `step` at `due()` as well."""
        return self._epoll.fileno()

    def due(self) -> float:
        """When `step` must be called at the latest (time.monotonic); inf: only when `fileno` is readable."""
        with self._lock:
            return min([self._dispatch.due(), *(handle.deadline for handle in self._handles.values())])

    def step(self, timeout: float = 0.0) -> None:
        """Handle what has happened; wait at most `timeout` seconds for something to happen."""
        with self._lock:
            if self._closed:
                return
            left = max(0.0, min(timeout, self.due() - time.monotonic()))
            self._polling = True
        found = self._epoll.poll(left)
        with self._lock:
            self._polling = False
            for fd, _ in found:
                self._handle(fd)
            self._late(time.monotonic())
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Until `condition` holds; TimeoutError after `timeout` seconds. One of those who wait works for all."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not over within {timeout:g} s")
            if self._turn.acquire(blocking=False):
                try:
                    self.step(min(left, 60.0))
                finally:
                    self._turn.release()
            else:
                with self._news:
                    if not condition():
                        self._news.wait(min(left, 0.1))

    def _wake_leader(self) -> None:
        """Whoever waits for events looks again at what is due."""
        if self._polling:
            os.eventfd_write(self._wake, 1)

    # --- what happens ---

    def _handle(self, fd: int) -> None:
        if fd == self._wake:
            os.eventfd_read(self._wake)
            return
        handle = self._owners.get(fd)
        if handle is None:
            return
        if fd == handle.ended:
            self._drain(handle)
            self._gone(handle)
        else:
            self._hear(handle)

    def _drain(self, handle: Handle) -> None:
        """What it said before it ended."""
        while self._hear(handle):
            pass

    def _hear(self, handle: Handle) -> bool:
        """One packet, if there is one."""
        try:
            packet = receive_packet(handle.channel)
        except BlockingIOError:
            return False
        if packet is None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(handle.channel.fileno())
            return False
        close_all(packet[1])
        self._said(handle, packet[0])
        return True

    def _said(self, handle: Handle, message: Any) -> None:
        match message:
            case ["ready", table]:
                handle.deadline = float("inf")
                self._choice.ready(handle.backend)
                self._capabilities[handle.settings] = Capability.from_dict(table)
                self._apply(self._dispatch.ready(handle.number))
            case ["unavailable", {"code": NotInTime.code}]:
                self._not_in_time(handle)
            case ["unavailable", error]:
                handle.reported = True
                self._refuse(handle, self._choice.could_not(handle.backend, error))
            case ["starting" | "returned" as word, number] if number in self._runs:
                self._runs[number].started = word == "starting"
            case ["started", number] if number in self._runs:
                self._runs[number].drop_stdin()
            case ["output", number, stream, chunk] if number in self._runs:
                self._output(handle, self._runs[number], stream, chunk)
            case ["piece", number, stream, chunk] if number in self._runs:
                self._runs[number].pieces.setdefault(stream, []).append(chunk)
            case ["result", number, table] if number in self._runs:
                self._result(handle, self._runs[number], table)

    # --- output that nobody takes ---

    def _output(self, handle: Handle, run: Run, stream: str, chunk: bytes) -> None:
        """The worker holds what is not read here, and then stops reading the command's pipes."""
        run.hear(stream, chunk)
        if run.is_full and not (handle.is_paused or run.cancelled or run.is_over_time):
            handle.is_paused = True
            self._epoll.unregister(handle.channel.fileno())

    def take(self, run: Run, most: int) -> list[tuple[str, bytes]]:
        """See `Run.take`."""
        with self._lock:
            found = run.give(most)
            if not run.is_full:
                for handle in self._handles.values():
                    if handle.run == run.number:
                        self._resume(handle)
            return found

    def _resume(self, handle: Handle) -> None:
        if handle.is_paused:
            handle.is_paused = False
            self._epoll.register(handle.channel.fileno(), select.EPOLLIN)
            self._wake_leader()

    def _over_time(self, handle: Handle) -> None:
        """Its run has had its time, and what it still holds is little: heard now, whoever takes it."""
        assert handle.run is not None
        self._runs[handle.run].is_over_time = True
        handle.deadline = time.monotonic() + _TRUST
        self._resume(handle)

    def _result(self, handle: Handle, run: Run, table: dict[str, Any]) -> None:
        for stream, pieces in run.pieces.items():
            table[stream] = b"".join(pieces)
        handle.run, handle.deadline = None, float("inf")
        table["limit_hits"] = tuple(table.get("limit_hits", ()))
        self._finish(run, Result(run.id, queue_s=run.sent - run.submitted, **table))
        self._apply(self._dispatch.done(handle.number, worn=table["status"] == "setup_failed"))

    def _not_in_time(self, handle: Handle) -> None:
        """Tried again with the same backend: an overload is no reason for a weaker sandbox."""
        if self._dispatch.state(handle.number) is dispatch.State.STARTING:
            self.counters.workers_late += 1
            handle.deadline = time.monotonic() + _STOP
            self._dispatch.late(handle.number, time.monotonic())

    def _refuse(self, handle: Handle, refusal: Refusal | None) -> None:
        if refusal is not None:
            for number in self._dispatch.refuse(None if refusal.every else handle.key):
                self._finish(self._runs[number], Result(f"r-{number}", "refused", error=dict(refusal.error)))

    def _gone(self, handle: Handle) -> None:
        for fd in (handle.ended, handle.channel.fileno()):
            self._owners.pop(fd, None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
        handle.close()
        del self._handles[handle.number]
        if self._dispatch.state(handle.number) is dispatch.State.STARTING and not handle.reported:
            self._refuse(handle, self._choice.ended(handle.process.fate()))
        run = self._runs.get(handle.run) if handle.run is not None else None
        late = time.monotonic() >= handle.deadline
        again = run is not None and dispatch.may_go_again(
            begun=run.started, unwanted=late or bool(run.cancelled), attempts=run.attempts
        )
        if run is not None and not again:
            self._lost(run, late=late)
        self._apply(self._dispatch.gone(handle.number, again=again))

    def _lost(self, run: Run, *, late: bool) -> None:
        """Its worker has died: of itself, or because we killed it when it did not keep its time."""
        self.counters.workers_lost += 1
        killer = run.cancelled or ("timeout" if late else "worker")
        waited, ran = run.sent - run.submitted, time.monotonic() - run.sent
        self._finish(run, Result(run.id, "killed", killed_by=killer, signal=9, queue_s=waited, wall_s=ran))

    def _finish(self, run: Run, result: Result) -> None:
        run.outcome = result
        self._runs.pop(run.number, None)
        self.counters.count(result)
        run.drop_stdin()
        self._news.notify_all()

    def _late(self, now: float) -> None:
        self._apply(self._dispatch.tick(now))
        for handle in list(self._handles.values()):
            if now >= handle.deadline and handle.is_paused:
                self._over_time(handle)
            elif now >= handle.deadline:
                handle.kill()
                self._not_in_time(handle)

    # --- effects ---

    def _apply(self, effects: Sequence[dispatch.Effect]) -> None:
        for effect in effects:
            match effect:
                case dispatch.Start(number, key):
                    self._start_worker(number, key)
                case dispatch.Send(number, run):
                    self._send(self._handles[number], self._runs[run])
                case dispatch.Stop(number):
                    self._handles[number].say("stop")
                    self._handles[number].deadline = time.monotonic() + _STOP
                case dispatch.Expire(number):
                    self._expired(self._runs[number])
        self._wake_leader()

    def _expired(self, run: Run) -> None:
        waited = self.settings.queue_timeout
        error = SandboxBusy(f"no worker was free within {waited:g} s.", fix="raise commands.workers or queue_timeout")
        if self._dispatch.slow:
            waited = time.monotonic() - run.submitted
            text = f"no worker was ready within {_START:g} s, again and again; the next one is tried."
            error = SandboxBusy(text, fix="look at the load of the machine")
        self._finish(run, failure(run.id, "busy", error, queue_s=waited))

    def _start_worker(self, number: int, key: Any) -> None:
        chosen, _tenant = key
        backend = self._choice.backend
        begin = {
            "backend": backend, "settings": chosen.to_dict(), "slot_uids": list(self.settings.slot_uids),
            "launcher": self._launcher,
        }  # fmt: skip
        handle = Handle(number, key, chosen, backend, begin, self._spawn)
        handle.deadline = time.monotonic() + _START
        self._handles[number] = handle
        self.counters.workers_started += 1
        for fd in (handle.channel.fileno(), handle.ended):
            self._owners[fd] = handle
            self._epoll.register(fd, select.EPOLLIN)

    def _send(self, handle: Handle, run: Run) -> None:
        run.sent = time.monotonic()
        limits = run.profile.limits
        handle.deadline = run.sent + limits.wall + run.profile.grace + _TRUST
        options = {"profile": self._pack(run.profile), "stream": run.stream}
        with contextlib.suppress(OSError):  # it is gone; its pidfd says so
            handle.send_run(run.number, options, run.order.to_wire(), run.their_stdin)
        handle.run = run.number
        run.attempts += 1

    def _pack(self, profile: Profile) -> bytes:
        """Packed once for as long as the object is the same."""
        known = self._packed.get(id(profile))
        if known is None or known[0] is not profile:
            if len(self._packed) > 64:
                self._packed.clear()
            known = self._packed[id(profile)] = profile, pack(profile.to_dict())
        return known[1]

    # --- the pool itself ---

    def capability(self, profile: str | Profile = "default") -> Capability:
        """What the chosen backend gives for this profile, found by building it. SandboxError when nothing can be built."""
        found = self._profile(profile, None)
        if settings(found) not in self._capabilities:
            tried = self.run(["/bin/true"], profile=found)
            if settings(found) not in self._capabilities:
                raise SandboxUnavailable(**(tried.error or {"text": f"nothing could be tried: {tried.summary()}."}))
        return self._capabilities[settings(found)]

    def workers(self) -> list[int]:
        """pids of the worker processes."""
        with self._lock:
            return [handle.pid for handle in self._handles.values()]

    def waiting(self) -> int:
        """Runs in the queue."""
        with self._lock:
            return self._dispatch.waiting()

    def close(self) -> None:
        """End everything. Runs that are not over get a result that says `cancelled`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._end_workers()
            for run in list(self._runs.values()):
                ended = ("killed", "cancelled") if run.sent else ("cancelled", None)
                self._finish(run, Result(run.id, ended[0], killed_by=ended[1]))
            self._wake_leader()
        with self._turn:  # nobody waits for events any more
            self._epoll.close()
            os.close(self._wake)
        cgroup.sweep(patience=1.0)
        locked.sweep()

    def _end_workers(self) -> None:
        for handle in self._handles.values():
            handle.say("stop")
        end = time.monotonic() + _STOP
        for handle in self._handles.values():
            handle.close(max(0.0, end - time.monotonic()))
        self._handles.clear()
        self._owners.clear()


def _python(profile: Profile) -> str:
    return profile.python or interpreter()


def _busy(full: dispatch.Full, given: PoolSettings) -> SandboxBusy:
    depth, whose = full.args
    what = f"the pool's queue is full ({depth} wait)" if whose == "pool" else f"{whose or 'this caller'} has too many runs"
    limit = "max_queue" if whose == "pool" else "max_per_caller"
    return SandboxBusy(f"{what}.", fix=f"try again later, or raise commands.{limit} (now {getattr(given, limit)})")
