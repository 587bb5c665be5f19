"""The service `commands`: takes orders of agents, runs them in a pool of sandboxed workers, answers with what came of each.

Every order gets exactly one answer, or its caller hears that this service has died; an order whose owner dies, gives up or
loses its broker is ended. What is too large for one message is read piece by piece, and a command whose output nobody reads
waits. Who orders is what the broker says, never what the order says.

| call | |
|---|---|
| `order` | runs a command and answers with its record (`result.Result`); `more` in it: read the output piece by piece |
| | with `stream`: {id, record}, at once; `record`: it has not begun, and this is why |
| `read` | the next pieces of output [[stream, bytes]], and the record at the end, else nil; waits for news |
| `write` | standard input of one that was ordered with `stdin = true`; answered when the command has room for more |
| `end` | ends one |
| `look` | what runs, what ran last, counters |
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import fields
from typing import Any, Final

from otpd.agents import Agent, OtpdError, Reject, Reply, call, run
from otpd.agents.sandbox import cgroup
from otpd.agents.sandbox.errors import ProfileError
from otpd.agents.sandbox.pool import Pool
from otpd.agents.sandbox.reading import read
from otpd.agents.sandbox.result import Result
from otpd.agents.sandbox.runs import PIPE, READ_SIZE, Run
from otpd.agents.services.commands.book import Book, Entry, Owner, answered, bound, described, shown
from otpd.agents.services.commands.nursery import Nursery
from otpd.agents.services.notes import note

#: Bytes of output that are answered with the record.
INLINE: Final = 128 * 1024
#: Seconds after which what a worker that was killed has left in cgroups is looked for.
_SWEEP: Final = (0.2, 2.0)
#: States of a name that has a process.
_LIVING: Final = ("starting", "ready")
_FIELDS: Final = tuple(each.name for each in fields(Result))


class Standing:
    """What waits for news of one command."""

    __slots__ = ("is_unsure", "owner_died", "reader", "run", "stream", "whole", "writing")

    def __init__(self, run: Run, stream: bool) -> None:
        self.run, self.stream = run, stream
        self.is_unsure = False  # its caller is gone, and why is being asked
        self.owner_died = False
        self.whole: Reply | None = None  # of the call that ordered it
        self.reader: Reply | None = None
        self.writing: deque[tuple[memoryview, bool, Reply]] = deque()


class Commands(Agent):
    """Runs commands of agents in the node's sandboxes."""

    async def init(
        self, table: dict[str, Any] | None = None, base: str = "/", allowed: dict[str, list[str] | None] | None = None
    ) -> None:
        settings = read(table or {}, base)
        self._allowed = allowed or {}
        self._loop = asyncio.get_running_loop()
        self._book: Book[Standing] = Book(self.generation)
        self._nursery = Nursery(self, settings.workers)
        self._pool = Pool(settings, spawn=self._nursery.spawn)
        self._lost = self._late = 0
        self._asking: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._pool.fileno(), self._turn)

    async def terminate(self, reason: str) -> None:
        """Whoever waits is told; nothing is left running."""
        self._loop.remove_reader(self._pool.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._pool.close()
        for entry in self._book:
            self._look_at(entry)
        await self._nursery.close()
        cgroup.sweep()

    # --- orders ---

    @call
    async def order(
        self,
        argv: Any,
        profile: str = "default",
        wall: float | None = None,
        stdin: bytes | bool | None = None,
        env: dict[str, str] | None = None,
        cwd: str | bytes | None = None,
        files: dict[str, bytes | str] | None = None,
        code: str | None = None,
        stream: bool = False,
    ) -> Any:
        """Run a command. Reject for what can't become a run at all; what is wrong with the command itself is its result."""
        owner = self._book.known(self._caller()) or await self._bounded(self._caller())
        if stdin is True and not stream:
            raise Reject("stdin = true: there is nobody who could write; order it with stream", data={"code": "stdin"})
        try:
            started = self._pool.start(
                argv, profile=profile, timeout=wall, stdin=PIPE if stdin is True else stdin or None, env=env, cwd=cwd,
                files=files, code=code, stream=stream, caller=owner.name, allowed=owner.bounds,
            )  # fmt: skip
        except ProfileError as error:
            raise Reject(str(error), data={"code": "profile"}) from None
        entry = Entry(self._book.fresh_id(), owner, shown(argv, code), profile, Standing(started, stream), time.time())
        if self._book.begin(entry):
            self._watch(owner)
        return self._begun(entry) if stream else self._whole(entry)

    def _whole(self, entry: Entry[Standing]) -> None:
        entry.run.whole = self.defer()
        entry.run.whole.when_gone(lambda: self._given_up(entry))
        self._settle()

    def _begun(self, entry: Entry[Standing]) -> dict[str, Any]:
        if entry.run.run.stdin >= 0:
            os.set_blocking(entry.run.run.stdin, False)
        self._settle()
        if entry.record is not None:
            self._book.forget(entry)
        return {"id": entry.id, "record": entry.record}

    def _caller(self) -> Owner:
        current = self.current
        assert current is not None
        return Owner(current.caller, current.generation)

    async def _bounded(self, caller: Owner) -> Owner:
        """With the lists that bind it. Reject when nobody can tell whose child it is: it must not run free by that."""
        if not self._allowed:
            return caller
        try:
            found = await self._otpd.ask("whereis", caller.name, again=True)
        except OtpdError:
            found = None
        owner = bound(caller, found, self._allowed)
        if owner is None:
            text = f"nobody can tell now which lists of commands bind {caller.name} ({caller.generation}); order it again"
            raise Reject(text, data={"code": "unknown_bounds"})
        return owner

    # --- one that is read piece by piece ---

    @call
    async def read(self, id: str) -> Any:
        """The next pieces, and the record at the end."""
        entry = self._mine(id)
        if entry.run.reader is not None and entry.run.reader.waiting:
            raise Reject(f"{id} is being read already; await that first", data={"code": "busy"})
        entry.run.reader = self.defer()
        self._look_at(entry)

    @call
    async def write(self, id: str, data: bytes = b"", last: bool = False) -> Any:
        """More standard input; with `last` it ends after this."""
        entry = self._mine(id)
        if entry.run.run.stdin < 0:
            text = f"{id} takes no standard input (any more); order it with stream and stdin = true"
            raise Reject(text, data={"code": "stdin"})
        entry.run.writing.append((memoryview(data), last, self.defer()))
        if len(entry.run.writing) == 1:
            self._write(entry.run)

    @call
    async def end(self, id: str) -> None:
        """End it; its record says so."""
        self._pool.cancel(self._mine(id).run.run, "cancelled")
        self._settle()

    def _mine(self, id: str) -> Entry[Standing]:
        """Of the caller alone."""
        entry = self._book.find(id, self._caller())
        if entry is None:
            text = f"there is no command {id} of {self._caller().name} (any more): it was read to its end, or is lost"
            raise Reject(text, data={"code": "unknown"})
        return entry

    def _write(self, standing: Standing) -> None:
        """As much as the pipe takes; called again when it takes more."""
        stdin = standing.run.stdin
        while standing.writing and stdin >= 0:
            data, last, reply = standing.writing[0]
            try:
                rest = data[os.write(stdin, data) :] if data else data
            except BlockingIOError:
                self._loop.add_writer(stdin, self._write, standing)
                return
            except OSError:
                rest, last = data[:0], True  # the command reads no more
            standing.writing[0] = rest, last, reply
            if not rest:
                standing.writing.popleft()
                reply.answer()
                if last:
                    self._close_stdin(standing)
        if standing.run.stdin >= 0:
            self._loop.remove_writer(stdin)

    def _close_stdin(self, standing: Standing) -> None:
        if standing.run.stdin >= 0:
            self._loop.remove_writer(standing.run.stdin)
            standing.run.close_stdin()
        while standing.writing:
            standing.writing.popleft()[2].answer()

    # --- owners ---

    def _watch(self, owner: Owner) -> None:
        """Its death may have come before the monitor, which then watches the next incarnation: so the broker is asked."""
        self.monitor(owner.name)
        self._ask(self._check(owner))

    async def _check(self, owner: Owner) -> None:
        if not await self._lives(owner):
            await self.handle_down(owner.name, owner.generation, "noproc")

    async def _lives(self, owner: Owner) -> bool:
        """True also when nobody can tell: there is no broker now, and the monitor is set with the next one."""
        try:
            found = await self.whereis(owner.name)
        except OtpdError:
            return True
        return found is not None and found.generation == owner.generation and found.state in _LIVING

    def _ask(self, question: Coroutine[Any, Any, None]) -> None:
        asking = asyncio.ensure_future(question)
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def handle_down(self, name: str, generation: int, reason: str) -> None:
        for entry in self._book.end_of(name, generation):
            self._orphaned(entry)

    def _orphaned(self, entry: Entry[Standing]) -> None:
        entry.run.owner_died = True
        self._abandon(entry, "owner")

    def _given_up(self, entry: Entry[Standing]) -> None:
        """Its call waits no more. It is ended at once; that its owner has died is heard later than that."""
        entry.run.is_unsure = True
        self._ask(self._ask_why(entry))
        self._abandon(entry, "cancelled")

    async def _ask_why(self, entry: Entry[Standing]) -> None:
        entry.run.owner_died = not await self._lives(entry.owner)
        entry.run.is_unsure = False
        self._settle()

    def _abandon(self, entry: Entry[Standing], reason: str) -> None:
        """Nobody wants it any more."""
        self._pool.cancel(entry.run.run, reason)
        if entry.record is not None:
            self._book.forget(entry)
        self._settle()

    # --- news ---

    def _turn(self) -> None:
        self._pool.step()
        self._settle()

    def _settle(self) -> None:
        """Tell what there is to tell, and be there when something is due."""
        for entry in self._book:
            self._look_at(entry)
        now = time.monotonic()
        for entry in (*self._book.late(now), *self._book.crowded(self._unread())):
            self._book.forget(entry)
        if self._pool.counters.workers_lost > self._lost:
            self._lost = self._pool.counters.workers_lost
            for delay in _SWEEP:
                self._loop.call_later(delay, cgroup.sweep)
        if self._pool.counters.workers_late > self._late:
            self._late = self._pool.counters.workers_late
            self._tell_late()
        if self._timer is not None:
            self._timer.cancel()
        due = min((self._pool.due(), *(entry.drop_at for entry in self._book)))
        self._timer = self._loop.call_at(due, self._turn) if due < float("inf") else None

    def _tell_late(self) -> None:
        why = "a worker of the sandbox was not ready in time; it is tried again, with the same backend"
        self.log.warning("%s; look at the load of the machine", why)
        note(self, "late", self.name, why=why, count=self._late)

    def _unread(self) -> dict[str, int]:
        """Bytes of output that wait to be read, by command."""
        return {each.id: each.run.run.unread + sum(len(chunk) for _, chunk in each.pieces) for each in self._book}

    def _look_at(self, entry: Entry[Standing]) -> None:
        standing = entry.run
        if standing.run.done() and entry.record is None and not standing.is_unsure:
            self._over(entry)
        reader = standing.reader
        if reader is None or not reader.waiting:
            return
        if entry.pieces:
            self._answer_pieces(entry, reader)
        elif standing.run.unread:
            reader.answer([[list(piece) for piece in standing.run.take(READ_SIZE)], None])
        elif entry.record is not None:
            reader.answer([[], entry.record])
            self._book.forget(entry)

    def _answer_pieces(self, entry: Entry[Standing], reader: Reply) -> None:
        piece = entry.pieces.popleft()
        last = not entry.pieces
        reader.answer([[list(piece)], entry.record if last else None])
        if last:
            self._book.forget(entry)

    def _over(self, entry: Entry[Standing]) -> None:
        """It has its result: remembered, told to whoever waits for it, and to everybody who listens."""
        result, standing = entry.run.run.outcome, entry.run
        assert result is not None
        self._close_stdin(standing)
        record = {**{name: getattr(result, name) for name in _FIELDS}, "id": entry.id}
        if standing.owner_died and result.killed_by == "cancelled":
            record["killed_by"] = "owner"
        summary = self._book.over(entry, record, time.monotonic())
        if standing.owner_died:
            self._book.forget(entry)
        elif standing.stream:
            entry.record = {**record, "stdout": b"", "stderr": b""}
        else:
            self._answer_whole(entry)
            self._otpd.flush()  # who waits goes first
        self._tell(entry, summary, result)

    def _tell(self, entry: Entry[Standing], summary: dict[str, Any], result: Result) -> None:
        """Everybody who listens."""
        if result.status == "refused":
            note(self, "refused", entry.owner.name, **_noted(summary, result))
        else:
            note(self, "ended", entry.owner.name, **_noted(summary, result))
        self.emit("command", **summary)

    def _answer_whole(self, entry: Entry[Standing]) -> None:
        whole = entry.run.whole
        assert whole is not None
        if whole.waiting:
            whole.answer(answered(entry, INLINE, READ_SIZE))
        if not entry.pieces:
            self._book.forget(entry)

    # --- what is there ---

    @call
    async def look(self, last: int = 20) -> dict[str, Any]:
        """What runs and waits, what ran last (oldest first), and counters."""
        pool = self._pool
        running = [
            {**described(entry), "state": "running" if entry.run.run.sent else "waiting", "s": time.time() - entry.at}
            for entry in self._book
            if entry.record is None
        ]
        counts = {name: getattr(pool.counters, name) for name in pool.counters.__slots__}
        workers = {"workers": len(pool.workers()), "most": pool.settings.workers}
        return {"running": running, "last": self._book.last(last), "waiting": pool.waiting(), "counters": counts, **workers}


def _noted(summary: dict[str, Any], result: Result) -> dict[str, Any]:
    data = {key: value for key, value in summary.items() if value is not None and key not in ("at", "caller", "generation")}
    return {**data, "caller_generation": summary["generation"], **({"why": result.summary()} if result.error else {})}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run(Commands)
