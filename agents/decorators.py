"""What makes a method of an agent reachable: `@call`, `@cast`, `@on(pattern)`, by time `@every` and `@cron`, and `@health`.

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
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from otpd.agents.schedules import Plan, cron_plan, every_plan

F = TypeVar("F", bound=Callable[..., Any])
_MARKS: Final = "__otpd_marks__"


@dataclass(frozen=True, slots=True)
class Mark:
    kind: Literal["call", "cast", "on", "every", "cron", "health"]
    pattern: str = ""
    durable: bool = False
    plan: Plan | None = field(default=None, repr=False)


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


def every(interval: Any, **options: Any) -> Callable[[F], F]:
    """This method runs once per `interval` ("30s", "5m"), in its turn between messages. Options, durations or texts:

    `fixed`: "rate" (from slot to slot, default) or "delay" (from the end of a run); `jitter`: each run is late by up to
    this; `misfire`: what becomes of runs that were missed, "skip" (default), "run_once", "run_all(n)"; `grace`: how late
    one may be; `overlap`: while the one before goes on, "skip" (default), "queue(n)", "allow", "kill_previous";
    `max_runtime`: then it is cancelled.
    """
    plan = every_plan(interval, **options)
    return lambda method: _marked(method, Mark("every", plan=plan))


def cron(expression: str, **options: Any) -> Callable[[F], F]:
    """This method runs at the times of a cron line, in `timezone` (default "UTC"). Options: as `every`, but `fixed`; what
    was missed is run once by default."""
    plan = cron_plan(expression, **options)
    return lambda method: _marked(method, Mark("cron", plan=plan))


def health(method: F) -> F:
    """The node asks this method whether the agent is well (docs/services.md, health): None or True is yes, a text says what
    is wrong, False is a plain no, and so is an exception, which crashes nobody.

    It is asked between two awaits of whatever handler runs, so it looks and changes nothing. A plain `def` runs on the loop
    as well, and must return at once. One per agent.
    """
    return _marked(method, Mark("health"))


def marks(method: Any) -> tuple[Mark, ...]:
    """Those of a function, the innermost first; none for anything else."""
    found = getattr(method, _MARKS, ())
    return found if isinstance(found, tuple) else ()


def _marked(method: F, mark: Mark) -> F:
    if not callable(method):
        raise TypeError(f"@{mark.kind} expects a method, got {method!r}")
    setattr(method, _MARKS, (*marks(method), mark))
    return method
