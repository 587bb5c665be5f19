"""@cron: each slot of the wall clock once per policy, through jumps and through both changes of the clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.cronline import Cronline
from otpd.agents.schedules import cron_plan
from tests.agents.services.scheduler.rig import HOUR, SECOND, Rig, utc, wall

NIGHT = "30 2 * * *"


def test_a_cron_line_fires_at_its_slots_in_its_time_zone() -> None:
    rig = Rig("2026-03-01T12:00Z")
    rig.declare(cron_plan("0 3 * * *", timezone="Europe/Berlin"))
    assert utc(rig.run(48 * 3600)) == ["02. 02:00", "03. 02:00"]


@pytest.mark.parametrize(
    ("zone", "begin", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T12:00Z", ["29. 01:00", "30. 00:30"]),
        ("Europe/Berlin", "2026-10-24T12:00Z", ["25. 00:30", "26. 01:30"]),
        ("America/New_York", "2026-03-07T12:00Z", ["08. 07:00", "09. 06:30"]),
        ("America/New_York", "2026-10-31T12:00Z", ["01. 07:30", "02. 07:30"]),
    ],
)
def test_a_fixed_time_fires_once_on_the_days_on_which_clocks_are_changed(zone: str, begin: str, expected: list[str]) -> None:
    """New York changes at 02:00, so that 02:30 comes once in autumn, and Berlin at 03:00, so that it comes twice."""
    rig = Rig(begin)
    rig.declare(cron_plan(NIGHT, timezone=zone))
    assert utc(rig.run(44 * 3600)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("begin", ["2026-03-28T12:00Z", "2026-03-07T12:00Z", "2026-10-24T12:00Z", "2026-10-31T12:00Z"])
def test_a_line_with_a_star_goes_by_the_time_that_really_passes(zone: str, begin: str) -> None:
    rig = Rig(begin)
    rig.declare(cron_plan("*/30 * * * *", timezone=zone))
    fired = rig.run(36 * 3600)
    assert [fire.run - wall(begin) for fire in fired] == [HOUR // 2 * n for n in range(1, 73)]


def test_a_jump_forward_over_a_slot_fires_it_once_and_the_way_back_does_not_fire_it_again() -> None:
    rig = Rig("2026-03-01T11:30Z")
    rig.declare(cron_plan("0 12 * * *"))
    assert utc(rig.jump(3600)) == ["01. 12:00"]
    assert rig.jump(-3600) == []
    assert utc(rig.run(24 * 3600)) == [], "noon of the 1st comes again, and it is not fired again"
    assert utc(rig.run(3600)) == ["02. 12:00"]


def test_a_jump_back_fires_no_slot_again() -> None:
    rig = Rig("2026-03-01T11:30Z")
    rig.declare(cron_plan("*/15 * * * *"))
    assert utc(rig.run(2400)) == ["01. 11:45", "01. 12:00"]
    rig.jump(-3600)
    assert utc(rig.run(4200)) == ["01. 12:15"], "from 11:10 to 12:20"


def test_a_clock_that_was_wrong_by_years_is_not_waited_for() -> None:
    rig = Rig("2099-01-01T00:00Z")
    rig.declare(cron_plan("0 * * * *"))
    rig.run(7300)
    rig.jump(wall("2026-03-01T11:30Z") // SECOND - rig.now.wall // SECOND)
    assert utc(rig.run(7200)) == ["01. 12:00", "01. 13:00"]


@pytest.mark.parametrize(
    ("misfire", "fired", "missed"),
    [("skip", [], 3), ("run_once", ["04. 03:00"], 2), ("run_all(2)", ["03. 03:00", "04. 03:00"], 1)],
)
def test_slots_of_a_night_without_scheduler_are_missed_by_policy(misfire: str, fired: list[str], missed: int) -> None:
    rig = Rig("2026-03-01T12:00Z")
    rig.declare(cron_plan("0 3 * * *", misfire=misfire))
    again = Rig("2026-03-04T12:00Z", rig.disk)
    again.declare(cron_plan("0 3 * * *", misfire=misfire))
    assert utc(again.run(60)) == fired
    assert again.skipped() == {"misfire": missed}


def test_made_up_runs_that_wait_are_not_lost_with_the_scheduler() -> None:
    rig = Rig("2026-03-01T12:00Z")
    plan = cron_plan("0 3 * * *", misfire="run_all(9)")
    rig.declare(plan)
    second = Rig("2026-03-04T12:00Z", rig.disk)
    second.declare(plan)
    second.tick(answer=None)
    (going,) = second.fires
    assert utc(second.fires) == ["02. 03:00"]
    third = Rig("2026-03-04T12:01Z", second.disk)
    third.declare(plan, last=going.run, running=(going.run,))
    for _ in range(3):  # each end brings the next one
        third.tick(answer=None)
        third.end(third.fires[-1])
    assert [fire.only for fire in third.fires] == [1, None, None]
    assert utc(third.fires) == ["02. 03:00", "03. 03:00", "04. 03:00"]


def test_a_slot_is_on_disk_before_it_is_fired() -> None:
    rig = Rig("2026-03-01T11:59Z")
    id_ = rig.declare(cron_plan("0 12 * * *"))
    (fire,) = rig.run(61, answer=None)
    assert (rig.disk[id_].last, rig.disk[id_].run, rig.disk[id_].generation) == (fire.run, fire.run, 1)
    rig.end(fire)
    assert (rig.disk[id_].last, rig.disk[id_].run) == (fire.run, None)


def test_a_slot_that_was_about_to_be_given_is_given_by_the_next_life_to_the_same_generation_only() -> None:
    rig = Rig("2026-03-01T11:59Z")
    plan = cron_plan("0 12 * * *")
    rig.declare(plan)
    rig.run(61, answer=None)
    again = Rig("2026-03-01T12:01Z", rig.disk)
    again.declare(plan)
    assert [(fire.only, utc([fire])) for fire in again.fires] == [(1, ["01. 12:00"])]
    third = Rig("2026-03-01T12:01Z", dict(rig.disk))
    third.declare(plan, last=rig.fires[0].run)
    assert third.fires == [], "the agent has had it"


def test_what_reaches_nobody_is_tried_again_until_it_does() -> None:
    rig = Rig("2026-03-01T11:59Z")
    rig.declare(cron_plan("0 12 * * *"))
    (fire,) = rig.run(60.5, answer=None)
    rig.end(fire, "undelivered", "circuit_open")
    (again,) = rig.run(1.5)
    assert (again.run, rig.skipped()) == (fire.run, {})


@pytest.mark.parametrize(
    ("line", "zone", "said"),
    [
        ("0 3 * *", "UTC", "expected five fields"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("0 0 31 2 *", "UTC", "Bad day-of-month"),
        (5, "UTC", "got 5"),
        ("0 3 * * *", "Mars/Olympus", "no time zone named 'Mars/Olympus'"),
        ("0 3 * * *", None, "no time zone named None"),
    ],
)
def test_what_is_no_cron_line_is_refused_with_what_would_be(line: object, zone: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cronline(line, zone)  # type: ignore[arg-type]


@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */5 * * 1-5", "15,45 1-3 * * *", "59 23 L * *", "*/20 30 1 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.integers(wall("2025-01-01T00:00Z") // SECOND, wall("2027-01-01T00:00Z") // SECOND),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_slots_only_grow_and_the_newest_are_those_that_come_last(
    expression: str, zone: str, begin: int, count: int, limit: int
) -> None:
    line = Cronline(expression, zone)
    slots, moment = [], begin * SECOND
    for _ in range(count):
        following = line.after(moment)
        assert following is not None and following > moment
        slots.append(following)
        moment = following
    assert line.newest(begin * SECOND, moment, limit) == slots[-limit:]
    assert line.count(begin * SECOND, moment) == count
