"""Checks keyword arguments against the signature and annotations of a method: of init(), and of every call and cast.

Strict where the annotation is plain (`int` does not take True, `float` takes an int), silent where it is not: an
annotation that can't be checked is documentation. Nothing is converted.

>>> def init(symbol: str, n: int = 1): ...
>>> bind("feed", init, {"symbol": "A", "n": 2})
{'symbol': 'A', 'n': 2}
>>> bind("feed", init, {"symbol": 5})  # doctest: +IGNORE_EXCEPTION_DETAIL
Traceback (most recent call last):
    ...
otpd.agents.arguments.ArgumentError: agent feed, argument symbol: expected str, got int (5)
>>> Parameters(init).wrong({"symbol": "A", "m": 2})
'argument m: expected one of symbol, n, got m'
"""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Union

from otpd.agents.errors import OtpdError

_MISSING: Final = inspect.Parameter.empty
_SHOWN: Final = 80


class ArgumentError(OtpdError):
    """`args` in otpd.toml do not fit init(): names agent, argument, expected, got."""


class Parameters:
    """What a function takes by name, prepared once: a message whose arguments are of plain types is checked in under 1 us.

    `bound`: the first parameter is self. TypeError for a function that can't be called with keyword arguments alone.
    """

    __slots__ = ("_exact", "_hints", "_named", "_open", "_required", "_signature", "itself")

    def __init__(self, function: Callable[..., Any], bound: bool = False) -> None:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        first = parameters.pop(0) if bound else None
        #: The name that self has: **kwargs can't take it, too.
        self.itself = first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else None
        self._signature = signature.replace(parameters=parameters)
        self._named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self._open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._required = frozenset(name for name, p in self._named.items() if p.default is _MISSING)
        hints = _hints(function)
        self._hints = {name: hint for name, hint in hints.items() if name in self._named or name == "return"}
        #: The type that a value usually has: if it is exactly this, nothing more has to be looked at.
        self._exact = {name: hint for name, hint in self._hints.items() if isinstance(hint, type) and hint in _PLAIN}

    @property
    def doc(self) -> str:
        """As people write it: (sku: str, n: int = 1) -> int."""
        return _doc(self._signature, self._hints)

    def wrong(self, args: Mapping[str, Any]) -> str | None:
        """What does not fit, naming argument, expected and got; None when all does."""
        exact = self._exact
        for name, value in args.items():
            if type(value) is not exact.get(name):
                found = self._wrong(name, value)
                if found is not None:
                    return found
        if self._required <= args.keys():
            return None
        return self._missing(next(name for name in self._named if name in self._required and name not in args))

    def _wrong(self, name: str, value: Any) -> str | None:
        if name in self._hints:
            hint = self._hints[name]
            if fits(value, hint):
                return None
            return f"argument {name}: expected {describe(hint)}, got {type(value).__name__} ({shown(value)})"
        if name in self._named or (self._open and isinstance(name, str) and name != self.itself):
            return None
        near = difflib.get_close_matches(str(name), self._named, n=1)
        expected = f"one of {', '.join(self._named)}" if self._named else "no argument"
        return f"argument {name}: expected {expected}, got {name}{f'; did you mean {near[0]}?' if near else ''}"

    def _missing(self, name: str) -> str:
        expected = describe(self._hints[name]) if name in self._hints else "a value"
        return f"argument {name}: expected {expected}, got nothing"


_PLAIN: Final = frozenset((str, int, float, bool, bytes, list, dict))


def bind(agent: str, function: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for init(), already bound to its agent; ArgumentError for the first that does not fit."""
    if not args and _takes_nothing(function):
        return {}
    method = function.__func__ if isinstance(function, types.MethodType) else None
    parameters = Parameters(function) if method is None else Parameters(method, bound=True)
    wrong = parameters.wrong(args)
    if wrong is not None:
        name = wrong.removeprefix("argument ").partition(":")[0]
        advice = f"; add args = {{ {name} = ... }} to [agents.{agent}]" if wrong.endswith("got nothing") else ""
        if name == parameters.itself:
            advice = "; init() has the agent itself by this name: call the argument otherwise, in args and in init()"
        raise ArgumentError(f"agent {agent}, {wrong}{advice}")
    return dict(args)


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """A method of self alone: most init() are, and `inspect` costs a start more than all else here."""
    code = getattr(function, "__code__", None)
    return isinstance(function, types.MethodType) and code is not None and code.co_argcount + code.co_kwonlyargcount == 1


def shown(value: Any) -> str:
    """A value in an error; cut where it would fill the screen."""
    text = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class _Shown:
    """An annotation of a signature that is shown as people write it."""

    def __init__(self, name: str, annotation: Any, hints: Mapping[str, Any]) -> None:
        self._hint = hints.get(name, annotation)

    def __repr__(self) -> str:
        return self._hint if isinstance(self._hint, str) else describe(self._hint)


def _doc(signature: inspect.Signature, hints: Mapping[str, Any]) -> str:
    def shown(name: str, annotation: Any) -> Any:
        return annotation if annotation is _MISSING else _Shown(name, annotation, hints)

    parameters = [p.replace(annotation=shown(p.name, p.annotation)) for p in signature.parameters.values()]
    result = shown("return", signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=result))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """An annotation that names what does not exist at run time checks nothing."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}


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
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
