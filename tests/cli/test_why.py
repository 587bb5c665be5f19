"""`otpd why`: the words."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.cli.output import plain
from otpd.cli.why_view import render
from tests.cli.fake import AT, FakeNode, fails

BACKOFF = {"initial": 0.1, "factor": 2.0, "max": 30.0, "jitter": 0.2, "reset_after": 60.0}

GOLDEN = """\
pricing/calc is backoff (error(1)), generation 3
budget        pricing (rest_for_one) has used 3 of 3 restarts within 5s; one more and pricing gives up
back-off      from 0.1s by 2 up to 30s, from the start again after 1m00s of running
next attempt  in 0.75s

generation 3 ended error(ValueError: no price) 2s ago, at 2027-01-15 07:59:58, after 1.5s, with status 1
  nobody had asked
  restart 3 of 3 within 5s; one more and pricing gives up
  last 2 lines:
  | Traceback (most recent call last):
  | ValueError: no price \\x1b[31m

generation 2 ended killed 1m00s ago, at 2027-01-15 07:59:00, after 12s, by SIGKILL
  asked by pricing: rest_for_one after feed
  it was silent for too long: the stacks of its threads are among its last lines
  left behind: 77 sleep
  it printed nothing"""


def death(**more: Any) -> dict[str, Any]:
    return {
        "generation": 1, "reason": "normal", "status": 0, "signal": None, "at": AT - 2, "uptime_s": 1.5,
        "asked_by": None, "cause": None, "restarts_in_window": 0, "tail": [], "stacks": False, "left": [], **more,
    }  # fmt: skip


def answer(**more: Any) -> dict[str, Any]:
    return {
        "name": "calc", "path": "pricing/calc", "type": "worker", "state": "backoff", "generation": 3, "restarts": 2,
        "what": "error(1)", "supervisor": "pricing", "strategy": "rest_for_one", "max_restarts": 3, "max_seconds": 5,
        "restarts_in_window": 3, "backoff": BACKOFF, "next_attempt_s": 0.75, "deaths": [
            death(
                generation=3, reason="error(ValueError: no price)", status=1, restarts_in_window=2,
                tail=["Traceback (most recent call last):", "ValueError: no price \x1b[31m"],
            ),
            death(
                generation=2, reason="killed", status=None, signal=9, at=AT - 60, uptime_s=12.0, asked_by="pricing",
                cause="rest_for_one after feed", stacks=True, left=["77 sleep"],
            ),
        ], **more,
    }  # fmt: skip


def test_errors_of_earlier_lives_are_told_before_the_deaths_of_this_one() -> None:
    seen = {"first_seen": AT - 3600, "last_seen": AT - 60, "fingerprint": "ab"}
    group = {"kind": "crash", "summary": "killed", "count": 3, **seen}
    single = {**group, "kind": "breaker", "summary": "broker.breaker.opened", "count": 1}
    lines = [plain(line) for line in render({**answer(), "errors": [group, single]}, AT)]
    assert lines[4:7] == [
        "crash         3x killed, last 1m00s ago, first 1h00m ago  otpd errors show ab",
        "breaker       broker.breaker.opened, last 1m00s ago  otpd errors show ab",
        "",
    ]


def test_what_waits_for_its_supervisor_says_so() -> None:
    above = {"name": "pricing", "state": "backoff", "next_attempt_s": 8.0}
    shown = words(answer(state="starting", what=None, next_attempt_s=None, waits_for=above)).splitlines()
    assert shown[3] == "waits for     pricing, which is backoff and is started again in 8s"


def test_an_end_by_a_probe_or_a_limit_counts_in_the_budget_and_one_that_was_wished_does_not() -> None:
    def lines(**more: Any) -> list[str]:
        return words(answer(deaths=[death(reason="error(health: refused)", **more)])).splitlines()[6:8]

    by_health = lines(asked_by="health", cause="health: refused")
    assert by_health == ["  asked by health: health: refused", "  restart 1 of 3 within 5s"]
    assert lines(asked_by="operator") == ["  asked by operator", "  it printed nothing"]


def test_a_supervisor_is_not_said_to_have_never_ended() -> None:
    (*_, last) = words(answer(type="supervisor", name="pricing", path="pricing", deaths=[])).splitlines()
    assert last == "how a supervisor ends: otpd errors pricing; why its children do: otpd why CHILD"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def words(found: dict[str, Any]) -> str:
    return "\n".join(plain(line) for line in render(found, AT))


def test_the_whole_story() -> None:
    assert words(answer()) == GOLDEN


@pytest.mark.parametrize(
    ("used", "most", "text"),
    [
        (0, 3, "has used 0 of 3 restarts within 5s; 3 more are allowed before pricing gives up"),
        (2, 3, "has used 2 of 3 restarts within 5s; 1 more is allowed before pricing gives up"),
        (3, 3, "has used 3 of 3 restarts within 5s; one more and pricing gives up"),
        (0, 0, "has used 0 of 0 restarts within 5s; one more and pricing gives up"),
        (9, None, "has no restart limit"),
    ],
)
def test_the_arithmetic_of_the_budget(used: int, most: int | None, text: str) -> None:
    shown = words(answer(restarts_in_window=used, max_restarts=most, deaths=[]))
    assert f"budget        pricing (rest_for_one) {text}" in shown.splitlines()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "restart 1 of 3 within 5s"),
        (2, "restart 3 of 3 within 5s; one more and pricing gives up"),
        (3, "3 of 3 restarts within 5s were used; this was one more, and pricing gave up"),
    ],
)
def test_the_arithmetic_of_a_death(number: int, text: str) -> None:
    assert f"  {text}" in words(answer(deaths=[death(restarts_in_window=number)])).splitlines()


@pytest.mark.parametrize(
    ("restart", "reason", "text"),
    [
        ("temporary", "killed", "not restarted: it is temporary"),
        ("transient", "normal", "not restarted: it is transient and its end was clean"),
        ("transient", "killed", "restart 1 of 3 within 5s"),
        ("permanent", "normal", "restart 1 of 3 within 5s"),
    ],
)
def test_an_end_that_leads_to_no_restart_says_why(restart: str, reason: str, text: str) -> None:
    assert f"  {text}" in words(answer(restart=restart, deaths=[death(reason=reason)])).splitlines()


def test_a_supervisor_without_a_limit_counts_nothing() -> None:
    assert "  pricing restarts without a limit" in words(answer(max_restarts=None, deaths=[death()])).splitlines()


def test_a_child_of_the_top_has_the_top_as_its_supervisor() -> None:
    shown = words(answer(path="calc", max_restarts=None, deaths=[]))
    assert "the top supervisor (rest_for_one) has no restart limit" in shown


def test_a_child_that_never_ended() -> None:
    found = answer(state="running", what=None, deaths=[], backoff=None, next_attempt_s=None)
    assert words(found).splitlines()[0] == "pricing/calc is running, generation 3"
    assert words(found).splitlines()[-1] == "it has not ended since the node was started"


def test_json_is_what_root_answered_and_what_the_error_store_knows(node: FakeNode) -> None:
    node.answers["why"] = answer()
    assert node.json("why", "calc") == {**answer(), "errors": []}
    assert node.asked("why") == [{"name": "calc"}]


def test_the_command_prints_the_words(node: FakeNode) -> None:
    node.answers["why"] = answer()
    shown = node.otpd("why", "calc").stdout.splitlines()
    assert shown[:4] == GOLDEN.splitlines()[:4]


def test_an_unknown_name_is_exit_4(node: FakeNode) -> None:
    node.answers["why"] = fails(4, "no child is called 'clac'", "did you mean calc?")
    assert node.otpd("why", "clac", code=4).stderr.endswith("next: did you mean calc?\n")
