"""The queue of durable messages, as a pure machine: no disk, no clock, no messages of its own.

Guarantees (messaging.md, 3.5): what was accepted is delivered, waits, or is a dead letter, whatever dies (E1, E2); one
submission is taken once, however often it is said, and so is one id (E3); order within (target, key), one at a time (E4); an
attempt is on disk before it is made, and the last one leads to the dead letters (E5); what is committed together (state,
acknowledgement, new messages) has taken place together (E7).

| message | its write is committed | its write has failed | its turn | settled | its incarnation dies |
|---|---|---|---|---|---|
| JOURNALING | WAITING | REFUSED, the sender is told | - | - | - |
| WAITING | - | - | CHARGING | - | - |
| CHARGING | IN_FLIGHT, delivered | the store ends | - | - | WAITING when committed |
| IN_FLIGHT | - | - | - | SETTLING | WAITING, or SETTLING to be buried |
| SETTLING | GONE | IN_FLIGHT | - | - | - |

The shell: say what happened; work off `effects`; write what `take()` gives, in order, and say `committed` or `failed` of
each. Nothing is answered and nothing delivered before its write is on disk. `holding` counts what there is, `intake` takes
what comes, and here is the way of a message.

Of the messages that were with an incarnation when it died, the first was being handled, because they are handled and
settled in order: it is charged with the attempt, the others are not (`lines` says why it is soon alone). After an end that
was asked for nobody is.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Hashable, Sequence
from typing import Any, Final

from otpd.agents.services.store.intake import Intake
from otpd.agents.services.store.lines import Line, Target
from otpd.agents.services.store.messages import (
    SECOND,
    Answer,
    Bounds,
    Burial,
    Deliver,
    Failure,
    Message,
    Recovered,
    State,
    Tell,
    Unit,
)

#: Minutes for which ids and submissions are remembered (E3). Of the store's own running time: no clock can jump over them.
MEMORY: Final = 10
MINUTE: Final = 60 * SECOND
_JITTER: Final = 0.2
#: Seconds after the second death at one message, then twice as long each time: no four of its deaths fall into 5 s, so that
#: a message that kills does not spend the budget of a supervisor (E6; 3 restarts in 5 s are allowed by default).
SUSPECT: Final = 3.0
#: Characters of an error that are told; the letter has it whole.
_SHOWN: Final = 200
#: Reasons of deaths that no message has caused: a supervisor, or a link, has asked for them.
_ASKED: Final = ("shutdown", "linked(")


class Queue(Intake):
    """`now` in ns of CLOCK_MONOTONIC; `wall` in seconds, for people."""

    def __init__(self, recovered: Recovered, bounds: Bounds, now: int, wall: float) -> None:
        super().__init__(recovered, bounds, wall)
        self._turn = recovered.next_turn - 1
        self._alarms: list[tuple[int, int, Target, Line | None]] = []  # a line goes on; a target is reminded
        self._count = 0
        self._minute_ends = now + MINUTE
        self._recover(recovered.messages)
        for message in recovered.corrupt:
            self._tell_dead(message, Failure("corrupt"))

    def _recover(self, messages: Sequence[Message]) -> None:
        """What was with an incarnation counts as being with it until its name is heard of."""
        for message in messages:
            message.since = min(message.since, self.minute)  # the count of minutes may be what was lost
            self._admit(message)
        for message in sorted((each for each in messages if each.lease), key=lambda each: each.turn):
            target = self._target(message.target)
            message.state = State.IN_FLIGHT
            target.flight[message.seq] = target.line(message.key).current = message
        for message in messages:
            if not message.lease:
                message.state = State.WAITING
                self._target(message.target).join(message)

    # --- what receivers say ---

    def acknowledged(self, seq: int, attempt: int, who: tuple[str, int], now: int) -> None:
        """Its handler has ended. Of one that is not with this incarnation (name, inc): ignored."""
        message = self._with(seq, attempt, who)
        if message is not None:
            target = self._targets[message.target]
            target.window = min(self.bounds.window, target.window + 1)
            message.state = State.SETTLING
            self._house.settled.append(message)
            target.free(message, now)  # the next of its line is charged in the same commit
            self._pump(target, now)

    def refused(
        self, seq: int, attempt: int, who: tuple[str, int], failure: Failure, now: int, final: bool = False
    ) -> None:
        """Its handler has raised: again later, or (`final`, or after the last attempt) never."""
        message = self._with(seq, attempt, who)
        if message is not None:
            if final:
                self._bury(message, failure)
            else:
                self._release(message, failure, now)
            self._pump(self._targets[message.target], now)

    def corrupt(self, seq: int, now: int) -> None:
        """Its body on disk is not what was written: it is never delivered."""
        message = self.messages.get(seq)
        if message is not None and message.state is State.IN_FLIGHT:
            self._bury(message, Failure("corrupt"))

    # --- lives ---

    def up(self, name: str, inc: int, now: int) -> None:
        """Takes messages from now on. What was with another incarnation died with that one."""
        target = self._targets.get(name)
        if target is None:
            return
        self._lost(target, [each for each in target.flight.values() if each.lease != inc], Failure("killed"), now)
        target.inc = inc
        self.remind(name, now)
        self._pump(target, now)

    def down(self, name: str, inc: int, reason: str, now: int) -> None:
        """It has died, and all that it said before has been heard (B3). `inc` 0: nobody had the name."""
        target = self._targets.get(name)
        if target is not None and (not inc or inc >= target.inc):
            target.inc = 0
            self._lost(target, list(target.flight.values()), None if reason.startswith(_ASKED) else Failure(reason), now)

    def _lost(self, target: Target, held: list[Message], failure: Failure | None, now: int) -> None:
        held = [each for each in held if each.state is State.IN_FLIGHT]
        if held and failure is not None:
            target.window = 1
            self._release(held[0], failure, now, died=True)
            for message in held:
                message.suspect = True
            del held[0]
        for message in reversed(held):
            message.attempts -= 1
            self._wait(message, 0, now)
            self._house.releases.append(message)

    def remind(self, name: str, now: int) -> None:
        """Say again what is with it and not settled: it may have been lost on the way, with a broker or in a full inbox."""
        target = self._targets[name]
        target.remind_at = 0
        for message in target.flight.values():
            if message.state is State.IN_FLIGHT and message.lease == target.inc:
                self._deliver(target, message, now)

    def remind_all(self, now: int) -> None:
        """There is another broker."""
        for target in list(self._targets.values()):
            if target.inc:
                self.remind(target.name, now)

    def overloaded(self, name: str, now: int) -> None:
        """It did not take all that was delivered: once more in a second."""
        target = self._targets.get(name)
        if target is not None and target.flight:
            self._remind_at(target, now + SECOND)

    # --- the way of a message ---

    def _pump(self, target: Target, now: int) -> None:
        while (message := target.next()) is not None:
            self._turn += 1
            message.state, message.lease, message.turn = State.CHARGING, target.inc, self._turn
            message.attempts += 1
            self._house.charges.append(message)

    def _deliver(self, target: Target, message: Message, now: int) -> None:
        self.effects.append(Deliver(message, message.attempts, message.lease))
        if not target.remind_at:
            self._remind_at(target, now + int(self.bounds.reminder * SECOND))

    def _remind_at(self, target: Target, due: int) -> None:
        target.remind_at = due
        self._alarm(due, target, None)

    def _alarm(self, due: int, target: Target, line: Line | None) -> None:
        self._count += 1
        heapq.heappush(self._alarms, (due, self._count, target, line))

    def _release(self, message: Message, failure: Failure, now: int, died: bool = False) -> None:
        """An attempt has failed; `died`: with its incarnation."""
        if message.attempts >= message.max_attempts:
            self._bury(message, failure)
        else:
            self._house.releases.append(message)
            self._wait(message, now + self._pause(message, died), now)

    def _pause(self, message: Message, died: bool) -> int:
        """ns until the next attempt: twice as long each time, and no two alike. Who has died at it again is given time."""
        pause = self.bounds.backoff * 2 ** min(message.attempts - 1, 30)
        if died and (message.suspect or message.attempts > 1):
            pause = max(pause, SUSPECT * 2 ** min(max(0, message.attempts - 2), 30))
        pause = min(self.bounds.backoff_max, pause)
        share = zlib.crc32(b"%d/%d" % (message.seq, message.attempts)) / 0xFFFFFFFF
        return int(pause * SECOND * (1 + _JITTER * (2 * share - 1)))

    def _wait(self, message: Message, due: int, now: int) -> None:
        target = self._targets[message.target]
        message.state, message.lease = State.WAITING, 0
        target.give_back(message, due, now)
        if due > now:
            self._alarm(due, target, target.line(message.key))

    def _bury(self, message: Message, failure: Failure) -> None:
        """Its line goes on when that is on disk."""
        message.state = State.SETTLING
        self._house.burials.append(Burial(message, failure))

    # --- the disk ---

    def take(self) -> list[Unit]:
        """What is to be written now, in this order."""
        units, self._units = self._units, []
        if self._house:
            units.append(self._house)
            self._house = Unit()
        return units

    def committed(self, unit: Unit, now: int, more: Any = None) -> None:
        """`more`: what the write of its state has given."""
        touched: dict[str, Target] = {}
        for message, _ in unit.inserts:
            message.state = State.WAITING
            target = touched[message.target] = self._targets[message.target]
            target.join(message)
        for message in unit.charges:
            target = touched[message.target] = self._targets[message.target]
            self._charged(target, message, now)
        for message in unit.settled:
            touched[message.target] = self._end(message, now)
        for burial in unit.burials:
            self._buried(burial, touched, now)
        for name, patterns in unit.subscriptions.items():
            self._subscribe(name, patterns)
        for target in touched.values():
            self._pump(target, now)
        self._answer(unit, more)

    def _charged(self, target: Target, message: Message, now: int) -> None:
        if message.lease == target.inc:
            message.state = State.IN_FLIGHT
            self._deliver(target, message, now)
        else:  # its incarnation died before it was sent anything
            message.attempts -= 1
            self._wait(message, 0, now)
            self._house.releases.append(message)

    def _end(self, message: Message, now: int) -> Target:
        target = self._targets[message.target]
        if message.seq in target.flight:  # settled by a transaction
            target.window = min(self.bounds.window, target.window + 1)
        target.free(message, now)
        self._remove(message)
        self._idle(target)
        return target

    def _buried(self, burial: Burial, touched: dict[str, Target], now: int) -> None:
        message, failure = burial.message, burial.failure
        self._keep_letter(message.seq, message.size + len(failure.error) + len(failure.traceback))
        if message.seq in self.messages:
            touched[message.target] = self._end(message, now)
        self._tell_dead(message, failure)
        self._bound_letters()

    def _bound_letters(self) -> None:
        bounds = self.bounds
        while len(self.letters) > bounds.letters or self.letter_bytes > bounds.letter_bytes:
            why = f"more than {bounds.letters} letters, or more than {bounds.letter_bytes} bytes of them"
            oldest = next(iter(self.letters))
            self._house.opened[oldest] = self._drop_letter(oldest)
            self.effects.append(Tell("letter.dropped", {"letter": oldest, "why": why}))

    def _tell_dead(self, message: Message, failure: Failure) -> None:
        told = {"letter": message.seq, "target": message.target, "method": message.name, "sender": message.sender}
        told |= {"attempts": message.attempts, "reason": failure.reason, "error": failure.error[:_SHOWN]}
        self.effects.append(Tell("letter.dead", told))

    def _answer(self, unit: Unit, more: Any) -> None:
        outcomes = [_outcome(each) for each in unit.outcomes]
        if unit.receipt is not None:
            unit.receipt.answer = [outcomes, more]
            refs, unit.receipt.refs = unit.receipt.refs, []
            self.effects.extend(Answer(ref, unit.receipt.answer) for ref in refs)
        elif unit.ref is not None:
            self.effects.append(Answer(unit.ref, outcomes))

    def failed(self, unit: Unit, code: str, text: str, now: int) -> None:
        """None of it has taken place, and who has submitted it is told so."""
        for message, _ in unit.inserts:
            self._remove(message)
            message.state = State.REFUSED
            self._idle(self._targets[message.target])
        for message in unit.settled:
            message.state = State.IN_FLIGHT
            target = self._targets[message.target]
            if message.lease != target.inc:
                self._lost(target, [message], None, now)
        refs: list[Hashable] = [] if unit.ref is None else [unit.ref]
        if unit.receipt is not None:
            refs = unit.receipt.refs
            self._forget(unit.receipt, unit.replaced)
        for seq, size in unit.opened.items():
            self._keep_letter(seq, size)
        self.effects.extend(Answer(ref, code=code, text=text) for ref in refs)

    # --- time ---

    def tick(self, now: int, wall: float) -> int:
        """What is due; when the next is."""
        self._wall = wall
        while self._alarms and self._alarms[0][0] <= now:
            due, _, target, line = heapq.heappop(self._alarms)
            if line is not None:
                target.wake(line, now)
                self._pump(target, now)
            elif target.remind_at == due and self._targets.get(target.name) is target:
                self.remind(target.name, now)
        if now >= self._minute_ends:
            self._minute_ends = now + MINUTE
            self._pass_minute(now)
        return min(self._minute_ends, self._alarms[0][0]) if self._alarms else self._minute_ends

    def _pass_minute(self, now: int) -> None:
        """Forget what is older than memory; bury what nobody came for; end subscriptions of names that are no more."""
        self.minute += 1
        self._house.minute = self.minute
        for sender, receipt in list(self._receipts.items()):
            if receipt.minute < self.minute - MEMORY and receipt.answer is not None:
                del self._receipts[sender]
        for message in [each for each in self.messages.values() if self._old(each.since) and each.state is State.WAITING]:
            self._targets[message.target].drop(message, now)
            self._bury(message, Failure("expired"))
        for name, seen in self._seen.items():
            if self._targets[name].inc:
                self._seen[name] = self.minute
            elif self._old(seen):
                self._units.append(Unit(subscriptions={name: ()}))

    def _old(self, since: int) -> bool:
        """Of a minute of the store's own time: no jump of a clock, and no time while it did not run, makes it older."""
        return (self.minute - since) * 60 > self.bounds.age


def _outcome(outcome: Message | int | str) -> int | str:
    """A seq or number, or the code of why not; also for who has sent again what was refused in the end."""
    if isinstance(outcome, Message):
        return "store_full" if outcome.state is State.REFUSED else outcome.seq
    return outcome
