"""Operations of the control socket that the broker answers, through root: `stats` and `breaker`.

root passes a question on with a number of its own and keeps who asked, for a second at most. It never waits, and what only
root knows (`status`, `tree`) it answers without any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otpd.supervisor import picture
from otpd.supervisor.control import Connection, OperationError
from otpd.supervisor.loop import Timer

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Seconds that the broker has for its answer.
DEADLINE: Final = 1.0
#: Questions at a time, and parts of one answer.
MAX_WAITING, MAX_PARTS = 64, 1000
_MODES: Final = ("open", "close", "auto")
_AWAY: Final = "messages wait until it is back; look with: otpd status broker"


@dataclass(slots=True, eq=False)
class Question:
    connection: Connection
    finish: Callable[[list[Any]], None]
    timer: Timer
    parts: list[Any] = field(default_factory=list)


class Relay:
    """By reference: the number that the broker answers with."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._waiting: dict[int, Question] = {}
        self._count = 0
        root.link.changes.append(self._broker_changed)
        root.link.packets.append(self._heard)

    # --- operations ---

    def stats(self, connection: Connection, _request: dict[str, Any]) -> None:
        """`status`, and with each row what the broker knows of its name; those that only the broker knows come last."""

        def finish(parts: list[Any]) -> None:
            connection.answer(merged(picture.workers(self._root), [row for part in parts for row in _rows(part)]))

        self._ask(connection, finish, "stats")

    def breaker(self, connection: Connection, request: dict[str, Any]) -> None:
        """Force the breaker of a name open or closed, or leave it to itself again."""
        mode = request.get("mode")
        if mode not in _MODES:
            raise OperationError(2, f"expected a mode of {', '.join(_MODES)}, got {mode!r}")
        name = self._root.operations.path_of(request.get("name")).rpartition("/")[2]

        def finish(parts: list[Any]) -> None:
            match parts[-1]:
                case {"code": "noproc"}:
                    connection.fail(OperationError(4, f"{name} has no address", "only agents have one; see: otpd status"))
                case {"text": text}:
                    connection.fail(OperationError(2, str(text)))
                case state:
                    connection.answer(state)

        self._ask(connection, finish, "breaker", name, mode)

    # --- the broker ---

    def _heard(self, packet: list[Any]) -> None:
        match packet:
            case ["answer", int(ref), value, bool(last)] if ref in self._waiting:
                self._answered(ref, value, last)

    def _answered(self, ref: int, value: Any, last: bool) -> None:
        """A part of an answer, perhaps all."""
        question = self._waiting[ref]
        question.parts.append(value)
        if last or len(question.parts) >= MAX_PARTS:
            self._drop(ref)
            question.finish(question.parts)

    def _broker_changed(self) -> None:
        """Who was asked is no more."""
        for ref, question in list(self._waiting.items()):
            self._drop(ref)
            question.connection.fail(OperationError(3, "the broker died before it answered", _AWAY))

    def _ask(self, connection: Connection, finish: Callable[[list[Any]], None], what: str, *more: Any) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise OperationError(3, f"{MAX_WAITING} questions wait for the broker already", "try again in a second")
        self._count += 1
        ref = self._count
        if not self._root.link.send([what, ref, *more]):
            raise OperationError(3, f"there is no broker now to ask for {what}", _AWAY)
        timer = self._root.loop.after(DEADLINE, lambda: self._late(ref))
        self._waiting[ref] = Question(connection, finish, timer)
        connection.on_close = lambda: self._forget(ref)

    def _late(self, ref: int) -> None:
        question = self._drop(ref)
        if question is not None:
            text = f"the broker did not answer within {DEADLINE:g} s"
            question.connection.fail(OperationError(8, text, "is it stopped? look with: otpd why broker"))

    def _forget(self, ref: int) -> None:
        """Who asked has gone."""
        self._drop(ref)

    def _drop(self, ref: int) -> Question | None:
        question = self._waiting.pop(ref, None)
        if question is not None:
            question.timer.cancel()
            question.connection.on_close = None
        return question


def merged(own: Iterable[dict[str, Any]], told: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per name: root's columns, then the broker's, which may not overwrite them.

    >>> merged([{"name": "a", "state": "running"}], [{"name": "@7.1", "inbox": 0}, {"name": "a", "inbox": 2, "state": "?"}])
    [{'name': 'a', 'state': 'running', 'inbox': 2}, {'name': '@7.1', 'inbox': 0}]
    """
    rows = {row["name"]: dict(row) for row in own}
    fixed = {name: row.copy() for name, row in rows.items()}
    for row in told:
        rows.setdefault(row["name"], {}).update(row)
    return [row | fixed.get(name, {}) for name, row in rows.items()]


def _rows(part: Any) -> list[dict[str, Any]]:
    """Those of a part of the answer; anything else is not for an operator."""
    rows = part if isinstance(part, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]
