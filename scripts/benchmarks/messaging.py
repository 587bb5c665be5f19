"""What a message costs: bare pyzmq and multiprocessing.Queue as baselines, the broker with bare endpoints, in turn.

Rounds of everything that is compared are interleaved, so that what else the machine does meets all of them; the figures are
medians of rounds, and the ratios are what a target is about.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.benchmarks.peers import BODY
from scripts.benchmarks.table import Row, percentile
from tests.ipc.stage import Agent, Broker

Chosen = Callable[[str], bool]
ROUNDS = 5
BURST = 64
RAW, BATCHED, SINGLE, QUEUED, CALLS = 60_000, 64 * 3000, 30_000, 30_000, 1500


def run(chosen: Chosen) -> Iterator[Row]:
    parts = {"one way": one_way, "round trip": round_trip}
    for name, measure in parts.items():
        if chosen(name):
            yield from measure()


class Peer:
    """A process of `peers`; `heard` is what it has said."""

    def __init__(self, role: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "scripts.benchmarks.peers", role, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.heard: dict[str, Any] = {}

    def wait_for(self, key: str) -> Any:
        assert self.process.stdout is not None
        while key not in self.heard:
            line = self.process.stdout.readline()
            assert line, f"{self.process.args} ended without a word of {key}"
            self.heard |= json.loads(line)
        return self.heard[key]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Stage:
    """A broker process and agents in processes of their own, which root has announced."""

    def __enter__(self) -> Stage:
        self._home = tempfile.TemporaryDirectory(prefix="otpd")
        self.broker = Broker.started(Path(self._home.name))
        self._peers: list[Peer] = []
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.end()
        self.broker.close()
        self._home.cleanup()

    def agent(self, role: str, name: str, *arguments: object) -> Peer:
        """Connected and welcomed."""
        self._count += 1
        known = Agent(name, self._count)
        place = f"{self.broker.endpoint},{self.broker.epoch}"
        peer = Peer(role, place, name, known.inc, known.identity.hex(), known.token.hex(), *arguments)
        known.pid = peer.process.pid
        self.broker.row(known)
        self._peers.append(peer)
        peer.wait_for("ready")
        return peer

    def dismiss(self, *peers: Peer) -> None:
        for peer in peers:
            peer.end()
            self._peers.remove(peer)


# --- one way ---


def one_way() -> Iterator[Row]:
    ours: dict[int, list[float]] = {BURST: [], 1: []}
    raw, queue = [], []
    with Stage() as stage:
        for _ in range(ROUNDS):
            raw.append(raw_rate())
            ours[BURST].append(_cast_rate(stage, BATCHED, BURST))
            ours[1].append(_cast_rate(stage, SINGLE, 1))
            queue.append(queue_rate())
    floor, other = statistics.median(raw), statistics.median(queue)
    yield Row("baseline: raw DEALER-ROUTER, one way, 64 B", f"{floor:,.0f}/s", "-", True, {"rounds": raw})
    yield Row("baseline: multiprocessing.Queue, one way, 64 B", f"{other:,.0f}/s", "-", True, {"rounds": queue})
    for burst, target, what in ((BURST, 3.0, f"bursts of {BURST}"), (1, 0.6, "no batching possible")):
        rate = statistics.median(ours[burst])
        yield Row(
            f"router + broker + client, one way, credit in force, {what}",
            f"{rate:,.0f}/s = {rate / floor:.2f}x raw, {rate / other:.1f}x Queue",
            f"{target:g}x raw",
            rate >= target * floor,
            {"rounds": ours[burst], "raw": floor, "queue": other},
        )


def raw_rate() -> float:
    with tempfile.TemporaryDirectory(prefix="otpd") as home:
        address = f"ipc://{home}/raw"
        receiver = Peer("raw-receive", address, RAW)
        receiver.wait_for("ready")
        sender = Peer("raw-send", address, RAW)
        return _rate(RAW, sender, receiver)


def _rate(count: int, sender: Peer, receiver: Peer) -> float:
    """Messages per second from the first one said to the last one heard."""
    took = receiver.wait_for("ended") - sender.wait_for("began")
    sender.end()
    receiver.end()
    return count / (took / 1e9)


def _cast_rate(stage: Stage, count: int, burst: int) -> float:
    receiver = stage.agent("cast-receive", "receiver", count)
    sender = stage.agent("cast-send", "sender", "receiver", count, burst)
    sender.go()
    took = receiver.wait_for("ended") - sender.wait_for("began")
    stage.dismiss(sender, receiver)
    return count / (took / 1e9)


def queue_rate() -> float:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[Any] = context.Queue()
    sender = context.Process(target=_fill, args=(queue, QUEUED))
    sender.start()
    began = queue.get()
    for _ in range(QUEUED):
        queue.get()
    took = time.monotonic_ns() - began
    sender.join()
    queue.close()
    return QUEUED / (took / 1e9)


def _fill(queue: multiprocessing.Queue[Any], count: int) -> None:
    queue.put(time.monotonic_ns())
    for _ in range(count):
        queue.put(BODY)


# --- round trip ---


def round_trip() -> Iterator[Row]:
    raw: list[float] = []
    ours: list[float] = []
    with Stage() as stage:
        stage.agent("answer", "answerer")
        for _ in range(ROUNDS):
            raw += raw_trips()
            ours += _trips(stage)
    floor, found = _spread(raw), _spread(ours)
    yield Row("baseline: raw DEALER-ROUTER round trip, p50 / p99", f"{floor[0]:.0f} / {floor[1]:.0f} us", "-", True)
    yield Row(
        "call and reply, router + broker + client, p50 / p99",
        f"{found[0]:.0f} / {found[1]:.0f} us = {found[0] / floor[0]:.2f}x raw",
        "3x raw / 5 ms",
        found[0] <= 3 * floor[0] and found[1] <= 5000,
        {"p50_us": found[0], "p99_us": found[1], "raw_p50_us": floor[0], "raw_p99_us": floor[1]},
    )


def _spread(nanoseconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    return statistics.median(nanoseconds) / 1000, percentile(nanoseconds, 0.99) / 1000


def raw_trips() -> list[float]:
    with tempfile.TemporaryDirectory(prefix="otpd") as home:
        address = f"ipc://{home}/raw"
        other = Peer("raw-answer", address, CALLS)
        other.wait_for("ready")
        asker = Peer("raw-ask", address, CALLS)
        took: list[float] = asker.wait_for("took")
        asker.end()
        other.end()
        return took


def _trips(stage: Stage) -> list[float]:
    asker = stage.agent("ask", "asker", "answerer", CALLS)
    asker.go()
    took: list[float] = asker.wait_for("took")
    stage.dismiss(asker)
    return took
