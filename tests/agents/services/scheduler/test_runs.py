"""Runs that overlap, run too long, reach nobody or are lost sight of; one-shot timers; names that come and go; operators."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otpd.agents.schedules import Once, Rules, cron_plan, every_plan
from otpd.agents.services.scheduler import machine
from otpd.agents.services.scheduler.effects import Cancel, Note
from otpd.agents.services.scheduler.machine import ABSENT, STOPPED, Full
from tests.agents.services.scheduler.rig import HOUR, SECOND, Rig, utc, wall

# --- overlap ---


@pytest.mark.parametrize(
    ("overlap", "fired", "skipped"),
    [("skip", [10], 3), ("queue(2)", [10], 1), ("allow", [10, 20, 30, 40], 0), ("kill_previous", [10, 20, 30, 40], 0)],
)
def test_what_overlaps_goes_by_policy(overlap: str, fired: list[int], skipped: int) -> None:
    rig = Rig()
    rig.declare(every_plan("10s", overlap=overlap))
    assert rig.at(rig.run(45, answer=None)) == fired
    assert rig.skipped() == ({"overlap": skipped} if skipped else {})
    assert [cancel.run for cancel in rig.cancelled] == ([fire.run for fire in rig.fires[:-1]] if "kill" in overlap else [])


def test_what_is_queued_runs_when_the_one_before_has_ended() -> None:
    rig = Rig()
    rig.declare(every_plan("10s", overlap="queue(2)"))
    (first,) = rig.run(35, answer=None)
    rig.end(first)
    assert rig.at(rig.fires) == [10, 20]
    rig.end(rig.fires[-1])
    assert rig.at(rig.fires) == [10, 20, 30]


def test_a_run_that_takes_too_long_is_cancelled_and_the_next_one_comes() -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("10s", max_runtime="4s"))
    (first,) = rig.run(13, answer=None)
    assert rig.run(2, answer=None) == []
    assert rig.cancelled == [Cancel(id_, first.run)]
    assert rig.machine.jobs[id_].ended == ("overrun", rig.now.wall - SECOND)
    assert rig.at(rig.run(6, answer=None)) == [20]
    rig.end(first, "done")
    assert list(rig.machine.jobs[id_].runs or ()) == [rig.fires[-1].run], "an end that comes late concerns nobody"


# --- the broker and the scheduler die ---


def test_a_run_whose_broker_has_died_is_asked_for_again_of_the_same_generation_only() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    (first,) = rig.run(10, answer=None)
    rig.end(first, "unknown")
    again = rig.fires[-1]
    assert (first.only, again.only, again.run) == (None, 1, first.run)
    rig.state("restarting")
    rig.state("ready", 2)
    rig.end(again, "unknown")
    assert rig.fires[-1].only == 1, "whom it may have reached first"
    rig.end(again, "lost")
    assert rig.machine.jobs["a/work"].ended == ("lost", rig.now.wall)


def test_what_goes_on_while_the_scheduler_is_started_again_is_attached_to_and_overlaps() -> None:
    rig = Rig()
    going = 990 * SECOND
    rig.declare(every_plan("10s"), since=0, last=going, running=(going,))
    assert [(fire.run, fire.only) for fire in rig.fires] == [(going, 1)]
    assert rig.run(5, answer=None) == []
    assert rig.skipped() == {"overlap": 1}, "the slot of 1000 s"
    rig.end(rig.fires[0])
    assert rig.at(rig.run(10)) == [10]


def test_without_a_broker_nothing_is_given_so_that_nobody_can_be_said_to_have_it() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.machine.connected(False, rig.now)
    assert rig.run(10) == []
    assert rig.disk["a/1"].run is None
    again = Rig(disk=rig.disk)
    again.now = rig.now
    again.machine.connected(False, again.now)
    again.state("ready", 2)
    assert again.run(1) == []
    again.machine.connected(True, again.now)
    assert [(each.id, each.only) for each in again.work_off()] == [("a/1", None)], "the next generation may have it"


def test_a_run_that_goes_on_is_asked_for_again_when_there_is_a_broker_again() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    (first,) = rig.run(10, answer=None)
    rig.machine.connected(False, rig.now)
    rig.end(first, "unknown")
    assert rig.run(3) == []
    rig.machine.connected(True, rig.now)
    assert [(each.run, each.only) for each in rig.work_off()] == [(first.run, 1)]


# --- one-shot ---


def test_a_one_shot_fires_once_and_is_gone() -> None:
    rig = Rig()
    id_ = rig.once("a/job/1", rig.now.mono + 5 * SECOND)
    assert rig.disk[id_].due == rig.now.mono + 5 * SECOND
    assert rig.at(rig.run(60)) == [5]
    assert (rig.machine.jobs, rig.disk, rig.machine.owners, rig.machine.next) == ({}, {}, {}, (None, None))


def test_a_one_shot_at_a_time_of_day_goes_by_the_wall_clock() -> None:
    rig = Rig("2026-03-01T12:00Z")
    for id_, at in (("a/1", "2026-03-01T13:00Z"), ("a/2", "2026-03-01T15:00Z")):
        rig.once(id_, wall(at), wall=True)
    assert utc(rig.jump(3600)) == ["01. 13:00"]
    assert rig.jump(-3600) == []
    assert utc(rig.run(3 * 3600 + 1)) == ["01. 15:00"]


def test_a_cancelled_one_never_fires_and_one_that_runs_can_t_be_cancelled() -> None:
    rig = Rig()
    id_ = rig.once("a/job/1", rig.now.mono + 5 * SECOND)
    assert not rig.machine.cancel("b", id_), "of another"
    assert rig.machine.cancel("a", id_)
    assert not rig.machine.cancel("a", id_)
    assert rig.run(60) == []
    rig.once("a/job/2", rig.now.mono + 5 * SECOND)
    rig.run(6, answer=None)
    assert not rig.machine.cancel("a", "a/job/2")


def test_the_same_one_once_more_changes_nothing_and_another_under_its_id_takes_its_place() -> None:
    rig = Rig()
    due = rig.now.mono + 5 * SECOND
    rig.once("a/key", due)
    timer = rig.machine.jobs["a/key"].timer
    rig.once("a/key", due)
    assert rig.machine.jobs["a/key"].timer is timer
    rig.once("a/key", due + 5 * SECOND)
    assert rig.at(rig.run(60)) == [10]


def test_one_shots_follow_the_name_through_restarts_of_their_agent_and_of_the_scheduler() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.state("restarting")
    assert rig.run(10) == []
    again = Rig(disk=rig.disk)
    again.now = rig.now
    again.tick()
    assert again.fires == [], "nobody is there"
    again.state("ready", 2)
    assert again.at(again.fires) == [5]


@pytest.mark.parametrize("generation", [0, 1])
def test_that_it_was_starting_is_no_news_of_one_that_is_known_to_be_ready(generation: int) -> None:
    """An answer of the broker may be heard behind an event that is newer: they come on two lanes."""
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.state("ready", 1)
    rig.state("starting", generation)
    assert len(rig.run(5)) == 1


def test_that_it_was_ready_is_no_news_of_one_that_is_known_to_be_dead() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.state("ready", 1)
    rig.state("restarting", 1)
    rig.state("ready", 1)
    assert rig.run(10) == []
    rig.state("ready", 2)
    assert rig.at(rig.fires) == [5]


@pytest.mark.parametrize(("generation", "only"), [(1, 1), (2, 1)])
def test_one_that_was_given_before_the_scheduler_died_is_asked_for_where_it_went(generation: int, only: int) -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.run(6, answer=None)
    again = Rig(disk=rig.disk)
    again.state("ready", generation)
    (fire,) = again.fires
    assert (fire.run, fire.only) == (rig.fires[0].run, only)
    assert not again.machine.cancel("a", "a/1")
    again.end(fire, "lost" if generation == 2 else "done")
    assert (again.machine.jobs, again.disk) == ({}, {})


def test_a_late_one_shot_runs_unless_it_is_later_than_its_grace() -> None:
    rig = Rig()
    for id_, grace in (("a/late", None), ("a/too late", 20 * SECOND)):
        rig.once(id_, rig.now.mono + 5 * SECOND, grace=grace)
    rig.state("restarting")
    rig.run(60)
    rig.state("ready", 2)
    assert [fire.id for fire in rig.fires] == ["a/late"]
    assert Note("skipped", "a/too late", {"why": "misfire", "count": 1}) in rig.notes
    assert list(rig.machine.jobs) == ["a/late"]


def test_what_reaches_nobody_is_tried_again() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    (fire,) = rig.run(5, answer=None)
    rig.end(fire, "undelivered", "overloaded")
    assert rig.disk["a/1"].run is None, "nobody has it"
    assert [each.only for each in rig.run(1.5)] == [None]
    assert rig.machine.jobs == {}


def test_a_question_that_reaches_nobody_is_put_again_and_gives_the_run_to_no_other() -> None:
    """The broker died behind the first word, the inbox was full at the second: generation 1 may have had it all the same."""
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    (fire,) = rig.run(5, answer=None)
    rig.end(fire, "unknown")
    rig.end(rig.fires[-1], "undelivered", "overloaded")
    assert (rig.disk["a/1"].run, rig.disk["a/1"].generation) == (fire.run, 1)
    rig.state("restarting")
    rig.state("ready", 2)
    assert [(each.run, each.only) for each in rig.run(1.5, answer="lost")] == [(fire.run, 1)]
    assert rig.machine.jobs == {}


def test_a_cron_slot_whose_question_reaches_nobody_goes_to_no_other() -> None:
    rig = Rig()
    id_ = rig.declare(cron_plan("* * * * *"))
    (fire,) = rig.run(60, answer=None)
    rig.end(fire, "unknown")
    rig.end(rig.fires[-1], "undelivered", "circuit_open")
    assert [(each.run, each.only) for each in rig.run(1.5, answer="lost")] == [(fire.run, 1)]
    assert rig.machine.jobs[id_].fired == 1


def test_arguments_of_timers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(machine, "MOST_BYTES", 10)
    with pytest.raises(Full):
        rig.machine.schedule("a", 1, "a/1", "work", Once(0, Rules()), b"x" * 11, rig.now)
    assert rig.machine.jobs == {}


# --- names ---


def test_a_name_that_is_gone_leaves_nothing() -> None:
    rig = Rig()
    rig.declare(cron_plan("0 * * * *"))
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.once("a/2", rig.now.wall + 5 * SECOND, wall=True)
    rig.state("gone", 0)
    assert (rig.machine.jobs, rig.machine.owners, rig.disk, rig.machine.next) == ({}, {}, {}, (None, None))


def test_a_name_that_is_stopped_for_a_moment_keeps_all_and_one_that_stays_stopped_nothing() -> None:
    """A supervisor that is restarted shows its children as stopped on the way."""
    rig = Rig()
    rig.declare(every_plan("10s"))
    rig.state("stopped")
    rig.run(STOPPED / SECOND / 2)
    rig.state("starting", 2)
    rig.state("ready", 2)
    assert rig.at(rig.run(10)) == [10]
    rig.state("stopped", 2)
    rig.run(STOPPED / SECOND + 1)
    assert (rig.machine.jobs, rig.machine.owners, rig.machine.next) == ({}, {}, (None, None))


def test_what_is_on_disk_waits_for_names_that_the_new_node_does_not_have_yet() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    again = Rig(disk={id_: replace(record, generation=0) for id_, record in rig.disk.items()})  # of another life of root
    again.state(None, 0)
    again.run(60)
    again.state("starting", 0)
    again.run(ABSENT / SECOND)
    again.state("ready", 1)
    assert len(again.fires) == 1
    third = Rig(disk={"a/1": rig.disk.get("a/1", None) or next(iter(again.disk.values()))})
    third.state(None, 0)
    third.run(ABSENT / SECOND + 1)
    assert (third.machine.jobs, third.disk) == ({}, {})


def test_a_name_that_was_deleted_while_the_scheduler_was_away_has_no_timers_when_it_is_back() -> None:
    rig = Rig()
    rig.once("a/1", rig.now.mono + HOUR)
    rig.declare(every_plan("10m"))
    again = Rig(disk=dict(rig.disk))
    again.state(None, 0)
    assert (again.machine.jobs, again.machine.owners, again.disk) == ({}, {}, {})


def test_a_name_that_was_deleted_and_made_anew_while_the_scheduler_was_away_begins_with_generation_1_again() -> None:
    rig = Rig()
    rig.state("ready", 7)
    rig.once("a/1", rig.now.mono + 5 * SECOND, generation=7)
    again = Rig(disk=dict(rig.disk))
    again.state("ready", 1)
    assert len(again.run(5)) == 1


def test_a_cron_run_that_an_incarnation_may_have_had_is_not_decided_again_in_another_life_of_root() -> None:
    """The broker died while it went on, and everybody before there was another one."""
    rig = Rig()
    rig.declare(cron_plan("0 13 * * *"))
    (fire,) = rig.run(HOUR / SECOND, answer=None)
    rig.machine.connected(False, rig.now)
    rig.end(fire, "unknown")
    again = Rig(at="2026-03-01T13:00Z", disk={id_: replace(record, generation=0) for id_, record in rig.disk.items()})
    again.declare(cron_plan("0 13 * * *"))
    again.end(again.fires[0], "lost")
    again.run(60)
    assert [(each.run, each.only) for each in again.fires] == [(fire.run, 0)], "asked for, of an incarnation that is no more"


def test_what_a_later_incarnation_does_not_declare_any_more_is_gone() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"), method="old")
    rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.declare(every_plan("10s"), generation=2, method="new")
    assert list(rig.machine.jobs) == ["a/1", "a/new"]


def test_a_replaced_incarnation_declares_nothing() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"), generation=2)
    rig.declare(every_plan("99s"), generation=1)
    assert rig.at(rig.run(10)) == [10]


def test_the_word_of_one_whose_end_is_known_does_not_make_it_ready() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    rig.state("restarting")
    rig.declare(every_plan("10s"))
    assert rig.run(20) == []


# --- operators ---


def test_run_now_starts_no_second_timer() -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("30s"))
    rig.run(12)
    assert rig.machine.run_now(id_, rig.now) is None
    rig.tick()
    (manual,) = rig.work_off() or rig.fires
    rig.end(manual)
    assert rig.at(rig.run(60)) == [30, 60]


@pytest.mark.parametrize("fixed", ["rate", "delay"])
def test_run_now_is_refused_while_a_run_goes_on_and_nobody_is_there(fixed: str) -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("30s", fixed=fixed))
    (fire,) = rig.run(31, answer=None)
    assert rig.machine.run_now(id_, rig.now) == "a run of it goes on, and it does not overlap"
    rig.end(fire)
    rig.state("restarting")
    assert rig.machine.run_now(id_, rig.now) == "a is not ready"


def test_run_now_of_a_one_shot_is_its_one_run() -> None:
    rig = Rig()
    id_ = rig.once("a/1", rig.now.mono + HOUR)
    assert rig.machine.run_now(id_, rig.now) is None
    rig.end(rig.work_off()[0])
    assert rig.machine.jobs == {}
    assert rig.run(7200) == []


def test_a_pause_outlives_the_scheduler_and_ends_with_resume() -> None:
    rig = Rig()
    id_ = rig.declare(every_plan("10s"))
    rig.machine.pause(id_, rig.now)
    rig.work_off()
    again = Rig(disk=rig.disk)
    again.declare(every_plan("10s"))
    assert again.run(25) == []
    again.machine.resume(id_, again.now)
    again.work_off()
    assert again.disk == {}
    assert again.at(again.run(10)) == [30]


def test_a_paused_one_shot_fires_when_it_is_resumed() -> None:
    rig = Rig()
    id_ = rig.once("a/1", rig.now.mono + 5 * SECOND)
    rig.machine.pause(id_, rig.now)
    assert rig.run(60) == []
    rig.machine.resume(id_, rig.now)
    assert len(rig.work_off()) == 1


# --- many ---


def test_twenty_thousand_timers_that_are_cancelled_leave_nothing() -> None:
    rig = Rig()
    rules = Rules()
    for n in range(20_000):
        rig.machine.schedule("a", 1, f"a/{n}", "work", Once(rig.now.mono + HOUR + n, rules), b"", rig.now)
        rig.machine.effects.clear()
    assert len(rig.machine.mono) == 20_000
    for n in range(20_000):
        rig.machine.cancel("a", f"a/{n}")
    assert (len(rig.machine.mono._heap) < 100, rig.machine.jobs, rig.machine.owners) == (True, {}, {})
