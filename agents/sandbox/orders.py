"""Checks what a caller wants to run, before anybody is bothered with it. Pure; errors teach."""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from otpd.agents.sandbox.errors import CommandRefused, ProfileError
from otpd.agents.sandbox.plans import Order
from otpd.agents.sandbox.profile import Profile
from otpd.agents.sandbox.reading import environment

#: What a snippet of Python is called in a list of what may run.
SNIPPET: Final = b"exec_python"
#: Variables by which a program runs what somebody else wrote: libc's, those of interpreters and shells, git's, those of
#: compilers and what builds with them, those that name further programs or options, and where settings are read from.
_STEERING: Final = (
    "PATH", "LD_*", "GCONV_PATH", "PYTHON*", "BASH_ENV", "BASH_FUNC_*", "BASHOPTS", "SHELLOPTS", "ENV", "ZDOTDIR", "GIT_*",
    "PS4", "PROMPT_COMMAND", "FPATH", "PERL5*", "RUBYOPT", "RUBYLIB", "LUA_*", "NODE_*", "PHP*", "CLASSPATH", "AWK*",
    "COMPILER_PATH", "GCC_*", "CC", "CXX", "CPP", "LD", "AS", "AR", "*FLAGS", "*_WRAPPER", "CARGO*", "RUST*", "DOTNET_*",
    "PIP_*", "NPM_CONFIG_*", "npm_config_*", "OPENSSL_*", "MAKE", "MAKEFILES", "SHELL", "*_OPTIONS", "*_OPTS", "*PAGER",
    "*EDITOR", "VISUAL", "VIMINIT", "EXINIT", "LESSOPEN", "LESSCLOSE", "*_ASKPASS", "*_RSH", "HOME", "XDG_*",
)  # fmt: skip
Text = str | bytes | os.PathLike[str]


def order(
    profile: Profile,
    argv: Sequence[Text],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Text | None = None,
    files: Mapping[str, bytes | str] | None = None,
    code: str | None = None,
    allowed: Mapping[str, Sequence[str]] | None = None,
) -> Order:
    """CommandRefused says what is wrong. `allowed`: lists of patterns by whose they are; each of them binds."""
    words = _argv(argv)
    named = words if code is None else (SNIPPET,)
    _check_allowed(named, profile.commands, f'the profile "{profile.name}"')
    for name, patterns in (allowed or {}).items():
        _check_allowed(named, patterns, f'the list of "{name}"')
    if code is not None:
        _check_interpreter(profile)
    elif profile.commands is not None or allowed:
        _check_names(env or {}, profile)
    _check_profile(profile)
    return Order(words, _env(env), _encode("cwd", cwd) if cwd is not None else b"", _files(files), _code(code))


def _check_names(env: Mapping[str, str], profile: Profile) -> None:
    """No allowed command is to be made another one; what the profile sets is meant."""
    for name in env:
        if name not in profile.env and any(fnmatch.fnmatchcase(name, pattern) for pattern in _STEERING):
            raise CommandRefused(
                f"{name} can't be set where only some commands are allowed: by it they run other code.",
                fix="set it in the profile's env",
            )


def _argv(argv: Sequence[Text]) -> tuple[bytes, ...]:
    if isinstance(argv, str | bytes):
        said = argv if isinstance(argv, str) else os.fsdecode(argv)
        raise CommandRefused(
            f"expected a list of arguments, got the string {said!r}.",
            fix=f'pass {_as_words(said)}; for a shell, ["sh", "-c", ...]',
        )
    if not isinstance(argv, Sequence):
        raise CommandRefused(f"expected a list of arguments, got {argv!r}.", fix='pass a list such as ["git", "log"]')
    words = tuple(_encode(f"argument {index}", each) for index, each in enumerate(argv))
    if not words or not words[0]:
        raise CommandRefused("expected a command and its arguments, got none.", fix='pass a list such as ["git", "log"]')
    return words


def _as_words(said: str) -> list[str]:
    """What was probably meant."""
    try:
        return shlex.split(said)
    except ValueError:
        return ["sh", "-c", said]


