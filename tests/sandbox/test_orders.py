"""What a caller may ask for, and what is said when it may not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.sandbox import CommandRefused, Profile
from otpd.agents.sandbox.orders import matches, order


def test_an_order_holds_bytes() -> None:
    found = order(Profile(), ["cat", Path("/x"), b"\xff"], env={"A": "ö"}, cwd="/tmp", files={"d/in": "text", "b": b"\0"})
    assert found.argv == (b"cat", b"/x", b"\xff")
    assert (found.env, found.cwd) == ({b"A": os.fsencode("ö")}, b"/tmp")
    assert found.files == {b"d/in": b"text", b"b": b"\0"}


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: order(Profile(), "ls -l"), "pass ['ls', '-l']"),
        (lambda: order(Profile(), 'echo "'), "pass ['sh', '-c', 'echo \"']"),
        (lambda: order(Profile(), "a\\"), "pass ['sh', '-c', 'a"),
        (lambda: order(Profile(), 5), "expected a list of arguments, got 5"),  # type: ignore[arg-type]
        (lambda: order(Profile(), ["a"], files={"b": "\ud800"}), "files: expected whole characters for 'b'"),
        (lambda: order(Profile(), ["-c"], code="1", allowed={"a": ["git"]}), "allows 'git', not 'exec_python'"),
        (lambda: order(Profile(commands=("git",)), ["-c"], code="1"), "allows 'git', not 'exec_python'"),
        (lambda: order(Profile(), []), "expected a command and its arguments"),
        (lambda: order(Profile(), [""]), "expected a command and its arguments"),
        (lambda: order(Profile(), ["a", "b\0c"]), "argument 1 has a NUL byte"),
        (lambda: order(Profile(), ["a", 5]), "argument 1: expected text, got 5"),  # type: ignore[list-item]
        (lambda: order(Profile(), ["a"], env={"A=B": "x"}), "names of variables without"),
        (lambda: order(Profile(), ["a"], env={"A": "x\0"}), "without NUL"),
        (lambda: order(Profile(env={"A=B": "x"}), ["a"]), "names of variables without"),
        (lambda: order(Profile(rw=("work",)), ["a"]), "expected absolute paths"),
        (lambda: order(Profile(ro=("/a/../b",)), ["a"]), "expected absolute paths"),
        (lambda: order(Profile(rw=("/a",), protect=("/b",)), ["a"]), "expected what is protected to lie in `rw`"),
        (lambda: order(Profile(), ["a"], files={"/etc/x": b""}), "beneath the working directory"),
        (lambda: order(Profile(), ["a"], files={"a/../../x": b""}), "beneath the working directory"),
        (lambda: order(Profile(), ["a"], files={"a": 5}), "expected bytes or text for 'a'"),  # type: ignore[dict-item]
        (lambda: order(Profile(), ["-c"], code=5), "expected Python source as text, got int"),  # type: ignore[arg-type]
        (lambda: order(Profile(name="p", commands=("git",)), ["sh"]), "the profile \"p\" allows 'git', not 'sh'"),
        (lambda: order(Profile(), ["sh"], allowed={"a": []}), "the list of \"a\" allows no command, not 'sh'"),
        (lambda: order(Profile(), ["sh"], allowed={"a": ["sh"], "b": ["git"]}), "the list of \"b\" allows 'git', not 'sh'"),
        (lambda: order(Profile(), ["sh"], allowed={"b": ["git"], "a": ["sh"]}), "the list of \"b\" allows 'git', not 'sh'"),
        (lambda: order(Profile(commands=("git",)), ["git"], env={"PATH": "/x"}), "PATH can't be set"),
    ],
)
def test_what_is_wrong_is_said(ask: Callable[[], Any], said: str) -> None:
    with pytest.raises(CommandRefused) as error:
        ask()
    assert said in str(error.value)


STEERING = [
    "PATH", "LD_PRELOAD", "PYTHONPATH", "ENV", "PS4", "GIT_SSH_COMMAND", "NODE_OPTIONS", "TAR_OPTIONS", "HOME",
    "COMPILER_PATH", "GCC_EXEC_PREFIX", "CC", "MAKEFLAGS", "GOFLAGS", "RUSTC_WRAPPER", "npm_config_script_shell",
]  # fmt: skip


@pytest.mark.parametrize("name", STEERING)
def test_no_variable_makes_an_allowed_command_another_one(name: str) -> None:
    asked = {name: "own/x"}
    for profile, allowed in ((Profile(commands=("git",)), None), (Profile(), {"feed": ["git"]})):
        with pytest.raises(CommandRefused, match=f"^{name} can't be set where only some commands are allowed"):
            order(profile, ["git"], env=asked, allowed=allowed)
    free = (Profile(), Profile(commands=("git",), env={name: "/x"}))
    assert [order(profile, ["git"], env=asked).env for profile in free] == [{name.encode(): b"own/x"}] * 2
    assert order(Profile(commands=("git",)), ["git"], env={"LANG": "C"}).env == {b"LANG": b"C"}


def test_a_snippet_is_allowed_by_its_name_in_the_list() -> None:
    profile = Profile(commands=("exec_python",))
    assert order(profile, ["-c"], code="1", allowed={"feed": ["git", "exec_python"]}).code == b"1"


@pytest.mark.parametrize(
    ("pattern", "words", "allowed"),
    [
        ("git", ["git"], True),
        ("git", ["git", "push", "--force"], True),
        ("git", ["/usr/bin/git"], False),
        ("git*", ["git-lfs"], True),
        ("git log", ["git", "log"], True),
        ("git log", ["git", "log", "-1"], False),
        ("git log *", ["git", "log", "-1"], True),
        ("git log *", ["git", "log"], True),
        ("git log *", ["git", "push"], False),
        ("python3 -c *", ["python3", "-c", "print(1)"], True),
        ("python3 -c *", ["python3", "x.py"], False),
        ("*", ["anything", "at", "all"], True),
        ("make -j?", ["make", "-j4"], True),
    ],
)
def test_patterns_match_word_by_word(pattern: str, words: list[str], allowed: bool) -> None:
    assert matches(pattern, [word.encode() for word in words]) is allowed
