"""Durations (`250ms 5s 2m 1h`) and sizes (`64MiB`) as people write them, to seconds and bytes and back.

>>> parse_duration("250ms"), format_duration(90.0), parse_size("64MiB"), format_size(1536)
(0.25, '90s', 67108864, '1536B')

Both directions are exact: what `format_*` gives is read back as the same number. Anything else is an `Invalid` whose
text says what was expected, what was found and, where it can be guessed, what was meant.
"""

from __future__ import annotations

import re
from typing import Final

from otpd.supervisor.problems import Invalid, quote, show

#: Ten years. More is a slip of the finger, and some kernel clocks overflow.
MAX_DURATION: Final = 87600 * 3600.0
MAX_SIZE: Final = 2**63 - 1

DURATION: Final = 'a duration such as "250ms", "5s", "2m" or "1h"'
SIZE: Final = 'a size such as "512KiB", "64MiB" or "2GiB"'

_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0}
_BYTES: Final = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_NUMBER: Final = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]+)?)(\s*)(.*)", re.DOTALL)
_MEANT_SECONDS: Final = {
    "": "s", "ms": "ms", "msec": "ms", "millis": "ms", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "m": "m", "min": "m", "mins": "m", "minute": "m", "minutes": "m", "h": "h", "hr": "h", "hour": "h", "hours": "h",
}  # fmt: skip
_MEANT_BYTES: Final = {
    "": "B", "b": "B", "byte": "B", "bytes": "B", "k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB",
    "mib": "MiB", "g": "GiB", "gb": "GiB", "gib": "GiB", "t": "TiB", "tb": "TiB", "tib": "TiB",
}  # fmt: skip


def parse_duration(value: object) -> float:
    """Seconds, at least 0 and at most ten years; Invalid for anything else."""
    number, unit = _split(value, DURATION, {*_SECONDS, "ms"}, _MEANT_SECONDS)
    seconds = float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]
    if seconds > MAX_DURATION:
        raise Invalid(expected="a duration of at most 87600h (ten years)", got=show(value))
    return seconds


def parse_size(value: object) -> int:
    """Bytes, at least 0 and less than 8 EiB; Invalid for anything else."""
    number, unit = _split(value, SIZE, set(_BYTES), _MEANT_BYTES)
    whole, _, fraction = number.partition(".")
    size = _digits(whole) * _BYTES[unit] + int(float(f"0.{fraction or 0}") * _BYTES[unit])
    if size > MAX_SIZE:
        raise Invalid(expected="a size of less than 8388608TiB", got=show(value))
    return size


def format_duration(seconds: float) -> str:
    """The shortest spelling in the largest unit that is whole: 120.0 is "2m", 90.0 is "90s"."""
    for text in _durations(seconds):
        if parse_duration(text) == seconds:
            return text
    raise ValueError(f"expected a duration between 0 and {MAX_DURATION:.0f} seconds, got {seconds!r}")


def format_size(size: int) -> str:
    """The spelling in the largest unit that is whole: 67108864 is "64MiB"."""
    for unit, factor in _BYTES.items():
        if size % factor == 0 and size >= factor:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _durations(seconds: float) -> list[str]:
    whole = [f"{seconds / factor:.0f}{unit}" for unit, factor in _SECONDS.items() if seconds >= factor]
    return [*whole, f"{seconds * 1000:.0f}ms", *(f"{seconds:.{digits}f}s" for digits in range(1, 40))]


def _digits(text: str) -> int:
    short = text.lstrip("0")
    return int(short or "0") if len(short) <= 20 else MAX_SIZE + 1


def _split(value: object, expected: str, units: set[str], meant: dict[str, str]) -> tuple[str, str]:
    """Number and unit of `value`, both known to be well-formed."""
    if not isinstance(value, str):
        raise Invalid(expected=expected, got=show(value), nearest=_with_unit(value, meant))
    found = _NUMBER.fullmatch(value.strip())
    if not found:
        raise Invalid(expected=expected, got=show(value))
    sign, number, space, unit = found.groups()
    if sign == "-":
        raise Invalid(expected=expected, got=show(value), what="it is negative")
    if unit in units and not space and not sign and value == value.strip():
        return number, unit
    guess = meant.get(unit.strip().lower(), "")
    what = "it has no unit" if not unit else "" if guess else f"no such unit: {quote(unit)}"
    raise Invalid(expected=expected, got=show(value), what=what, nearest=f"{number}{guess}" if guess else "")


def _with_unit(value: object, meant: dict[str, str]) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**12:
        return ""
    return f"{value}{meant['']}"
