"""The foreground view: what it tells of events, and that nobody depends on it."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.cli.console import narrate


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "otpd.child.started", "path": "pair/web", "generation": 2}, "otpd: pair/web started, generation 2"),
        (
            {"event": "otpd.child.start_failed", "path": "web", "reason": "no such file"},
            "otpd: web did not start: no such file",
        ),
        ({"event": "otpd.child.exited", "path": "web", "reason": "shutdown", "asked": True}, "otpd: web stopped"),
        ({"event": "otpd.child.exited", "path": "web", "reason": "killed", "asked": False}, "otpd: web ended: killed"),
        (
            {"event": "otpd.restart.scheduled", "path": "web", "delay": 0.25},
            "otpd: web is started again in 0.25s",
        ),
        (
            {"event": "otpd.supervisor.gave_up", "path": "pair", "max_restarts": 3, "max_seconds": 5},
            "otpd: pair gives up: more than 3 restarts in 5 s were needed",
        ),
        (
            {"event": "otpd.node.started", "name": "shop", "path": ""},
            "otpd: shop is ready; ^C stops it in order, a second ^C kills",
        ),
        (
            {"event": "otpd.node.stopping", "name": "shop", "path": ""},
            "otpd: shop is stopping in order; ^C again kills what is left",
        ),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_what_a_person_in_front_of_the_node_is_told(event: dict[str, Any], text: str) -> None:
    span = narrate(event)
    assert span is not None and span.text == text


@pytest.mark.parametrize(
    "event",
    [
        {"event": "otpd.supervisor.started", "path": "pair"},
        {"event": "otpd.report.child_terminated", "path": "pair"},
        {"event": "otpd.restart.scheduled", "path": "web", "delay": 0},
    ],
    ids=lambda event: event["event"],
)
def test_what_says_the_same_again_is_left_out(event: dict[str, Any]) -> None:
    assert narrate(event) is None


def test_a_reason_can_do_nothing_to_the_terminal() -> None:
    span = narrate({"event": "otpd.child.exited", "path": "web", "reason": "error(\x1b[2J)", "asked": False})
    assert span is not None and "\x1b" not in span.text
