"""What services have noted in the event log: theirs, bounded, and never in the name of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from otpd.ipc.frames import unpack
from otpd.supervisor.journal import Journal
from otpd.supervisor.serviceevents import BURST, ServiceEvents


class Desk:
    """The events of a root that is not there; `later` is what it would do in a second."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, dict[str, Any]]] = []
        self.later: list[Any] = []
        journal = SimpleNamespace(event=lambda kind, name, **data: self.noted.append((kind, name, data)))
        loop = SimpleNamespace(now=0.0, after=lambda _delay, action: self.later.append(action))
        self._events = ServiceEvents(cast(Any, SimpleNamespace(journal=journal, loop=loop)))

    def hears(self, packet: Any, service: str = "store", kind: str = "service") -> None:
        live = SimpleNamespace(name=service, launch=SimpleNamespace(kind=kind))
        self._events.heard(cast(Any, live), packet)


def test_an_event_has_the_name_of_its_service_and_no_word_of_root() -> None:
    desk = Desk()
    desk.hears(["event", "dead_letters", "orders", {"expired": 2, "seq": 9, "event": "otpd.node.ended", 3: "x"}])
    assert desk.noted == [("store.dead_letters", "orders", {"expired": 2})]


@pytest.mark.parametrize(
    "packet",
    [
        ["event", "../x", "a", {}],
        ["event", "x" * 65, "a", {}],
        ["event", "x", "a", []],
        ["event", "x", 3, {}],
        ["event"],
        "event",
        None,
    ],
)
def test_what_is_no_event_is_passed_over(packet: Any) -> None:
    desk = Desk()
    desk.hears(packet)
    assert desk.noted == []


def test_agents_and_programs_have_no_say() -> None:
    desk = Desk()
    desk.hears(["event", "x", "a", {}], "store", "agent")
    assert desk.noted == []


def test_the_pools_are_one_service() -> None:
    desk = Desk()
    desk.hears(["event", "timeout", "tasks-pdf", {"task": "draw"}], "tasks-pdf")
    assert desk.noted == [("tasks.timeout", "tasks-pdf", {"task": "draw"})]


def test_a_storm_of_one_service_is_counted_and_hides_none_of_another() -> None:
    desk = Desk()
    for _ in range(BURST + 5):
        desk.hears(["event", "dead_letters", "a", {}])
    desk.hears(["event", "skipped", "b", {}], "scheduler")
    (tell,) = desk.later
    tell()
    assert desk.noted[BURST:] == [("scheduler.skipped", "b", {}), ("store.suppressed", "store", {"count": 5})]


def test_an_event_that_is_too_long_says_so() -> None:
    desk = Desk()
    desk.hears(["event", "x", "a", {"text": "y" * 5000}])
    assert desk.noted == [("store.x", "a", {"left_out": "more than 4096 bytes of data"})]


@pytest.mark.parametrize("value", [unpack(b"\x91" * 900 + b"\x90"), {b"k": 1}, [{7: 1}], b"bytes"])
def test_what_the_logger_could_not_write_does_not_reach_it(value: Any) -> None:
    desk = Desk()
    desk.hears(["event", "x", "a", {"deep": value}])
    desk.hears(["event", "x", "a", {"plain": [{"a": [1, 2.5, None, True]}]}])
    assert desk.noted == [
        ("store.x", "a", {"left_out": "data that is no JSON, or is nested more than 8 deep"}),
        ("store.x", "a", {"plain": [{"a": [1, 2.5, None, True]}]}),
    ]


def test_data_may_have_any_keys() -> None:
    """Those of the arguments of our own functions, too."""
    written: list[dict[str, Any]] = []
    journal = Journal(written.append, lambda settle: settle())
    events = ServiceEvents(cast(Any, SimpleNamespace(journal=journal, loop=SimpleNamespace(now=0.0))))
    live: Any = SimpleNamespace(name="store", launch=SimpleNamespace(kind="service"))
    events.heard(live, ["event", "x", "a", {"self": 1, "data": 2, "kind": 3}])
    assert [(each["event"], each["self"], each["data"]) for each in written] == [("otpd.store.x", 1, 2)]
