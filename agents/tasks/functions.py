"""What a task runs, by name: "module:function", a function of a module, or one of the script that asks.

`Named` is what crosses. The worker imports it from where the owner has it, and anew when its file has changed, so that a
pool that lives for weeks runs today's code. Modules in the directory of an owner are there for its tasks alone: another's of
the same name are its own.

>>> import math
>>> named(math.sqrt)
Named(module='math', name='sqrt', file=None, home=None)
>>> found(named("os.path:join"))("a", "b")
'a/b'
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from otpd.agents.errors import NotData

_SAMPLE: Final = 'self.task("mypackage.work:parse", path)'
#: A script that runs is __main__ in its own process; in a worker it is a module of this name, so that it does not run.
SCRIPT: Final = "__otpd_main__"


@dataclass(frozen=True, slots=True)
class Named:
    """`file`: of the module, if it has one that is not the standard library's; `home`: where its imports look first."""

    module: str
    name: str
    file: str | None = None
    home: str | None = None

    def __str__(self) -> str:
        """
        >>> str(Named("math", "sqrt")), str(Named("__main__", "parse", "/srv/feed.py"))
        ('math:sqrt', 'feed.py:parse')
        """
        place = os.path.basename(str(self.file)) if self.module == "__main__" and self.file else self.module
        return f"{place}:{self.name}"

    def to_wire(self) -> list[str | None]:
        return [self.module, self.name, self.file, self.home]


def named(function: str | Callable[..., Any]) -> Named | None:
    """None for what has no name by which it could be imported: a lambda, a closure, a bound method, a partial.

    NotData for what is no function at all.
    """
    if isinstance(function, str):
        module, _, name = function.partition(":")
        if not module or not name:
            raise NotData(f"expected a task as 'module:function', got {function!r}; write: {_SAMPLE}")
        return Named(module, name, None, _home())
    if not callable(function):
        raise NotData(f"expected a task to be a function or 'module:function', got {function!r}; write: {_SAMPLE}")
    return _of(function)


def _of(function: Callable[..., Any]) -> Named | None:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    loaded = sys.modules.get(module or "")
    if loaded is None or not name or _at(loaded, name) is not function:
        return None
    file = getattr(loaded, "__file__", None)
    if module == "__main__":
        return Named("__main__", name, os.path.abspath(file), _home()) if file else None
    of_python = file is None or _is_of_python(file)
    return Named(str(module), name) if of_python else Named(str(module), name, file, _home())


def _home() -> str | None:
    """The directory of the script that runs here."""
    return os.path.abspath(sys.path[0]) if sys.path and not sys.path[0].endswith(".zip") else None


@functools.cache
def _library() -> str:
    return os.path.dirname(os.__file__) + os.sep


def _is_of_python(file: str) -> bool:
    return file.startswith(_library()) and "site-packages" not in file


def _at(module: ModuleType, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        return None


# --- in the worker ---


def found(what: Named) -> Any:
    """The function, imported. ImportError or AttributeError says what is missing."""
    return Library().find(what)


@dataclass(slots=True)
class Library:
    """What a worker has imported, each with its file and the time of that. `_away`: modules of owners who wait."""

    _functions: dict[Named, tuple[Any, str | None, int]] = field(default_factory=dict)
    _home: str | None = None
    _away: dict[str, dict[str, ModuleType]] = field(default_factory=dict)

    def find(self, what: Named) -> Any:
        self._enter(what.home)
        known = self._functions.get(what)
        if known is not None and known[2] == _changed(known[1]):
            return known[0]
        before = what.file or _in_home(what)
        changed = _changed(before)
        function, file = _import(what, before, anew=known is not None)
        self._functions[what] = function, file, changed if file == before else _changed(file)
        return function

    def _enter(self, home: str | None) -> None:
        """Imports look there first, and not in the directory of the last owner any more."""
        if home is None or home == self._home:
            return
        if self._home is not None:
            self._away[self._home] = _taken_out(self._home)
            with contextlib.suppress(ValueError):  # a task did it
                sys.path.remove(self._home)
        self._home = None
        if home not in sys.path:
            self._home = home
            sys.path.insert(0, home)
            sys.modules.update(self._away.pop(home, {}))


def _taken_out(home: str) -> dict[str, ModuleType]:
    """The modules that lie in this directory."""
    tops = {name for name, module in [*sys.modules.items()] if name != "__main__" and _lies_in(module, home)}
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in tops}


def _lies_in(module: ModuleType, home: str) -> bool:
    own = getattr(module, "__dict__", {})
    places = own.get("__path__") or [own.get("__file__")]
    return "." not in own.get("__name__", "") and any(os.path.dirname(each) == home for each in places if each)


def _in_home(what: Named) -> str | None:
    """The file of the module in the directory of its owner."""
    if what.home is None:
        return None
    path = os.path.join(what.home, *what.module.split("."))
    return next((file for file in (os.path.join(path, "__init__.py"), f"{path}.py") if os.path.isfile(file)), None)


def _changed(file: str | None) -> int:
    try:
        return os.stat(file).st_mtime_ns if file is not None else 0
    except OSError:
        return 0


def _import(what: Named, file: str | None, anew: bool) -> tuple[Any, str | None]:
    """The function and the file that it is from; `file`: where its owner has it, if that is known."""
    importlib.invalidate_caches()
    module = _script(what.file) if what.module == "__main__" and what.file else _module(what, file, anew)
    found = getattr(module, "__file__", None)
    value = _at(module, what.name)
    if value is None:
        raise AttributeError(f"{what.module} has no {what.name} ({found or 'no file'})")
    return value, found


def _module(what: Named, file: str | None, anew: bool) -> ModuleType:
    loaded = sys.modules.get(what.module)
    other = loaded is not None and file is not None and getattr(loaded, "__file__", None) != file
    if anew or other:
        sys.modules.pop(what.module, None)
    if other and what.home is not None:  # the node has a module of this name, too
        sys.path.remove(what.home)
        sys.path.insert(0, what.home)
        for name in [each for each in sys.modules if each.startswith(f"{what.module.partition('.')[0]}.")]:
            del sys.modules[name]
        sys.modules.pop(what.module.partition(".")[0], None)
    return importlib.import_module(what.module)


def _script(file: str) -> ModuleType:
    """As a module: what stands below `if __name__ == "__main__"` does not run."""
    spec = importlib.util.spec_from_file_location(SCRIPT, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        text = f"{file} ends the process when it is imported; put run(...) below: if __name__ == '__main__':"
        raise ImportError(text) from error
    return module
