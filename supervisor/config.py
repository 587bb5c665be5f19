"""Reads an otpd.toml: `load(path)` gives a NodeSpec, completely resolved, or ConfigErrors with all that is wrong.

Strict: an unknown key, a wrong type, a name used twice, a script that is not there is an error with file, line, column,
key, what was expected, what was found and the nearest valid spelling. Nothing is created, run or imported on the way.

Defaults: cwd is the directory of the file, state_dir is .otpd beside it, order of start is order of first appearance.
The top supervisor isolates, has no restart limit and gives its children a back-off unless they say `backoff = false`:
then a child that crashes is retried at once, for ever. A supervisor that the file declares is OTP's: 3 restarts in 5
seconds, no back-off unless set.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Final, NoReturn

from otpd.supervisor.locate import Duplicate, Places, locate
from otpd.supervisor.nodebuild import build
from otpd.supervisor.problems import ConfigErrors, Problem, dotted
from otpd.supervisor.spec import NodeSpec

__all__ = ["ConfigErrors", "Problem", "load", "read_text"]

#: A tree of 10,000 workers takes less; a larger file is a log or a dump that was named by mistake.
MAX_FILE: Final = 4 * 1024 * 1024

_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def load(path: str | os.PathLike[str]) -> NodeSpec:
    """The node that the TOML file at `path` describes."""
    file = os.fspath(path)
    text = read_text(file)
    return build(_parse(text, file), file, locate(text))


def read_text(file: str) -> str:
    """A configuration's text: a regular file of at most 4 MiB of UTF-8; a byte order mark is dropped."""
    data = _read(file)
    if len(data) > MAX_FILE:
        _refuse(file, "the file is larger than 4MiB, far more than a tree needs; is it the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse_bytes(file, data, error)
    if "\0" in text:
        line, column = _place(text, text.index("\0"))
        _refuse(file, "the file holds a NUL character; expected a text file in UTF-8", line, column)
    return text


def _read(file: str) -> bytes:
    try:
        with open(file, "rb", opener=_unwaiting) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode):
                _refuse(file, f"expected a file, got {_kind(mode)}")
            return opened.read(MAX_FILE + 1)
    except FileNotFoundError:
        _refuse(file, "no such file; `otpd init` writes a first otpd.toml")
    except IsADirectoryError:
        _refuse(file, f"expected a file, got a directory; name the file in it, for example {file}/otpd.toml")
    except (OSError, ValueError) as error:
        _refuse(file, f"can't be read: {error.strerror if isinstance(error, OSError) else error}")


def _unwaiting(file: str, flags: int) -> int:
    """Without O_NONBLOCK a FIFO would be waited for."""
    return os.open(file, flags | os.O_NONBLOCK)


def _kind(mode: int) -> str:
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device" if not stat.S_ISSOCK(mode) else "a socket"


def _refuse_bytes(file: str, data: bytes, error: UnicodeDecodeError) -> NoReturn:
    before = data[: error.start].decode("utf-8-sig")
    line, column = _place(before, len(before))
    what = f"not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = "not UTF-8 but UTF-16; save the file as UTF-8"
    _refuse(file, what, line, column)


def _parse(text: str, file: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse_toml(text, file, str(error))
    except RecursionError:
        _refuse(file, "arrays or inline tables are nested too deeply")
    except ValueError as error:  # tomllib lets int() and datetime() speak for themselves
        _refuse(file, f"not valid TOML: {error}")


def _refuse_toml(text: str, file: str, message: str) -> NoReturn:
    twice = locate(text).duplicates()
    if twice and ("twice" in message or "overwrite" in message or "Duplicate" in message):
        _refuse_twice(file, twice[0])
    found = _TOML_PLACE.search(message)
    what = f"not valid TOML: {_TOML_PLACE.sub('', message)}"
    if found and found[1]:
        _refuse(file, what, int(found[1]), int(found[2]))
    # What is wrong was noticed at the end of the last line that says anything.
    end = text.rstrip()
    line, column = _place(end, len(end))
    _refuse(file, f"{what} at the end of the file", line, column)


def _refuse_twice(file: str, twice: Duplicate) -> NoReturn:
    what = f"defined twice; the first is in line {twice.first[0]}"
    _refuse(file, what, *twice.place, key=dotted(twice.path))


def _place(text: str, offset: int) -> tuple[int, int]:
    places = Places([0, *(found.end() for found in re.finditer("\n", text))])
    return places.place(offset)


def _refuse(file: str, what: str, line: int = 0, column: int = 0, key: str = "") -> NoReturn:
    raise ConfigErrors([Problem(file=file, line=line, column=column, key=key, what=what)])
