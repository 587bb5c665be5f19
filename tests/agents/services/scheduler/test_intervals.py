"""@every: fixed rate and fixed delay on the monotonic clock, whatever else happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otpd.agents.schedules import every_plan
from tests.agents.services.scheduler.rig import HOUR, SECOND, Rig


def test_a_fixed_rate_fires_at_each_multiple_of_its_interval() -> None:
    rig = Rig()
    rig.declare(every_plan("30s"))
    assert rig.at(rig.run(100)) == [30, 60, 90]


def test_a_fixed_delay_counts_from_the_end_of_the_run() -> None:
    rig = Rig()
    rig.declare(every_plan("30s", fixed="delay"))
    (first,) = rig.run(45, answer=None)
    assert rig.run(100, answer=None) == [], "it goes on"
    rig.end(first)
    assert rig.at(rig.run(60)) == [175, 205]


@pytest.mark.parametrize("jump", [-3600, 3600, -86400 * 400, 86400 * 400])
def test_a_jump_of_the_wall_clock_moves_no_interval_timer(jump: int) -> None:
    rig = Rig()
    rig.declare(every_plan("30s"))
    rig.once("a/once", rig.now.mono + 50 * SECOND)
    assert rig.jump(jump) == []
    assert rig.at(rig.run(60)) == [30, 50, 60]


def test_jitter_spreads_runs_and_moves_no_slot() -> None:
    rig = Rig()
    rig.declare(every_plan("10s", jitter="5s"))
    fired = []
    for _ in range(100):
        for fire in rig.run(10):
            fired.append((rig.now.mono, fire.run))
    slots = [run for _, run in fired]
    assert slots == [1000 * SECOND + 10 * SECOND * n for n in range(1, len(slots) + 1)]
    assert len(slots) >= 99


def test_runs_are_late_by_their_jitter_and_differ() -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("10s", jitter="5s"))
    job = rig.machine.jobs[id_]
    delays = {job.due(slot) - slot for slot in range(10 * SECOND, 1000 * SECOND, 10 * SECOND)}
    assert len(delays) > 90
    assert all(0 <= delay < 5 * SECOND for delay in delays)
    assert job.due(10 * SECOND) == job.due(10 * SECOND), "a restart changes nothing"


@pytest.mark.parametrize(
    ("misfire", "runs", "missed"), [("skip", [], 10), ("run_once", [100], 9), ("run_all(3)", [80, 90, 100], 7)]
)
def test_slots_that_pass_while_the_agent_restarts_are_missed_by_policy(misfire: str, runs: list[int], missed: int) -> None:
    rig = Rig()
    rig.declare(every_plan("10s", misfire=misfire))
    rig.state("restarting")
    assert rig.run(109.5) == []
    rig.state("ready", 2)
    for fire in rig.fires:  # each end may bring the next one
        rig.end(fire)
    assert rig.at(rig.fires) == runs
    assert rig.skipped() == {"misfire": missed}
    assert rig.at(rig.run(20)) == [110, 120], "the phase is kept"


def test_a_slot_that_is_a_little_late_is_not_missed() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    rig.state("restarting")
    rig.run(12)
    rig.state("ready", 2)
    assert rig.at(rig.fires) == [10]


def test_grace_is_how_late_a_missed_run_may_be() -> None:
    rig = Rig()
    rig.declare(every_plan("10s", misfire="run_all(100)", grace="25s"))
    rig.state("restarting")
    rig.run(109)
    rig.state("ready", 2)
    for fire in rig.fires:
        rig.end(fire)
    assert rig.at(rig.fires) == [90, 100]
    assert rig.skipped() == {"misfire": 8}


def test_a_paused_schedule_counts_what_it_skips_and_goes_on_in_its_phase() -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("10s"))
    rig.machine.pause(id_, rig.now)
    assert rig.run(35) == []
    assert rig.skipped() == {"paused": 3}
    rig.machine.resume(id_, rig.now)
    assert rig.at(rig.run(10)) == [40]


def test_an_agent_that_restarts_keeps_the_phase_and_one_that_changes_its_plan_gets_another() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    rig.run(14)
    rig.declare(every_plan("10s"), generation=2)
    assert rig.at(rig.run(10)) == [20]
    rig.declare(every_plan("7s"), generation=3)
    assert rig.at(rig.run(10)) == [31]


def test_after_the_death_of_the_scheduler_the_phase_goes_on_from_what_the_agent_was_given_last() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    last = rig.run(25)[-1].run
    again = Rig()
    again.now = rig.now
    again.declare(every_plan("10s"), since=1000 * SECOND, last=last)
    assert again.at(again.run(20)) == [30, 40]


def test_a_long_interval_goes_on_after_a_restart_of_the_node() -> None:
    rig = Rig()
    rig.declare(every_plan("24h"))
    rig.run(30 * 3600)
    again = Rig("2026-03-02T20:00Z")  # two hours later, with another monotonic clock
    ahead = again.now.wall - again.now.mono
    again.machine.restore([replace(record, due=record.due_wall - ahead) for record in rig.disk.values()])
    again.declare(every_plan("24h"))
    (fire,) = again.run(24 * 3600)
    assert again.now.mono - fire.run == 8 * HOUR, "at noon of the 3rd"


def test_what_reaches_nobody_is_skipped_with_its_reason() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    (fire,) = rig.run(10, answer=None)
    rig.end(fire, "undelivered", "overloaded")
    assert rig.skipped() == {"overloaded": 1}
    assert rig.at(rig.run(10)) == [20]
