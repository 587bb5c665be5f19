"""What a hello says, checked: who is there, and what a new broker is to restore for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from otpd.ipc.frames import FrameError
from otpd.ipc.wire import MAX_KEY, VERSION, Kind, Lane, commands, is_key, parse

#: A type, or several, or a list of rows of such.
Shape: TypeAlias = "type | tuple[type, ...]"
_NOTHING = type(None)
_ROWS: dict[str, tuple[Shape, ...]] = {
    "monitors": (int, str, (int, _NOTHING), bool),
    "links": (str, (int, _NOTHING)),
    "topics": (int, str),
    "keys": (str, object),
}


@dataclass(frozen=True, slots=True)
class Hello:
    """`lane`: where it was said. The lists are as in docs/protocol.md; those of the data lane are empty."""

    lane: Lane
    name: str
    inc: int
    token: bytes
    monitors: list[list[Any]]
    links: list[list[Any]]
    topics: list[list[Any]]
    keys: list[list[Any]]
    groups: list[str]
    trap: bool


def read(frame: bytes, lane: Lane) -> Hello:
    """FrameError for anything that is not a hello of this version on this lane."""
    if parse(frame).kind is not Kind.SYSTEM:
        raise FrameError("expected a hello before anything else; this incarnation is not (or no longer) known here")
    said = list(commands(frame))
    if len(said) != 1 or said[0][0] != "hello" or len(said[0]) != 2 or not isinstance(said[0][1], dict):
        raise FrameError('expected ["hello", {...}] first; this incarnation is not (or no longer) known here')
    given: dict[str, Any] = said[0][1]
    if given.get("v") != VERSION or given.get("lane") != lane.value:
        raise FrameError(f"expected v {VERSION} on lane {lane.value}, got {given.get('v')!r} on {given.get('lane')!r}")
    return Hello(
        lane,
        name=_field(given, "name", str),
        inc=_field(given, "inc", int),
        token=_field(given, "token", bytes),
        groups=[_group(name) for name in _field(given, "groups", list, [])],
        trap=_field(given, "trap", bool, False),
        **{key: _rows(given, key) for key in _ROWS},
    )


def _field(given: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    return _checked(given.get(key, default), kind, key)


def _checked(value: Any, kind: Shape, what: str) -> Any:
    if not isinstance(value, kind):
        raise FrameError(f"expected {what} of a hello to be {kind}, got {type(value).__name__}")
    return value


def _group(name: Any) -> str:
    if not isinstance(name, str) or not is_key(name):
        raise FrameError(f"expected groups of a hello to be names of 1 to {MAX_KEY} bytes of UTF-8")
    return name


def _rows(given: dict[str, Any], key: str) -> list[list[Any]]:
    rows: list[list[Any]] = _field(given, key, list, [])
    shape = _ROWS[key]
    for row in rows:
        if not isinstance(row, list) or len(row) != len(shape):
            raise FrameError(f"expected each of {key} in a hello to have {len(shape)} parts")
        for value, kind in zip(row, shape, strict=True):
            _checked(value, kind, key)
    return rows
