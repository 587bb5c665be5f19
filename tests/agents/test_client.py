"""A client without a node: how it begins, and what it says of casts that nobody took."""

from __future__ import annotations

import errno
import logging
from typing import Any

import pytest

from otpd.agents import OtpdError, client
from otpd.agents.client import Client
from otpd.ipc.happenings import CastRejected

FIRST = {"name": "@1.1", "inc": 1, "token": b"t", "identity": b"i", "broker": None}


class Root:
    """In the place of a control connection."""

    def __init__(self) -> None:
        self.closed = False

    def hang_up(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("where", ["Watching", "Line"])
def test_a_client_that_can_not_begin_says_why(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(client, where, refuse)
    root: Any = Root()
    with pytest.raises(OtpdError, match=r"its loop could not be started: OSError: .*Too many open files; .*ulimit -n"):
        Client(root, FIRST, iter(()))
    assert root.closed


def test_casts_of_a_client_that_are_rejected_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    root: Any = Root()
    it = Client(root, FIRST, iter(()))
    try:
        conversation = it._verbs._otpd
        for _ in range(2):
            it._do(conversation._rejected, CastRejected(7, "noproc", "nobody"))
    finally:
        it.close()
    assert caplog.record_tuples == [
        ("otpd.client", logging.WARNING, "cast to nobody.? rejected: noproc; with confirm=True the sender is told")
    ]
