"""What root shows of a worker that runs and falls silent."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from otpd.supervisor.incarnation import Due, Incarnation
from otpd.supervisor.live import Live
from otpd.supervisor.loop import Timer
from otpd.supervisor.spec import ChildSpec, Launch


def beaten(at: float, watchdog: float | None = 10.0) -> Live:
    """One that runs and has beaten for the last time at `at`."""
    launch = Launch(kind="service", script="/a.py", ready="init", watchdog=watchdog)
    incarnation = Incarnation("top/a", 1, launch, 5.0)
    incarnation.launched()
    incarnation.ready()
    live = Live("top/a", ChildSpec(id="a", start=launch), launch, incarnation, at)
    if watchdog is not None:
        live.timers[Due.SILENT] = Timer(Mock(), at + watchdog, 1, lambda: None)
    return live


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, None),
        (5.0, None),
        (6.25, "silent for 6.2 s, its watchdog waits 10 s"),
    ],
)
def test_one_that_has_missed_two_beats_is_shown_as_silent(seconds: float, shown: str | None) -> None:
    assert beaten(100.0).silence(100.0 + seconds) == shown


def test_what_its_watchdog_has_found_is_shown_until_it_is_ended() -> None:
    live = beaten(100.0)
    live.incarnation.due(Due.SILENT)
    del live.timers[Due.SILENT]
    assert live.silence(110.5) == "watchdog: silent for 10 s"


def test_of_one_that_nobody_watches_nothing_is_said() -> None:
    assert beaten(100.0, watchdog=None).silence(200.0) is None
