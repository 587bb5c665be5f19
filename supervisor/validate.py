"""Checks of supervisor flags and child specs, in OTP's order, with OTP's errors as data (rules 8-10, 13-22).

`config` finds mistakes in a file and says where they stand; this finds them in values, wherever they come from, also from
a request at run time. The first violation is raised as a SpecError: `data` is for programs, its text for people.
Nothing starts before everything is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from otpd.supervisor.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    ChildSpec,
    ChildType,
    Dynamic,
    Restart,
    Strategy,
    SupervisorSpec,
)


class SpecError(ValueError):
    """`data` is "missing_id", "missing_start" or [kind, value]; str() says what was expected, what was got, what to do."""

    def __init__(self, data: Any, sentence: str) -> None:
        super().__init__(sentence)
        self.data = data


def check_supervisor(spec: SupervisorSpec) -> None:
    """Everything that a supervisor checks before it starts; the data is the reason of its failed start."""
    try:
        check_flags(spec)
    except SpecError as error:
        raise SpecError(["supervisor_data", error.data], str(error)) from error
    if spec.dynamic is Dynamic.SIMPLE and spec.template is None:
        raise SpecError(["bad_start_spec"], "a simple_one_for_one supervisor needs exactly one template, got none")
    try:
        check_children(spec.children if spec.template is None else (spec.template,), spec.auto_shutdown)
    except SpecError as error:
        raise SpecError(["start_spec", error.data], str(error)) from error


def check_flags(spec: SupervisorSpec) -> None:
    """The supervisor's own fields: strategy, intensity, period, auto_shutdown, then what OTP does not have."""
    _one_of("invalid_strategy", "strategy", spec.strategy, Strategy)
    if not (spec.max_restarts is None or _integer(spec.max_restarts, 0)):
        raise _invalid("invalid_intensity", "max_restarts", spec.max_restarts, "an integer >= 0, or none for no limit")
    if not _integer(spec.max_seconds, 1):
        raise _invalid("invalid_period", "max_seconds", spec.max_seconds, "an integer >= 1")
    _one_of("invalid_auto_shutdown", "auto_shutdown", spec.auto_shutdown, AutoShutdown)
    if spec.isolate and spec.strategy != Strategy.ONE_FOR_ONE:
        raise _combination(("isolate", True), ("strategy", str(spec.strategy)), "use one_for_one, or don't isolate")
    if spec.dynamic is Dynamic.DYNAMIC and spec.auto_shutdown != AutoShutdown.NEVER:
        advice = "its children come and go; give it auto_shutdown never, and stop it when its work is done"
        raise _combination(("auto_shutdown", str(spec.auto_shutdown)), ("dynamic", str(spec.dynamic)), advice)
    if not (spec.max_children is None or _integer(spec.max_children, 0)):
        raise _invalid("invalid_max_children", "max_children", spec.max_children, "an integer >= 0, or none for no limit")


def check_children(children: Iterable[ChildSpec], auto_shutdown: AutoShutdown | str | None) -> None:
    """Every spec in order, and that no id comes twice. `auto_shutdown` None: not known (rule 20)."""
    seen: set[str] = set()
    for child in children:
        check_child(child, auto_shutdown)
        if child.id in seen:
            sentence = f"expected every id of a supervisor's children once, got {child.id!r} twice; rename one of them"
            raise SpecError(["duplicate_child_name", child.id], sentence)
        seen.add(child.id)


def check_child(child: ChildSpec, auto_shutdown: AutoShutdown | str | None) -> None:
    """One child spec; the order of the checks is OTP's (rule 18)."""
    if child.id is None or child.id == "":
        raise SpecError("missing_id", "a child spec needs an id; give it a name that no sibling has")
    if child.start is None:
        raise SpecError("missing_start", f"child spec {child.id!r} says nothing about how to start it; give it a start")
    if not isinstance(child.id, str) or "/" in child.id:
        raise _invalid("invalid_id", "id", child.id, "a name without '/', which separates the parts of a path")
    _one_of("invalid_restart_type", f"restart of {child.id!r}", child.restart, Restart)
    _check_significant(child, auto_shutdown)
    _one_of("invalid_child_type", f"type of {child.id!r}", child.type, ChildType)
    _check_shutdown(child)


def _check_significant(child: ChildSpec, auto_shutdown: AutoShutdown | str | None) -> None:
    if not isinstance(child.significant, bool):
        raise _invalid("invalid_significant", f"significant of {child.id!r}", child.significant, "true or false")
    if not child.significant:
        return
    if auto_shutdown == AutoShutdown.NEVER:
        advice = "set auto_shutdown of the supervisor to any_significant or all_significant"
        raise _combination(("auto_shutdown", "never"), ("significant", True), advice)
    if child.restart == Restart.PERMANENT:
        advice = "a permanent child never ends for good; make it transient or temporary"
        raise _combination(("restart", "permanent"), ("significant", True), advice)


def _check_shutdown(child: ChildSpec) -> None:
    value: object = child.shutdown
    if value in (BRUTAL_KILL, INFINITY):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= child.shutdown < float("inf")):  # type: ignore[operator]
        expected = 'seconds >= 0, "brutal_kill" or "infinity"'
        raise _invalid("invalid_shutdown", f"shutdown of {child.id!r}", value, expected, in_milliseconds(value))


def in_milliseconds(shutdown: object) -> object:
    """A shutdown as OTP writes it: whole milliseconds; words and rubbish stay what they are."""
    if isinstance(shutdown, int | float) and not isinstance(shutdown, bool) and abs(shutdown) < 1e15:
        return round(shutdown * 1000)
    return shutdown


def _integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(kind: str, field: str, value: object, words: type[Strategy | Restart | ChildType | AutoShutdown]) -> None:
    if value not in [str(word) for word in words]:
        raise _invalid(kind, field, value, "one of " + ", ".join(words))


def _invalid(kind: str, field: str, value: object, expected: str, data: object = None) -> SpecError:
    return SpecError([kind, value if data is None else data], f"expected {field} to be {expected}, got: {value!r}")


def _combination(one: tuple[str, object], other: tuple[str, object], advice: str) -> SpecError:
    fields = sorted([list(one), list(other)], key=lambda field: str(field[0]))
    what = " with ".join(f"{name} = {str(value).lower()}" for name, value in fields)
    return SpecError(["bad_combination", fields], f"{what} is not possible; {advice}")
