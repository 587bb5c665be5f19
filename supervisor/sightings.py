"""What of a parsed script the rules of `faults` are about: calls, bases of classes, loops, tables in global variables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from otpd.supervisor import faults
from otpd.supervisor.faults import Rule
from otpd.supervisor.namescopes import Scopes

_SLEEPS: Final = frozenset({"time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"})
_ENDLESS: Final = frozenset({"itertools.count", "itertools.cycle"})
#: What calls a function that it is given.
_CALLERS: Final = frozenset({"functools.partial", "asyncio.to_thread", "threading.Thread", "anyio.to_thread.run_sync"})
_CALLING: Final = frozenset({"submit", "run_in_executor", "apply_async"})
#: Calls that concern nobody but the process itself, by what their first argument is.
_OF_ITSELF: Final = frozenset({"psutil.Process", "os.kill", "os.pidfd_open", "os.killpg"})
_ITSELF: Final = frozenset({"os.getpid", "os.getpgrp", "os.getpgid"})
_TABLE_NAME: Final = re.compile(
    r"(^|_)(pids?|procs?|process(es)?|workers?|agents?|children|registry)($|_)", re.IGNORECASE
)
_CONTAINERS: Final = frozenset({"dict", "list", "set", "defaultdict", "OrderedDict", "WeakValueDictionary", "deque"})
_ADDERS: Final = frozenset({"add", "append", "appendleft", "extend", "insert", "setdefault", "update"})
_MUTATORS: Final = _ADDERS | {"clear", "discard", "pop", "popitem", "remove"}
#: Calls that give a process, or its pid.
_PROCESSES: Final = frozenset(
    {
        "os.fork", "os.getpid", "os.posix_spawn", "os.posix_spawnp", "multiprocessing.Process", "subprocess.Popen",
        "multiprocessing.context.Process", "psutil.Process", "psutil.Popen", "asyncio.create_subprocess_exec",
        "asyncio.create_subprocess_shell", "asyncio.subprocess.create_subprocess_exec",
    }
)  # fmt: skip
_TABLE_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is found at a node, before anybody has asked whether it is allowed. `code` is the expression that was
    recognised, `name` the dotted name that it stands for."""

    node: ast.stmt | ast.expr
    rule: Rule
    what: str
    sure: bool = True
    code: ast.expr | None = None
    name: str = ""

    @property
    def lines(self) -> tuple[int, int]:
        """A loop or a class is spoken of at its first line, an expression at all of its lines."""
        last = self.node.end_lineno if isinstance(self.node, ast.expr) else None
        return self.node.lineno, last or self.node.lineno


def sightings(module: ast.Module, scopes: Scopes) -> Iterator[Sighting]:
    """All that the rules are about, as it comes."""
    nodes = list(ast.walk(module))
    for node in nodes:
        match node:
            case ast.Call():
                yield from _call(node, scopes)
            case ast.ClassDef():
                yield from _bases(node, scopes)
            case ast.While() | ast.For():
                yield from _loop(node, scopes)
    tables = dict(_containers(module))
    changed = set(_changed_names(nodes))
    for name, (statement, is_empty) in tables.items():
        if _TABLE_NAME.search(name) and (name in changed or is_empty):
            yield Sighting(statement, faults.TABLE_LIKE, f"the global {name}")
    for table, place, value in _stores(nodes):
        if table.id in tables and scopes.scope_of(table) is scopes.module and _is_process(value, scopes):
            yield Sighting(place, faults.PROCESS_TABLE, f"the global {table.id}", code=table)


def _call(node: ast.Call, scopes: Scopes) -> Iterator[Sighting]:
    named = scopes.name_of(node.func)
    if named is not None:
        rule = faults.rule_of(named.name)
        if rule is not None and not _on_itself(named.name, node, scopes):
            yield Sighting(node, rule, f"{named.name}()", named.sure, node.func, named.name)
        elif named.name in _CALLERS:
            yield from _given(node, f"{named.name}()", scopes)
    elif isinstance(node.func, ast.Attribute):
        attr = node.func.attr
        if attr in faults.METHODS:
            yield Sighting(node, faults.METHODS[attr], f"{attr}()")
        if attr in _CALLING:
            yield from _given(node, f"{attr}()", scopes)


