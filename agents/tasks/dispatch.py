"""Between the machine of a pool and its lines: who asked for which task, where its arguments lie, who gets its result.

It decides nothing, and knows neither processes nor sockets: a `Crew` starts and ends workers, owners are whatever can be
told a message. In a test both are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from otpd.agents.tasks.effects import Drained, Effect, End, Grant, Hold, Send, Settled, Start, Stop
from otpd.agents.tasks.functions import Named
from otpd.agents.tasks.machine import Options, Pool
from otpd.agents.tasks.payload import PICKLE
from otpd.agents.tasks.spawned import Spawned
from otpd.ipc.frames import close_all

_OWN_END = (End.DONE, End.FAILED)


class Crew(Protocol):
    """Who has the workers. What becomes of them comes back as `ready`, `done`, `ending` and `lost`."""

    def start(self, worker: int) -> None: ...

    def send(self, worker: int, message: list[Any], fds: Sequence[int]) -> None: ...

    def stop(self, worker: int) -> None: ...


@dataclass(slots=True, eq=False)
class Owner:
    """`put(message, fds)`: to it. `trusted`: of the pool's own user, so that it may send pickles."""

    name: str
    generation: int
    put: Callable[[list[Any], Sequence[int]], None]
    trusted: bool = True
    tasks: dict[int, int] = field(default_factory=dict)  # its number -> ours
    unread: dict[int, int] = field(default_factory=dict)  # its number -> bytes of the result in shared memory


@dataclass(slots=True, eq=False)
class Row:
    """One task. `owner` is told of its end; None when that one is gone. `given`: what goes to the worker, until it has."""

    owner: int | None
    number: int  # as its owner counts
    name: str
    who: tuple[str, int]
    detached: bool
    given: tuple[Any, int, Any, Any] | None
    fds: list[int]
    since: float


#: What is told of ends that are nobody's own, and of processes that tasks make: what, the task (None: none was running), and
#: the details.
Note = Callable[[str, Row | None, str], None]


