"""A task that waits for room: its owner stands still, or takes it back while it is granted. What both sides say crosses. And
results that wait to be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from otpd.agents.tasks.desk import Desk, Entry
from otpd.agents.tasks.dispatch import Dispatch, Owner
from otpd.agents.tasks.machine import GRANT, Options
from otpd.agents.tasks.payload import INLINE, MSGPACK, Payload, encode
from otpd.agents.tasks.values import Ok, Outcome
from otpd.ipc.frames import pack


class Crew:
    """One worker that is there at once, and is told when to be done."""

    def __init__(self) -> None:
        self.sent: list[int] = []  # what was handed to it, by its only argument
        self.fds: list[int] = []

    def start(self, worker: int) -> None: ...

    def send(self, worker: int, message: list[Any], fds: Sequence[int]) -> None:
        self.sent.append(message[5][-2])
        self.fds += fds

    def stop(self, worker: int) -> None: ...


@dataclass
class Table:
    """A desk and a pool of one worker and no queue. What they say lies there until it is `carried`."""

    now: float = 0.0
    crew: Crew = field(default_factory=Crew)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    said: list[list[Any]] = field(default_factory=list)  # by the pool
    noted: list[str] = field(default_factory=list)  # that go to the journal

    def __post_init__(self) -> None:
        self.desk = Desk("p")
        self.pool = Dispatch(Options(size=1, queue=0), self.crew, lambda: self.now, self.note)
        self.owner = self.come(self.said)
        self.desk.hear(self.said.pop(), [])

    def note(self, what: str, _row: Any, _why: str) -> None:
        self.noted.append(what)

    def come(self, said: list[list[Any]]) -> int:
        return self.pool.come(Owner("owner", 1, lambda message, _fds: said.append(message)))

    def submit(self, value: int, detached: bool = False) -> int:
        def done(outcome: Outcome) -> None:
            assert value not in self.outcomes, "one outcome"
            self.outcomes[value] = outcome

        def packed() -> Any:
            return ["m", "f", None, None], Payload(MSGPACK, pack([[value], {}]))

        return self.desk.submit(Entry("m:f", packed, done, patient=True, detached=detached))

    def carry_to_pool(self) -> None:
        out, self.desk.out = self.desk.out, []
        for message, fds in out:
            self.pool.hear(self.owner, message, list(fds))

    def carry_to_desk(self) -> None:
        said, self.said[:] = [*self.said], []
        for message in said:
            self.desk.hear(message, [])

    def carry(self) -> None:
        while self.desk.out or self.said:
            self.carry_to_pool(), self.carry_to_desk()

    def done(self) -> None:
        self.pool.done(1, True, 0, (MSGPACK, pack(None), []), [])


def with_one_that_waits() -> tuple[Table, int]:
    """Task 1 runs, task 2 is parked."""
    table = Table()
    table.submit(1)
    number = table.submit(2)
    table.carry()
    table.pool.ready(1)
    assert (table.crew.sent, table.pool.pool.parked) == ([1], 1)
    return table, number


def test_an_owner_that_stands_still_longer_than_its_grant_has_its_task_run_once() -> None:
    table, _number = with_one_that_waits()
    table.done()
    for _ in range(5):
        table.now += GRANT
        table.pool.tick()
    assert [message for message in table.said if message[0] == "go"] == [["go", 2]]
    table.carry()
    assert table.crew.sent == [1, 2]
    table.done()
    table.carry()
    assert (table.outcomes, table.pool.rows) == ({1: Ok(None), 2: Ok(None)}, {})
    assert table.crew.sent == [1, 2]


def test_a_task_that_is_taken_back_while_it_is_granted_never_begins() -> None:
    for take_back in (Desk.withdraw, Desk.forget, lambda desk, _number: desk.unqueue_all()):
        table, number = with_one_that_waits()
        table.done()
        take_back(table.desk, number)  # `stop 2` and `go 2` are under way
        table.carry_to_desk()
        table.carry()
        assert (table.crew.sent, table.pool.rows, table.pool.pool.parked, table.desk.count) == ([1], {}, 0, 0)


def test_a_task_that_is_taken_back_after_its_grant_was_answered_is_told_once() -> None:
    table, number = with_one_that_waits()
    table.done()
    table.carry_to_desk()  # `again 2` is under way
    table.desk.withdraw(number)
    table.carry_to_pool()
    assert (table.crew.sent, table.pool.pool.running) == ([1, 2], 1), "it ends with its worker"
    table.pool.lost(1, "killed")
    table.carry()
    assert [outcome.ok for outcome in table.outcomes.values()] == [True, False]


def test_an_answer_that_comes_too_late_and_a_number_in_use_are_dropped_with_their_descriptors() -> None:
    table, number = with_one_that_waits()
    table.done()
    table.pool.hear(table.owner, ["stop", number], [])
    what = [[None, True, False], ["m", "f", None, None], MSGPACK, pack([[3], {}]), []]
    given = [os.memfd_create("argument") for _ in range(3)]
    for verb, its_number, fd in zip(("again", "run", "run"), (number, 3, 3), given, strict=True):
        table.pool.hear(table.owner, [verb, its_number, *what], [fd])
    assert (table.crew.sent, table.crew.fds) == ([1, 3], given[1:2])
    assert [os.path.exists(f"/proc/self/fd/{fd}") for fd in given] == [False, True, False]
    os.close(given[1])


def test_the_death_of_who_waits_to_hand_over_a_detached_task_leaves_nothing_and_of_who_has_handed_it_over_the_task() -> None:
    """Rule 110."""
    table = Table()
    table.submit(1)
    table.submit(2, detached=True)
    table.carry()
    table.pool.gone(table.owner)
    assert (table.pool.rows.keys(), table.pool.pool.parked) == (set(), 0)
    table.owner = table.come(table.said)
    table.submit(3, detached=True)
    table.carry_to_pool()
    table.pool.ready(1)
    table.pool.gone(table.owner)
    assert (table.crew.sent, table.pool.pool.running) == ([3], 1)


def test_a_result_in_shared_memory_counts_until_its_owner_has_read_it_or_forgotten_it_or_is_gone() -> None:
    for then in (lambda table: None, lambda table: table.desk.forget(1), lambda table: table.pool.gone(table.owner)):
        table = Table()
        table.submit(1)
        table.carry()
        table.pool.ready(1)
        result = encode(bytes(2 * INLINE), MSGPACK)
        table.pool.done(1, True, 0, (MSGPACK, result.body, list(result.sizes)), [])
        assert table.pool.pool.waiting_bytes == (0, 2 * INLINE)
        then(table)
        (said,) = table.said
        table.said.clear()
        table.desk.hear(said, result.fds)
        if table.pool.owners:
            table.carry()
        assert (table.pool.pool.waiting_bytes, os.path.exists(f"/proc/self/fd/{result.fds[0]}")) == ((0, 0), False)


def test_sizes_that_are_none_count_as_nothing() -> None:
    table = Table()
    what = [[None, True, False], ["m", "f", None, None], MSGPACK, pack([[3], {}])]
    for number, sizes in enumerate((None, "ten", ["ten", -5, None], {"a": 1}), 1):
        table.pool.hear(table.owner, ["run", number, *what, sizes], [])
    assert (table.pool.pool.queued, table.pool.pool.waiting_bytes) == (1, (len(what[-1]), 0))
