"""The sampler: what it counts, whom it watches, and the process itself on a channel."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from otpd.ipc.frames import channel_pair, receive_packet, send_packet
from otpd.supervisor.sampler import PERIOD, SHARE, Watched, Watches, family, next_delay, pss, rss, used

MIB = 2**20


def never(_pid: int) -> int:
    raise AssertionError("was not to be measured")


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


@contextmanager
def sampler() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = channel_pair()
    command = [sys.executable, "-P", "-m", "otpd.supervisor.sampler", "--channel", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    try:
        yield ours, process
    finally:
        ours.close()
        assert process.wait(10) == 0


def heard(channel: socket.socket, seconds: float) -> Any:
    """The next packet, or None when none comes."""
    if not select.select([channel], [], [], seconds)[0]:
        return None
    packet = receive_packet(channel)
    return packet[0] if packet else "closed"


# --- pure ---


def test_a_family_is_what_descends_from_a_process_or_stayed_in_its_session() -> None:
    below = {1: [5, 8, 10], 5: [6], 6: [7], 8: [9]}
    assert family(5, below, {5: 5, 8: 5, 10: 10}) == [5, 8, 6, 9, 7]
    assert family(10, below, {5: 5, 8: 5, 10: 10}) == [10]


def test_the_exact_measure_is_taken_only_when_the_cheap_one_is_over_the_limit() -> None:
    assert used([1, 2], 200, cheap=lambda pid: 100, exact=never) == 200
    assert used([1, 2], 199, cheap=lambda pid: 100, exact=lambda pid: 60) == 120


def test_a_later_incarnation_replaces_the_one_before_and_is_not_forgotten_with_it() -> None:
    watches = Watches()
    watches.on_packet(["watch", "a", 1, 10, 1000])
    watches.on_packet(["watch", "a", 2, 20, 1000])
    watches.on_packet(["forget", "a", 1])
    assert list(watches) == [Watched("a", 2, 20, 1000)]
    watches.on_packet(["forget", "a", 2])
    watches.on_packet(["forget", "a", 2])
    assert list(watches) == []


@pytest.mark.parametrize("rubbish", [None, [], ["watch"], ["watch", "a", "1", 2, 3], {"watch": 1}])
def test_what_is_no_order_is_ignored(rubbish: object) -> None:
    watches = Watches()
    watches.on_packet(rubbish)
    assert len(watches) == 0


@pytest.mark.parametrize("cost", [0.0, 0.001, 0.02, 0.5, 30.0])
def test_sampling_takes_at_most_its_share_of_a_core(cost: float) -> None:
    """T20."""
    delay = next_delay(cost)
    assert delay >= PERIOD
    assert cost / delay <= SHARE


# --- real processes ---


def test_memory_that_processes_share_is_counted_once_by_pss() -> None:
    shares = f"import os, sys; x = bytearray(b'1') * {64 * MIB}; print(flush=True) if os.fork() else 0; sys.stdin.read()"
    with program(shares) as process:
        pids = [process.pid, *(each.pid for each in psutil.Process(process.pid).children())]
        assert len(pids) == 2
        assert sum(map(rss, pids)) > 128 * MIB
        assert 64 * MIB < sum(map(pss, pids)) < 100 * MIB


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert (rss(process.pid), pss(process.pid)) == (0, 0)


def test_a_process_tree_over_its_limit_is_reported_and_one_below_it_is_not() -> None:
    """The memory is in a grandchild; said again while it is so, and no more after it is forgotten."""
    grows = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
        f"\"import sys; x = bytearray(b'1') * {80 * MIB}; print(flush=True); sys.stdin.read()\"]); p.wait()"
    )
    with program(grows) as process, sampler() as (channel, _):
        send_packet(channel, ["watch", "small", 3, process.pid, 500 * MIB])
        send_packet(channel, ["watch", "big", 7, process.pid, 80 * MIB])
        for _ in range(2):
            word, name, generation, size = heard(channel, 20)
            assert (word, name, generation) == ("over", "big", 7)
            assert 80 * MIB < size < 200 * MIB
        send_packet(channel, ["forget", "big", 7])
        assert heard(channel, 1.5 * PERIOD) is None


def test_it_sleeps_while_nobody_is_watched_and_ends_with_its_channel() -> None:
    with sampler() as (channel, process):
        send_packet(channel, ["watch", "a", 1, os.getpid(), 1])
        assert heard(channel, 20)[:3] == ["over", "a", 1]
        send_packet(channel, ["forget", "a", 1])
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        assert heard(channel, 1.5 * PERIOD) is None
        assert sum(psutil.Process(process.pid).cpu_times()[:2]) - before <= 0.02
