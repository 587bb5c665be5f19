"""What comes into the queue of durable messages: submissions, each taken once however often it is said; subscriptions; and
what an operator makes of dead letters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from otpd.agents.services.store.holding import Holding
from otpd.agents.services.store.messages import (
    Answer,
    Bounds,
    Burial,
    Failure,
    Finished,
    Kind,
    Message,
    Receipt,
    Recovered,
    Request,
    State,
    Unit,
)

_NONE: Final[Finished] = MappingProxyType({})


class Intake(Holding):
    def __init__(self, recovered: Recovered, bounds: Bounds, wall: float) -> None:
        super().__init__(recovered, bounds, wall)
        self._receipts = {each.sender: each for each in recovered.receipts}

    def submit(
        self,
        ref: Hashable,
        sender: str,
        inc: int,
        number: int,
        requests: Sequence[Request] = (),
        settles: tuple[int, int] | None = None,
        whole: bool = False,
        state: Any = None,
        finished: Finished = _NONE,
    ) -> None:
        """Messages of one sender, and with them, if it is a transaction (`whole`), the acknowledgement (seq, attempt) of the
        message that it handles and its `state`. `number` grows; who repeats the last one gets the same answer. `finished`:
        of the ids in `requests`, those that belong to messages that have ended: the journal knows."""
        last = self._receipts.get(sender)
        if last is not None and (inc, number) <= (last.inc, last.number):
            self._repeat(ref, last, inc, number)
            return
        settled = None
        if settles is not None:
            settled = self._with(*settles, (sender, inc))
            if settled is None:
                text = f"message {settles[0]} is not with {sender} any more: it was settled, or given to another incarnation"
                self.effects.append(Answer(ref, code="stale", text=text))
                return
        receipt = Receipt(sender, inc, number, self.minute, refs=[ref])
        unit = Unit(receipt=receipt, replaced=last, state=state)
        full = self._fill(unit, sender, requests, whole, finished)
        if full:
            self.effects.append(Answer(ref, code=full, text=f"of {len(requests)} messages not all can be kept"))
            return
        if settled is not None:
            settled.state = State.SETTLING
            unit.settled.append(settled)
        self._receipts[sender] = receipt
        self._units.append(unit)

    def _repeat(self, ref: Hashable, last: Receipt, inc: int, number: int) -> None:
        if (inc, number) != (last.inc, last.number):
            text = f"expected a number after {last.number} of incarnation {last.inc}, got {number} of {inc}"
            self.effects.append(Answer(ref, code="stale", text=text))
        elif last.answer is None:
            last.refs.append(ref)
        else:
            self.effects.append(Answer(ref, last.answer))

    def _fill(self, unit: Unit, sender: str, requests: Sequence[Request], whole: bool, finished: Finished) -> str:
        """Each request becomes messages, or a code. With `whole` the first code undoes all and is returned."""
        for request in requests:
            keep = self._cast if request.kind is Kind.CAST else self._event
            outcome = keep(unit, sender, request, finished)
            if whole and isinstance(outcome, str):
                for message, _ in unit.inserts:
                    self._remove(message)
                return outcome
            unit.outcomes.append(outcome)
        return ""

    def _cast(self, unit: Unit, sender: str, request: Request, finished: Finished) -> Message | int | str:
        known = self._known(sender, request.id, request.target, finished)
        if known:
            return known
        if self._full(len(request.body)):
            return "store_full"
        if self._target(request.target).count >= self.bounds.per_target:
            return "overloaded"
        return self._insert(unit, sender, request, request.target)

    def _event(self, unit: Unit, sender: str, request: Request, finished: Finished) -> Message | int | str:
        """A copy for each durable subscriber; how many there are. The copy of one that can hold no more is a letter."""
        names = sorted(set(self._topics.find(request.target)))
        fresh = [name for name in names if not self._known(sender, request.id, name, finished)]
        if self._full(len(request.body) * len(fresh), len(fresh)):
            return "store_full"
        for name in fresh:
            if self._target(name).count < self.bounds.per_target:
                self._insert(unit, sender, request, name)
            else:
                message = self._message(sender, request, name)
                unit.burials.append(Burial(message, Failure("overloaded"), request.body))
        return len(names)

    def _insert(self, unit: Unit, sender: str, request: Request, target: str) -> Message:
        message = self._message(sender, request, target)
        self._admit(message)
        unit.inserts.append((message, request.body))
        return message

    def subscribe(self, ref: Hashable, name: str, patterns: Iterable[str]) -> None:
        """The durable subscriptions of `name`, in the place of those that it had."""
        self._units.append(Unit(ref=ref, subscriptions={name: tuple(dict.fromkeys(patterns))}))

    # --- dead letters ---

    def replay(self, ref: Hashable, letter: Message, body: bytes) -> None:
        """A letter becomes a message again, with a new seq and all its attempts."""
        if letter.seq not in self.letters:
            self.effects.append(Answer(ref, code="noproc", text=f"there is no dead letter {letter.seq}"))
        elif self._full(len(body)):
            self.effects.append(Answer(ref, code="store_full", text=f"letter {letter.seq} stays where it is"))
        else:
            unit = Unit(ref=ref, opened={letter.seq: self._drop_letter(letter.seq)})
            request = Request(letter.kind, letter.target, letter.name, body, letter.key, "", letter.max_attempts)
            message = self._insert(unit, letter.sender, request, letter.target)
            message.name, message.origin = letter.name, letter.origin or letter.seq
            unit.outcomes.append(message)
            self._units.append(unit)

    def purge(self, ref: Hashable, letters: Iterable[int]) -> None:
        """They are no more."""
        opened = {seq: self._drop_letter(seq) for seq in letters if seq in self.letters}
        self._units.append(Unit(ref=ref, opened=opened, outcomes=[len(opened)]))

    def _forget(self, receipt: Receipt, before: Receipt | None) -> None:
        if self._receipts.get(receipt.sender) is receipt:
            del self._receipts[receipt.sender]
            if before is not None:
                self._receipts[receipt.sender] = before
