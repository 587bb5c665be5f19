"""Values as they cross: packed by one reused packer, with an error that names what is no data.

>>> encoder = Encoder()
>>> encoder.encode({"sku": "A"}, "reply")
b'\\x81\\xa3sku\\xa1A'
>>> encoder.message("reserve", {"items": [1, {2}]}, "call of inventory.reserve")  # doctest: +IGNORE_EXCEPTION_DETAIL
Traceback (most recent call last):
    ...
otpd.agents.errors.NotData: call of inventory.reserve, argument items[1]: expected data, got set ({2}); send a list
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgpack

from otpd.agents.arguments import shown
from otpd.agents.errors import NotData

#: As `ipc.frames` unpacks.
decode: Final[Callable[[bytes], Any]] = partial(
    msgpack.unpackb, raw=False, strict_map_key=False, unicode_errors="surrogateescape"
)
#: What `decode` raises for bytes that are no message.
UNDECODABLE: Final = (ValueError, TypeError, RecursionError, msgpack.UnpackException)
_UNPACKABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
_TEXT: Final = "send it as text"
_ADVICE: Final = {
    "set": "send a list", "frozenset": "send a list", "datetime": "send its isoformat()", "date": "send its isoformat()",
    "int": "it needs more than 64 bits, send it as text", "str": "it has a lone surrogate, send bytes",
    "Decimal": _TEXT, "UUID": _TEXT, "Path": _TEXT, "PosixPath": _TEXT,
}  # fmt: skip


class Encoder:
    """For one thread."""

    def __init__(self) -> None:
        self._pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape").pack

    def message(self, method: str, args: Mapping[str, Any], what: str) -> bytes:
        """The body of a call or cast; `what` it is, for the error. NotData names the argument."""
        try:
            return self._pack((method, args))
        except _UNPACKABLE as error:
            raise self._explain(what, ((f"argument {name}", value) for name, value in args.items()), error) from None

    def encode(self, value: Any, what: str) -> bytes:
        """The body of a reply or an event; NotData names the part of `value`."""
        try:
            return self._pack(value)
        except _UNPACKABLE as error:
            raise self._explain(what, [("its value", value)], error) from None

    def _explain(self, what: str, values: Any, error: Exception) -> NotData:
        for path, value in values:
            for place, culprit in self._culprits(path, value, 0):
                kind = type(culprit).__name__
                advice = _ADVICE.get(kind, "send its fields as a dict")
                return NotData(f"{what}, {place}: expected data, got {kind} ({shown(culprit)}); {advice}")
        return NotData(f"{what}: expected data, got what msgpack refuses: {error}")

    def _culprits(self, path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        """The innermost parts that can't be packed, with the way to them."""
        if depth > _DEPTH or self._packs(value):
            return
        found = False
        for place, part in _parts(path, value):
            for each in self._culprits(place, part, depth + 1):
                found = True
                yield each
        if not found:
            yield path, value

    def _packs(self, value: Any) -> bool:
        try:
            self._pack(value)
        except _UNPACKABLE:
            return False
        return True


#: How deep an error looks.
_DEPTH: Final = 8


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{path}, key {shown(key)}", key
            yield f"{path}[{shown(key)}]", part
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield f"{path}[{index}]", part
