"""What makes a method of an agent reachable: `@call`, `@cast` and `@on(pattern)`.

They mark the method and leave it as it is, so that it can be called as any other. `methods` reads the marks.

>>> class Inventory:
...     @call
...     async def reserve(self, sku: str, n: int = 1) -> int: ...
...     @on("orders.*.cancelled")
...     async def cancelled(self, event): ...
>>> marks(Inventory.reserve), marks(Inventory.cancelled)
((Mark(kind='call', pattern='', durable=False),), (Mark(kind='on', pattern='orders.*.cancelled', durable=False),))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_MARKS: Final = "__otpd_marks__"


@dataclass(frozen=True, slots=True)
class Mark:
    kind: Literal["call", "cast", "on"]
    pattern: str = ""
    durable: bool = False


def call(method: F) -> F:
    """Others may call this method: they get what it returns, or learn why not. `async def` or plain `def`."""
    return _marked(method, Mark("call"))


def cast(method: F) -> F:
    """Others may cast to this method: one way, what it returns is dropped. `async def` or plain `def`."""
    return _marked(method, Mark("cast"))


def on(pattern: str, durable: bool = False) -> Callable[[F], F]:
    """This method gets each event whose topic meets `pattern`: words joined by dots, `*` one word, `**` the rest.

    With `durable` it gets those, and only those, that are published with durable=True: from its first start on also what is
    published while this agent is down, at least once each.
    """
    if not isinstance(pattern, str):
        raise TypeError(f'@on expects a pattern, got {pattern!r}; write for example: @on("orders.*.cancelled")')
    return lambda method: _marked(method, Mark("on", pattern, durable))


def marks(method: Any) -> tuple[Mark, ...]:
    """Those of a function, the innermost first; none for anything else."""
    found = getattr(method, _MARKS, ())
    return found if isinstance(found, tuple) else ()


def _marked(method: F, mark: Mark) -> F:
    if not callable(method):
        raise TypeError(f"@{mark.kind} expects a method, got {method!r}")
    setattr(method, _MARKS, (*marks(method), mark))
    return method
