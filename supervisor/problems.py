"""What is wrong with a configuration: one value per error, with its place, what was expected and what was found.

An `Invalid` knows the value but not the file; a `Problem` has its place too. `ConfigErrors` carries all of them. Its
text has one line per problem: `FILE:LINE:COLUMN: KEY: WHAT`, where FILE alone stands when there is no line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

#: Keys from the root of the document; an int is an index into an array.
KeyPath: TypeAlias = tuple[str | int, ...]

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_SHOWN = 60
_MAX_LINES = 50


@dataclass(eq=False)
class Invalid(ValueError):
    """One value is not as it must be. `path` leads from the checked value to the culprit inside it."""

    what: str = ""
    expected: str = ""
    got: str = ""
    nearest: str = ""
    path: KeyPath = ()

    def __str__(self) -> str:
        text = f"expected {self.expected}, got {self.got}" if self.expected else ""
        text = ": ".join(part for part in (text, self.what) if part)
        return f"{text}; did you mean {quote(self.nearest)}?" if self.nearest else text

    def under(self, *keys: str | int) -> Invalid:
        return replace(self, path=(*keys, *self.path))


class Invalids(Exception):
    """Several values inside one value are not as they must be."""

    def __init__(self, items: Sequence[Invalid]) -> None:
        super().__init__("; ".join(map(str, items)))
        self.items = tuple(items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error of a configuration; `line` and `column` count from 1 and are 0 when there are none to tell."""

    file: str
    line: int = 0
    column: int = 0
    key: str = ""
    what: str
    expected: str = ""
    got: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.what) if part)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class ConfigErrors(Exception):
    """The configuration can't be used; `problems` has every error, in the order of the file. Exit code 2.

    The text shows the first 50.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:_MAX_LINES]]
        more = len(self.problems) - len(lines)
        super().__init__("\n".join([*lines, f"... and {more} more errors"] if more else lines))


def nearest(word: str, known: Iterable[str]) -> str:
    """The word in `known` that was probably meant, or ""."""
    from difflib import get_close_matches

    if len(word) > 100:
        return ""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    found = get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""


def quote(text: str) -> str:
    """`text` in double quotes, control characters made visible, cut when it is long."""
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f'"{"".join(map(_visible, shown))}"'


def _visible(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def one_of(words: Iterable[str], last: str = "or") -> str:
    """`"a", "b" or "c"`."""
    quoted = [quote(word) for word in words]
    return f" {last} ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def show(value: object) -> str:
    """A value as a person would name it: `the string "5"`, `the integer 5`, `true`, `an array`, `a table`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"the string {quote(value)}"
        case int():
            return f"the integer {value if abs(value) < 10**30 else 'with more than 30 digits'}"
        case float():
            return f"the float {value!r}"
        case list() | tuple():
            return "an array"
        case dict():
            return "a table"
        case None:
            return "None"
        case _:
            return "a date or time" if type(value).__module__ == "datetime" else f"a {type(value).__name__}"


def dotted(path: KeyPath) -> str:
    """A key path as TOML writes it: `agents."my feed".args.ids[2]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and _BARE.issuperset(key) else quote(key))
    return text
