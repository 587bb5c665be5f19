"""What children may use: measured, averaged, and said for the incarnation that used it (T8, T20)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.services.health.limits import Allowed, Limits, Over, Usage
from otpd.agents.services.health.usage import (
    PERIOD,
    SHARE,
    Sampler,
    family,
    memory_of,
    next_delay,
    pss,
    rss,
    spent,
)
from otpd.agents.services.health.ward import Target

MIB = 2**20


def never(_pid: int) -> int:
    raise AssertionError("was not to be measured")


# --- pure ---


def watching(**allowed: float) -> Limits:
    limits = Limits()
    limits.watch("a", 1, Allowed(**allowed), 0.0)  # type: ignore[arg-type]
    return limits


def test_more_than_allowed_is_said_in_each_look_and_as_much_as_allowed_is_not() -> None:
    for measure in ("memory", "files", "threads"):
        limits = watching(**{measure: 100})
        over = [limits.sampled("a", 1, Usage(**{measure: used}), 2.0) for used in (100, 101, 102, 99)]
        assert over == [[], [Over("a", 1, measure, 101)], [Over("a", 1, measure, 102)], []]
        assert limits.used("a") == {measure: 99}


def test_cpu_is_an_average_and_never_judged_from_a_shorter_time() -> None:
    limits = watching(cpu=90.0, cpu_over=60.0)
    busy = [limits.sampled("a", 1, Usage(cpu=2.0), float(at)) for at in range(0, 62, 2)]
    assert busy == [[]] * 30 + [[Over("a", 1, "cpu", 100.0)]]
    assert limits.sampled("a", 1, Usage(cpu=0.0), 100.0) == []
    assert limits.used("a") == {"cpu": 33.3}, "20 of the 60 s since the look at 40 s"


def test_a_look_at_the_incarnation_before_says_nothing_of_this_one() -> None:
    limits = watching(files=10, cpu=50.0, cpu_over=1.0)
    limits.sampled("a", 1, Usage(files=1, cpu=0.0), 0.0)
    limits.watch("a", 2, Allowed(files=10, cpu=50.0, cpu_over=1.0), 5.0)
    assert limits.sampled("a", 1, Usage(files=99, cpu=9.0), 6.0) == []
    limits.forget("a", 1)
    assert limits.sampled("a", 2, Usage(files=1, cpu=9.0), 7.0) == []
    assert limits.sampled("a", 2, Usage(files=11, cpu=0.0), 9.0) == [Over("a", 2, "files", 11)]
    limits.forget("a", 2)
    assert limits.sampled("a", 2, Usage(files=11), 9.0) == [] and limits.measured == {}


def test_a_limit_that_a_reload_changes_holds_for_the_incarnation_that_runs() -> None:
    limits = watching(memory=100)
    limits.watch("a", 1, Allowed(memory=50), 0.0)
    assert limits.sampled("a", 1, Usage(memory=70), 2.0) == [Over("a", 1, "memory", 70)]


def test_old_age_comes_at_its_time_or_up_to_a_tenth_later_and_needs_no_look() -> None:
    limits = Limits()
    for index in range(50):
        limits.watch(f"feed-{index}", 1, Allowed(age=100.0), 10.0)
    assert limits.measured == {}
    ends = []
    while (at := limits.next_age) is not None:
        (over,) = limits.aged(at)
        assert (over.generation, over.measure) == (1, "age")
        assert limits.aged(at - 0.001) == []
        ends.append(at)
        limits.forget(over.name, 1)
    assert 110.0 <= min(ends) < 111.0 and 119.0 < max(ends) <= 120.0


def test_a_family_is_what_descends_from_a_process_or_stayed_in_its_session() -> None:
    below = {1: [5, 8, 10], 5: [6], 6: [7], 8: [9]}
    assert family(5, below, {5: 5, 8: 5, 10: 10}) == [5, 8, 6, 9, 7]
    assert family(10, below, {5: 5, 8: 5, 10: 10}) == [10]


def test_the_exact_measure_is_taken_only_when_the_cheap_one_is_over_the_limit() -> None:
    assert memory_of([1, 2], 200, cheap=lambda pid: 100, exact=never) == 200
    assert memory_of([1, 2], 199, cheap=lambda pid: 100, exact=lambda pid: 60) == 120


@given(st.floats(0.0, 100.0))
def test_looking_takes_at_most_its_share_of_a_core(cost: float) -> None:
    """T20."""
    delay = next_delay(cost)
    assert delay >= PERIOD
    assert cost / delay <= SHARE * 1.0001 < 0.01


# --- real processes ---


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a session of its own, after its first line of output."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            os.killpg(process.pid, 9)


def test_memory_that_processes_share_is_counted_once_by_pss() -> None:
    shares = f"import os, sys; x = bytearray(b'1') * {64 * MIB}; print(flush=True) if os.fork() else 0; sys.stdin.read()"
    with program(shares) as process:
        main = psutil.Process(process.pid)
        both = [main, *main.children()]
        assert len(both) == 2
        assert sum(map(rss, both)) > 128 * MIB
        assert 64 * MIB < sum(map(pss, both)) < 100 * MIB


def test_a_look_finds_all_that_a_process_tree_uses_and_only_what_was_asked() -> None:
    """What counts is in a grandchild: memory, two threads, descriptors, and processor time since the look before."""
    inner = (
        f"import sys, threading, os; x = bytearray(b'1') * {80 * MIB}; f = [open('/dev/null') for _ in range(50)]; "
        "threading.Thread(target=sys.stdin.read, daemon=True).start(); print(flush=True); e = 0\\n"
        "while e < 3e6: e += 1\\n"
        "print(flush=True); threading.Event().wait()"
    )
    outer = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', '''{inner}''']); p.wait()"
    everything = Allowed(memory=500 * MIB, cpu=90.0, files=10_000, threads=1000)
    with program(outer) as process:
        sampler, all_of, memory_of_it = Sampler(os.getpid()), Target("a", 1, process.pid, everything), Allowed(memory=1)
        ((_, first),) = sampler.look([all_of])
        assert process.stdout is not None
        process.stdout.readline()
        (_, found), (_, bare) = sampler.look([all_of, Target("b", 1, process.pid, memory_of_it)])
        assert (first.cpu, bare.cpu, bare.files, bare.threads) == (0.0, None, None, None)
        assert found.cpu is not None and found.files is not None and found.memory is not None
        assert found.cpu > 0.02
        assert found.files >= 50 + 2 * 3
        assert found.threads == 3
        assert 80 * MIB < found.memory < 300 * MIB


def test_who_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = psutil.Process(process.pid)
    assert (rss(dead), pss(dead)) == (0, 0)
    limits = Allowed(memory=1, cpu=1.0, files=8, threads=1)
    ((_, found),) = Sampler(os.getpid()).look([Target("a", 1, process.pid, limits)])
    assert found == Usage(memory=0, cpu=0.0, files=0, threads=0)


@pytest.mark.parametrize(("before", "now", "used"), [({}, {(1, 0): 2.0}, 2.0), ({(1, 0): 2.0}, {(1, 9): 0.5}, 0.5)])
def test_a_pid_that_comes_back_is_somebody_else(
    before: dict[tuple[int, int], float], now: dict[tuple[int, int], float], used: float
) -> None:
    assert spent(before, now) == used
