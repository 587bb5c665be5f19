"""What agents declare is read strictly: nothing that anybody says may end the timers of the others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from otpd.agents.firings import Declaration
from otpd.agents.schedules import LEAST_INTERVAL, Once, Rules, cron_plan, every_plan, to_data
from otpd.agents.services.scheduler.declared import Declared, from_data

EVERY = Declaration("a/tick", "tick", every_plan("10s", overlap="queue(2)", max_runtime="1m"), 5, 4, 3, {2, -7})
CRON = Declaration("a/nightly", "nightly", cron_plan("0 3 * * *", timezone="Europe/Berlin", grace="1h"), 5)


@pytest.mark.parametrize("said", [EVERY, CRON])
def test_what_the_sdk_sends_is_read_as_it_was_meant(said: Declaration) -> None:
    running = tuple(sorted(said.running))
    known = Declared(said.id, said.method, said.plan, said.since, said.last, said.ended, running)
    assert from_data(said.to_data()) == known


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"id": 5}, ValueError, "id: expected text, got 5"),
        ({"method": None}, ValueError, "method: expected text"),
        ({"since": "soon"}, ValueError, "since: expected a whole number"),
        ({"since": 1 << 63}, ValueError, "since: expected a whole number"),
        ({"last": 1.5}, ValueError, "last: expected a whole number"),
        ({"running": ["x"]}, ValueError, "running: expected a whole number"),
        ({"running": None}, TypeError, "not iterable"),
        ({"plan": 5}, TypeError, "not iterable"),
        ({"plan": {"kind": "weekly"}}, KeyError, "weekly"),
        ({"plan": to_data(Once(5, Rules()))}, ValueError, "expected every or cron"),
    ],
)
def test_what_is_wrong_in_a_declaration_is_named(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        from_data(EVERY.to_data() | change)


@pytest.mark.parametrize(
    ("said", "change", "says"),
    [
        (EVERY, {"interval": "x"}, "interval: expected a whole number"),
        (EVERY, {"interval": LEAST_INTERVAL - 1}, "interval: expected a whole number from 10000000"),
        (EVERY, {"interval": True}, "interval"),
        (EVERY, {"jitter": 11_000_000_000}, "jitter: expected a whole number from 0 to 10000000000"),
        (EVERY, {"delay": "yes"}, "delay: expected bool"),
        (CRON, {"expression": "bad"}, "cron: expected five fields"),
        (CRON, {"expression": 5}, "cron: expected five fields"),
        (CRON, {"timezone": "Mars/Olympus"}, "no time zone named"),
        (CRON, {"jitter": -1}, "jitter"),
    ],
)
def test_a_plan_that_could_not_work_is_refused(said: Declaration, change: dict[str, Any], says: str) -> None:
    data = said.to_data()
    data["plan"] |= change
    with pytest.raises(ValueError, match=re.escape(says)):
        from_data(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"misfire": ["skip"]}, "misfire: expected one of skip, run_once, run_all"),
        ({"misfire": "run_all", "limit": 0}, "limit: expected a whole number from 1"),
        ({"overlap": "queue", "queue": 10**6}, "queue: expected a whole number from 1 to 1000"),
        ({"grace": "1h"}, "grace: expected a whole number"),
        ({"max_runtime": 0}, "max_runtime: expected a whole number from 1"),
    ],
)
def test_rules_that_nobody_knows_are_refused(change: dict[str, Any], says: str) -> None:
    data = EVERY.to_data()
    data["plan"]["rules"] |= change
    with pytest.raises(ValueError, match=re.escape(says)):
        from_data(data)
