"""A command is carried out at most once: the pool knows that it may run before it does."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.agents.sandbox import worker as worker_module
from otpd.agents.sandbox.errors import SetupFailed
from otpd.agents.sandbox.line import Line
from otpd.agents.sandbox.worker import Worker
from otpd.ipc.frames import channel_pair, receive_packet


class Slot:
    """Looks, when it is told to go, at what the pool has been told by then."""

    def __init__(self, pool: socket.socket, killed: bool) -> None:
        self.pool, self.killed, self.closed, self.told = pool, killed, False, []  # type: ignore[var-annotated]

    def start(self, plan: int, streams: tuple[int, ...], trees: list[int]) -> None:
        self.pool.setblocking(False)
        packet = receive_packet(self.pool)
        self.told.append(packet and packet[0])
        if self.killed:
            raise BrokenPipeError

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def begin(monkeypatch: pytest.MonkeyPatch, killed: bool) -> tuple[Slot, Any]:
    """What a worker does with run 7, whose slot is this."""
    ours, pool = channel_pair()
    slot = Slot(pool, killed)
    monkeypatch.setattr(worker_module.plans, "run_plan", lambda *_: b"")
    worker = Worker.__new__(Worker)
    worker._backend = SimpleNamespace(take=lambda *_: slot)  # type: ignore[assignment]
    worker._line = Line(ours, os._exit)
    nothing: Any = SimpleNamespace(profile=None, mounts=(), trees=[], order=None, run=7)
    before = len(os.listdir("/proc/self/fd"))
    try:
        return slot, worker._start(nothing, nothing, nothing, ())
    except SetupFailed as error:
        return slot, str(error)
    finally:
        assert len(os.listdir("/proc/self/fd")) <= before
        ours.close()
        pool.close()


def test_that_it_has_started_is_said_before_the_slot_is_told_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, started = begin(monkeypatch, killed=False)
    assert (slot.told, started, slot.closed) == ([["started", 7]], slot, False)


def test_a_slot_that_was_killed_before_is_an_error_that_says_that_nothing_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, said = begin(monkeypatch, killed=True)
    assert (slot.told, slot.closed) == ([["started", 7]], True)
    assert "the slot was killed before the command began" in said
