"""The event loop of root."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from otpd.supervisor.loop import LATE, ONCE, READ, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made._epoll.close()


def test_timers_fire_in_order_of_deadline_then_of_creation(loop: Loop) -> None:
    fired: list[str] = []
    loop.after(0.002, lambda: fired.append("late"))
    loop.after(0.0, lambda: fired.append("first"))
    loop.after(0.0, lambda: fired.append("second"))
    loop.after(0.004, loop.stop)
    loop.run()
    assert fired == ["first", "second", "late"]


def test_a_cancelled_timer_never_fires_not_even_by_one_that_fires_before_it(loop: Loop) -> None:
    fired: list[str] = []
    victim = loop.after(0.001, lambda: fired.append("victim"))
    loop.after(0.0, victim.cancel)
    loop.after(0.003, loop.stop)
    loop.run()
    assert fired == []


def test_a_descriptor_registered_within_a_batch_gets_none_of_that_batch(loop: Loop) -> None:
    """T31: the number may have belonged to another file when the kernel made the batch."""
    one, two, other = os.pipe(), os.pipe(), os.pipe()
    heard: list[str] = []
    for pipe in (one, two):
        os.write(pipe[1], b"x")

    def swap(_mask: int) -> None:
        """Whichever of the two is first closes the other and puts a silent pipe on its number."""
        mine, theirs = (one, two) if not heard else (two, one)
        heard.append("swapped")
        loop.remove(mine[0])
        loop.remove(theirs[0])
        os.dup2(other[0], theirs[0])
        loop.add(theirs[0], READ, lambda _mask: heard.append("stale"))

    loop.add(one[0], READ, swap)
    loop.add(two[0], READ, swap)
    loop.step()
    loop.after(0.0, lambda: None)
    loop.step()
    assert heard == ["swapped"]
    for fd in (*one, *two, *other):
        os.close(fd)


def test_a_signal_arrives_in_the_loop_once_however_often_it_was_sent(loop: Loop) -> None:
    got: list[int] = []
    loop.on_signals((signal.SIGUSR1, signal.SIGUSR2), got.append)
    try:
        for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1):
            signal.pthread_kill(threading.get_ident(), number)
        loop.step()
        assert got == [signal.SIGUSR1, signal.SIGUSR2]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        os.close(loop._signals)


def test_an_exception_in_a_handler_ends_the_loop(loop: Loop) -> None:
    """A table that may be wrong supervises nobody: heart starts root again."""

    def broken() -> None:
        raise RuntimeError("a bug")

    loop.after(0.0, broken)
    with pytest.raises(RuntimeError, match="a bug"):
        loop.run()


def test_a_timer_that_is_armed_by_another_waits_for_the_next_turn(loop: Loop) -> None:
    """Else a chain of them, such as a thousand starts, would keep everybody else waiting."""
    reader, writer = os.pipe()
    order: list[str] = []

    def again() -> None:
        order.append("timer")
        loop.after(0.0, again)

    loop.after(0.0, again)
    loop.add(reader, READ, lambda _mask: order.append(os.read(reader, 1).decode()))
    loop.step()
    os.write(writer, b"x")
    loop.step()
    assert order == ["timer", "x", "timer"]
    loop.remove(reader)
    os.close(reader)
    os.close(writer)


def test_timers_that_were_cancelled_do_not_pile_up_until_their_deadline(loop: Loop) -> None:
    """Each restart of a program with a long start_timeout leaves one behind, and each heartbeat."""
    fired: list[str] = []
    for number in range(10_000):
        loop.after(3600.0, lambda: fired.append("never")).cancel()
        if number % 1000 == 0:
            loop.after(0.0, lambda number=number: fired.append(str(number)))  # type: ignore[misc]
    assert len(loop._timers) < 300
    assert loop.cancelled <= len(loop._timers)
    loop.step()
    assert fired == [str(number) for number in range(0, 10_000, 1000)]
    assert loop.cancelled == len(loop._timers)


@pytest.mark.parametrize("delay", [math.nan, math.inf])
def test_a_deadline_that_is_no_time_is_refused(loop: Loop, delay: float) -> None:
    """NaN compares with nothing: it would stand at the head of all timers and keep them from firing."""
    with pytest.raises(ValueError, match="expected a delay in seconds, got"):
        loop.after(delay, lambda: None)


def test_a_loop_that_was_held_up_hears_all_that_was_said_before_it_calls_a_deadline_passed(loop: Loop) -> None:
    """Whoever stopped root stopped the wait of its poll too, which then brings nothing, whatever there is."""
    reader, writer = os.pipe()
    order: list[str] = []
    loop.add(reader, READ, lambda _mask: order.append(os.read(reader, 1).decode()))
    loop.after(-2 * LATE, lambda: order.append(f"late by {loop.lag:.1f}"))
    os.write(writer, b"ab")
    real = loop._epoll
    polls: list[float] = []

    def poll(timeout: float, batch: int) -> list[tuple[int, int]]:
        polls.append(timeout)
        return real.poll(timeout, batch) if len(polls) > 1 else []

    loop._epoll = SimpleNamespace(poll=poll)  # type: ignore[assignment]
    loop.step()
    loop._epoll = real
    assert order == ["a", "b", f"late by {2 * LATE:.1f}"]
    loop.remove(reader)
    os.close(reader)
    os.close(writer)


def test_what_can_wait_is_done_a_moment_later_in_order(loop: Loop) -> None:
    reader, writer = os.pipe()
    done: list[str] = []
    loop.add(reader, READ | ONCE, lambda _mask: done.append("handled"))
    os.write(writer, b"x")
    loop.step()
    loop.close_later(reader)
    loop.defer(lambda: done.append("deferred"))
    loop.after(0.0, lambda: done.append("urgent"))
    loop.step()
    assert done == ["handled", "urgent"]
    os.fstat(reader)
    loop.step()
    assert done == ["handled", "urgent", "deferred"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    os.close(writer)
