"""The methods of an agent class that messages reach: by name, with their arguments prepared for the check, and their docs.

Built once per incarnation from the marks that `decorators` has left; what could not work is a TypeError when the class is
made, not an error of the first message.

>>> from otpd.agents.decorators import call
>>> class Inventory:
...     @call
...     async def reserve(self, sku: str, n: int = 1) -> int:
...         "Take from the stock."
>>> table = Methods(Inventory)
>>> table.calls["reserve"].parameters.wrong({"sku": 5})
'argument sku: expected str, got int (5)'
>>> table.describe()["calls"]
[{'name': 'reserve', 'signature': '(sku: str, n: int = 1) -> int', 'doc': 'Take from the stock.'}]
"""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from otpd.agents.arguments import Parameters
from otpd.agents.decorators import Mark, marks
from otpd.agents.schedules import Plan
from otpd.ipc.topics import TopicError, Trie, words_of_pattern

#: Where nothing is marked.
_OURS: Final = ("otpd.agents.agent", "otpd.agents.verbs", "otpd.agents.commands")


class Method:
    """One handler of one kind. `is_async`: it is awaited on the loop; otherwise it runs in the worker thread."""

    __slots__ = ("__dict__", "function", "is_async", "name", "pattern")

    def __init__(self, name: str, function: Callable[..., Any], pattern: str = "") -> None:
        self.name, self.function, self.pattern = name, function, pattern
        self.is_async = inspect.iscoroutinefunction(function)

    @functools.cached_property
    def parameters(self) -> Parameters:
        """Prepared at the first message: a start must not wait for what may never be called."""
        return Parameters(self.function, bound=True)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "signature": self.parameters.doc, "doc": inspect.getdoc(self.function) or ""}


