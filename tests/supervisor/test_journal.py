"""The memory of root: bounded, and told to whoever follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from otpd.supervisor.journal import DEATHS_KEPT, EARLY_KEPT, EVENTS_KEPT, Death, Journal


def at_once(action: Callable[[], None]) -> None:
    action()


def death(generation: int) -> Death:
    return Death(generation, "killed", None, 9, 1.0, 2.0, None, None, 1)


def test_events_go_to_the_disk_to_the_ring_and_to_followers() -> None:
    written: list[dict[str, Any]] = []
    followed: list[dict[str, Any]] = []
    journal = Journal(written.append, at_once)
    stop = journal.follow(followed.append)
    journal.event("child.started", "a", "s/a", 2, restart=True)
    stop()
    journal.event("child.exited", "a", "s/a", 2)
    assert [event["event"] for event in written] == ["otpd.child.started", "otpd.child.exited"]
    assert [event["event"] for event in followed] == ["otpd.child.started"]
    assert journal.last(1) == written[1:]
    assert journal.last(0) == []
    started = {key: written[0][key] for key in ("name", "path", "generation", "restart")}
    assert started == {"name": "a", "path": "s/a", "generation": 2, "restart": True}


def test_events_of_an_instance_say_its_group_until_it_is_forgotten() -> None:
    journal = Journal(lambda _event: None, at_once)
    journal.belongs("a-1", "a")
    journal.belongs("b", None)
    journal.death("a-1", lambda: death(1))
    for name in ("a-1", "b"):
        journal.event("child.started", name)
    journal.forget("a-1")
    journal.event("child.started", "a-1")
    assert [(each["name"], each.get("group")) for each in journal.last(9)] == [
        ("a-1", "a"), ("a-1", "a"), ("b", None), ("a-1", None),
    ]  # fmt: skip


def test_events_are_numbered_without_gaps_in_the_life_of_root() -> None:
    written: list[dict[str, Any]] = []
    journal = Journal(written.append, at_once, life=7)
    journal.event("first")
    journal.death("a", partial(death, 1))
    journal.event("third")
    assert [(event["life"], event["seq"]) for event in written] == [(7, 1), (7, 2), (7, 3)]


def test_a_death_and_its_last_lines_are_events_also_of_a_child_that_is_forgotten() -> None:
    written: list[dict[str, Any]] = []
    journal = Journal(written.append, at_once)
    journal.death("a", partial(death, 1))
    journal.forget("a")
    journal.tail("a", 1, ["bye"])
    journal.tail("a", 1, ["bye", "once more, by a new logger"])
    told, lines = written
    assert [told[key] for key in ("event", "reason", "signal", "restarts_in_window")] == ["otpd.child.death", "killed", 9, 1]
    assert {key: lines[key] for key in ("event", "name", "generation", "lines", "stacks")} == {
        "event": "otpd.child.last_lines", "name": "a", "generation": 1, "lines": ["bye"], "stacks": False,
    }  # fmt: skip


def test_the_lines_of_an_end_that_went_as_asked_are_not_written_down() -> None:
    written: list[dict[str, Any]] = []
    journal = Journal(written.append, at_once)
    journal.death("a", lambda: Death(1, "shutdown", None, 15, 1.0, 2.0, "operator", None, 0))
    journal.tail("a", 1, ["terminate shutdown"])
    assert [event["event"] for event in written] == ["otpd.child.death"]
    assert journal.deaths("a")[0].tail == ["terminate shutdown"]


def test_memory_is_bounded() -> None:
    journal = Journal(lambda _event: None, at_once)
    for generation in range(EVENTS_KEPT + 10):
        journal.event("x")
        journal.death("a", partial(death, generation))
    assert len(journal.last(10**6)) == EVENTS_KEPT
    assert len(journal.deaths("a")) == DEATHS_KEPT
    assert journal.deaths("a")[0].generation == EVENTS_KEPT + 9


def test_the_tail_finds_its_death_and_knows_stacks() -> None:
    journal = Journal(lambda _event: None, at_once)
    journal.death("a", partial(death, 1))
    journal.death("a", partial(death, 2))
    journal.tail("a", 1, ["bye"])
    journal.tail("a", 2, ["Current thread 0x00007f (most recent call first):", '  File "a.py", line 3 in work'])
    assert [(each.generation, each.tail[0], each.stacks) for each in journal.deaths("a")] == [
        (2, "Current thread 0x00007f (most recent call first):", True),
        (1, "bye", False),
    ]
    last = journal.last_death("a")
    assert last is not None
    assert last.summary() == {"reason": "killed", "status": None, "signal": 9, "at": 1.0, "cause": None}
    assert journal.last_death("nobody") is None


def test_a_tail_that_comes_before_its_death_is_kept_for_it() -> None:
    """T16: the logger sees the end of the pipe before root has proved that nothing of the child is left."""
    journal = Journal(lambda _event: None, at_once)
    journal.tail("a", 2, ["bye"])
    journal.death("a", partial(death, 2))
    journal.tail("b", 1, ["of an incarnation that was no death"])
    journal.death("b", partial(death, 2))
    assert [each.tail for name in ("a", "b") for each in journal.deaths(name)] == [["bye"], []]
    for generation in range(2 * EARLY_KEPT):
        journal.tail(f"c{generation}", 1, ["x"])
    assert len(journal._early) == EARLY_KEPT


def test_what_is_noted_is_written_down_later_or_for_whoever_reads_in_order_and_with_its_time() -> None:
    """To start the next incarnation comes before to record the end of the last one."""
    written: list[dict[str, Any]] = []
    put_off: list[Callable[[], None]] = []
    journal = Journal(written.append, put_off.append)
    journal.event("first")
    journal.death("a", partial(death, 1))
    journal.event("second")
    assert (written, len(put_off)) == ([], 1)
    before = time.time()
    assert [each.generation for each in journal.deaths("a")] == [1]
    assert [event["event"] for event in written] == ["otpd.first", "otpd.child.death", "otpd.second"]
    assert all(event["at"] <= before for event in written)
    put_off.pop()()
    assert len(written) == 3
    journal.event("third")
    put_off.pop()()
    assert [event["event"] for event in journal.last(2)] == ["otpd.second", "otpd.third"]
    followed: list[dict[str, Any]] = []
    journal.event("fourth")
    journal.follow(followed.append)
    journal.event("fifth")
    put_off.pop()()
    assert [event["event"] for event in followed] == ["otpd.fifth"]
