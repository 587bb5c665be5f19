"""Compares `args` of an agent with the signature of its init(), by reading the script's source; it is never imported.

Where the source does not say (a class from elsewhere, a decorated init, **kwargs), anything goes: the agent itself will
say what is wrong when it starts.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from otpd.supervisor.problems import Invalid, nearest, show

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (), "list": (list,), "dict": (dict,),
    "List": (list,), "Dict": (dict,), "Sequence": (list,), "Mapping": (dict,), "Iterable": (list, dict, str),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    required: bool
    annotation: ast.expr | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What init() of the agent in a script takes, without self."""

    agent: str  # name of the class
    line: int  # of its init(), or of the class when it has none
    parameters: tuple[Parameter, ...]
    open: bool  # it has **kwargs
    itself: str = "self"  # the name that the agent has in it; "" when that may be an argument, too

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)


def signature(source: str | bytes) -> Signature | None:
    """The signature of init() of the class that the script runs; None when the source alone does not tell."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # codecheck reports it
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    agent = _agent(module, classes)
    return _init_of(agent, classes) if agent else None


def check(found: Signature, args: Mapping[str, Any], script: str) -> list[Invalid]:
    """What is wrong with `args`; paths of the Invalids lead from the agent's table."""
    place = f"{found.agent}.init() at {script}:{found.line}"
    known = {parameter.name: parameter for parameter in found.parameters}
    wrong = [_unknown(name, found, place) for name in args if name not in known and not found.open]
    if found.open and found.itself in args and found.itself not in known:
        what = f"{place} has the agent itself as {found.itself}; give this argument another name"
        wrong.append(Invalid(what=what).under("args", found.itself))
    for parameter in found.parameters:
        if parameter.name not in args and parameter.required:
            what = f"{place} needs the argument {parameter.name}; add args = {{ {parameter.name} = ... }}"
            wrong.append(Invalid(what=what))
        elif parameter.name in args and not fits(args[parameter.name], parameter.annotation):
            expected = ast.unparse(parameter.annotation) if parameter.annotation else ""
            error = Invalid(expected=f"{expected}, as {place} says", got=show(args[parameter.name]))
            wrong.append(error.under("args", parameter.name))
    return wrong


def fits(value: Any, annotation: ast.expr | None) -> bool:
    """Whether `value` may be of the annotated type; True for every annotation that is not understood."""
    match annotation:
        case ast.Name(id=word) if word in _TYPES:
            return isinstance(value, _TYPES[word]) and (word == "bool" or not isinstance(value, bool))
        case ast.Constant(value=None):
            return False  # a configuration has no None
        case ast.Constant(value=str(text)):
            return _fits_text(value, text)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=item):
            return fits(value, item)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=items)):
            return any(fits(value, item) for item in items)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=item):
            return _is_literal(value, item)
        case ast.Subscript(value=ast.Name(id="list" | "List" | "Sequence"), slice=item):
            return isinstance(value, list) and all(fits(element, item) for element in value)
        case ast.Subscript(value=ast.Name(id="dict" | "Dict" | "Mapping"), slice=ast.Tuple(elts=[_, item])):
            return isinstance(value, dict) and all(fits(element, item) for element in value.values())
        case _:
            return True


def _fits_text(value: Any, text: str) -> bool:
    try:
        return fits(value, ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return True


def _is_literal(value: Any, item: ast.expr) -> bool:
    choices = item.elts if isinstance(item, ast.Tuple) else [item]
    constants = [choice.value for choice in choices if isinstance(choice, ast.Constant)]
    if len(constants) < len(choices):
        return True
    return any(value == constant and type(value) is type(constant) for constant in constants)


def _unknown(name: str, found: Signature, place: str) -> Invalid:
    guess = nearest(name, found.names)
    takes = f"; it takes {', '.join(found.names)}" if found.names and not guess else ""
    takes = takes if found.names else "; it takes none"
    return Invalid(what=f"{place} has no argument {name}{takes}", nearest=guess).under("args", name)


def _agent(module: ast.Module, classes: Mapping[str, ast.ClassDef]) -> ast.ClassDef | None:
    """The class given to run(); without a run(), the only class that calls itself an Agent."""
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Name(id="run") | ast.Attribute(attr="run"), args=[ast.Name(id=name)]):
                if name in classes:
                    return classes[name]
    agents = [node for node in classes.values() if any(_last(base) == "Agent" for base in node.bases)]
    return agents[0] if len(agents) == 1 else None


def _init_of(agent: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Signature | None:
    node, seen = agent, {agent.name}
    while True:
        init = _method(node)
        if init:
            return _signature_of(agent.name, init)
        bases = [_last(base) for base in node.bases]
        if bases == ["Agent"] and "Agent" not in classes:
            return Signature(agent.name, agent.lineno, (), False)
        if len(bases) != 1 or bases[0] not in classes or bases[0] in seen:
            return None
        node = classes[bases[0]]
        seen.add(node.name)


def _method(node: ast.ClassDef) -> _Function | None:
    """The init() that the class ends up with."""
    found = [item for item in node.body if isinstance(item, _Function) and item.name == "init"]
    return found[-1] if found else None


def _signature_of(agent: str, init: _Function) -> Signature | None:
    spec = init.args
    if init.decorator_list or spec.posonlyargs[1:] or not (spec.posonlyargs or spec.args):
        return None
    ordinary = spec.args if spec.posonlyargs else spec.args[1:]
    required = len(ordinary) - len(spec.defaults)
    found = [Parameter(item.arg, index < required, item.annotation) for index, item in enumerate(ordinary)]
    defaults = zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    found += [Parameter(item.arg, default is None, item.annotation) for item, default in defaults]
    itself = "" if spec.posonlyargs else spec.args[0].arg
    return Signature(agent, init.lineno, tuple(found), spec.kwarg is not None, itself)


def _last(base: ast.expr) -> str:
    match base:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
