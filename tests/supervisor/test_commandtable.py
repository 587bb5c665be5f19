"""The tables of commands: what supervisor checks is what the service reads, and each mistake is found at its place."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.agents.sandbox import ProfileError, read, reading
from otpd.supervisor import commandtable

#: For each key values that are right and values that are wrong.
SAMPLES: dict[str, tuple[list[Any], list[Any]]] = {
    "workers": ([1, 256], [0, 257, True, "2"]),
    "max_queue": ([0, 10**6], [-1, 1.5]),
    "max_per_caller": ([1], [0]),
    "queue_timeout": (["250ms", "5s", "1h"], ["0s", 5, "5", "9000h", ""]),
    "backend": (["auto", "native", "bwrap", "landlock"], ["none", 1]),
    "slot_uids": (["200000-200063"], ["0-5", "5", "200063-200000", 7]),
    "recycle_after": ([1], [0]),
    "extends": (["base"], ["nobody"]),
    "view": (["system", "host-ro"], ["all"]),
    "ro": ([[], ["/opt"]], ["/opt", ["~/x"], [""], [1]]),
    "rw": ([["work"]], ["work", ["~"]]),
    "protect": ([[], ["work/.git"]], [["elsewhere"], "work/.git"]),
    "net": (["none", "host"], ["proxy"]),
    "env": ([{"A": "1"}, {"B": ""}], [{"A=": "1"}, {"A": 1}, []]),
    "workspace": (["tmpfs:128MiB"], ["disk:1MiB", "tmpfs:1KiB", "tmpfs:", 3]),
    "on_output_limit": (["truncate", "kill"], ["stop"]),
    "grace": (["500ms"], ["0s", 1]),
    "require": ([["userns", "seccomp"]], [["usernamespaces"], ["memory"], "userns"]),
    "allow_degraded": ([["memory", "landlock"]], [["everything"]]),
    "commands": ([["git", "python3 -c *"]], ["git", [1]]),
    "unix_sockets": ([True], ["yes"]),
    "debug": ([False], [0]),
    "python": (["/usr/bin/python3"], [3]),
    "wall": (["10s"], ["10", "0s"]),
    "cpu": (["1m"], [60]),
    "memory": (["4KiB", "1GiB"], ["4KB", "1KiB", 5]),
    "memory_mode": (["hard", "best-effort"], ["soft"]),
    "pids": ([1, 64], [0]),
    "file_size": (["64MiB"], [""]),
    "tmp": (["64MiB"], [64]),
    "tmp_files": ([16], [15]),
    "shm": (["16MiB"], [16]),
    "output": (["1MiB", "256MiB"], ["257MiB", "1B"]),
    "disk": (["1GiB"], [1]),
    "files": ([16], [8]),
}


def table_with(key: str, value: Any) -> dict[str, Any]:
    if key in commandtable.POOL:
        return {key: value}
    if key in commandtable.LIMITS:
        return {"profiles": {"mine": {"limits": {key: value}}}}
    return {"profiles": {"base": {}, "mine": {"rw": ["work"], key: value}}}


def read_by_the_service(table: dict[str, Any]) -> bool:
    try:
        read(table, "/srv")
    except ProfileError:
        return False
    return True


def accepted_here(table: dict[str, Any]) -> bool:
    return not commandtable.check(table, "/srv")[1]


def test_supervisor_and_service_know_the_same_keys() -> None:
    assert set(commandtable.POOL) == {*reading._POOL, "limits"}
    assert set(commandtable.PROFILE) == {*reading._PROFILE, "limits", "extends"}
    assert set(commandtable.LIMITS) == set(reading._LIMITS)
    assert commandtable.LAYERS == reading.LAYERS
    assert {*SAMPLES} == {*commandtable.POOL, *commandtable.PROFILE, *commandtable.LIMITS} - {"limits"}


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_what_supervisor_accepts_the_service_reads_and_the_other_way_round(key: str) -> None:
    right, wrong = SAMPLES[key]
    for value in right:
        table = table_with(key, value)
        assert (accepted_here(table), read_by_the_service(table)) == (True, True), value
    for value in wrong:
        table = table_with(key, value)
        assert (accepted_here(table), read_by_the_service(table)) == (False, False), value


@pytest.mark.parametrize(
    ("table", "path", "text"),
    [
        ([], (), "expected a table [commands], got an array"),
        ({"worker": 2}, ("worker",), 'unknown key; did you mean "workers"?'),
        ({"queue": 2}, ("queue",), 'unknown key; did you mean "max_queue"?'),
        ({"rw": ["work"]}, ("rw",), 'not a key of this table, it belongs to "[commands.profiles.NAME]"'),
        ({"limits": {"pids": 0}}, ("limits", "pids"), "expected an integer from 1 to 100000, got the integer 0"),
        ({"profiles": {"p": {"network": "host"}}}, ("profiles", "p", "network"), 'unknown key; did you mean "net"?'),
        ({"profiles": {"p": {"wall": "5s"}}}, ("profiles", "p", "wall"), 'unknown key; did you mean "limits"?'),
        (
            {"profiles": {"p": {"limits": {"memory": "64MB"}}}}, ("profiles", "p", "limits", "memory"),
            'expected a size such as "512KiB", "64MiB" or "2GiB", got the string "64MB"; did you mean "64MiB"?',
        ),
        (
            {"profiles": {"build": {}, "p": {"extends": "biuld"}}}, ("profiles", "p", "extends"),
            'expected the name of a profile, got "biuld"; did you mean "build"?',
        ),
        (
            {"profiles": {"a": {"extends": "b"}, "b": {"extends": "a"}}}, ("profiles", "a", "extends"),
            "a profile can't extend itself: a -> b -> a",
        ),
        (
            {"profiles": {"p": {"rw": ["work"], "protect": ["other"]}}}, ("profiles", "p", "protect", 0),
            'expected a path beneath one of `rw`, got "other"',
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(table: Any, path: tuple[str | int, ...], text: str) -> None:
    found = [(error.path, str(error)) for error in commandtable.check(table, "/srv")[1]]
    assert (path, text) in found
