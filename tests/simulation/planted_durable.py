"""Bugs to be planted into the queue of durable messages, its journal and the SDK's side of it; the world must find each.

As in `planted`: what somebody could write, with the numbers of the invariants that may be the first to see it. `seed` is one
that finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from pytest import MonkeyPatch

from otpd.agents.services.store import journal
from otpd.agents.services.store.commits import Commits
from otpd.agents.services.store.lines import Target
from otpd.agents.services.store.messages import Answer, State
from otpd.agents.services.store.queue import Queue
from tests.simulation.durablestore import DurableStore
from tests.simulation.scenario import Mode

Plant = Callable[[MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    plant: Plant
    seed: tuple[int, Mode]
    found_by: frozenset[int]

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


BUGS: Final[list[Bug]] = []


def found_by(seed: int, mode: Mode, *numbers: int) -> Callable[[Plant], Plant]:
    def note(plant: Plant) -> Plant:
        BUGS.append(Bug(plant, (seed, mode), frozenset(numbers)))
        return plant

    return note


def _nothing(*_: Any, **__: Any) -> None:
    return None


@found_by(0, "liveness", 25)
def it_is_accepted_before_it_is_on_disk(patch: MonkeyPatch) -> None:
    submit = Queue.submit

    def at_once(self: Queue, ref: Any, *arguments: Any, **more: Any) -> None:
        submit(self, ref, *arguments, **more)
        if self._units and self._units[-1].receipt is not None and ref in self._units[-1].receipt.refs:
            unit = self._units[-1]
            unit.receipt.refs.remove(ref)
            seqs = [each if isinstance(each, int | str) else each.seq for each in unit.outcomes]
            self.effects.append(Answer(ref, [seqs, None]))

    patch.setattr(Queue, "submit", at_once)


@found_by(0, "liveness", 25, 0)
def it_is_accepted_when_it_is_written_and_not_synced(patch: MonkeyPatch) -> None:
    write = DurableStore._write

    def and_tell(self: Any, jobs: Any) -> None:
        write(self, jobs)
        if self._commits._writing:
            for job in self._commits.committed():
                self.queue.committed(job.write[0], self.world.clock.now)
            self._turn()

    patch.setattr(DurableStore, "_write", and_tell)


@found_by(0, "liveness", 26, 27)
def attempts_are_not_charged(patch: MonkeyPatch) -> None:
    pump = Queue._pump

    def free(self: Queue, target: Any, now: int) -> None:
        before = {id(message) for message in self._house.charges}
        pump(self, target, now)
        for message in self._house.charges:
            if id(message) not in before:
                message.attempts = 1

    patch.setattr(Queue, "_pump", free)


@found_by(0, "liveness", 26)
def what_is_with_the_dead_stays_there(patch: MonkeyPatch) -> None:
    patch.setattr(Queue, "_lost", _nothing)


@found_by(51, "liveness", 26)
def what_a_broker_has_lost_is_not_said_again(patch: MonkeyPatch) -> None:
    patch.setattr(Queue, "remind", _nothing)
    patch.setattr(Queue, "remind_all", _nothing)


@found_by(0, "liveness", 26)
def what_was_with_somebody_is_forgotten_by_the_next_store(patch: MonkeyPatch) -> None:
    recover = Queue._recover
    patch.setattr(Queue, "_recover", lambda self, messages: recover(self, [each for each in messages if not each.lease]))


@found_by(0, "safety", 28)
def an_id_is_forgotten_with_its_message(patch: MonkeyPatch) -> None:
    patch.setattr(Queue, "_known", lambda *_: 0)


@found_by(0, "safety", 28)
def a_submission_that_is_said_again_is_another_one(patch: MonkeyPatch) -> None:
    submit = Queue.submit

    def anew(self: Queue, *arguments: Any, **more: Any) -> None:
        self._receipts.clear()
        self._ids.clear()
        submit(self, *arguments, **more)

    patch.setattr(Queue, "submit", anew)


@found_by(0, "liveness", 29)
def keys_wait_for_nobody(patch: MonkeyPatch) -> None:
    following = Target.next

    def eager(self: Target) -> Any:
        message = following(self)
        if message is not None:
            line = self.line(message.key)
            line.current = None
            self._ready(line)
        return message

    patch.setattr(Target, "next", eager)


@found_by(25, "safety", 29)
def what_failed_goes_to_the_end_of_its_line(patch: MonkeyPatch) -> None:
    def give_back(self: Target, message: Any, due: int, now: int) -> None:
        line = self.line(message.key)
        line.waiting.append(message)
        line.due = max(line.due, due)
        self.free(message, now)

    patch.setattr(Target, "give_back", give_back)


@found_by(0, "liveness", 29, 30)
def a_transaction_does_not_settle_its_message(patch: MonkeyPatch) -> None:
    rows = journal.rows

    def without(unit: Any, wall: float, minute: int) -> journal.Rows:
        found = rows(unit, wall, minute)
        return replace(found, ended=[], finished=[]) if unit.receipt is not None else found

    patch.setattr(journal, "rows", without)


@found_by(0, "liveness", 25, 26)
def a_dead_letter_is_only_deleted(patch: MonkeyPatch) -> None:
    rows = journal.rows
    patch.setattr(journal, "rows", lambda *arguments: replace(rows(*arguments), buried=[]))


@found_by(1, "liveness", 25, 26, 0)
def what_a_full_disk_refuses_is_accepted(patch: MonkeyPatch) -> None:
    def failed(self: Queue, unit: Any, code: str, text: str, now: int) -> None:
        self.committed(unit, now)

    patch.setattr(Queue, "failed", failed)


@found_by(31, "liveness", 26)
def acknowledgements_are_refused_by_a_full_disk(patch: MonkeyPatch) -> None:
    full = Commits.full

    def all_of_it(self: Commits) -> Any:
        for job in (*self._writing, *self._waiting):
            job.grows = True
        return full(self)

    patch.setattr(Commits, "full", all_of_it)


@found_by(0, "liveness", 26)
def a_line_stays_paused(patch: MonkeyPatch) -> None:
    patch.setattr(Queue, "_alarm", _nothing)


@found_by(25, "safety", 27, 29, 30, 0)
def anybody_may_settle_a_message(patch: MonkeyPatch) -> None:
    def anyhow(self: Queue, seq: int, attempt: int, who: Any) -> Any:
        message = self.messages.get(seq)
        return message if message is not None and message.state is not State.JOURNALING else None

    patch.setattr(Queue, "_with", anyhow)
