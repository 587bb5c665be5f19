"""A command is carried out at most once: the pool knows that it may run before it does."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from otpd.agents.sandbox import worker as worker_module
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


class Left(Exception):
    """The worker has ended itself."""


def leave(_backend: object, status: int) -> NoReturn:
    raise Left(status)


def begin(monkeypatch: pytest.MonkeyPatch, killed: bool) -> tuple[Slot, Any]:
    """What a worker does with run 7, whose slot is this: where it runs, or with which status the worker has left."""
    ours, pool = channel_pair()
    monkeypatch.setattr(worker_module, "leave", leave)
    slot = Slot(pool, killed)
    monkeypatch.setattr(worker_module.plans, "run_plan", lambda *_: b"")
    worker = Worker.__new__(Worker)
    worker._backend = SimpleNamespace(take=lambda *_: slot)  # type: ignore[assignment]
    worker._line = Line(ours, os._exit)
    nothing: Any = SimpleNamespace(profile=None, mounts=(), trees=[], order=None, run=7)
    before = len(os.listdir("/proc/self/fd"))
    try:
        return slot, worker._start(nothing, nothing, nothing, ())
    except Left as left:
        return slot, left.args[0]
    finally:
        packet = receive_packet(pool)
        slot.told.append(packet and packet[0])
        assert len(os.listdir("/proc/self/fd")) <= before
        ours.close()
        pool.close()


def test_that_it_starts_is_said_before_the_slot_is_told_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, started = begin(monkeypatch, killed=False)
    assert (slot.told, started, slot.closed) == ([["starting", 7], ["started", 7]], slot, False)


def test_a_run_whose_slot_could_not_be_told_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, status = begin(monkeypatch, killed=True)
    assert (slot.told, status, slot.closed) == ([["starting", 7], ["returned", 7]], worker_module.LOST, True)
