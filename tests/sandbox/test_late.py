"""A machine under load: workers that are not ready in time are no reason for a weaker sandbox."""

from __future__ import annotations

import os
import socket

import pytest
from pytest import MonkeyPatch

from otpd.agents.sandbox import Pool, PoolSettings, Profile, backends, dispatch, nesting
from otpd.agents.sandbox import pool as module
from otpd.agents.sandbox.choice import Choice, Refusal
from otpd.agents.sandbox.errors import NotInTime, SandboxUnavailable, SetupFailed
from otpd.agents.sandbox.profile import settings
from otpd.ipc.frames import receive_packet, send_packet


class Player:
    """Workers that say what the test has them say, with the backends that they were to be built with."""

    def __init__(self, says: list[object] | None = None) -> None:
        self.says = says
        self.backends: list[str] = []
        self.channels: list[socket.socket] = []

    def spawn(self, theirs: socket.socket) -> Played:
        self.channels.append(theirs)
        if self.says is not None:
            send_packet(theirs, self.says)
        return Played(ended=self.says is not None)

    def told(self) -> list[str]:
        """The backend of each."""
        packets = [receive_packet(each) for each in self.channels]
        return [packet[0][1]["backend"] for packet in packets if packet is not None]

    def close(self) -> None:
        for each in self.channels:
            each.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Played:
    pid = 0

    def __init__(self, *, ended: bool) -> None:
        self.ended = os.eventfd(int(ended))

    def fate(self) -> str:
        return "killed"

    def kill(self) -> None:
        os.eventfd_write(self.ended, 1)

    def close(self, patience: float) -> None:
        os.close(self.ended)


DENIED = SandboxUnavailable("no user namespace").to_dict()


def test_the_next_backend_is_for_what_this_machine_denies_and_only_while_none_has_worked() -> None:
    choice = Choice(("native", "bwrap"))
    wrong = SetupFailed("no space").to_dict()
    assert choice.could_not("native", wrong) == Refusal(wrong)
    assert [choice.ended("killed") for _ in range(2)] == [None, None]
    silent = SetupFailed(
        "a worker ended while it was starting (killed), 3 times in a row.", fix="look at what it printed to stderr"
    )
    assert choice.ended("killed") == Refusal(silent.to_dict())
    assert (choice.could_not("native", DENIED), choice.could_not("native", DENIED), choice.backend) == (None, None, "bwrap")
    choice.ready("bwrap")
    assert (choice.could_not("bwrap", DENIED), choice.backend) == (Refusal(DENIED), "bwrap")


def test_backends_that_were_all_denied_are_tried_anew_with_the_next_run() -> None:
    with Player(["unavailable", DENIED]) as player, Pool(PoolSettings(workers=1), spawn=player.spawn) as pool:
        results = [pool.run(["/bin/true"]) for _ in range(2)]
        assert [each.error and each.error["text"][:21] for each in results] == ["no backend works here"] * 2
        assert player.told() == ["native", "bwrap", "landlock"] * 2


LATE = NotInTime("a slot was not ready within 20 s").to_dict()


@pytest.mark.parametrize(("says", "seconds"), [(None, 0.0), (["unavailable", LATE], 30.0)])
def test_workers_that_are_late_are_tried_again_with_the_same_backend(
    monkeypatch: MonkeyPatch, says: list[object] | None, seconds: float
) -> None:
    monkeypatch.setattr(module, "_START", seconds)
    monkeypatch.setattr(module, "_STOP", 0.0)
    monkeypatch.setattr(dispatch, "REST", 0.0)
    with Player(says) as player, Pool(PoolSettings(workers=1, queue_timeout=1e-9), spawn=player.spawn) as pool:
        result = pool.run(["/bin/true"])
        assert (result.status, result.error and result.error["code"]) == ("busy", "busy")
        assert (pool.counters.workers_late, player.told()) == (3, ["native"] * 3)


def test_a_nest_that_does_not_answer_in_time_has_denied_nothing(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(nesting, "_PATIENCE", 0.0)
    nest = nesting.Nest(settings(Profile()), 0, plain=True)
    with pytest.raises(NotInTime):
        nest.start()
    nest.close()


def test_slot_uids_that_are_all_in_use_are_no_denial(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(backends, "_is_mapped", lambda _uid: True)
    monkeypatch.setattr(backends, "_is_account", lambda _uid: True)
    with pytest.raises(backends.SetupFailed, match="no free uid"):
        backends.claim_slot_uid((230_000, 230_001))
