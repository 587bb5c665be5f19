"""`PoolExecutor`: a task pool as a concurrent.futures.Executor, for code that knows nothing of otpd.

>>> # with PoolExecutor() as executor:
>>> #     print(list(executor.map(pow, [2, 3], [8, 4])))

Inside a running node it uses a pool of that; without one it starts a node of its own, which ends with it, with this process,
or when this process is killed. Unlike ProcessPoolExecutor: the death of a worker fails its future alone (Exited) and the
executor goes on; `future.cancel()` also ends a task that runs, with its worker. In a pool with pickle = true (as the node of
its own has) functions, arguments, results and exceptions are whatever pickle takes; in others what msgpack does.

Two read the line to the pool, never both at a time: the executor's own thread, and in its stead a thread that waits for a
result, which so need not be woken by another. What calls back is called by the executor's thread alone.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from otpd.agents.errors import Exited, NodeNotRunning, OtpdError
from otpd.agents.locate import control_socket
from otpd.agents.tasks.desk import Desk, Entry
from otpd.agents.tasks.embedded import POOL, Embedded
from otpd.agents.tasks.functions import SCRIPT
from otpd.agents.tasks.pools import DEFAULT, Names, packer
from otpd.agents.tasks.reach import reach_blocking
from otpd.agents.tasks.values import Exit, Outcome
from otpd.agents.tasks.wire import Wire

#: Seconds in which the pool must have said hello.
_HELLO: Final = 20.0
#: So many tasks are sent one by one as they come; those beyond wait for a worker anyway, and go together.
_AT_ONCE: Final = 16


class PoolExecutor(concurrent.futures.Executor):
    """`pool` of the running node (by `config`, $OTPD_CONTROL, $OTPD_CONFIG, or the nearest otpd.toml); without `pool` and
    `config`, and when no node runs, of a node of its own with `max_workers` workers (default: the cores here).

    `timeout`: seconds that each task may run. Threads may share it; it does not cross a fork. NodeNotRunning, Refused.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        pool: str | None = None,
        config: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise ValueError(f"expected max_workers of at least 1, got {max_workers!r}")
        sys.modules.setdefault(SCRIPT, sys.modules["__main__"])  # where results have their classes, as multiprocessing does
        self._embedded: Embedded | None = None
        self._timeout = timeout
        self._pid = os.getpid()
        control, name = self._place(max_workers, pool, config)
        self._control = control
        self._names = Names()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._desk = Desk(name, original=True)
        self._open: set[_Future] = set()  # those that were not told their outcome
        self._over: list[tuple[_Future, Outcome]] = []  # those of them whose outcome is known
        self._settling: set[int] = set()  # threads that tell them
        self._wire: Wire | None = None
        self._wake, self._nudge = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        self._epoll = select.epoll()  # what the reader watches
        self._epoll.register(self._wake, select.EPOLLIN)
        self._leader: int | None = None  # the thread that waits for its result, and reads the line in the reader's stead
        self._closed = False
        self._reader: threading.Thread | None = None
        self._at_exit: weakref.WeakMethod[Callable[..., None]] = weakref.WeakMethod(self.shutdown)
        atexit.register(_shut, self._at_exit)
        try:
            with self._lock:
                self._connect()
        except BaseException:
            self.shutdown()
            raise

    def _place(self, size: int | None, pool: str | None, config: str | os.PathLike[str] | None) -> tuple[str, str]:
        """The control socket of a node, and the name of a pool there."""
        try:
            path = str(control_socket(config, os.environ, Path.cwd()))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(path)
            return path, pool or DEFAULT
        except (NodeNotRunning, OSError) as error:
            if pool is not None or config is not None:
                raise NodeNotRunning(str(error)) from None
        self._embedded = Embedded.start(size)
        return self._embedded.control, POOL

    # --- the interface of an Executor ---

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """NotData at once for what can't be sent."""
        future = _Future(self)
        what = self._names.of(fn)
        pack = packer(what, args, kwargs, lambda: self._desk.facts is not None and self._desk.facts.pickle)
        entry = Entry(what.name, pack, lambda outcome: self._over.append((future, outcome)), self._timeout, patient=True)
        self._here()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._wire is None:
                self._connect()
            future.number = self._desk.submit(entry)
            self._open.add(future)
            if self._desk.count <= _AT_ONCE:
                self._flush()
            elif len(self._desk.out) == 1:
                os.eventfd_write(self._wake, 1)  # the reader sends all that comes until it has its turn
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any Executor: no more tasks; with `wait` it returns when all are over. What then runs is ended.

        In a callback of a future it does not wait: what it would wait for is told after that callback.
        """
        if self.forked or not hasattr(self, "_at_exit"):
            return
        with self._lock:
            first, self._closed = not self._closed, True
            if cancel_futures:
                self._desk.unqueue_all()
                self._flush()
        if wait and threading.get_ident() not in self._settling:
            self._finish()
        elif first:
            threading.Thread(target=self._finish, name="otpd executor", daemon=True).start()

    def _finish(self) -> None:
        with self._lock:
            self._idle.wait_for(lambda: not (self._open or self._settling or self._leader))
            wake, self._wake = self._wake, -1
            if wake < 0:
                return
        atexit.unregister(self._at_exit)
        os.eventfd_write(wake, 1)
        reader = self._reader
        if reader is not None:
            reader.join()
        self._epoll.close()
        os.close(wake)
        os.close(self._nudge)
        if self._embedded is not None:
            self._embedded.stop()

    # --- the line ---

    def _here(self) -> None:
        """Before the lock: in a fork nobody may be left who would release it."""
        if self.forked:
            raise RuntimeError("this process was forked from the one that made the executor; make one here")

    @property
    def forked(self) -> bool:
        """This process is another one, which has neither its threads nor its line."""
        return self._pid != os.getpid()

    def _connect(self) -> None:
        sock = reach_blocking(self._control, self._desk.pool)
        wire = Wire(sock)
        sock.settimeout(_HELLO)
        messages = wire.take()
        if not messages:
            wire.close()
            raise NodeNotRunning(f"pool {self._desk.pool} has ended before it said hello; look with: otpd tasks")
        sock.setblocking(False)
        for message, fds in messages:
            self._desk.hear(message, fds)
        self._wire = wire
        self._epoll.register(wire, select.EPOLLIN)
        self._reader = threading.Thread(target=self._read, args=(wire, self._wake), name="otpd executor", daemon=True)
        self._reader.start()

    def _flush(self) -> None:
        """With the lock. What does not fit is sent by the reader."""
        if self._wire is None:
            return
        out, self._desk.out = self._desk.out, []
        for message, fds in out:
            self._wire.put(message, fds)
        if not self._wire.flush() and threading.current_thread() is not self._reader:
            os.eventfd_write(self._wake, 1)  # the reader waits for room

    def _read(self, wire: Wire, wake: int) -> None:
        while True:
            for fd, _event in self._epoll.poll(wire.pause):
                if fd == wake:
                    os.eventfd_read(wake)
            with self._lock:
                goes_on = self._turn(wire)
            self._settle()
            if not goes_on:
                return

    def _watch(self, wire: Wire) -> None:
        """With the lock: what the reader is to be woken for."""
        reads = select.EPOLLIN if self._leader is None else 0
        self._epoll.modify(wire, reads | (select.EPOLLOUT if wire.pending and wire.pause is None else 0))

    def _settle(self) -> None:
        """Without the lock: a future calls back, and what it calls may wait for a thread that submits here."""
        me = threading.get_ident()
        with self._lock:
            over, self._over = self._over, []
            if over:
                self._settling.add(me)
        for future, outcome in over:
            future.end(outcome)
        with self._lock:
            self._open.difference_update(future for future, _ in over)
            self._settling.discard(me)
            self._idle.notify_all()
            if over and self._leader is not None:
                os.eventfd_write(self._nudge, 1)

    def _turn(self, wire: Wire) -> bool:
        """The reader's, with the lock: False when this line is done with."""
        if self._wake < 0:
            self._leave(wire, "it was closed")
            return False
        goes_on = self._leader is not None or self._hear(wire)
        self._flush()
        if not goes_on:
            self._leave(wire, "it ended, or was ended")
            return False
        self._watch(wire)
        return True

    def _hear(self, wire: Wire) -> bool:
        """With the lock: False when nothing will come any more."""
        while messages := wire.take():
            for message, fds in messages:
                self._desk.hear(message, fds)
        return messages is not None

    # --- a thread that waits ---

    def lead(self, future: _Future, timeout: float | None) -> float | None:
        """Who waits for a future reads the line itself, unless another does. The seconds that are left then."""
        if self.forked:
            return timeout
        end = None if timeout is None else time.monotonic() + timeout
        me = threading.get_ident()
        taken: Wire | None = None
        try:
            with self._lock:
                wire = self._wire
                if wire is None or self._leader not in (None, me) or threading.current_thread() is self._reader:
                    return timeout
                taken, self._leader = wire if self._leader is None else None, me  # else in a signal's handler of its own
                self._watch(wire)
            self._lead(wire, future, end)
        finally:
            if taken is not None:
                self._follow(taken)
        return None if end is None else max(0.0, end - time.monotonic())

    def _follow(self, wire: Wire) -> None:
        """The line is the reader's again."""
        with self._lock:
            self._leader = None
            self._watch(wire)
            self._idle.notify_all()

    def _lead(self, wire: Wire, future: _Future, end: float | None) -> None:
        poll, left = select.poll(), None
        poll.register(wire, select.POLLIN)
        poll.register(self._nudge, select.POLLIN)
        while not future.done():
            if end is not None and (left := end - time.monotonic()) <= 0:
                return
            for fd, _event in poll.poll(None if left is None else left * 1000):
                if fd == self._nudge:
                    with contextlib.suppress(BlockingIOError):  # a signal's handler that waited here has read it
                        os.eventfd_read(self._nudge)
            if not self._listen(wire):
                return

    def _listen(self, wire: Wire) -> bool:
        """One turn of a thread that leads. A line that has ended is left to the reader, and so is one that was not heard to
        the end, as a signal's handler has raised: what was lost then can't be told."""
        goes_on = False
        try:
            with self._lock:
                goes_on = self._hear(wire)
                self._flush()
                self._settle_silent()
        except BaseException:
            goes_on = False
            raise
        finally:
            if not goes_on:
                with contextlib.suppress(OSError):
                    wire.socket.shutdown(socket.SHUT_RDWR)
        return goes_on

    def _settle_silent(self) -> None:
        """With the lock. Those that call back are left to the reader, as whoever waits may hold what they want; who adds a
        callback from now on finds its future done."""
        over, self._over = self._over, []
        for future, outcome in over:
            if future.calls_back:
                self._over.append((future, outcome))
            else:
                future.end(outcome)
                self._open.discard(future)
        if self._over:
            os.eventfd_write(self._wake, 1)

    def watched(self, future: _Future) -> None:
        """It is about to get a callback."""
        if not self.forked:
            with self._lock:
                future.calls_back = True

    def _leave(self, wire: Wire, why: str) -> None:
        self._epoll.unregister(wire)  # a fork may have it still, and then it would go on being told of
        wire.close()
        self._wire, self._reader = None, None
        self._desk.lost(why)
        lost = Exit("killed", Exited("what waited for this task was interrupted while it was told of its end", reason=why))
        told = {future for future, _ in self._over}
        self._over += [(future, lost) for future in self._open if future not in told and not future.done()]
        self._open = {future for future, _ in self._over}

    def withdraw(self, number: int) -> None:
        """End the task of a future that was cancelled."""
        if self.forked:
            return
        with self._lock:
            self._desk.withdraw(number)
            self._flush()
            if self._leader is not None:
                os.eventfd_write(self._nudge, 1)  # it may be the one that is waited for


class _Future(concurrent.futures.Future[Any]):
    """`cancel` ends the task also where it runs."""

    def __init__(self, executor: PoolExecutor) -> None:
        super().__init__()
        self._executor = executor
        self.number = 0
        self.calls_back = False

    def result(self, timeout: float | None = None) -> Any:
        return super().result(timeout if self.done() else self._executor.lead(self, timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(timeout if self.done() else self._executor.lead(self, timeout))

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        self._executor.watched(self)
        super().add_done_callback(fn)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self.number:
            self._executor.withdraw(self.number)
        return cancelled

    def end(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exit) and outcome.reason == "cancelled":
            super().cancel()
        if not self.running() and not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exit):
            self.set_exception(outcome.error)
        else:
            self.set_result(outcome.value)


def _shut(method: weakref.WeakMethod[Callable[..., None]]) -> None:
    """At the end of the process, as ProcessPoolExecutor does."""
    shutdown = method()
    if shutdown is not None:
        shutdown()


__all__ = ["OtpdError", "PoolExecutor"]
