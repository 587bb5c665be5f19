"""A client without a node: how it begins, and what it says of casts that nobody took."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from otpd.agents import CallTimeout, OtpdError, client, following
from otpd.agents.client import Client
from otpd.ipc.happenings import CastRejected

FIRST = {"name": "@1.1", "inc": 1, "token": b"t", "identity": b"i", "broker": None}


class Root:
    """In the place of a control connection."""

    def __init__(self) -> None:
        self.closed = False
        self._hung_up = threading.Event()

    def hang_up(self) -> None:
        self._hung_up.set()

    def stream(self) -> Iterator[dict[str, Any]]:
        """There is no other broker until the client leaves."""
        self._hung_up.wait()
        yield from ()

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


@pytest.fixture
def it() -> Iterator[Client]:
    """A client whose broker never answers."""
    root: Any = Root()
    made = Client(root, FIRST, root.stream())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("verb", "instead"),
    [
        ("link", r"be told of a death: client\.monitor\(name\)\.wait\(\)"), ("join", "a client can't be; make it an agent"),
        ("start_child", r"declare the worker in otpd\.toml"), ("save", "make it an agent"), ("stop", r"client\.close\(\)"),
    ],
)  # fmt: skip
def test_a_verb_that_only_agents_have_is_an_error_that_says_what_to_do(it: Client, verb: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=rf"a client of connect\(\) has no {verb}: .*{instead}"):
        getattr(it, verb)
    assert not hasattr(it, verb)


def test_an_attribute_that_nobody_has_is_a_plain_error_and_no_verb_of_a_client_is_called_missing(it: Client) -> None:
    with pytest.raises(AttributeError, match=r"^a client of connect\(\) has no lnk$"):
        it.lnk  # type: ignore[attr-defined]  # noqa: B018
    assert [name for name in client._ONLY_AGENTS if name in dir(it)] == []


@pytest.mark.parametrize("how", ["confirm", "durable"])
def test_a_cast_that_is_waited_for_is_waited_for_so_long(it: Client, how: str) -> None:
    """And not for five seconds, which is the default."""
    with pytest.raises(CallTimeout):
        it.cast("nobody", "hear", **{how: 0.05}, text="x")


def test_events_that_nobody_reads_are_bounded_by_their_bytes_too() -> None:
    events = following.Events("a.*", 0.0, lambda: None)
    for number in range(40):
        events.put("a.b", number, "feed", 1, 1024 * 1024)
    kept = list(events)
    assert [event.data for event in kept] == list(range(24, 40))
    assert [event.missed for event in kept] == [24] + 15 * [0]


def test_one_event_is_kept_however_large_it_is() -> None:
    events = following.Events("a.*", 0.0, lambda: None)
    for number in range(3):
        events.put("a.b", number, "feed", 1, 64 * 1024 * 1024)
    assert [(event.data, event.missed) for event in events] == [(2, 2)]
