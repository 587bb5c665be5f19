"""Which requests share a commit, and what a full disk refuses: the pure machine."""

from __future__ import annotations

from otpd.agents.services.store import commits
from otpd.agents.services.store.commits import Commits, Job, Refused, Room


def jobs(names: str) -> list[Job]:
    """Capitals grow."""
    return [Job(name, grows=name.isupper(), size=10) for name in names]


def names(found: list[Job]) -> str:
    return "".join(job.write for job in found)


def submitted(machine: Commits, text: str) -> list[Refused | None]:
    return [machine.submit(job) for job in jobs(text)]


def test_what_comes_while_a_commit_is_written_goes_into_the_next_together() -> None:
    machine = Commits()
    submitted(machine, "A")
    assert names(machine.begin()) == "A"
    submitted(machine, "BcD")
    assert machine.begin() == []
    assert names(machine.committed()) == "A"
    assert names(machine.begin()) == "BcD"
    assert names(machine.committed()) == "BcD"
    assert machine.begin() == [] and machine.idle


def test_a_commit_has_its_most_and_the_rest_comes_next() -> None:
    machine = Commits()
    submitted(machine, "A" * (commits.MOST + 1))
    assert len(machine.begin()) == commits.MOST
    machine.committed()
    assert len(machine.begin()) == 1


def test_a_full_disk_refuses_what_grows_and_tries_the_rest_again_before_what_waits() -> None:
    machine = Commits()
    submitted(machine, "AbC")
    machine.begin()
    submitted(machine, "Def")
    assert names(machine.full()) == "ACD"
    assert machine.room is Room.FULL
    assert submitted(machine, "Gh") == [Refused.FULL, None]
    assert names(machine.begin()) == "befh"
    machine.committed()
    machine.made_room()
    assert submitted(machine, "I") == [None]
    assert names(machine.begin()) == "I"


def test_when_nothing_is_left_to_be_given_up_all_of_the_commit_is_refused() -> None:
    machine = Commits()
    submitted(machine, "Ab")
    machine.begin()
    machine.full()
    submitted(machine, "c")
    assert names(machine.begin()) == "b" + "c"
    machine.submit(Job("q", grows=False, reads=True))
    assert names(machine.full()) == "bc"
    assert names(machine.begin()) == "q", "a question needs no room"
    assert (names(machine.full()), names(machine.begin())) == ("", "q")


def test_more_than_the_disk_takes_is_refused_by_number_and_by_size() -> None:
    machine = Commits()
    assert machine.submit(Job("A", size=commits.MAX_BYTES)) is None
    assert machine.submit(Job("B", size=1)) is Refused.OVERLOADED
    assert machine.submit(Job("c", size=0)) is None
    machine.begin()
    assert machine.submit(Job("D", size=1)) is Refused.OVERLOADED, "what is being written counts, too"
    machine.committed()
    assert machine.submit(Job("E", size=1)) is None
    machine.begin()
    found = [machine.submit(Job("F")) for _ in range(commits.MAX_WAITING + 1)]
    assert found[-2:] == [None, Refused.OVERLOADED]


def test_the_loop_waits_for_one_brief_job_alone_after_quick_commits_and_for_nothing_else() -> None:
    machine = Commits()

    def written(*jobs: Job, took: float = 0.0) -> bool:
        for job in jobs:
            machine.submit(job)
        machine.begin()
        awaited = machine.awaited
        machine.committed(took)
        return awaited

    brief, other = Job("a", brief=True), Job("b")
    assert [written(brief) for _ in range(commits.TRUSTED + 1)] == [False] * commits.TRUSTED + [True]
    assert (written(other), written(brief, brief), written(brief)) == (False, False, True)
    assert written(brief, took=commits.QUICK) is True, "it was not known before"
    assert [written(brief) for _ in range(commits.TRUSTED + 1)] == [False] * commits.TRUSTED + [True]


def test_a_commit_that_does_not_end_is_a_disk_that_hangs_after_so_many_looks_and_not_after_a_pause_of_ones_own() -> None:
    machine = Commits()
    submitted(machine, "A")
    machine.begin(10.0)
    assert [machine.look(99.0) for _ in range(commits.HANGING)] == [0.0] * (commits.HANGING - 1) + [89.0]
    submitted(machine, "B")
    assert machine.hangs(100.0) == 90.0
    machine.committed()
    assert machine.look(101.0) == 0.0, "what waits is with nobody"
    assert (names(machine.begin(102.0)), machine.look(103.0)) == ("B", 0.0)
