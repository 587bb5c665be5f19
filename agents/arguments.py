"""Checks the `args` of a worker against the signature and annotations of its init().

Strict where the annotation is plain (`int` does not take True, `float` takes an int), silent where it is not: an
annotation that can't be checked is documentation.

>>> def init(symbol: str, n: int = 1): ...
>>> bind("feed", init, {"symbol": "A", "n": 2})
{'symbol': 'A', 'n': 2}
>>> bind("feed", init, {"symbol": 5})  # doctest: +IGNORE_EXCEPTION_DETAIL
Traceback (most recent call last):
    ...
otpd.agents.arguments.ArgumentError: agent feed, argument symbol: expected str, got int (5)
"""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from otpd.agents.errors import OtpdError

_MISSING = inspect.Parameter.empty


class ArgumentError(OtpdError):
    """`args` in otpd.toml do not fit init(): names agent, argument, expected, got."""


def bind(agent: str, function: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for `function`; ArgumentError for the first that does not fit."""
    parameters = inspect.signature(function).parameters
    hints = _hints(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for name, value in args.items():
        if name in named:
            _check(agent, name, value, hints.get(name, Any))
        elif not takes_any:
            raise ArgumentError(_unknown(agent, name, named))
    for name, parameter in named.items():
        if parameter.default is _MISSING and name not in args:
            expected = describe(hints[name]) if name in hints else "a value"
            raise ArgumentError(
                f"agent {agent}, argument {name}: expected {expected}, got nothing; "
                f"add args = {{ {name} = ... }} to [agents.{agent}]"
            )
    return dict(args)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """An annotation that names what does not exist at run time checks nothing."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}


def _unknown(agent: str, name: str, named: Mapping[str, inspect.Parameter]) -> str:
    near = difflib.get_close_matches(name, named, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"agent {agent}, argument {name}: init() does not take it; {meant}it takes: {', '.join(named) or 'nothing'}"


def _check(agent: str, name: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        raise ArgumentError(
            f"agent {agent}, argument {name}: expected {describe(hint)}, got {type(value).__name__} ({value!r})"
        )


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` may be passed where `hint` is annotated.

    >>> fits(1, float), fits(True, int), fits([1, "a"], list[int]), fits(None, int | None), fits("x", Literal["x"])
    (True, False, False, True, True)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if isinstance(origin, type):
        return _fits_generic(value, origin, inner)
    return _fits_plain(value, hint)


def _fits_plain(value: Any, hint: Any) -> bool:
    if hint is None:
        return value is None
    if hint is Any or not isinstance(hint, type):
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint in (tuple, set, frozenset):
        return isinstance(value, list | hint)
    try:
        return isinstance(value, (int, float) if hint is float else hint)
    except TypeError:
        return True


def _fits_generic(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    if issubclass(origin, collections.abc.Mapping):
        return isinstance(value, Mapping) and (
            len(inner) != 2 or all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
        )
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return isinstance(value, list | tuple) and all(fits(each, inner[0]) for each in value)
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if issubclass(origin, collections.abc.Iterable):
        return isinstance(value, list | tuple) and all(fits(each, inner[0]) for each in value)
    return True


def describe(hint: Any) -> str:
    """An annotation as people write it.

    >>> describe(int), describe(int | None), describe(list[str])
    ('int', 'int | None', 'list[str]')
    """
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
