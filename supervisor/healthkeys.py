"""The keys `health` and `restart_when` of a worker: what the health service watches it for, checked.

`probe` is for agents and programs alike but for `call`, which asks an agent through the broker. Exactly one way to ask:

>>> made = probe(True)({"call": True, "interval": "1s"})
>>> made.interval, made.timeout
(1.0, 1.0)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from otpd.supervisor import checks
from otpd.supervisor.checks import Check
from otpd.supervisor.problems import Invalid, Invalids, one_of, quote, show
from otpd.supervisor.spec import Health, RestartWhen
from otpd.supervisor.units import parse_duration

#: Seconds from check to check, and that each has where nobody says how many: no more than the interval.
_INTERVAL, _TIMEOUT = 10.0, 2.0
_CPU: Final = 'a share of one core such as "90%" or "150% over 5m"'
_SHARE: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]+)?)%(?: over (\S+))?")


def _call(value: Any) -> str:
    if value is not True:
        raise Invalid(expected="true", got=show(value), what="leave the whole key out to ask for nothing")
    return "call"


_WAYS: Final[Mapping[str, Check]] = {
    "tcp": checks.probe_tcp,
    "http": checks.probe_http,
    "exec": checks.probe_exec,
    "call": _call,
}
_OPTIONS: Final[Mapping[str, Check]] = {
    "interval": checks.duration(0.1, "100ms"),
    "timeout": checks.duration(0.01, "10ms"),
    "failures": checks.integer(1, 1000),
    "successes": checks.integer(1, 1000),
    "grace": parse_duration,
    "action": checks.word("report", "restart"),
}


def probe(is_agent: bool) -> Check:
    """The check of `health`, for agents or for programs."""
    ways = dict(_WAYS) if is_agent else {way: check for way, check in _WAYS.items() if way != "call"}

    def check(value: Any) -> Health:
        if isinstance(value, dict) and "call" in value and not is_agent:
            what = "a program is not asked through the broker; ask it by tcp, http or exec"
            raise Invalid(what=what).under("call")
        found = checks.fields(value, {**ways, **_OPTIONS})
        given = [way for way in ways if way in found]
        if len(given) != 1:
            raise Invalid(expected=f"one of {one_of(ways)}", got=one_of(given, "and") if given else "none of them")
        options = {key: item for key, item in found.items() if key in _OPTIONS}
        interval = options.get("interval", _INTERVAL)
        timeout = options.setdefault("timeout", min(_TIMEOUT, interval))
        if timeout > interval:
            raise Invalid(expected=f"at most the interval, which is {interval:g}s", got=f"{timeout:g}s").under("timeout")
        return Health(check=found[given[0]], **options)

    return check


def _cpu(value: Any) -> tuple[float, float]:
    """Percent of one core, and the seconds over which it is averaged."""
    if not isinstance(value, str):
        guess = f"{value:g}%" if isinstance(value, int | float) and not isinstance(value, bool) else ""
        raise Invalid(expected=_CPU, got=show(value), nearest=guess)
    found = _SHARE.fullmatch(value)
    if found is None:
        raise Invalid(expected=_CPU, got=show(value))
    percent, over = float(found[1]), 60.0 if found[2] is None else parse_duration(found[2])
    if percent < 1:
        raise Invalid(expected="at least 1%", got=quote(value))
    if over < 1:
        raise Invalid(expected="an average over at least 1s", got=quote(value))
    return percent, over


_MEASURES: Final[Mapping[str, Check]] = {
    "memory": checks.size(2**20, "1MiB"),
    "cpu": _cpu,
    "files": checks.integer(8, 2**30),
    "threads": checks.integer(1, 2**22),
    "age": checks.duration(1, "1s"),
}


def restart_when(value: Any) -> RestartWhen | None:
    """None for an empty table."""
    found, wrong = checks.each_field(value, _MEASURES)
    if wrong:
        raise Invalids(wrong)
    cpu = found.pop("cpu", None)
    if cpu is not None:
        found |= {"cpu": cpu[0], "cpu_over": cpu[1]}
    return RestartWhen(**found) if found else None


def _threshold(reading: Check) -> Check:
    def check(value: Any) -> dict[str, float] | bool:
        if value is False:
            return False
        if not isinstance(value, dict):
            what = "write {} for the defaults" if value is True else ""
            raise Invalid(expected='a table with "raise", "clear" and "hold", or false', got=show(value), what=what)
        found = checks.fields(value, {"raise": reading, "clear": reading, "hold": parse_duration})
        if found.get("raise", float("inf")) <= found.get("clear", 0.0):
            expected = f"less than raise, which is {found['raise']:g}"
            raise Invalid(expected=expected, got=f"{found['clear']:g}").under("clear")
        return found

    return check


def _percent(value: Any) -> float:
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] is not None or float(found[1]) > 100:
        guess = f"{value:g}%" if isinstance(value, int | float) and not isinstance(value, bool) else ""
        raise Invalid(expected='a share from "0%" to "100%"', got=show(value), nearest=guess)
    return float(found[1])


#: Conditions of the host; each is raised at one threshold and cleared at a lower one, or not watched (false).
ALERTS: Final[Mapping[str, Check]] = {
    "cpu": _threshold(_percent),
    "memory": _threshold(_percent),
    "disk": _threshold(_percent),
    "load": _threshold(checks.number(0, 100_000)),
}
