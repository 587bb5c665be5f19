"""Reads `[commands]` and `[commands.profiles.NAME]`: strict, every error with its key, what was expected and what was got.

>>> read({"profiles": {"quick": {"limits": {"wall": "2s", "memory": "64MiB"}}}}, "/").profiles["quick"].limits.wall
2.0
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from otpd.agents.sandbox.errors import ProfileError
from otpd.agents.sandbox.profile import Limits, PoolSettings, Profile

Check = Callable[[str, Any], Any]

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]+)")
#: What `require` and `allow_degraded` may name: layers, then limits.
LAYERS: Final = (
    "userns", "pidns", "mntns", "netns", "ipcns", "utsns", "cgroupns", "caps", "no_new_privs", "seccomp", "landlock", "proc",
    "slot_uid", "view", "net", "protect", "signals",
)  # fmt: skip
LIMITS: Final = tuple(each.name for each in dataclasses.fields(Limits) if each.name != "memory_mode")


def read(table: Mapping[str, Any], base: str) -> PoolSettings:
    """The whole table; paths in it are relative to `base`. ProfileError for the first thing that is wrong.

    `base` is resolved; below it nothing is, because a command may have put a link there.
    """
    given = _known_keys("commands", table, {**_POOL, "profiles": _table, "limits": _table})
    start = Profile(limits=Limits(**_known_keys("commands.limits", given.pop("limits", {}), _LIMITS)))
    profiles = read_profiles(given.pop("profiles", {}), os.path.realpath(base), start)
    return PoolSettings(**given, profiles=profiles)


def read_profiles(tables: Mapping[str, Any], base: str, start: Profile) -> dict[str, Profile]:
    """Every profile, and "default" if there is none of that name. `start`: what those begin with that extend no other."""
    found: dict[str, Profile] = {"default": start}
    for name in tables:
        _read_one(name, tables, base, found, (), start)
    return found


def _read_one(
    name: str, tables: Mapping[str, Any], base: str, found: dict[str, Profile], below: tuple[str, ...], first: Profile
) -> Profile:
    key = f"commands.profiles.{name}"
    if name in found and found[name] is not first:
        return found[name]
    if name in below:
        raise ProfileError(f"{key}.extends", f"expected no circle, got {' -> '.join((*below, name))}")
    table = dict(_table(key, tables[name]))
    parent = table.pop("extends", None)
    start = first
    if parent is not None:
        if parent not in tables:
            raise ProfileError(f"{key}.extends", f"expected the name of a profile{nearest(str(parent), tables)}")
        start = _read_one(parent, tables, base, found, (*below, name), first)
    found[name] = profile(key, table, base, dataclasses.replace(start, name=name))
    return found[name]


def profile(key: str, table: Mapping[str, Any], base: str, start: Profile) -> Profile:
    """`start` with what `table` says; `env` and `limits` are merged key by key."""
    given = _known_keys(key, table, {**_PROFILE, "limits": _table})
    if "limits" in given:
        limits = _known_keys(f"{key}.limits", given["limits"], _LIMITS)
        given["limits"] = dataclasses.replace(start.limits, **limits)
    if "env" in given:
        given["env"] = {**start.env, **given["env"]}
    for name in ("ro", "rw", "protect"):
        if name in given:
            given[name] = tuple(_absolute(base, path) for path in given[name])
    made = dataclasses.replace(start, **given)
    _check_protect(key, made)
    return made


def _absolute(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _check_protect(key: str, made: Profile) -> None:
    for path in made.protect:
        if not any(path.startswith(grant.rstrip("/") + "/") for grant in made.rw):
            raise ProfileError(f"{key}.protect", f"expected a path beneath one of `rw`, got {path!r}")


def _known_keys(key: str, table: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    found = {}
    for name, value in table.items():
        if name not in checks:
            raise ProfileError(f"{key}.{name}", f"there is no such key{nearest(str(name), checks)}")
        found[name] = checks[name](f"{key}.{name}", value)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(sorted(known))}"


# --- checks of single values ---


def _wrong(key: str, expected: str, value: object) -> ProfileError:
    return ProfileError(key, f"expected {expected}, got {value!r}")


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _wrong(key, "a table", value)
    return value


def _quantity(key: str, value: Any, units: Mapping[str, float], sample: str) -> float:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise _wrong(key, sample, value)
    return float(match[1]) * units[match[2]]


def duration(key: str, value: Any) -> float:
    """Seconds, more than 0."""
    sample = 'a duration such as "250ms", "5s", "2m" or "1h"'
    seconds = _quantity(key, value, _SECONDS, sample)
    if not 0 < seconds <= 366 * 86400:
        raise _wrong(key, f"{sample} between 1ms and a year", value)
    return seconds


def size(key: str, value: Any) -> int:
    """Bytes, at least one page."""
    sample = 'a size such as "512KiB", "64MiB" or "2GiB"'
    found = int(_quantity(key, value, _BYTES, sample))
    if not 4096 <= found < 2**60:
        raise _wrong(key, f"{sample}, at least 4KiB", value)
    return found


def _output_size(key: str, value: Any) -> int:
    found = size(key, value)
    if found > 256 * 2**20:
        raise _wrong(key, "at most 256MiB, because it is kept in memory", value)
    return found


def _count(lowest: int, highest: int) -> Check:
    def check(key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise _wrong(key, f"an integer from {lowest} to {highest}", value)
        return value

    return check


def _choice(*words: str) -> Check:
    def check(key: str, value: Any) -> str:
        if value not in words:
            raise ProfileError(key, f"expected one of {', '.join(map(repr, words))}, got {value!r}")
        return str(value)

    return check


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(key, "a string without NUL", value)
    return value


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(key, "an array of strings", value)
    return tuple(_text(f"{key}[{index}]", each) for index, each in enumerate(value))


def _paths(key: str, value: Any) -> tuple[str, ...]:
    for index, path in enumerate(_texts(key, value)):
        if not path or path.startswith("~"):
            raise _wrong(f"{key}[{index}]", 'a path ("~" is not expanded)', path)
    return tuple(value)


def _words(known: tuple[str, ...]) -> Check:
    def check(key: str, value: Any) -> tuple[str, ...]:
        for index, word in enumerate(_texts(key, value)):
            if word not in known:
                raise ProfileError(f"{key}[{index}]", f"there is no {word!r}{nearest(word, known)}")
        return tuple(value)

    return check


def environment(key: str, value: Any) -> dict[str, str]:
    for name, text in _table(key, value).items():
        if not name or "=" in name or "\0" in name:
            raise _wrong(key, 'names of variables without "=" and NUL', name)
        _text(f"{key}.{name}", text)
    return dict(value)


def _workspace(key: str, value: Any) -> int:
    if isinstance(value, str) and value.startswith("tmpfs:"):
        return size(key, value.removeprefix("tmpfs:"))
    raise _wrong(key, 'a private directory such as "tmpfs:128MiB" (or name one of yours in `rw`)', value)


def _uids(key: str, value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", value) if isinstance(value, str) else None
    if match is None or not 1000 <= int(match[1]) <= int(match[2]):
        raise _wrong(key, 'a range of uids that nobody else has, such as "200000-200063"', value)
    return int(match[1]), int(match[2])


_LIMITS: Final[dict[str, Check]] = {
    "wall": duration, "cpu": duration, "memory": size, "memory_mode": _choice("best-effort", "hard"),
    "pids": _count(1, 100_000), "file_size": size, "tmp": size, "tmp_files": _count(16, 10_000_000), "shm": size,
    "output": _output_size, "disk": size, "files": _count(16, 1_000_000),
}  # fmt: skip
_PROFILE: Final[dict[str, Check]] = {
    "view": _choice("system", "host-ro"), "ro": _paths, "rw": _paths, "protect": _paths, "net": _choice("none", "host"),
    "env": environment, "workspace": _workspace, "on_output_limit": _choice("truncate", "kill"), "grace": duration,
    "require": _words(LAYERS), "allow_degraded": _words(LAYERS + LIMITS), "commands": _texts, "unix_sockets": _boolean,
    "debug": _boolean, "python": _text,
}  # fmt: skip
_POOL: Final[dict[str, Check]] = {
    "workers": _count(1, 256), "max_queue": _count(0, 1_000_000), "max_per_caller": _count(1, 1_000_000),
    "queue_timeout": duration, "backend": _choice("auto", "native", "bwrap", "landlock"), "slot_uids": _uids,
    "recycle_after": _count(1, 1_000_000),
}  # fmt: skip
