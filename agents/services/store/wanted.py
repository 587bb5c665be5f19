"""What a sender submits, proved before anything is done with it: nobody's numbers or kinds of values may end the store.

>>> read(1, [[0, "books", "paid", b"", "", ""]], None, None)[0][0].target
'books'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from otpd.agents.errors import Reject
from otpd.agents.services.store.messages import Kind, Request
from otpd.ipc.topics import is_reserved

Pair: TypeAlias = tuple[int, int]
#: What a column of SQLite holds.
_LARGEST: Final = 2**63 - 1


def read(number: Any, requests: Sequence[Any], settles: Any, state: Any) -> tuple[list[Request], Pair | None]:
    """The requests, and (seq, attempt) of the message that is settled with them. Reject says what is wrong."""
    _expect(_is_number(number), f"a number from 0 to 2**63 - 1, got {number!r}")
    _expect(settles is None or _is_pair(settles), f"settles [seq, attempt], got {settles!r}")
    _expect(state is None or _is_state(state), "state [body, version or None]")
    return [_request(each) for each in requests], None if settles is None else (settles[0], settles[1])


def _request(given: Any) -> Request:
    match given:
        case [int(kind), str(target), str(name), bytes(body), str(key), str(id)] if kind in tuple(Kind):
            _expect(kind != Kind.EVENT or not is_reserved(target), f"a topic that is not the node's own, got {target}")
            return Request(Kind(kind), target, name, body, key, id)
    raise Reject("submit: expected requests [kind, target, name, body, key, id]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= _LARGEST


def _is_pair(value: Any) -> bool:
    return len(value) == 2 and all(_is_number(each) for each in value)


def _is_state(value: Any) -> bool:
    match value:
        case [bytes(), version]:
            return version is None or _is_number(version)
    return False


def _expect(right: bool, what: str) -> None:
    if not right:
        raise Reject(f"submit: expected {what}")
