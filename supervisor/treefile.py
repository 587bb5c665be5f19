"""Reads a tree that is written in Python: a file that defines `node = {...}` with the names of otpd.toml.

The file is run in this process, as data with a little arithmetic, and then checked as `config` checks TOML; its errors
name the key but no line. The children of one section start in the order in which they are written, sections in the
order in which they are written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from otpd.supervisor.config import read_text
from otpd.supervisor.locate import Places
from otpd.supervisor.nodebuild import build
from otpd.supervisor.problems import ConfigErrors, KeyPath, Problem, dotted, show
from otpd.supervisor.sections import SECTIONS
from otpd.supervisor.spec import NodeSpec

_NAMES: Final = ("node", "tree")
_MAX_DEPTH: Final = 32


def load(path: str | os.PathLike[str]) -> NodeSpec:
    """The node that the Python file at `path` describes; ConfigErrors with all that is wrong with it."""
    file = os.fspath(path)
    defined = _run(read_text(file), file)
    names = [name for name in _NAMES if name in defined]
    if not names:
        sample = 'node = {"agents": {"hello": {"script": "agents/hello.py"}}}'
        _refuse(file, f"expected the file to define node, for example {sample}")
    value = defined[names[0]]
    if not isinstance(value, dict):
        _refuse(file, f"expected a dict with any of node, {', '.join(SECTIONS)}; got {show(value)}", key=names[0])
    return build(_plain(value, file), file, Places())


def _run(text: str, file: str) -> dict[str, Any]:
    """The names that the file defines."""
    namespace: dict[str, Any] = {"__name__": "otpd_tree", "__file__": os.path.abspath(file)}
    try:
        code = compile(text, file, "exec", dont_inherit=True)
        with _beside(file):
            exec(code, namespace)
    except SyntaxError as error:
        _refuse(error.filename or file, f"not valid Python: {error.msg}", error.lineno or 0, error.offset or 0)
    except (Exception, SystemExit) as error:
        _refuse(file, f"{type(error).__name__}: {error}", _line_of(error, file), 1)
    return namespace


@contextmanager
def _beside(file: str) -> Iterator[None]:
    """The file may import what stands beside it."""
    directory = os.path.dirname(os.path.abspath(file))
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)


def _line_of(error: BaseException, file: str) -> int:
    """The line of `file` in which the error came up."""
    line, trace = 0, error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    return line


def _plain(value: Any, file: str, path: KeyPath = ()) -> Any:
    """`value` as tomllib would have given it: lists for tuples, and only strings as keys."""
    if len(path) > _MAX_DEPTH:
        _refuse(file, f"nested deeper than {_MAX_DEPTH} levels", key=dotted(path[:3]) + "...")
    match value:
        case list() | tuple():
            return [_plain(item, file, (*path, index)) for index, item in enumerate(value)]
        case dict():
            for key in value:
                if not isinstance(key, str):
                    _refuse(file, f"expected strings as keys, got {show(key)}", key=dotted(path))
            return {key: _plain(item, file, (*path, key)) for key, item in value.items()}
        case _:
            return value


def _refuse(file: str, what: str, line: int = 0, column: int = 0, key: str = "") -> NoReturn:
    raise ConfigErrors([Problem(file=file, line=line, column=column if line else 0, key=key, what=what)])
