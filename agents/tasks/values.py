"""What a task ends as: Ok with its value, or Exit with the reason.

>>> Ok(7).value, Exit("timeout", CallTimeout("too slow")).ok
(7, False)
>>> Exit("timeout", CallTimeout("task work:parse: too slow")).value
Traceback (most recent call last):
    ...
otpd.agents.errors.CallTimeout: task work:parse: too slow
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeAlias

from otpd.agents.errors import CallTimeout, OtpdError


@dataclass(frozen=True, slots=True)
class Ok:
    """It has returned `value`."""

    value: Any
    ok: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Exit:
    """It has not. `reason`: error (the function raised), timeout, killed (its worker died), cancelled, overloaded, refused.

    `error` is what awaiting it raises, and reading `value`. `input`: the item of a stream, with zip_input_on_exit.
    """

    reason: str
    error: OtpdError
    input: Any = None
    ok: ClassVar[bool] = False

    @property
    def value(self) -> NoReturn:
        raise self.error


Outcome: TypeAlias = Ok | Exit

__all__ = ["CallTimeout", "Exit", "Ok", "Outcome"]
