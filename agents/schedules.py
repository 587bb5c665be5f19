"""What a schedule is, as data: when it is due, and what happens to a run that is late or overlaps the one before. Pure.

The decorators `every` and `cron` and the verb `schedule` make these, they cross as plain data, and the scheduler service
works by them. Times are nanoseconds: of CLOCK_MONOTONIC for intervals and `after`, since 1970 for cron and `at`.

>>> plan = every_plan("30s", jitter="2s", overlap="queue(3)")
>>> plan.interval, plan.rules.overlap, plan.rules.queue
(30000000000, 'queue', 3)
>>> from_data(to_data(plan)) == plan
True
>>> cron_plan("0 3 * * *", timezone="Mars/Olympus")
Traceback (most recent call last):
    ...
ValueError: cron: no time zone named 'Mars/Olympus'; write one of the tz database, such as "Europe/Berlin" or "UTC"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from otpd.agents.durations import LONGEST, nanoseconds, shown

Misfire: TypeAlias = Literal["skip", "run_once", "run_all"]
Overlap: TypeAlias = Literal["skip", "queue", "allow", "kill_previous"]
#: Below this a timer is no work for a service of the node but a loop in the agent.
LEAST_INTERVAL: Final = 10_000_000
#: Runs that may wait behind the one before, and missed ones that are made up for: memory must have a bound.
MOST: Final = 1000
#: Moments on either clock are below this, so that sums of two of them have 64 bits.
LATEST: Final = 1 << 62
_WITH_NUMBER: Final = re.compile(r"(\w+)(?:\((\d+)\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`limit`: of run_all. `grace`: later than that a run is missed for good; None: never. `queue`: of overlap queue."""

    misfire: Misfire = "skip"
    limit: int = 0
    grace: int | None = None
    overlap: Overlap = "skip"
    queue: int = 0
    max_runtime: int | None = None


@dataclass(frozen=True, slots=True)
class Every:
    """`delay`: the interval is counted from the end of a run (fixed delay), not from slot to slot (fixed rate)."""

    interval: int
    rules: Rules
    delay: bool = False
    jitter: int = 0

    def __str__(self) -> str:
        return f"every {shown(self.interval)}{' after the end' if self.delay else ''}"


@dataclass(frozen=True, slots=True)
class Cron:
    expression: str
    rules: Rules
    timezone: str = "UTC"
    jitter: int = 0

    def __str__(self) -> str:
        return f"cron {self.expression} ({self.timezone})"


@dataclass(frozen=True, slots=True)
class Once:
    """`wall`: `due` is a time of day (`at`), else of the monotonic clock (`after`)."""

    due: int
    rules: Rules
    wall: bool = False

    def __str__(self) -> str:
        return "once"


Plan: TypeAlias = Every | Cron | Once
_KINDS: Final[Mapping[str, type[Plan]]] = {"every": Every, "cron": Cron, "once": Once}


def to_data(plan: Plan) -> dict[str, Any]:
    return {"kind": type(plan).__name__.lower(), **asdict(plan)}


def from_data(data: Mapping[str, Any]) -> Plan:
    """KeyError, TypeError or ValueError for what `to_data` has not made of a plan that could work."""
    fields = dict(data)
    plan = _KINDS[fields.pop("kind")](**fields | {"rules": Rules(**fields["rules"])})
    _check_rules(plan.rules)
    match plan:
        case Every():
            check_whole("interval", plan.interval, LEAST_INTERVAL, LONGEST)
            check_whole("jitter", plan.jitter, 0, plan.interval)
            _check_type("delay", plan.delay, bool)
        case Cron():
            _check_cron(plan.expression, plan.timezone)
            check_whole("jitter", plan.jitter, 0, LONGEST)
        case Once():
            check_whole("due", plan.due, 0, LATEST)
            _check_type("wall", plan.wall, bool)
    return plan


def _check_rules(rules: Rules) -> None:
    for key, value, choices in (("misfire", rules.misfire, Misfire), ("overlap", rules.overlap, Overlap)):
        if value not in get_args(choices):
            raise ValueError(f"{key}: expected one of {', '.join(get_args(choices))}, got {value!r}")
    check_whole("limit", rules.limit, int(rules.misfire == "run_all"), MOST)
    check_whole("queue", rules.queue, int(rules.overlap == "queue"), MOST)
    if rules.grace is not None:
        check_whole("grace", rules.grace, 0, LONGEST)
    if rules.max_runtime is not None:
        check_whole("max_runtime", rules.max_runtime, 1, LONGEST)


def check_whole(key: str, value: Any, least: int, most: int) -> None:
    """ValueError for what is no int from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key}: expected a whole number from {least} to {most}, got {value!r}")


def _check_type(key: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise ValueError(f"{key}: expected {kind.__name__}, got {value!r}")


def _check_cron(expression: Any, timezone: Any) -> None:
    """ValueError for what is no cron line, for one that never comes, and for an unknown time zone."""
    from otpd.agents.cronline import Cronline

    Cronline(expression, timezone)


# --- as people write them ---


def every_plan(interval: Any, *, fixed: str = "rate", jitter: Any = 0, **rules: Any) -> Every:
    """ValueError for what could not work."""
    span = nanoseconds("every", interval, LEAST_INTERVAL)
    if fixed not in ("rate", "delay"):
        raise ValueError(f'every: expected fixed to be "rate" or "delay", got {fixed!r}')
    return Every(span, rules_of("every", **rules), fixed == "delay", _jitter("every", jitter, span))


def cron_plan(expression: Any, *, timezone: str = "UTC", jitter: Any = 0, **rules: Any) -> Cron:
    """ValueError for what is no cron line, for one that never comes, and for an unknown time zone."""
    _check_cron(expression, timezone)
    rules.setdefault("misfire", "run_once")
    return Cron(" ".join(expression.split()), rules_of("cron", **rules), timezone, _jitter("cron", jitter, None))


def _jitter(what: str, value: Any, interval: int | None) -> int:
    found = nanoseconds(f"{what}, jitter", value)
    if interval is not None and found > interval:
        raise ValueError(f"{what}, jitter: expected at most the interval ({shown(interval)}), got {value!r}")
    return found


def rules_of(
    what: str, *, misfire: Any = "skip", grace: Any = None, overlap: Any = "skip", max_runtime: Any = None
) -> Rules:
    """ValueError names what is wrong, and what is right."""
    missed, limit = _choice(what, "misfire", misfire, ("skip", "run_once", "run_all"), "run_all")
    over, queue = _choice(what, "overlap", overlap, ("skip", "queue", "allow", "kill_previous"), "queue")
    return Rules(
        misfire=missed,
        limit=limit,
        grace=None if grace is None else nanoseconds(f"{what}, grace", grace),
        overlap=over,
        queue=queue,
        max_runtime=None if max_runtime is None else nanoseconds(f"{what}, max_runtime", max_runtime, 1),
    )


def _choice(what: str, key: str, value: Any, choices: tuple[str, ...], numbered: str) -> tuple[Any, int]:
    """The word, and the number behind the one that has one."""
    found = _WITH_NUMBER.fullmatch(value) if isinstance(value, str) else None
    word, number = (found[1], found[2]) if found is not None else (None, None)
    if word not in choices or (word == numbered) != (number is not None) or (number and not 0 < int(number) <= MOST):
        words = ", ".join(f"{each}(n)" if each == numbered else each for each in choices)
        raise ValueError(f"{what}, {key}: expected one of {words} (n from 1 to {MOST}), got {value!r}")
    return word, int(number or 0)