class Methods:
    """All of one class. TypeError for a handler that could not work."""

    def __init__(self, agent_class: type) -> None:
        self._class = agent_class
        self.calls: dict[str, Method] = {}
        self.casts: dict[str, Method] = {}
        self.events: list[Method] = []
        self.durable_events: list[Method] = []
        self.schedules: dict[str, tuple[Method, Plan]] = {}  # by what names them in the agent
        self._own: dict[str, Method] = {}
        self.health: Method | None = None
        for name, function, mark in _marked(agent_class):
            self._add(name, function, mark)
        self._topics, self._durable_topics = _trie(self.events), _trie(self.durable_events)

    def _add(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        if mark.kind == "on":
            (self.durable_events if mark.durable else self.events).append(Method(name, function, mark.pattern))
        elif mark.plan is not None:
            same = sum(1 for method, _ in self.schedules.values() if method.name == name)
            self.schedules[f"{name}#{same + 1}" if same else name] = (self.own(name), mark.plan)
        elif mark.kind == "health":
            self.health = Method(name, function)
        else:
            table = self.calls if mark.kind == "call" else self.casts
            table[name] = Method(name, function)

    def of_topic(self, topic: str) -> list[Method]:
        """Those whose pattern the topic meets, in the order of the class."""
        return [self.events[index] for index in sorted(self._topics.find(topic))]

    def of_durable_topic(self, topic: str) -> list[Method]:
        return [self.durable_events[index] for index in sorted(self._durable_topics.find(topic))]

    def own(self, name: str) -> Method:
        """What a timer may run: any method that the class has written itself. LookupError says what there is."""
        method = self._own.get(name)
        if method is None:
            there = _written(self._class)
            if name not in there:
                near = difflib.get_close_matches(str(name), there, n=1)
                meant = f"did you mean {near[0]}? " if near else ""
                raise LookupError(f"no method of its own named {name!r}; {meant}there are: {', '.join(there) or 'none'}")
            method = self._own[name] = Method(name, there[name])
        return method

    def missing(self, kind: str, name: str) -> str:
        """Why there is no such method, with what there is."""
        here, there = (self.calls, self.casts) if kind == "call" else (self.casts, self.calls)
        if name in there:
            other = "cast" if kind == "call" else "call"
            return f"{name} is a {other}, not a {kind}; use the verb {other}"
        near = difflib.get_close_matches(name, here, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"no {kind} named {name!r}; {meant}{kind}s: {', '.join(here) or 'none'}"

    def describe(self) -> dict[str, Any]:
        """Class, doc, calls, casts and topics, as `otpd describe` shows them."""
        return {
            "class": self._class.__name__,
            "doc": inspect.cleandoc(self._class.__doc__ or ""),
            "calls": [each.describe() for each in self.calls.values()],
            "casts": [each.describe() for each in self.casts.values()],
            "topics": [
                *({**each.describe(), "pattern": each.pattern} for each in self.events),
                *({**each.describe(), "pattern": each.pattern, "durable": True} for each in self.durable_events),
            ],
            "schedules": [{**each.describe(), "plan": str(plan)} for each, plan in self.schedules.values()],
        }


def _trie(methods: list[Method]) -> Trie[int]:
    found: Trie[int] = Trie()
    for index, method in enumerate(methods):
        found.add(method.pattern, index)
    return found


def check(agent_class: type, reserved: frozenset[str]) -> None:
    """TypeError for a handler that takes the name of a verb, an event or a signature that could not work."""
    asked: list[str] = []
    for name, function, mark in _marked(agent_class):
        where = f"{agent_class.__name__}.{name}"
        if name in reserved or name.startswith("_"):
            raise TypeError(f"{where}: expected a name of your own for a @{mark.kind} method, got one of otpd's; rename it")
        _check_signature(where, function, mark)
        asked += [name] if mark.kind == "health" else []
    if len(asked) > 1:
        raise TypeError(f"{agent_class.__name__}: expected one @health method, got {' and '.join(asked)}; join them in one")


#: What the verbs call and cast take for themselves.
_TAKEN: Final[Mapping[str, frozenset[str]]] = {
    "call": frozenset({"timeout"}),
    "cast": frozenset({"confirm", "durable"}),
    "on": frozenset(),
    "every": frozenset(),
    "cron": frozenset(),
    "health": frozenset(),
}


def _check_signature(where: str, function: Callable[..., Any], mark: Mark) -> None:
    """From the code object: `inspect` would wake up a lot of shared memory in every agent that is started."""
    code: types.CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return
    names, stars = code.co_varnames, code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    if mark.kind == "on":
        if code.co_argcount != 2 or code.co_kwonlyargcount or stars:
            raise TypeError(f"{where}: expected one parameter, the event; write: async def {code.co_name}(self, event)")
        _check_pattern(where, mark.pattern)
    elif mark.plan is not None:
        _check_timed(where, function, code)
    elif mark.kind == "health":
        if code.co_argcount != 1 or code.co_kwonlyargcount or stars:
            raise TypeError(f"{where}: expected no parameters; write: async def {code.co_name}(self)")
    elif code.co_posonlyargcount > 1 or stars & inspect.CO_VARARGS:
        nameless = names[1] if code.co_posonlyargcount > 1 else f"*{names[code.co_argcount + code.co_kwonlyargcount]}"
        raise TypeError(f"{where}: expected parameters that have names, got {nameless}; messages carry arguments by name")
    taken = set(names[1 : code.co_argcount + code.co_kwonlyargcount]) & _TAKEN[mark.kind]
    if taken:
        own = f"the parameter {taken.pop()} is one of the {mark.kind}'s own and could not be sent"
        raise TypeError(f"{where}: {own}; rename it")


def _check_timed(where: str, function: Callable[..., Any], code: types.CodeType) -> None:
    plain = inspect.unwrap(function)
    needed = code.co_argcount - len(getattr(plain, "__defaults__", None) or ())
    if needed > 1 or code.co_kwonlyargcount > len(getattr(plain, "__kwdefaults__", None) or ()):
        raise TypeError(f"{where}: expected no parameter but self, time has none; write: async def {code.co_name}(self)")


def _check_pattern(where: str, pattern: str) -> None:
    try:
        words_of_pattern(pattern)
    except TopicError as error:
        raise TypeError(f"{where}: {error}") from None


def _marked(agent_class: type) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
    """(name, function, mark) of what the class ends up with, inherited ones first, in the order of the definitions."""
    bases = [base for base in reversed(agent_class.__mro__) if base is not object and base.__module__ not in _OURS]
    for name in dict.fromkeys(name for base in bases for name in vars(base)):
        for mark in _marks_of(agent_class, name):
            yield name, getattr(agent_class, name), mark


def _written(agent_class: type) -> dict[str, Callable[..., Any]]:
    """What a class and its bases define beside otpd's own, without what begins with an underscore or overrides otpd's."""
    ours: set[str] = set()
    found: dict[str, Any] = {}
    for base in reversed(agent_class.__mro__):
        if base is object or base.__module__ in _OURS:
            ours |= vars(base).keys()
        else:
            found.update({name: each for name, each in vars(base).items() if inspect.isfunction(each)})
    return {name: each for name, each in found.items() if not name.startswith("_") and name not in ours}


def _marks_of(agent_class: type, name: str) -> tuple[Mark, ...]:
    """A method that overrides a marked one need not be marked again."""
    found = (marks(vars(base).get(name)) for base in agent_class.__mro__ if name in vars(base))
    return next(filter(None, found), ())
