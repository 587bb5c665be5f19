"""A PoolExecutor against a pool that the test plays: what futures call back may wait, submit and shut down."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any
from unittest.mock import ANY

import pytest
from pytest import MonkeyPatch

from otpd.agents.errors import Exited
from otpd.agents.tasks import executor as module
from otpd.agents.tasks.executor import PoolExecutor
from otpd.agents.tasks.payload import MSGPACK, PICKLE
from otpd.agents.tasks.wire import PAUSE, Wire
from otpd.ipc.frames import pack
from tests.helpers import eventually
from tests.tasks.starved import Starved, starved

LONG = 60.0


class Pool:
    """Its ends of lines. Each task is answered with its number when `answers`, those that waited when it is let go."""

    def __init__(self) -> None:
        self.lines: list[Wire] = []
        self.threads: list[threading.Thread] = []
        self.go = threading.Event()
        self.asked: list[str] = []
        self.pickled = b""  # the result of all tasks, if any

    def reach(self, _control: str, _pool: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wire = Wire(theirs)
        wire.put(["hello", {"pickle": True, "size": 1, "queue": 9}]), wire.flush()
        self.lines.append(wire)
        self.threads.append(threading.Thread(target=self._serve, args=(wire,)))
        self.threads[-1].start()
        return ours

    def _serve(self, wire: Wire) -> None:
        while messages := wire.take():
            self.go.wait(LONG)
            for message, _fds in messages:
                self.asked.append(message[0])
                if message[0] == "run":
                    codec, body = (PICKLE, self.pickled) if self.pickled else (MSGPACK, pack(message[1]))
                    wire.put(["done", message[1], True, codec, body, []])
            wire.flush()
        wire.close()

    def close(self) -> None:
        self.go.set()
        for thread in self.threads:
            thread.join(LONG)


@pytest.fixture
def pool(monkeypatch: MonkeyPatch) -> Iterator[Pool]:
    made = Pool()
    monkeypatch.setattr(module, "reach_blocking", made.reach)
    monkeypatch.setattr(PoolExecutor, "_place", lambda *_: ("here", "p"))
    yield made
    made.close()


def after(future: Future[Any], do: Callable[[], Any]) -> Future[Any]:
    """What `do` gives, called by that future."""
    found: Future[Any] = Future()

    def called(_settled: Future[Any]) -> None:
        try:
            found.set_result(do())
        except BaseException as error:
            found.set_exception(error)

    future.add_done_callback(called)
    return found


def test_a_callback_may_wait_for_a_thread_that_submits(pool: Pool) -> None:
    with PoolExecutor() as executor:

        def elsewhere() -> int:
            number: Future[Future[Any]] = Future()
            threading.Thread(target=lambda: number.set_result(executor.submit(pow, 2, 3)), daemon=True).start()
            return number.result(LONG).number  # type: ignore[attr-defined, no-any-return]

        told = after(executor.submit(pow, 2, 2), elsewhere)
        pool.go.set()
        assert told.result(2 * LONG) == 2


def test_what_a_callback_submits_is_done_and_told_before_a_shutdown_returns(pool: Pool) -> None:
    with PoolExecutor() as executor:
        second = after(executor.submit(pow, 2, 2), lambda: executor.submit(pow, 2, 3))
        pool.go.set()
        assert second.result(LONG).result(LONG) == 2
        third = executor.submit(pow, 2, 4)
        told = after(third, third.done)
    assert (third.done(), told.done() and told.result()) == (True, True)


def test_a_callback_may_shut_the_executor_down_and_then_nothing_is_taken_any_more(pool: Pool) -> None:
    executor = PoolExecutor()
    told = after(executor.submit(pow, 2, 2), executor.shutdown)
    pool.go.set()
    assert told.result(LONG) is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 2)
    executor.shutdown()
    assert len(pool.lines) == 1


def test_futures_of_a_pool_that_is_lost_are_told_before_a_shutdown_returns(pool: Pool) -> None:
    with PoolExecutor() as executor:
        future = executor.submit(pow, 2, 2)
        told = after(future, lambda: threading.current_thread().name)
        pool.lines[0].socket.shutdown(socket.SHUT_RDWR)
    assert future.done() and told.result(0) == "otpd executor"
    with pytest.raises(Exited, match="is gone"):
        future.result(0)


def test_an_executor_for_which_the_kernel_has_no_room_tries_again_after_a_pause(
    pool: Pool, monkeypatch: MonkeyPatch
) -> None:
    made: list[Starved] = []

    def reach(control: str, name: str) -> socket.socket:
        made.append(starved(pool.reach(control, name)))
        return made[0]

    monkeypatch.setattr(module, "reach_blocking", reach)
    pool.go.set()
    with PoolExecutor() as executor:
        assert executor.submit(pow, 2, 2).result(LONG) == 1
    assert (len(made[0].attempts), made[0].shortest >= PAUSE * 0.9) == (4, True)


# --- a thread that waits reads the line itself ---


def leads(executor: PoolExecutor) -> None:
    """A thread waits for its result."""
    eventually(lambda: executor._leader is not None)


def waiting(future: Future[Any], timeout: float | None = None) -> Future[Any]:
    """What another thread gets, who waits for it."""
    found: Future[Any] = Future()

    def wait() -> None:
        try:
            found.set_result(future.result(timeout))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=wait, name="waits", daemon=True).start()
    return found


def test_what_calls_back_is_called_by_the_executors_thread_and_not_by_one_that_waits(pool: Pool) -> None:
    with PoolExecutor() as executor:
        first, second = executor.submit(pow, 2, 2), executor.submit(pow, 2, 3)
        names = [after(each, lambda: threading.current_thread().name) for each in (first, second)]
        found = waiting(second)
        leads(executor)
        pool.go.set()
        assert found.result(LONG) == 2
    assert [each.result(LONG) for each in names] == ["otpd executor"] * 2


def test_many_threads_that_wait_each_get_their_own(pool: Pool) -> None:
    with PoolExecutor() as executor:
        futures = [executor.submit(pow, 2, 2) for _ in range(8)]
        found = [waiting(each) for each in reversed(futures)]
        leads(executor)
        pool.go.set()
        assert [each.result(LONG) for each in found] == [8, 7, 6, 5, 4, 3, 2, 1]


def test_a_cancelled_future_is_the_end_of_the_wait_for_it(pool: Pool) -> None:
    with PoolExecutor() as executor:
        future = executor.submit(pow, 2, 2)
        found = waiting(future)
        leads(executor)
        assert future.cancel()
        with pytest.raises(CancelledError):
            found.result(LONG)
        pool.go.set()


def test_who_waits_no_longer_gives_the_line_back(pool: Pool) -> None:
    with PoolExecutor() as executor:
        future = executor.submit(pow, 2, 2)
        with pytest.raises(TimeoutError):
            future.result(0.01)
        told = after(future, lambda: executor._leader)
        pool.go.set()
        assert (told.result(LONG), future.result(LONG)) == (None, 1)


def test_a_line_that_is_lost_under_a_thread_that_waits_is_the_end_of_all_its_tasks(pool: Pool) -> None:
    with PoolExecutor() as executor:
        futures = [executor.submit(pow, 2, 2) for _ in range(2)]
        found = waiting(futures[1])
        leads(executor)
        pool.lines[0].socket.shutdown(socket.SHUT_RDWR)
        assert [type(each.exception(LONG)) for each in (found, *futures)] == [Exited] * 3
        pool.go.set()
        assert executor.submit(pow, 2, 2).result(LONG) == 3


def interrupt() -> None:
    """As a signal's handler does it in the middle of what a waiting thread hears."""
    if threading.current_thread().name == "waits":
        raise KeyboardInterrupt


class Interrupt:
    def __reduce__(self) -> Any:
        return interrupt, ()


def test_a_wait_that_is_interrupted_while_it_hears_leaves_no_future_without_an_outcome(pool: Pool) -> None:
    pool.pickled = pickle.dumps(Interrupt())
    with PoolExecutor() as executor:
        futures = [executor.submit(pow, 2, 2) for _ in range(3)]
        found = waiting(futures[2])
        leads(executor)
        pool.go.set()
        assert type(found.exception(LONG)) is KeyboardInterrupt
        assert (type(futures[0].exception(LONG)), [each.exception(LONG) for each in futures[1:]]) == (Exited, [ANY, ANY])
        pool.pickled = b""
        assert executor.submit(pow, 2, 2).result(LONG) == 4


def test_a_fork_neither_reads_the_line_nor_writes_to_it(pool: Pool) -> None:
    with PoolExecutor() as executor:
        future = executor.submit(pow, 2, 2)
        child = os.fork()
        if child == 0:
            future.cancel()
            os._exit(0)
        os.waitpid(child, 0)
        pool.go.set()
        assert (future.result(LONG), pool.asked) == (1, ["run"])
