"""The tables [commands] and [commands.profiles.NAME] of a configuration, checked where the file is read.

What they mean is the business of the service that runs commands, which supervisor does not import: it gets the values as
they were written, with the directory of the file, and reads them itself. The keys, words and bounds are told once more
here so that a mistake has its line before anything starts; a test holds both tables against each other.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from otpd.supervisor import checks
from otpd.supervisor.checks import Check
from otpd.supervisor.problems import Invalid, Invalids, nearest, one_of, quote, show
from otpd.supervisor.units import parse_duration, parse_size

#: What `require` and `allow_degraded` may name: layers, then (only the latter) limits.
LAYERS: Final = (
    "userns", "pidns", "mntns", "netns", "ipcns", "utsns", "cgroupns", "caps", "no_new_privs", "seccomp", "landlock", "proc",
    "slot_uid", "view", "net", "protect", "signals",
)  # fmt: skip
_YEAR: Final = 366 * 86400.0
_MAX_OUTPUT: Final = 256 * 2**20
_WORKSPACE: Final = 'a private directory such as "tmpfs:128MiB" (or name one of yours in `rw`)'
_UIDS: Final = 'a range of uids that nobody else has, such as "200000-200063"'


def _as_written(check: Check) -> Check:
    """Checked here, read by the service: it gets what the file says."""

    def checked(value: Any) -> Any:
        check(value)
        return value

    return checked


@_as_written
def duration(value: Any) -> None:
    """More than nothing, at most a year."""
    if not 0 < parse_duration(value) <= _YEAR:
        raise Invalid(expected="a duration between 1ms and a year", got=show(value))


@_as_written
def size(value: Any) -> None:
    """At least a page."""
    if not 4096 <= parse_size(value) < 2**60:
        raise Invalid(expected="a size of at least 4KiB", got=show(value))


@_as_written
def _output(value: Any) -> None:
    size(value)
    if parse_size(value) > _MAX_OUTPUT:
        raise Invalid(expected="at most 256MiB, because it is kept in memory", got=show(value))


@_as_written
def _workspace(value: Any) -> None:
    if not isinstance(value, str) or not value.startswith("tmpfs:"):
        raise Invalid(expected=_WORKSPACE, got=show(value))
    size(value.removeprefix("tmpfs:"))


@_as_written
def _uids(value: Any) -> None:
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", value) if isinstance(value, str) else None
    if match is None or not 1000 <= int(match[1]) <= int(match[2]):
        raise Invalid(expected=_UIDS, got=show(value))


def _texts(value: Any) -> list[str]:
    return list(checks.strings(value))


def _paths(value: Any) -> list[str]:
    return _each(checks.path, _texts(value))


def _words(*known: str) -> Check:
    return lambda value: _each(checks.word(*known), _texts(value))


def patterns(value: Any) -> list[str]:
    """What may be run: each a command with its arguments, `*` for any."""
    return _each(_pattern, _texts(value))


def _pattern(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise Invalid(expected=_PATTERN, got=quote(value), what=str(error)) from None
    if not words:
        raise Invalid(expected=_PATTERN, got="an empty one")
    return value


_PATTERN: Final = 'a command with its arguments such as "git" or "python3 -c *"'


def _each(check: Check, values: list[str]) -> list[str]:
    wrong = []
    for index, value in enumerate(values):
        try:
            check(value)
        except Invalid as error:
            wrong.append(error.under(index))
    if wrong:
        raise Invalids(wrong)
    return values


LIMITS: Final[Mapping[str, Check]] = {
    "wall": duration, "cpu": duration, "memory": size, "memory_mode": checks.word("best-effort", "hard"),
    "pids": checks.integer(1, 100_000), "file_size": size, "tmp": size, "tmp_files": checks.integer(16, 10_000_000),
    "shm": size, "output": _output, "disk": size, "files": checks.integer(16, 1_000_000),
}  # fmt: skip
PROFILE: Final[Mapping[str, Check]] = {
    "extends": checks.text, "view": checks.word("system", "host-ro"), "ro": _paths, "rw": _paths, "protect": _paths,
    "net": checks.word("none", "host"), "env": checks.environment, "workspace": _workspace, "limits": checks.table(LIMITS),
    "on_output_limit": checks.word("truncate", "kill"), "grace": duration, "require": _words(*LAYERS),
    "allow_degraded": _words(*LAYERS, *(name for name in LIMITS if name != "memory_mode")), "commands": patterns,
    "unix_sockets": checks.boolean, "debug": checks.boolean, "python": checks.path,
}  # fmt: skip
POOL: Final[Mapping[str, Check]] = {
    "workers": checks.integer(1, 256), "max_queue": checks.integer(0, 1_000_000),
    "max_per_caller": checks.integer(1, 1_000_000), "queue_timeout": duration,
    "backend": checks.word("auto", "native", "bwrap", "landlock"), "slot_uids": _uids,
    "recycle_after": checks.integer(1, 1_000_000), "limits": checks.table(LIMITS),
}  # fmt: skip
#: What others call these keys.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "queue": "max_queue", "size": "workers", "network": "net", "readable": "ro", "read_only": "ro", "writable": "rw",
    "write": "rw", "environment": "env", "allow": "commands", "allowed": "commands",
    **dict.fromkeys(("timeout", *LIMITS), "limits"),
}  # fmt: skip


def check(value: Any, base: str) -> tuple[dict[str, Any], list[Invalid]]:
    """The table [commands] as it was written, and all that is wrong with it. `base`: what its paths are relative to."""
    if not isinstance(value, dict):
        return {}, [Invalid(expected="a table [commands]", got=show(value))]
    wrong = _wrong(value, {**POOL, "profiles": lambda it: it})
    profiles = value.get("profiles", {})
    if not isinstance(profiles, dict):
        return value, [*wrong, Invalid(expected="tables [commands.profiles.NAME]", got=show(profiles)).under("profiles")]
    for name, table in profiles.items():
        found = _profile(name, table, profiles)
        wrong += [error.under("profiles", name) for error in found]
    if not wrong:
        wrong = list(_unprotected(profiles, base))
    return value, wrong


def _profile(name: str, table: Any, profiles: Mapping[str, Any]) -> list[Invalid]:
    if not isinstance(table, dict):
        return [Invalid(expected=f"a table [commands.profiles.{name}]", got=show(table))]
    wrong = _wrong(table, PROFILE)
    parent = table.get("extends")
    if isinstance(parent, str) and parent not in profiles:
        guess = nearest(parent, profiles)
        wrong.append(Invalid(expected="the name of a profile", got=quote(parent), nearest=guess).under("extends"))
    elif circle := _circle(name, profiles):
        wrong.append(Invalid(what=f"a profile can't extend itself: {' -> '.join(circle)}").under("extends"))
    return wrong


def _wrong(table: Mapping[str, Any], known: Mapping[str, Check]) -> list[Invalid]:
    _, wrong = checks.each_field({key: value for key, value in table.items() if key in known}, known)
    return [*wrong, *(_unknown(key, known).under(key) for key in table if key not in known)]


def _unknown(key: str, known: Mapping[str, Check]) -> Invalid:
    meant = _ELSEWHERE.get(key, "")
    guess = meant if meant in known else nearest(key, known)
    places = {"commands": POOL, "commands.profiles.NAME": PROFILE, "commands.profiles.NAME.limits": LIMITS}
    others = [f"[{place}]" for place, keys in places.items() if key in keys and keys is not known]
    if others and not guess:
        return Invalid(what=f"not a key of this table, it belongs to {one_of(others, 'and')}")
    return Invalid(what="unknown key" if guess else f"unknown key; known here: {', '.join(sorted(known))}", nearest=guess)


def _chain(name: str, profiles: Mapping[str, Any]) -> list[str]:
    """A profile and those that it extends, nearest first; ends where one comes again."""
    chain = [name]
    while True:
        table = profiles.get(chain[-1])
        parent = table.get("extends") if isinstance(table, dict) else None
        if not isinstance(parent, str) or parent not in profiles:
            return chain
        chain.append(parent)
        if parent in chain[:-1]:
            return chain


def _circle(name: str, profiles: Mapping[str, Any]) -> list[str]:
    chain = _chain(name, profiles)
    return chain if len(chain) > 1 and chain[-1] == name else []


def _unprotected(profiles: Mapping[str, Any], base: str) -> Iterator[Invalid]:
    """`protect` means something only beneath a directory that is writable, here or in what the profile extends."""
    for name, table in profiles.items():
        holders = [profiles[each] for each in _chain(name, profiles)]
        grants: list[str] = next((each["rw"] for each in holders if "rw" in each), [])
        for index, path in enumerate(table.get("protect", [])):
            if not any(_lies_in(_absolute(base, path), _absolute(base, grant)) for grant in grants):
                error = Invalid(expected="a path beneath one of `rw`", got=quote(path))
                yield error.under("profiles", name, "protect", index)


def _absolute(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _lies_in(path: str, grant: str) -> bool:
    return path.startswith(grant.rstrip("/") + "/")
