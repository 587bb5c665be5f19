"""Questions to the broker that wait for their one answer. Pure.

A question is put when it was given to the socket; until then a new broker may still be asked. A subscription is a question
whose answer begins something that stands; it is asked again until it is answered.
"""

from __future__ import annotations

from typing import Any

from otpd.ipc.standing import Standing


class Questions:
    """Each by its ref."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._open: dict[int, tuple[Any, ...]] = {}

    def add(self, ref: int, what: str, *arguments: Any) -> None:
        self._open[ref] = (what, *arguments)
        match (what, *arguments):
            case ("unregister", str(key), *_):  # from now on: a new broker must not be told of it
                self._standing.release(key)

    def drop(self, ref: int) -> None:
        self._open.pop(ref, None)

    def answered(self, ref: int, ok: bool, value: Any) -> bool:
        """Whether anybody waits for it. What stands from now on is noted."""
        question = self._open.pop(ref, None)
        match question:
            case ("subscribe", str(pattern)) if ok:
                self._standing.subscribe(ref, pattern)
            case ("register" | "update" | "replace", str(key), *values) if ok and value is not False:
                self._standing.hold(key, values[0] if values else None)
        return question is not None

    @property
    def subscriptions(self) -> list[tuple[int, str]]:
        """(ref, pattern) of those that are not answered."""
        return [(ref, question[1]) for ref, question in self._open.items() if question[0] == "subscribe"]

    def lose(self, unsent: set[int]) -> list[tuple[int, str]]:
        """(ref, what) of those that were sent and will not be answered any more."""
        lost = [(ref, q[0]) for ref, q in self._open.items() if ref not in unsent and q[0] != "subscribe"]
        for ref, _ in lost:
            del self._open[ref]
        return lost
