"""What the scheduler tells once a second: counts that leave out none, and runs with their times, as many as may be."""

from __future__ import annotations

from otpd.agents.schedules import every_plan
from otpd.agents.services.scheduler.effects import Note
from otpd.agents.services.scheduler.telling import MOST, Telling, Told
from tests.agents.services.scheduler.rig import SECOND, Rig, wall


def told_of(rig: Rig) -> Told:
    telling = Telling()
    for note in rig.notes:
        telling.heard(note)
    return telling.take()


def test_a_run_that_has_ended_is_told_with_its_start_its_seconds_and_its_outcome() -> None:
    rig = Rig()
    rig.declare(every_plan("10s"))
    (fire,) = rig.run(13, answer=None)
    rig.end(fire, "raised")
    told = told_of(rig)
    assert told.ran == {
        "counts": [{"schedule": "a/work", "outcome": "raised", "count": 1, "seconds": 3.0}],
        "runs": [
            {
                "id": "a/work", "schedule": "a/work", "outcome": "raised", "generation": 1,
                "start": wall("2026-03-01T12:00Z") / SECOND + 10, "seconds": 3.0, "late_s": 0.0,
            }
        ],
        "left_out": 0,
    }  # fmt: skip
    assert told.notes == [("ended", "a", {"schedule": "a/work", "why": "raised", "count": 1})]
    assert told.emits == [
        ("schedule.fired", {"schedule": "a/work", "count": 1, "late_s": 0.0}),
        ("schedule.ended", {"schedule": "a/work", "count": 1, "why": "raised"}),
    ]


def test_a_run_that_takes_too_long_one_that_is_killed_and_one_that_is_skipped_are_told_as_that() -> None:
    for plan, outcome, count, took in (
        (every_plan("10s", max_runtime="4s"), "overrun", 1, [4.0]),
        (every_plan("10s", overlap="kill_previous"), "killed", 1, [10.0]),
        (every_plan("10s", overlap="skip"), "skipped", 1, []),
    ):
        rig = Rig()
        rig.declare(plan)
        rig.run(20 if outcome != "overrun" else 15, answer=None)
        ran = told_of(rig).ran
        assert ran is not None
        assert [(row["outcome"], row["count"]) for row in ran["counts"]] == [(outcome, count)]
        assert [(run["outcome"], run["seconds"]) for run in ran["runs"]] == [(outcome, each) for each in took]


def test_timers_of_one_method_are_one_schedule_and_what_is_too_much_is_counted_all_the_same() -> None:
    telling = Telling()
    data = {"run": 1, "outcome": "done", "generation": 1, "at": 5 * SECOND, "took": SECOND, "late": 0}
    for number in range(MOST + 20):
        telling.heard(Note("ended", f"a/remind/{number}", data))
    ran = telling.take().ran
    assert ran is not None
    assert (len(ran["runs"]), ran["left_out"]) == (MOST, 20)
    assert ran["counts"] == [{"schedule": "a/remind", "outcome": "done", "count": MOST + 20, "seconds": MOST + 20.0}]
    for number in range(MOST + 20):
        telling.heard(Note("ended", f"a{number}/work", data))
    ran = telling.take().ran
    assert ran is not None
    assert len(ran["counts"]) == MOST + 1
    assert ran["counts"][-1] == {"schedule": "", "outcome": "", "count": 20, "seconds": 20.0}
    assert telling.take() == Told()
