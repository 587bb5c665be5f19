"""An exception in words: for root (one line), for a caller (type, text, traceback), for the log (own frames only)."""

from __future__ import annotations

import asyncio
import os
import traceback
import types
from typing import Final

from otpd.agents.errors import OtpdError

_REASON_LIMIT: Final = 500
#: Characters of a traceback that travel; its end, because that is where the error is.
_TRACEBACK_LIMIT: Final = 16_000
#: Characters of a message that travel.
_TEXT_LIMIT: Final = 16_000
_HERE: Final = os.path.dirname(__file__)
_ASYNCIO: Final = os.path.dirname(asyncio.__file__)


def kind(error: BaseException) -> str:
    """As the last line of a traceback has it; the SDK's own errors by their bare names."""
    found = type(error)
    plain = found.__module__ in ("builtins", "__main__") or isinstance(error, OtpdError)
    return found.__qualname__ if plain else f"{found.__module__}.{found.__qualname__}"


def text(error: BaseException) -> str:
    """Its message, as something that can be sent."""
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except Exception:
        return "<its __str__ failed>"


def one_line(error: BaseException) -> str:
    """
    >>> one_line(ValueError("bad\\n luck")), one_line(KeyError())
    ('ValueError: bad luck', 'KeyError')
    """
    words = " ".join(text(error).split())
    return f"{kind(error)}: {words}"[:_REASON_LIMIT] if words else kind(error)


def as_values(error: BaseException) -> list[str]:
    """[type, text, traceback], as a reply carries it."""
    lines = traceback.format_exception(type(error), error, from_agent(error))
    trace = "".join(lines).encode(errors="backslashreplace").decode()
    return [kind(error), text(error)[:_TEXT_LIMIT], trace[-_TRACEBACK_LIMIT:]]


def from_agent(error: BaseException) -> types.TracebackType | None:
    """Its traceback without the frames that lead from run() to the agent's method."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_ours(filename: str) -> bool:
    return os.path.dirname(filename) in (_HERE, _ASYNCIO)