def _given(node: ast.Call, to: str, scopes: Scopes) -> Iterator[Sighting]:
    """A function that another is given to call."""
    for argument in (*node.args, *(each.value for each in node.keywords if each.arg in ("target", "func"))):
        named = scopes.name_of(argument)
        rule = faults.rule_of(named.name) if named is not None else None
        if named is not None and rule is not None:
            yield Sighting(argument, rule, f"{named.name} given to {to}", named.sure, argument, named.name)


def _bases(node: ast.ClassDef, scopes: Scopes) -> Iterator[Sighting]:
    for base in node.bases:
        named = scopes.name_of(base)
        rule = faults.rule_of(named.name) if named is not None else None
        if named is not None and rule is not None:
            yield Sighting(base, rule, f"class {node.name}({named.name})", named.sure, base, named.name)


def _on_itself(name: str, call: ast.Call, scopes: Scopes) -> bool:
    """psutil.Process() and os.kill(os.getpid(), ...) concern nobody else."""
    match call.args:
        case []:
            return name == "psutil.Process" and not call.keywords
        case [ast.Call(func=function), *_] if name in _OF_ITSELF:
            named = scopes.name_of(function)
            return named is not None and named.name in _ITSELF
        case _:
            return False


def _loop(node: ast.While | ast.For, scopes: Scopes) -> Iterator[Sighting]:
    """`while True`, or `for n in itertools.count()`, with a sleep in it: a timer that nobody owns."""
    if not _is_endless(node, scopes):
        return
    named = [scopes.name_of(call.func) for call in _within(node) if isinstance(call, ast.Call)]
    for name in sorted({each.name for each in named if each is not None} & _SLEEPS)[:1]:
        yield Sighting(node, faults.SLEEP_LOOP, f"a loop without end around {name}()")


def _is_endless(node: ast.While | ast.For, scopes: Scopes) -> bool:
    match node:
        case ast.While(test=ast.Constant(value=value)):
            return bool(value)
        case ast.For(iter=ast.Call(func=function)):
            named = scopes.name_of(function)
            return named is not None and named.name in _ENDLESS
        case _:
            return False


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """What runs in a loop: not the functions defined in it, nor its inner endless loops."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.While):
            yield child
            yield from _within(child)


# --- tables ---


def _containers(module: ast.Module) -> Iterator[tuple[str, tuple[ast.stmt, bool]]]:
    """Containers at module level, with the statement that makes them, and whether they begin empty."""
    for node in module.body:
        for name, value in _assigned(node):
            if _is_container(value):
                yield name, (node, _is_empty(value))


def _assigned(node: ast.stmt) -> Iterable[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            return [(target.id, value) for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return [(name, value)]
        case _:
            return []


def _is_container(value: ast.expr) -> bool:
    match value:
        case ast.Dict() | ast.List() | ast.Set() | ast.DictComp() | ast.ListComp() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in _CONTAINERS
        case _:
            return False


def _is_empty(value: ast.expr) -> bool:
    match value:
        case ast.Dict(keys=items) | ast.List(elts=items):
            return not items
        case ast.Call():
            return True
        case _:
            return False


def _changed_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in _MUTATORS:
                yield name
            case ast.Global(names=names):
                yield from names


def _stores(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.Name, ast.stmt | ast.expr, ast.expr]]:
    """What is put into a container that has a name: the name, the node that does it, the value."""
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name() as name)], value=value):
                yield name, node, value
            case ast.Call(func=ast.Attribute(value=ast.Name() as name, attr=attr), args=args) if attr in _ADDERS:
                yield from ((name, node, value) for value in args)


def _is_process(value: ast.expr, scopes: Scopes, depth: int = _TABLE_DEPTH) -> bool:
    """A process, its pid, or a tuple or dict that holds one."""
    match value:
        case _ if depth == 0:
            return False
        case ast.Await(value=inner) | ast.Attribute(value=inner, attr="pid"):
            return _is_process(inner, scopes, depth - 1)
        case ast.Call(func=func):
            named = scopes.name_of(func)
            return named is not None and named.sure and named.name in _PROCESSES
        case ast.Name():
            bindings = scopes.bindings_of(value)
            return len(bindings) == 1 and (made := bindings[0].value) is not None and _is_process(made, scopes, depth - 1)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Dict(values=items):
            return any(_is_process(item, scopes, depth - 1) for item in items)
        case _:
            return False
