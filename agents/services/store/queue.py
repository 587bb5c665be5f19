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
each. Nothing is answered and nothing delivered before its write is on disk.

Of the messages that were with an incarnation when it died, the first was being handled, because they are handled and
settled in order: it is charged with the attempt, the others are not (`lines` says why it is soon alone). After an end that
was asked for nobody is.
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from otpd.agents.services.store.lines import Line, Target
from otpd.agents.services.store.messages import (
    SECOND,
    Answer,
    Bounds,
    Burial,
    Deliver,
    Effect,
    Failure,
    Finished,
    Kind,
    Message,
    Receipt,
    Recovered,
    Request,
    State,
    Tell,
    Unit,
    Watch,
)
from otpd.ipc.topics import Trie

#: Minutes for which ids and submissions are remembered (E3). Of the store's own running time: no clock can jump over them.
MEMORY: Final = 10
MINUTE: Final = 60 * SECOND
#: Names that are followed although nothing waits for them, so that the next message to one finds it.
_IDLE: Final = 1000
_JITTER: Final = 0.2
#: Characters of an error that are told; the letter has it whole.
_SHOWN: Final = 200
_NONE: Final[Finished] = MappingProxyType({})
#: Reasons of deaths that no message has caused: a supervisor, or a link, has asked for them.
_ASKED: Final = ("shutdown", "linked(")


