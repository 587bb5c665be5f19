"""Which dotted name an expression of a script stands for, by the scopes of Python: imports and their aliases are followed.

Nothing is run. A name counts for what it was imported as only where nothing else is bound to it in its scope, so that a
parameter called `run` is not `subprocess.run`; what is ambiguous is told as such. `getattr`, attributes of objects and
values that are computed are not followed.

>>> import ast
>>> module = ast.parse("import subprocess as sp\\ndef f(run): run(); sp.run()")
>>> scopes = Scopes(module)
>>> [scopes.name_of(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)]
[None, Named(name='subprocess.run', sure=True)]
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
#: Aliases of aliases that are followed.
_DEPTH: Final = 8
#: What gives back a module: calling it is as good as importing that.
_GIVES_MODULE: Final = {"multiprocessing.get_context": "multiprocessing"}


class Named(NamedTuple):
    """`sure`: nothing else can be meant."""

    name: str
    sure: bool


@dataclass(slots=True)
class Binding:
    """One way in which a name gets a value: an import (`origin`), an assignment of `value`, or neither: something else."""

    origin: str = ""
    value: ast.expr | None = None


@dataclass(slots=True, eq=False)
class Scope:
    """`outer`: where names are looked for that are not bound here."""

    kind: str  # module, function, class, comprehension
    outer: Scope | None = None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)  # global and nonlocal names

    def bind(self, name: str, binding: Binding) -> None:
        self.home(name).names.setdefault(name, []).append(binding)

    def home(self, name: str) -> Scope:
        """Where a name that is bound here lives."""
        word = self.elsewhere.get(name)
        if word is None or self.outer is None:
            return self
        if word == "global":
            return self.top
        found = self.outer.find(name)
        return found if found is not None else self.outer

    @property
    def top(self) -> Scope:
        scope = self
        while scope.outer is not None:
            scope = scope.outer
        return scope

    @property
    def statement(self) -> Scope:
        """The scope around all comprehensions."""
        scope = self
        while scope.kind == "comprehension" and scope.outer is not None:
            scope = scope.outer
        return scope

    def find(self, name: str) -> Scope | None:
        """The scope whose `name` is meant here."""
        if self.elsewhere.get(name) == "global":
            return self.top
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names and (scope is self or scope.kind != "class"):
                return scope
            scope = scope.outer
        return None


class Scopes:
    """All scopes of a module. `local(name)`: whether the top-level module `name` is one of the script's own."""

    def __init__(self, module: ast.Module, local: Callable[[str], bool] = lambda _: False) -> None:
        self._local = local
        self._of: dict[int, Scope] = {}  # by id() of each Name and Attribute's Name; the module is kept alive
        self._stars: list[str] = []
        self.module, self._tree = Scope("module"), module
        self._body(module.body, self.module)

    # --- questions ---

    def scope_of(self, node: ast.Name) -> Scope | None:
        """The scope in which the name at `node` is bound; None: nowhere in this module."""
        scope = self._of.get(id(node))
        return None if scope is None else scope.find(node.id)

    def bindings_of(self, node: ast.Name) -> list[Binding]:
        scope = self.scope_of(node)
        return [] if scope is None else scope.names.get(node.id, [])

    def name_of(self, node: ast.expr, depth: int = _DEPTH) -> Named | None:
        """What the expression stands for, when that came from an import."""
        match node:
            case ast.Name():
                return self._resolve(node, depth)
            case ast.Attribute(value=value, attr=attr):
                owner = self.name_of(value, depth)
                return None if owner is None else Named(f"{owner.name}.{attr}", owner.sure)
            case ast.Call(func=func) if depth > 0:
                made = self.name_of(func, depth - 1)
                module = None if made is None else _GIVES_MODULE.get(made.name)
                return None if made is None or module is None else Named(module, made.sure)
            case _:
                return None

    def _resolve(self, node: ast.Name, depth: int) -> Named | None:
        bindings = self.bindings_of(node)
        if not bindings:
            return self._from_star(node.id)
        others = [each for each in bindings if not _is_none(each.value)]
        if len(others) == 1 and others[0].value is not None:
            return self.name_of(others[0].value, depth - 1) if depth > 0 else None
        names = {each.origin for each in others if each.origin}
        return Named(names.pop(), all(each.origin for each in others)) if len(names) == 1 else None

    def _from_star(self, name: str) -> Named | None:
        """`from os import *`: only whoever knows the module can tell whether it has the name."""
        return Named(f"{self._stars[0]}.{name}", True) if len(self._stars) == 1 else None

    # --- the walk ---

    def _body(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self._visit(node, scope)

    def _visit(self, root: ast.AST, scope: Scope) -> None:
        """Recursive from scope to scope only: an expression may be as long as it likes."""
        todo = [root]
        while todo:
            todo += self._one(todo.pop(), scope)

    def _one(self, node: ast.AST, scope: Scope) -> Iterable[ast.AST]:
        """Take one node; what of it is still to be visited in the same scope."""
        match node:
            case ast.Name():
                self._of[id(node)] = scope
                if not isinstance(node.ctx, ast.Load):
                    scope.bind(node.id, Binding())
            case ast.Import() | ast.ImportFrom():
                self._import(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node, scope)
            case ast.Assign() | ast.AnnAssign() | ast.NamedExpr():
                self._assignment(node, scope)
            case _:
                for name in _bound_by(node):
                    scope.bind(name, Binding())
                return ast.iter_child_nodes(node)
        return ()

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for item in node.names:
            if isinstance(node, ast.Import):
                whole = item.name if item.asname else item.name.partition(".")[0]
                scope.bind(item.asname or whole, Binding(self._foreign(whole)))
            elif item.name == "*":
                self._stars += [node.module] if node.module and not node.level and self._foreign(node.module) else []
            else:
                known = node.module if node.module and not node.level else ""
                origin = f"{known}.{item.name}" if known and self._foreign(known) else ""
                scope.bind(item.asname or item.name, Binding(origin))

    def _foreign(self, module: str) -> str:
        """`module`, or "" where it is one of the script's own."""
        return "" if self._local(module.partition(".")[0]) else module

    def _function(self, node: _Function, scope: Scope) -> None:
        if not isinstance(node, ast.Lambda):
            scope.bind(node.name, Binding())
            self._body([*node.decorator_list, *([node.returns] if node.returns else [])], scope)
        spec = node.args
        arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
        self._body([*spec.defaults, *filter(None, spec.kw_defaults)], scope)
        self._body([each.annotation for each in arguments if each.annotation], scope)
        inner = Scope("function", scope)
        for each in arguments:
            inner.bind(each.arg, Binding())
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        inner.elsewhere.update(_declared(body))
        self._body(body, inner)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        scope.bind(node.name, Binding())
        self._body([*node.decorator_list, *node.bases, *node.keywords], scope)
        inner = Scope("class", scope)
        inner.elsewhere.update(_declared(node.body))
        self._body(node.body, inner)

    def _comprehension(self, node: _Comprehension, scope: Scope) -> None:
        first, *rest = node.generators
        self._visit(first.iter, scope)
        inner = Scope("comprehension", scope)
        self._body([first.target, *first.ifs, *rest], inner)
        self._body([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.NamedExpr, scope: Scope) -> None:
        if isinstance(node, ast.NamedExpr):
            scope = scope.statement
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                self._of[id(target)] = scope
                if node.value is not None:
                    scope.bind(target.id, Binding(value=node.value))
            else:
                self._visit(target, scope)
        if isinstance(node, ast.AnnAssign):
            self._visit(node.annotation, scope)
        if node.value is not None:
            self._visit(node.value, scope)


def _declared(body: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """The global and nonlocal names of a body, but not of the functions and classes in it."""
    for node in body:
        match node:
            case ast.Global(names=names):
                yield from ((name, "global") for name in names)
            case ast.Nonlocal(names=names):
                yield from ((name, "nonlocal") for name in names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef() | ast.expr():
                continue
            case _:
                yield from _declared(ast.iter_child_nodes(node))


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a node binds without an ast.Name."""
    match node:
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


def _is_none(value: ast.expr | None) -> bool:
    """`try: import x; except ImportError: x = None`: a call of it means the import."""
    return isinstance(value, ast.Constant) and value.value is None