class Dispatch:
    def __init__(
        self,
        options: Options,
        crew: Crew,
        clock: Callable[[], float],
        note: Note,
        *,
        pickle: bool = False,
        spawn: str = "warn",
    ) -> None:
        self.pool = Pool(options)
        self.spawn = Spawned(spawn)
        self.pickle = pickle
        self.owners: dict[int, Owner] = {}
        self.rows: dict[int, Row] = {}
        self.drained: Callable[[], None] = lambda: None
        self._crew, self._clock, self._note = crew, clock, note
        self._count = 0

    # --- owners ---

    def come(self, owner: Owner) -> int:
        """Its number here."""
        self._count += 1
        self.owners[self._count] = owner
        options = self.pool.options
        owner.put(["hello", {"pickle": self.pickle and owner.trusted, "size": options.size, "queue": options.queue}], ())
        return self._count

    def gone(self, key: int) -> None:
        """An owner is no more: nobody hears of its tasks, and they end."""
        del self.owners[key]
        for row in self.rows.values():
            if row.owner == key:
                row.owner = None
        self._carry_out(self.pool.owner_gone(key, self._clock()))

    def hear(self, key: int, message: list[Any], fds: list[int]) -> None:
        """What an owner says."""
        match message:
            case [
                "run" | "again" as verb, int(number), [timeout, bool(patient), bool(detached)],
                function, int(codec), bytes(body), sizes,
            ] if self._expects(key, verb, number):
                self._submit(key, number, timeout, patient, detached, (function, codec, body, sizes), fds)
            case ["read", int(number)]:
                close_all(fds)
                size = self.owners[key].unread.pop(number, 0)
                self._carry_out(self.pool.read(key, size, self._clock()))
            case ["stop", int(number)]:
                close_all(fds)
                task = self.owners[key].tasks.get(number)
                if task is not None:
                    self._carry_out(self.pool.withdraw(task, self._clock()))
            case ["unqueue", int(number)]:
                close_all(fds)
                task = self.owners[key].tasks.get(number)
                if task is not None and self.pool.worker_of(task) is None:
                    self._carry_out(self.pool.withdraw(task, self._clock()))
            case _:
                close_all(fds)

    def _expects(self, key: int, verb: str, number: int) -> bool:
        """`run` is new; `again` answers a Grant, and comes too late when its task was withdrawn in between."""
        task = self.owners[key].tasks.get(number)
        return task is None if verb == "run" else task is not None and self.pool.expects(task)

    def _submit(
        self, key: int, number: int, timeout: Any, patient: bool, detached: bool, given: Any, fds: list[int]
    ) -> None:
        owner = self.owners[key]
        if given[1] == PICKLE and not (self.pickle and owner.trusted):
            close_all(fds)
            owner.put(["over", number, "refused", "this pool takes no pickles; write [pools.NAME] pickle = true"], ())
            return
        now = self._clock()
        task = owner.tasks.get(number)
        if task is None:
            self._count += 1
            task = owner.tasks[number] = self._count
        name = str(Named(*given[0])) if isinstance(given[0], list) and len(given[0]) == 4 else "(pickled)"
        self.rows[task] = Row(key, number, name, (owner.name, owner.generation), detached, given, fds, now)
        limit = float(timeout) if isinstance(timeout, int | float) and timeout > 0 else None
        size = len(given[2]) + _bytes(given[3])
        self._carry_out(self.pool.submit(task, key, now, limit, patient, detached, size))
        if detached and self.pool.has(task):
            owner.put(["accepted", number], ())

    # --- workers ---

    def ready(self, worker: int) -> None:
        self._carry_out(self.pool.ready(worker, self._clock()))

    def done(self, worker: int, ok: bool, memory: int, answer: Sequence[Any], fds: list[int]) -> None:
        """The worker's task has come to its own end with this answer (codec, body, sizes)."""
        task = self.pool.task_of(worker)
        row = self.rows.get(task) if task is not None else None
        effects = self.pool.done(worker, self._clock(), failed=not ok, memory=memory)
        told = [each.end for each in effects if isinstance(each, Settled) and each.task == task]
        if row is None or not told or told[0] not in _OWN_END:
            close_all(fds)
        else:
            self._answer(row, ok, answer, fds)
        self._carry_out(effects)

    def _answer(self, row: Row, ok: bool, answer: Sequence[Any], fds: list[int]) -> None:
        owner = self.owners.get(row.owner) if row.owner is not None and not row.detached else None
        if owner is None:
            close_all(fds)
        else:
            if row.owner is not None and (size := _bytes(answer[2])):
                owner.unread[row.number] = size
                self.pool.unread(row.owner, size)
            owner.put(["done", row.number, ok, *answer], fds)
        if row.detached and not ok:
            self._note("failed", row, "")

    def ending(self, worker: int) -> None:
        """Its line is no more, and soon the process; what it has said before was heard."""
        self._carry_out(self.pool.ending(worker, self._clock()))

    def lost(self, worker: int, why: str) -> None:
        """The process is no more."""
        self.spawn.gone(worker)
        self._carry_out(self.pool.gone(worker, self._clock(), why))

    def spawned(self, worker: int, told: Mapping[str, Any], seen: int, refused: int) -> None:
        """It has made a process, or was kept from it; {} when the place is known already. So many in its life until now."""
        self.spawn.count(worker, seen, refused)
        text = self.spawn.news(told) if told else ""
        if text:
            task = self.pool.task_of(worker)
            self._note("spawn_refused" if refused else "spawned", None if task is None else self.rows[task], text)

    def unguarded(self, why: str) -> None:
        """Of the layers of `deny` one is missing in its workers."""
        if self.spawn.news({"call": "guard", "place": why}):
            self._note("unguarded", None, why)

    # --- time and the operator ---

    def tick(self) -> None:
        self._carry_out(self.pool.tick(self._clock()))

    def resize(self, size: int) -> None:
        self._carry_out(self.pool.resize(size, self._clock()))

    def drain(self) -> None:
        self._carry_out(self.pool.drain(self._clock()))

    # --- effects ---

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(worker, task):
                    self._send(worker, self.rows[task], task)
                case Settled(task, end, why):
                    self._settled(task, end, why)
                case Start(worker):
                    self._crew.start(worker)
                case Stop(worker):
                    self._crew.stop(worker)
                case Hold(task):
                    row = self.rows[task]
                    close_all(row.fds)
                    row.given, row.fds = None, []
                case Grant(task):
                    self._tell(self.rows[task], ["go", self.rows[task].number])
                case Drained():
                    self.drained()

    def _send(self, worker: int, row: Row, task: int) -> None:
        assert row.given is not None
        function, codec, body, sizes = row.given
        fds, row.given, row.fds, row.since = row.fds, None, [], self._clock()
        self._crew.send(worker, ["run", task, function, [*row.who], codec, body, sizes], fds)

    def _settled(self, task: int, end: End, why: str) -> None:
        row = self.rows.pop(task)
        close_all(row.fds)
        owner = self.owners.get(row.owner) if row.owner is not None else None
        if owner is not None:
            owner.tasks.pop(row.number, None)
        if end not in _OWN_END:
            self._tell(row, ["over", row.number, str(end), why])
            if end in (End.TIMED_OUT, End.KILLED):
                self._note(str(end), row, why)

    def _tell(self, row: Row, message: list[Any]) -> None:
        owner = self.owners.get(row.owner) if row.owner is not None else None
        if owner is not None:
            owner.put(message, ())


def _bytes(sizes: Any) -> int:
    """That are said to lie in shared memory."""
    if not sizes or not isinstance(sizes, list):
        return 0
    return sum(each for each in sizes if isinstance(each, int) and each > 0)