class Queue:
    """`now` in ns of CLOCK_MONOTONIC; `wall` in seconds, for people."""

    def __init__(self, recovered: Recovered, bounds: Bounds, now: int, wall: float) -> None:
        self.bounds, self._wall = bounds, wall
        self.effects: deque[Effect] = deque()
        self.messages: dict[int, Message] = {}
        self.bytes = 0
        self.letters = dict.fromkeys(recovered.letters)
        self.minute = recovered.minute
        self._targets: dict[str, Target] = {}
        self._ids: dict[tuple[str, str, str], Message] = {}
        self._receipts = {each.sender: each for each in recovered.receipts}
        self._patterns: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, float] = {}
        self._topics: Trie[str] = Trie()
        self._seq, self._turn = recovered.next_seq - 1, recovered.next_turn - 1
        self._alarms: list[tuple[int, int, Target, Line | None]] = []  # a line goes on; a target is reminded
        self._count = 0
        self._units: list[Unit] = []
        self._house = Unit()
        self._minute_ends = now + MINUTE
        for name, patterns in recovered.subscriptions.items():
            self._subscribe(name, patterns)
        self._recover(recovered.messages)

    def _recover(self, messages: Sequence[Message]) -> None:
        """What was with an incarnation counts as being with it until its name is heard of."""
        for message in messages:
            self._admit(message)
        for message in sorted((each for each in messages if each.lease), key=lambda each: each.turn):
            target = self._target(message.target)
            message.state = State.IN_FLIGHT
            target.flight[message.seq] = target.line(message.key).current = message
        for message in messages:
            if not message.lease:
                message.state = State.WAITING
                self._target(message.target).join(message)

    # --- what others say ---

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

    def _known(self, sender: str, id: str, target: str, finished: Finished) -> Message | int:
        """The same id of the same sender: the message that there is, or was (E3)."""
        if not id:
            return 0
        return self._ids.get((sender, id, target)) or finished.get((sender, id, target), 0)

    def _full(self, size: int, count: int = 1) -> bool:
        return len(self.messages) + count > self.bounds.messages or self.bytes + size > self.bounds.bytes

    def _insert(self, unit: Unit, sender: str, request: Request, target: str) -> Message:
        message = self._message(sender, request, target)
        self._admit(message)
        unit.inserts.append((message, request.body))
        return message

    def _message(self, sender: str, request: Request, target: str) -> Message:
        self._seq += 1
        return Message(
            seq=self._seq, target=target, key=request.key or sender, sender=sender, id=request.id, kind=request.kind,
            name=request.name if request.kind is Kind.CAST else request.target, size=len(request.body), at=self._wall,
            max_attempts=request.max_attempts or self.bounds.max_attempts,
        )  # fmt: skip

    def _admit(self, message: Message) -> None:
        self.messages[message.seq] = message
        self.bytes += message.size
        self._target(message.target).count += 1
        if message.id:
            self._ids[message.sender, message.id, message.target] = message

    def _remove(self, message: Message) -> None:
        """It is no more, or never was."""
        message.state = State.GONE
        del self.messages[message.seq]
        self.bytes -= message.size
        self._targets[message.target].count -= 1
        if message.id:
            self._ids.pop((message.sender, message.id, message.target), None)

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

    def _with(self, seq: int, attempt: int, who: tuple[str, int]) -> Message | None:
        message = self.messages.get(seq)
        if message is None or message.state is not State.IN_FLIGHT:
            return None
        return message if (message.attempts, message.target, message.lease) == (attempt, *who) else None

    def subscribe(self, ref: Hashable, name: str, patterns: Iterable[str]) -> None:
        """The durable subscriptions of `name`, in the place of those that it had."""
        self._units.append(Unit(ref=ref, subscriptions={name: tuple(patterns)}))

    def _subscribe(self, name: str, patterns: tuple[str, ...]) -> None:
        for pattern in self._patterns.pop(name, ()):
            self._topics.remove(pattern, name)
        self._seen.pop(name, None)
        if patterns:
            self._target(name)
            self._patterns[name], self._seen[name] = patterns, self._wall
            for pattern in patterns:
                self._topics.add(pattern, name)

    # --- dead letters ---

    def replay(self, ref: Hashable, letter: Message, body: bytes) -> None:
        """A letter becomes a message again, with a new seq and all its attempts."""
        if letter.seq not in self.letters:
            self.effects.append(Answer(ref, code="noproc", text=f"there is no dead letter {letter.seq}"))
        elif self._full(len(body)):
            self.effects.append(Answer(ref, code="store_full", text=f"letter {letter.seq} stays where it is"))
        else:
            unit = Unit(ref=ref, opened=[letter.seq])
            request = Request(letter.kind, letter.target, letter.name, body, letter.key, "", letter.max_attempts)
            message = self._insert(unit, letter.sender, request, letter.target)
            message.name, message.origin = letter.name, letter.origin or letter.seq
            unit.outcomes.append(message)
            del self.letters[letter.seq]
            self._units.append(unit)

    def purge(self, ref: Hashable, letters: Iterable[int]) -> None:
        """They are no more."""
        opened = [seq for seq in letters if seq in self.letters]
        for seq in opened:
            del self.letters[seq]
        self._units.append(Unit(ref=ref, opened=opened, outcomes=[len(opened)]))

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
            self._release(held.pop(0), failure, now)
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

    def _release(self, message: Message, failure: Failure, now: int) -> None:
        """An attempt has failed."""
        if message.attempts >= message.max_attempts:
            self._bury(message, failure)
        else:
            self._house.releases.append(message)
            self._wait(message, now + self._pause(message), now)

    def _pause(self, message: Message) -> int:
        """ns until the next attempt: twice as long each time, and no two alike."""
        pause = min(self.bounds.backoff_max, self.bounds.backoff * 2 ** min(message.attempts - 1, 30))
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
        self.letters[message.seq] = None
        if message.seq in self.messages:
            touched[message.target] = self._end(message, now)
        told = {"letter": message.seq, "target": message.target, "method": message.name, "sender": message.sender}
        told |= {"attempts": message.attempts, "reason": failure.reason, "error": failure.error[:_SHOWN]}
        self.effects.append(Tell("letter.dead", told))
        while len(self.letters) > self.bounds.letters:
            oldest = next(iter(self.letters))
            del self.letters[oldest]
            self._house.opened.append(oldest)
            why = f"more than {self.bounds.letters} letters"
            self.effects.append(Tell("letter.dropped", {"letter": oldest, "why": why}))

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
        self.letters.update(dict.fromkeys(unit.opened))
        self.effects.extend(Answer(ref, code=code, text=text) for ref in refs)

    def _forget(self, receipt: Receipt, before: Receipt | None) -> None:
        if self._receipts.get(receipt.sender) is receipt:
            del self._receipts[receipt.sender]
            if before is not None:
                self._receipts[receipt.sender] = before

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
        oldest = self._wall - self.bounds.age
        for message in [each for each in self.messages.values() if each.at < oldest and each.state is State.WAITING]:
            self._targets[message.target].drop(message, now)
            self._bury(message, Failure("expired"))
        for name, seen in self._seen.items():
            if self._targets[name].inc:
                self._seen[name] = self._wall
            elif seen < oldest:
                self._units.append(Unit(subscriptions={name: ()}))

    # --- names ---

    def _target(self, name: str) -> Target:
        found = self._targets.get(name)
        if found is None:
            found = self._targets[name] = Target(name)
            self.effects.append(Watch(name))
        return found

    def _idle(self, target: Target) -> None:
        if target.count or len(self._targets) <= _IDLE:
            return
        idle = next((each for each in self._targets.values() if not each.count and each.name not in self._patterns), None)
        if idle is not None:
            del self._targets[idle.name]
            self.effects.append(Watch(idle.name, on=False))

    def waiting(self) -> list[dict[str, Any]]:
        """For each name with messages: how many, how many of them are with it, since when the oldest waits (wall clock)."""
        oldest: dict[str, float] = {}
        for message in self.messages.values():
            oldest.setdefault(message.target, message.at)
        return [
            {"target": each.name, "messages": each.count, "in_flight": len(each.flight), "oldest": oldest[each.name]}
            for each in self._targets.values()
            if each.name in oldest
        ]


def _outcome(outcome: Message | int | str) -> int | str:
    """A seq or number, or the code of why not; also for who has sent again what was refused in the end."""
    if isinstance(outcome, Message):
        return "store_full" if outcome.state is State.REFUSED else outcome.seq
    return outcome
