"""Looks a configuration's names up on this machine: scripts, commands, directories, users, env files.

Everything relative is taken from the directory that is handed in. Nothing is run, imported or created. What is not
there is an Invalid that says where it was looked for and what is near.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Final

from otpd.supervisor.checks import variable
from otpd.supervisor.problems import Invalid, nearest, quote

_MAX_ENV_FILE: Final = 1024 * 1024
_ASSIGNMENT: Final = re.compile(r"(?:export\s+)?([^\s=]+)\s*=\s*(.*)")
_BASIC: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_LITERAL: Final = re.compile(r"'([^']*)'\s*(?:#.*)?")
_UNQUOTED: Final = re.compile(r"(.*?)\s*(?:(?:^|\s)#.*)?")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r"}


def script(value: str, base: str) -> str:
    """The absolute path of a Python script that can be read."""
    path = os.path.join(base, value)
    mode = _mode(path, "a Python script", value)
    if stat.S_ISDIR(mode):
        raise Invalid(expected="a Python script", got=f"the directory {path}")
    if not stat.S_ISREG(mode):
        raise Invalid(expected="a Python script", got=f"{path}, which is no regular file")
    if not os.access(path, os.R_OK):
        raise Invalid(what=f"{path} can't be read by uid {os.geteuid()}; chmod +r or chown it")
    return os.path.normpath(path)


def directory(value: str, base: str) -> str:
    """The absolute path of a directory that can be entered."""
    path = os.path.join(base, value)
    if not stat.S_ISDIR(_mode(path, "a directory", value)):
        raise Invalid(expected="a directory", got=f"the file {path}")
    if not os.access(path, os.X_OK):
        raise Invalid(what=f"{path} can't be entered by uid {os.geteuid()}; chmod +x or chown it")
    return os.path.normpath(path)


def state_dir(value: str, base: str) -> str:
    """The absolute path of a directory that is there or can be made."""
    path = os.path.normpath(os.path.join(base, value))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise Invalid(expected="a directory", got=f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise Invalid(expected="a directory", got=f"the file {path}")
    return path


def executable(value: str, cwd: str, env: Mapping[str, str]) -> str:
    """The absolute path of a command: in PATH, or from `cwd` when it holds a slash."""
    if "/" not in value:
        return _in_path(value, env.get("PATH") or os.environ.get("PATH") or os.defpath, cwd)
    path = os.path.join(cwd, value)
    mode = _mode(path, "a command", value)
    if stat.S_ISDIR(mode):
        raise Invalid(expected="a command", got=f"the directory {path}")
    if not os.access(path, os.X_OK):
        what = f"write script = {quote(value)} instead, or chmod +x it" if path.endswith(".py") else "chmod +x it"
        raise Invalid(what=f"{path} is not executable; {what}")
    return os.path.normpath(path)


def user(value: str) -> str:
    """A user that is known here and that this process may become."""
    import pwd

    try:
        found = pwd.getpwnam(value)
    except KeyError:
        guess = nearest(value, (entry.pw_name for entry in pwd.getpwall()))
        raise Invalid(expected="the name of a user of this machine", got=quote(value), nearest=guess) from None
    if os.geteuid() not in (0, found.pw_uid):
        raise Invalid(what=f"only root can start a worker as another user; you are uid {os.geteuid()}, drop this key")
    return value


def env_file(value: str, base: str) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines; `#` comments, `export` and both quotes are understood."""
    path = os.path.join(base, value)
    if not stat.S_ISREG(_mode(path, "a file of NAME=VALUE lines", value)):
        raise Invalid(expected="a file of NAME=VALUE lines", got=f"{path}, which is no regular file")
    return parse_env(_read(path), path)


def parse_env(text: str, path: str) -> dict[str, str]:
    """NAME=VALUE lines; a later line wins. Invalid names path:line:column of the first line that is none."""
    found = {}
    for line_number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        try:
            key, value = _assignment(bare)
        except Invalid as error:
            column = len(line) - len(line.lstrip()) + 1
            raise Invalid(what=f"{path}:{line_number}:{column}: {error}") from None
        found[key] = value
    return found


def _assignment(line: str) -> tuple[str, str]:
    pair = _ASSIGNMENT.fullmatch(line)
    if not pair:
        raise Invalid(expected="NAME=VALUE", got=quote(line))
    raw = pair[2]
    if "\0" in line:
        raise Invalid(expected="a line without NUL", got=quote(line))
    if raw.startswith('"') and (basic := _BASIC.fullmatch(raw)):
        return variable(pair[1]), re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), basic[1])
    if raw.startswith("'") and (literal := _LITERAL.fullmatch(raw)):
        return variable(pair[1]), literal[1]
    if raw.startswith(('"', "'")):
        raise Invalid(expected=f"a value that ends with {raw[0]}", got=quote(raw))
    unquoted = _UNQUOTED.fullmatch(raw)
    return variable(pair[1]), unquoted[1] if unquoted else raw


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_ENV_FILE + 1)
    except OSError as error:
        raise Invalid(what=f"{path} can't be read: {error.strerror}") from None
    if len(data) > _MAX_ENV_FILE:
        raise Invalid(expected="a file of at most 1MiB", got=f"{path}, which is larger")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Invalid(what=f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}; save it as UTF-8") from None


def _mode(path: str, expected: str, value: str) -> int:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise Invalid(expected=expected, got=f"{path}, which does not exist", nearest=_near(path, value)) from None
    except OSError as error:
        raise Invalid(expected=expected, got=f"{path}: {error.strerror}") from None


def _near(path: str, value: str) -> str:
    """The spelling of `value` that leads to an existing neighbour of `path`."""
    guess = nearest(os.path.basename(path), _listing(os.path.dirname(path)))
    return os.path.join(os.path.dirname(value), guess) if guess else ""


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)[:5000]
    except OSError:
        return []


def _in_path(value: str, search: str, cwd: str) -> str:
    directories = [os.path.join(cwd, part) for part in search.split(os.pathsep)]
    found = [path for part in directories if os.path.isfile(path := os.path.join(part, value))]
    for path in found:
        if os.access(path, os.X_OK):
            return os.path.normpath(path)
    if found:
        raise Invalid(what=f"{found[0]} is not executable; chmod +x it")
    known = [item for part in directories for item in _listing(part)]
    if os.path.isfile(os.path.join(cwd, value)):
        raise Invalid(expected="a command in PATH", got=quote(value), nearest=f"./{value}")
    got = f"{quote(value)}, which is in none of its directories"
    raise Invalid(expected="a command in PATH", got=got, nearest=nearest(value, known))
