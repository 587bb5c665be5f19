"""Restart intensity: what counts, when it is too much, and the window that slides."""

from __future__ import annotations

import pytest

from otpd.supervisor.events import RestartChild, TerminateChild
from otpd.supervisor.intensity import Window
from tests.supervisor.rig import Rig, supervisor, worker


def test_max_restarts_are_allowed_and_one_more_ends_the_supervisor() -> None:
    """Rules 43, 47."""
    rig = Rig(worker("a"), worker("b"), max_restarts=2).boot()
    assert rig.crash("a") == ["spawn a 2"]
    assert rig.crash("b") == ["spawn b 2"]
    assert rig.crash("a") == ["stop b 2 5.0", "gave up shutdown"]
    assert [(kind, data["child"]) for kind, _, data in rig.told("shutdown", "gave_up")] == [
        ("shutdown", "a"),
        ("gave_up", "a"),
    ]


def test_zero_allows_none() -> None:
    """Rule 44."""
    assert Rig(worker("a"), max_restarts=0).boot().crash("a") == ["gave up shutdown"]


def test_none_is_no_limit_but_still_counts() -> None:
    rig = Rig(worker("a"), max_restarts=None).boot()
    for attempt in range(2, 500):
        assert rig.crash("a") == [f"spawn a {attempt}"]
    assert rig.tree.snapshot(rig.now).restarts_in_window == 498
    assert rig.tree.snapshot(rig.now + 60).restarts_in_window == 0


@pytest.mark.parametrize(
    ("second", "gives_up"), [(0.0, True), (4.99, True), (5.0, True), (5.99, True), (6.0, False), (60.0, False)]
)
def test_the_window_slides_in_whole_seconds_and_includes_its_edge(second: float, gives_up: bool) -> None:
    """Rule 45."""
    rig = Rig(worker("a"), max_restarts=1, max_seconds=5).boot()
    rig.at(100.0).crash("a")
    assert rig.at(100.0 + second).crash("a") == (["gave up shutdown"] if gives_up else ["spawn a 3"])


def test_what_is_done_by_hand_does_not_count() -> None:
    """Rule 49."""
    rig = Rig(worker("a"), max_restarts=0).boot()
    for generation in range(1, 10):
        assert rig.request(TerminateChild("top", "a")) == [f"stop a {generation} 5.0", "reply ok"]
        assert rig.request(RestartChild("top", "a")) == [f"spawn a {generation + 1}", f"reply ['ok', {generation + 1}]"]


def test_the_window_belongs_to_the_supervisor_and_not_to_the_child() -> None:
    """Rule 50."""
    rig = Rig(supervisor("s", worker("x"), max_restarts=1), supervisor("t", worker("x"), max_restarts=1)).boot()
    assert rig.crash("s/x") == ["spawn s/x 2"]
    assert rig.crash("t/x") == ["spawn t/x 2"]


def test_a_child_that_can_not_start_uses_up_the_intensity() -> None:
    """Rule 40."""
    rig = Rig(worker("a"), worker("b"), max_restarts=3).boot()
    rig.fails["a"] = "no such file"
    assert rig.crash("a") == ["spawn a 2", "spawn a 3", "spawn a 4", "stop b 1 5.0", "gave up shutdown"]


def test_new_limits_keep_the_old_history() -> None:
    window = Window(limit=5, period=5)
    assert [window.admit(10.0) for _ in range(3)] == [True, True, True]
    window.change(limit=3, period=10)
    assert (window.admit(20.0), window.count(20.0), window.count(31.0)) == (False, 4, 0)