def _encode(what: str, value: Text) -> bytes:
    try:
        encoded = os.fsencode(value)
    except (TypeError, UnicodeEncodeError) as error:
        raise CommandRefused(f"{what}: expected text, got {value!r}.", fix="pass str or bytes") from error
    if b"\0" in encoded:
        raise CommandRefused(f"{what} has a NUL byte in it: {value!r}.", fix="no program can be given one; leave it out")
    return encoded


def _env(env: Mapping[str, str] | None) -> dict[bytes, bytes]:
    try:
        checked = environment("env", env or {})
        return {os.fsencode(name): os.fsencode(value) for name, value in checked.items()}
    except (ProfileError, UnicodeEncodeError) as error:
        raise CommandRefused(f"{error}.", fix="name variables such as PATH, with texts as values") from error


def _files(files: Mapping[str, bytes | str] | None) -> dict[bytes, bytes]:
    found = {}
    for path, content in (files or {}).items():
        encoded = _encode("files", path)
        if not path or os.path.isabs(path) or ".." in path.split("/") or path.endswith("/"):
            raise CommandRefused(
                f"files: expected a path beneath the working directory, got {path!r}.", fix="use data/in.csv"
            )
        if not isinstance(content, bytes | str):
            raise CommandRefused(f"files: expected bytes or text for {path!r}, got {type(content).__name__}.")
        found[encoded] = content if isinstance(content, bytes) else _text(path, content)
    return found


def _text(path: str, content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise CommandRefused(f"files: expected whole characters for {path!r}: {error}.", fix="pass bytes") from error


def _code(code: Any) -> bytes | None:
    if code is None:
        return None
    if not isinstance(code, str):
        raise CommandRefused(f"expected Python source as text, got {type(code).__name__}.")
    try:
        return code.encode()
    except UnicodeEncodeError as error:
        raise CommandRefused(f"expected Python source in whole characters: {error}.") from error


def _check_profile(profile: Profile) -> None:
    """One that was made by hand has not been read from a table."""
    _env(profile.env)
    for path in (*profile.rw, *profile.ro, *profile.protect):
        if not path.startswith("/") or os.path.normpath(path) != path:
            raise CommandRefused(
                f"expected absolute paths without `..` in the profile, got {path!r}.", fix="use os.path.abspath"
            )
    for path in profile.protect:
        if not any(path.startswith(grant.rstrip("/") + "/") for grant in profile.rw):
            raise CommandRefused(f"expected what is protected to lie in `rw`, got {path!r}.", fix="leave it out")


def _check_interpreter(profile: Profile) -> None:
    """It runs before the last locks are closed, so it must not be one that a command has changed."""
    inside = next((grant for grant in profile.rw if profile.python.startswith(grant.rstrip("/") + "/")), None)
    if inside is not None:
        raise CommandRefused(
            f"the interpreter {profile.python} lies in {inside}, where commands may have changed it.",
            fix="use one outside of the writable directories",
        )


def _check_allowed(words: tuple[bytes, ...], patterns: Sequence[str] | None, whose: str) -> None:
    if patterns is None or any(matches(pattern, words) for pattern in patterns):
        return
    shown = shlex.join(os.fsdecode(word) for word in words)
    raise CommandRefused(
        f"{whose} allows {', '.join(map(repr, patterns)) or 'no command'}, not {shown!r}.",
        code="not_allowed",
        fix="add a pattern to `commands`, if that is meant",
    )


def matches(pattern: str, words: Sequence[bytes]) -> bool:
    """A pattern is words; each is matched with the argument at its place. A `*` at the end stands for all that follow.

    Without a `*` at the end nothing may follow, but the name of a command alone allows any arguments.

    >>> matches("git", [b"git", b"log"]), matches("git log *", [b"git", b"log"]), matches("git log", [b"git", b"push"])
    (True, True, False)
    """
    parts = shlex.split(pattern)
    given = [os.fsdecode(word) for word in words]
    if len(parts) == 1:
        return fnmatch.fnmatchcase(given[0], parts[0])
    rest = parts[-1] == "*"
    head = parts[:-1] if rest else parts
    if len(given) < len(head) or (len(given) > len(head) and not rest):
        return False
    return all(fnmatch.fnmatchcase(word, part) for word, part in zip(given, head, strict=False))
